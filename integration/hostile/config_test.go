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
			s := stage(t, node.Options{Name: "config", Line: line, Binaries: made.Faults})
			if _, err := s.Import(t.Context(), "default", overlayfs, s.Image); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(s.Inside(faultDir), 0o755); err != nil {
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
	armed, hit := s.Inside(filepath.Join(faultDir, point)), s.Inside(filepath.Join(faultDir, point+".hit"))
	if err := os.WriteFile(armed, []byte("block"), 0o644); err != nil {
		t.Fatal(err)
	}
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := s.Run(t.Context(), "default", id, nil, "/bin/cat", "/etc/motd")
		done <- result{out, err}
	}()
	await := func() error {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(hit); err == nil {
				return nil
			}
		}
		return errors.New("the point was not reached")
	}
	err := await()
	bundle := "/run/containerd/io.containerd.runtime.v2.task/default/" + id
	if err == nil {
		_, err = s.Shell(t.Context(), `cd `+bundle+`
sed 's,/etc/motd,/etc/group,' config.json > other.json
! cmp -s config.json other.json
cat other.json > config.json
mv config.json was.json; ln -s other.json config.json`)
	}
	if err := errors.Join(err, os.Remove(armed)); err != nil {
		t.Error(err)
	}
	r := <-done
	if r.err != nil || r.out != "top\n" {
		t.Errorf("ran %q, %v; measured was what prints %q", r.out, r.err, "top\n")
	}
	if err := errors.Join(os.Remove(hit), s.Left(t.Context(), "default", id)); err != nil {
		t.Error(err)
	}
}
