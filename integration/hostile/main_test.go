// Package hostile_test sends the agent what only an attacker would: from places
// that may not speak to it, and from a shim's place what no shim would say.
package hostile_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/tamper"
	"github.com/sealift/sealift/measure/eventlog"
)

func TestMain(m *testing.M) {
	host.Reexec()
	os.Exit(m.Run())
}

const overlayfs = "overlayfs"

// patience bounds what is waited for: only what never happens takes as long.
const patience = 2 * time.Minute

// patient is the test's context for as long as anything may take.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// turnedAway waits until the log says that something was turned away whose
// description holds all of words. The agent gathers such things for five seconds.
func turnedAway(t *testing.T, s *tamper.Stage, words ...string) {
	t.Helper()
	var seen []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		seen = nil
		err := s.Log(func(r *eventlog.Record) error {
			if r.Type != "denied" {
				return nil
			}
			var b struct {
				Requests []struct{ What string } `json:"requests"`
			}
			if err := json.Unmarshal(r.Body, &b); err != nil {
				return err
			}
			for _, q := range b.Requests {
				seen = append(seen, q.What)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range seen {
			all := true
			for _, w := range words {
				all = all && strings.Contains(what, w)
			}
			if all {
				return
			}
		}
	}
	t.Errorf("the log does not say that %q was turned away, only:\n%s", words, strings.Join(seen, "\n"))
}
