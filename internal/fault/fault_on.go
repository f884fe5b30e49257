//go:build faults

// Package fault gives the code named points at which a test can make it die,
// wait or fail. In an ordinary build Point is empty; built with the tag
// "faults" it does what the file of its name says.
package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Dir holds one file for each armed point, named after it. Its content is
// "kill" (SIGKILL to the process), "sleep DURATION", "block" (until the file is
// gone) or "fail TEXT". A trailing " once" removes the file first.
const Dir = "/run/sealift-fault"

// Point acts as the file Dir/name says, and returns an error for "fail".
func Point(name string) error {
	file := filepath.Join(Dir, name)
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	act := strings.TrimSpace(string(b))
	if rest, ok := strings.CutSuffix(act, " once"); ok {
		act = rest
		os.Remove(file)
	}
	os.WriteFile(filepath.Join(Dir, name+".hit"), nil, 0o600)
	verb, arg, _ := strings.Cut(act, " ")
	switch verb {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "sleep":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return fmt.Errorf("fault point %s: %w", name, err)
		}
		time.Sleep(d)
	case "block":
		for {
			if _, err := os.Stat(file); err != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "fail":
		return fmt.Errorf("fault point %s: %s", name, arg)
	}
	return nil
}
