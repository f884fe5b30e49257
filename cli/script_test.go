package cli

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	// What others can write is no policy: scripts' files must not be that.
	syscall.Umask(0o022)
	testscript.Main(m, map[string]func(){
		"sealift": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// Each script is headed by what it pins.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			golden, err := filepath.Abs("../attest/verify/testdata/golden")
			e.Setenv("GOLDEN", golden)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "layout": layout, "agent": startAgent, "makelog": makeLog,
		},
		UpdateScripts: os.Getenv("UPDATE") != "",
	})
}
