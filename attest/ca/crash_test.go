package ca

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// childEnv makes the test binary a CA that works until it is killed.
const childEnv = "SEALIFT_CA_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Fprintln(os.Stderr, work(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// work signs and revokes for ever. It prints each certificate's serial number
// once it is in somebody else's hands.
func work(dir string) error {
	c, err := Open(dir)
	if err != nil {
		return err
	}
	public, err := os.ReadFile(dir + ".ak")
	if err != nil {
		return err
	}
	ak, err := key.ParsePublic(public)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		x := &examined{request: &enroll.Request{Host: "h"}, ak: ak, class: certificate.Software, clock: tpm2.TPMSClockInfo{}}
		var result enroll.Result
		err := c.locked(func() error {
			records, err := c.Records()
			if err != nil {
				return err
			}
			b, err := c.sign(x, records)
			if err != nil {
				return err
			}
			return enroll.Decode(b, &result)
		})
		if err != nil {
			return err
		}
		a, err := certificate.Parse(result.Certificate)
		if err != nil {
			return err
		}
		fmt.Println(serialText(a.Certificate.SerialNumber))
		if i%3 == 0 {
			if _, err := c.Revoke(serialText(a.Certificate.SerialNumber), ""); err != nil {
				return err
			}
			fmt.Println("revoked", serialText(a.Certificate.SerialNumber))
		}
	}
}

// Killed at any moment, a CA goes on from where it was: it opens, everything
// that left it is on record, what it said to be revoked is on the list.
func TestKilled(t *testing.T) {
	c := newCA(t, Options{})
	h := host(t, swtpmtest.Start(t), "h", t.TempDir())
	if err := os.WriteFile(c.dir+".ak", h.AK.Public.Public(), 0o600); err != nil {
		t.Fatal(err)
	}
	self := must(os.Executable())(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	given, revoked := map[string]bool{}, map[string]bool{}
	// A busy machine may not come to a revocation in so short a life.
	for round := 0; round < 20 || len(revoked) == 0 && round < 200; round++ {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childEnv+"="+c.dir)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out := must(cmd.StdoutPipe())(t)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		first := make(chan struct{})
		lines := make(chan []string)
		go func() {
			var all []string
			for s := bufio.NewScanner(out); s.Scan(); {
				if all = append(all, s.Text()); len(all) == 1 {
					close(first)
				}
			}
			lines <- all
		}()
		select {
		case <-first:
		case <-time.After(time.Minute):
			t.Error("the child does nothing")
		}
		time.Sleep(time.Duration(random.IntN(60_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		all := <-lines
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || errs.Len() > 0 {
			t.Fatalf("%v: %s", err, errs.String())
		}
		for _, line := range all {
			if serial, ok := strings.CutPrefix(line, "revoked "); ok && len(serial) == 32 {
				revoked[serial] = true
			} else if len(line) == 32 { // a line cut short is nobody's certificate
				given[line] = true
			}
		}
		c = must(Open(c.dir))(t)
		list := must(c.List())(t)
		recorded := map[string]*Record{}
		for _, r := range must(c.Records())(t) {
			recorded[r.Serial] = r
			want := ""
			if r.Revoked != 0 {
				want = certificate.Revoked
			}
			if err := verify(c, r.Certificate, list); (err == nil) != (want == "") {
				t.Fatalf("%s: %v, want %q", r.Serial, err, want)
			}
		}
		for serial := range given {
			if recorded[serial] == nil {
				t.Fatalf("%s was given away and is not on record", serial)
			}
		}
		for serial := range revoked {
			if recorded[serial].Revoked == 0 {
				t.Fatalf("%s was revoked and is not", serial)
			}
		}
	}
	if len(given) < 20 || len(revoked) == 0 {
		t.Errorf("%d certificates and %d revocations: this test tests nothing", len(given), len(revoked))
	}
	t.Logf("%d certificates, %d revoked", len(given), len(revoked))
	pinHost(t, c, h)
	must(c.Revoke("h", ""))(t)
	enrolled(t, c, h)
	if _, err := hex.DecodeString(must(c.Find("h"))(t)[0].Serial); err != nil {
		t.Error(err)
	}
}
