package tpm_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

const pcr = 13

func open(t testing.TB, path string, o tpm.Options) tpm.Device {
	t.Helper()
	d, err := tpm.OpenWith(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func read(t testing.TB, d tpm.Device) tpm.Values {
	t.Helper()
	v, err := d.ReadPCR(t.Context(), pcr)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The calculator and the device must agree in every allocated bank.
func TestExtendAllBanks(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, x.Device(), tpm.Options{})
	if len(d.Banks()) < 2 {
		t.Fatalf("banks %v: swtpm allocates more than one by itself", d.Banks())
	}
	before := read(t, d)
	if !before.IsZero() {
		t.Fatalf("PCR %d is not zero at first: %v", pcr, before)
	}
	digests := tpm.HashAll(d.Banks(), []byte("event"))
	if err := d.Extend(t.Context(), pcr, digests); err != nil {
		t.Fatal(err)
	}
	after := read(t, d)
	if want := before.Extended(digests); !after.Equal(want) {
		t.Fatalf("PCR %d is %v, computed %v", pcr, after, want)
	}
	for _, b := range d.Banks() {
		out := string(swtpmtest.Tool(t, nil, "tpm2_pcrread", "-T", x.TCTI(), b.String()+":13"))
		if want := strings.ToUpper(after.Strings()[b.String()]); !strings.Contains(out, want) {
			t.Errorf("tpm2_pcrread says %q, want %s", out, want)
		}
	}
}

func TestExtendNeedsEveryBank(t *testing.T) {
	d := open(t, swtpmtest.Start(t).Device(), tpm.Options{})
	digests := tpm.HashAll(d.Banks()[1:], []byte("event"))
	if err := d.Extend(t.Context(), pcr, digests); err == nil {
		t.Fatal("an extend that leaves a bank out was accepted")
	}
	if v := read(t, d); !v.IsZero() {
		t.Fatalf("PCR moved: %v", v)
	}
}

func TestPropertiesAndRestart(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, x.Device(), tpm.Options{})
	if d.Class() != tpm.Software {
		t.Errorf("class %q of swtpm", d.Class())
	}
	first, err := d.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first.Manufacturer != "IBM" || !strings.HasPrefix(first.Vendor, "SW") || first.Firmware == "" {
		t.Errorf("properties %+v", first)
	}
	if err := d.Extend(t.Context(), pcr, tpm.HashAll(d.Banks(), []byte("event"))); err != nil {
		t.Fatal(err)
	}
	x.Restart()
	// The link is dead now; reading finds a new one by itself.
	if v := read(t, d); !v.IsZero() {
		t.Errorf("PCR survived the kill: %v", v)
	}
	second, err := d.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second.ResetCount != first.ResetCount+1 || second.Safe {
		t.Errorf("after kill and restart: %+v, before %+v", second, first)
	}
}

// An extend over a link that died while it was idle is sent once, over a new one.
func TestExtendOverDeadLink(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, x.Device(), tpm.Options{Idle: time.Minute})
	read(t, d)
	x.Restart()
	digests := tpm.HashAll(d.Banks(), []byte("event"))
	if err := d.Extend(t.Context(), pcr, digests); err != nil {
		t.Fatal(err)
	}
	if v := read(t, d); !v.Equal(tpm.Zero(d.Banks()).Extended(digests)) {
		t.Errorf("PCR is %v", v)
	}
}

// tpm2-tools must be served although we have just used the socket.
func TestSocketIsLetGo(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, x.Device(), tpm.Options{})
	read(t, d)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "tpm2_pcrread", "-T", x.TCTI(), "sha256:13").CombinedOutput(); err != nil {
		swtpmtest.SkipMissing(t, err)
		t.Fatalf("tpm2_pcrread beside us: %v: %s", err, out)
	}
}

func TestTimeoutAndRecovery(t *testing.T) {
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	d := open(t, p.Device(), tpm.Options{Timeout: 3 * time.Second})
	release := make(chan struct{})
	var held sync.WaitGroup
	held.Add(1)
	once := sync.OnceFunc(held.Done)
	p.Set(nil, func(code uint32) {
		if code == swtpmtest.PCRExtend {
			once()
			<-release
		}
	})
	digests := tpm.HashAll(d.Banks(), []byte("event"))
	err := d.Extend(t.Context(), pcr, digests)
	var late *tpm.TimeoutError
	if !errors.As(err, &late) {
		t.Fatalf("held extend: %v", err)
	}
	for _, want := range []string{p.Device(), "TPM2_PCR_Extend", "hint:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	held.Wait()
	// The response that was held belongs to the dropped link and must not be
	// taken for this read's.
	p.Set(nil, nil)
	close(release)
	if v, want := read(t, d), tpm.Zero(d.Banks()).Extended(digests); !v.Equal(want) {
		t.Errorf("after the held extend: %v, want %v", v, want)
	}
}

func TestUnreachable(t *testing.T) {
	for path, want := range map[string]string{
		"unix:/nonexistent/s": "no such file",
		"/nonexistent/tpm":    "no such file",
		"/dev/null/x":         "not a directory",
	} {
		_, err := tpm.Open(t.Context(), path)
		var u *tpm.UnreachableError
		if !errors.As(err, &u) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestClosed(t *testing.T) {
	d, err := tpm.Open(t.Context(), swtpmtest.Start(t).Device())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.ReadPCR(t.Context(), pcr); err == nil {
		t.Fatal("a closed device answered")
	}
}

func TestRefusedCommand(t *testing.T) {
	d := open(t, swtpmtest.Start(t).Device(), tpm.Options{})
	// PCR 17 cannot be extended at locality 0 (TPM_RC_LOCALITY).
	err := d.Extend(t.Context(), 17, tpm.HashAll(d.Banks(), nil))
	var r *tpm.ResponseError
	if !errors.As(err, &r) {
		t.Fatalf("extend of PCR 17: %v", err)
	}
}

// Warnings that ask for the same command again are obeyed within the timeout.
func TestTransientWarnings(t *testing.T) {
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	d, hasty := open(t, p.Device(), tpm.Options{Timeout: time.Minute}), open(t, p.Device(), tpm.Options{Timeout: 2 * time.Second})
	for name, rc := range map[string]uint32{"TPM_RC_RETRY": 0x922, "TPM_RC_TESTING": 0x90A, "TPM_RC_YIELDED": 0x908} {
		left := 3
		p.Answer(func(code uint32) (uint32, bool) {
			left--
			return rc, code == swtpmtest.PCRExtend && left >= 0
		})
		before := read(t, d)
		left = 3
		digests := tpm.HashAll(d.Banks(), []byte(name))
		if err := d.Extend(t.Context(), pcr, digests); err != nil {
			t.Errorf("%s three times: %v", name, err)
		}
		p.Answer(nil)
		if v := read(t, d); !v.Equal(before.Extended(digests)) {
			t.Errorf("%s: extended otherwise than once", name)
		}
		p.Answer(func(uint32) (uint32, bool) { return rc, true })
		var late *tpm.TimeoutError
		if _, err := hasty.ReadPCR(t.Context(), pcr); !errors.As(err, &late) {
			t.Errorf("%s for ever: %v", name, err)
		}
		p.Answer(nil)
	}
}

// A response that is not one must be an error, not a value.
func TestRubbishOnTheSocket(t *testing.T) {
	for name, response := range map[string]string{
		"nothing":       "",
		"short header":  "\x80\x01\x00",
		"huge size":     "\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00",
		"tiny size":     "\x80\x01\x00\x00\x00\x01\x00\x00\x00\x00",
		"empty success": "\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00",
	} {
		dir, err := os.MkdirTemp("", "rubbish")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if _, err := c.Read(make([]byte, 4096)); err == nil {
					_, _ = c.Write([]byte(response)) // the client may have left
				}
				c.Close()
			}
		}()
		d, err := tpm.OpenWith(t.Context(), "unix:"+filepath.Join(dir, "s"), tpm.Options{Timeout: 300 * time.Millisecond})
		if err == nil {
			t.Errorf("%s: opened as %v", name, d.Banks())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	d := open(t, swtpmtest.Start(t).Device(), tpm.Options{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 10 {
				if err := d.Extend(t.Context(), pcr, tpm.HashAll(d.Banks(), []byte("x"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := tpm.Zero(d.Banks())
	for range 200 {
		want = want.Extended(tpm.HashAll(d.Banks(), []byte("x")))
	}
	if v := read(t, d); !v.Equal(want) {
		t.Errorf("200 extends gave %v, want %v", v, want)
	}
}

func BenchmarkExtendKept(b *testing.B) {
	benchmarkExtend(b, tpm.Options{Idle: time.Minute})
}

func BenchmarkExtendDialled(b *testing.B) {
	benchmarkExtend(b, tpm.Options{Idle: time.Nanosecond})
}

func benchmarkExtend(b *testing.B, o tpm.Options) {
	d := open(b, swtpmtest.Start(b).Device(), o)
	x := tpm.HashAll(d.Banks(), []byte("x"))
	for b.Loop() {
		if err := d.Extend(b.Context(), pcr, x); err != nil {
			b.Fatal(err)
		}
	}
}
