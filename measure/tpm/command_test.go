package tpm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// load makes a key and a session, and leaves both.
func load(t transport.TPM) error {
	_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if err != nil {
		return err
	}
	_, _, err = tpm2.HMACSession(t, tpm2.TPMAlgSHA256, 16)
	return err
}

func left(t *testing.T, x *swtpmtest.TPM) string {
	t.Helper()
	return strings.TrimSpace(string(swtpmtest.Tool(t, nil, "tpm2_getcap", "-T", x.TCTI(), "handles-transient")) +
		string(swtpmtest.Tool(t, nil, "tpm2_getcap", "-T", x.TCTI(), "handles-loaded-session")))
}

// What f loads is gone when Command returns, however f ended; errors tell who
// spoke.
func TestCommandCleansUp(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, x.Device(), tpm.Options{})
	c := d.(tpm.Commander)
	if err := c.Command(t.Context(), "load", 0, load); err != nil {
		t.Fatal(err)
	}
	own := errors.New("own")
	err := c.Command(t.Context(), "fail", 0, func(l transport.TPM) error { return errors.Join(load(l), own) })
	if !errors.Is(err, own) || !strings.HasPrefix(err.Error(), "TPM "+x.Device()+": fail: ") {
		t.Errorf("%v", err)
	}
	var response *tpm.ResponseError
	err = c.Command(t.Context(), "refused", 0, func(l transport.TPM) error {
		if err := load(l); err != nil {
			return err
		}
		_, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81234567)}.Execute(l)
		return err
	})
	if !errors.As(err, &response) || !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("%v", err)
	}
	if s := left(t, x); s != "" {
		t.Errorf("left behind: %s", s)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var away *tpm.UnreachableError
	if err := c.Command(t.Context(), "closed", 0, load); !errors.As(err, &away) {
		t.Errorf("%v", err)
	}
}

// Who was given up on sends nothing more, and what it left goes with the next
// command; the device's other commands do not wait for it.
func TestCommandGivenUp(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, x.Device(), tpm.Options{})
	c := d.(tpm.Commander)
	goOn, ended := make(chan struct{}), make(chan error, 1)
	err := c.Command(t.Context(), "slow", 100*time.Millisecond, func(l transport.TPM) error {
		err := load(l)
		<-goOn
		ended <- errors.Join(err, load(l))
		return nil
	})
	var late *tpm.TimeoutError
	if !errors.As(err, &late) || late.Command != "slow" {
		t.Fatalf("%v", err)
	}
	read(t, d)
	close(goOn)
	if err := <-ended; err == nil {
		t.Error("sent more after it was given up on")
	}
	if s := left(t, x); strings.Count(s, "0x") != 2 {
		t.Errorf("a key and a session should be left, there is: %s", s)
	}
	if err := c.Command(t.Context(), "next", 0, func(transport.TPM) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if s := left(t, x); s != "" {
		t.Errorf("left behind: %s", s)
	}
}

// Only allocated PCRs are selected, in every bank, each once.
func TestSelect(t *testing.T) {
	d := open(t, swtpmtest.Start(t).Device(), tpm.Options{})
	got := d.(tpm.Selector).Select(13, 0, 13, 99, -1)
	if len(got) != len(d.Banks()) {
		t.Fatalf("%v of banks %v", got, d.Banks())
	}
	for i, s := range got {
		if s.Bank != d.Banks()[i] || !slices.Equal(s.PCRs, []int{0, 13}) {
			t.Errorf("%v", s)
		}
	}
	if none := d.(tpm.Selector).Select(99); len(none) != 0 {
		t.Errorf("%v", none)
	}
}
