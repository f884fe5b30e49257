package launch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sealift/sealift/measure/layer"
)

// A bind of the kernel's own files must not be read: /proc/kmsg answers when
// there is a message, and takes it away from whoever waits for it.
func TestKernelFilesAreNotRead(t *testing.T) {
	for _, file := range []string{"/proc/kmsg", "/proc/version", "/sys/kernel/uevent_seqnum"} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			budget := int64(maxBindHash)
			kind, sum, err := hashFile(file, &budget)
			if err != nil || kind != "kernel-file" || sum != "" || budget != maxBindHash {
				t.Errorf("%s: %q %q, %v", file, kind, sum, err)
			}
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: still being read", file)
		}
	}
}

// The index of references is a help and no truth: whatever is in it that cannot
// be read is computed again.
func TestDamagedReferenceIndex(t *testing.T) {
	good := digest.FromString("tar")
	want := layer.Digest{1, 2, 3}
	index := filepath.Join(t.TempDir(), "references")
	text := append(make([]byte, 1<<20), "\nsha256:zz "+want.String()+"\n"+good.String()+" "+want.String()+"\n"+digest.FromString("torn").String()+" sealift-lay"...)
	if err := os.WriteFile(index, text, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReferences(t.TempDir(), index)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := r.lookup(good); !ok || d != want || len(r.known) != 1 {
		t.Fatalf("known %v", r.known)
	}
}
