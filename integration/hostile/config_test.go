package hostile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

const faultDir = "/run/sealift-fault"

// TestConfigChanged changes config.json in containerd's bundle at every named
// point of a start, in place and by a link to another file. What runs is what
// was measured: it prints the file that the container was made to print.
func TestConfigChanged(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "config", Line: line, Binaries: made.Faults})
			if _, err := s.Import(t.Context(), "default", overlayfs, s.Image); err != nil {
				t.Fatal(err)
			}
			for _, point := range []string{"create.before-launch", "launch.received", "launch.measured", "launch.before-reply", "create.after-launch", "create.after-runc", "start.before", "start.after"} {
				t.Run(point, func(t *testing.T) { configChangedAt(t, s, point) })
			}
		})
	}
}

func configChangedAt(t *testing.T, s *tamper.Stage, point string) {
	id := "at-" + point
	var out string
	err := meanwhile(s, point, func() (err error) {
		out, err = s.Run(t.Context(), "default", id, nil, "/bin/cat", "/etc/motd")
		return err
	}, func() error { return changeConfig(t, s, id, "sed 's,/etc/motd,/etc/group,'") })
	if err != nil || out != "top\n" {
		t.Errorf("ran %q, %v; measured was what prints %q", out, err, "top\n")
	}
	if err := s.Left(t.Context(), "default", id); err != nil {
		t.Error(err)
	}
}

// changeConfig puts what a filter makes of config.json in its place, in the file
// itself and by a link to another.
func changeConfig(t *testing.T, s *tamper.Stage, id, filter string) error {
	_, err := s.Shell(t.Context(), `cd /run/containerd/io.containerd.runtime.v2.task/default/`+id+`
`+filter+` config.json > other.json
! cmp -s config.json other.json
cat other.json > config.json
mv config.json was.json; ln -s other.json config.json`)
	return err
}

// meanwhile begins something that is to stop at a named point, does another
// thing there, and lets it go on.
func meanwhile(s *tamper.Stage, point string, begin, there func() error) error {
	armed, hit := s.Inside(filepath.Join(faultDir, point)), s.Inside(filepath.Join(faultDir, point+".hit"))
	if err := errors.Join(os.MkdirAll(filepath.Dir(armed), 0o755), os.WriteFile(armed, []byte("block"), 0o644)); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- begin() }()
	err := errors.New("the point was not reached")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, serr := os.Stat(hit); serr == nil {
			err = there()
			break
		}
	}
	return errors.Join(err, os.Remove(armed), <-done, os.Remove(hit))
}
