package tpm_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// charDevice bridges a pseudo-terminal to swtpm, so that a path names a
// character device that answers like a TPM. hold keeps responses back.
func charDevice(t *testing.T, x *swtpmtest.TPM, hold <-chan struct{}) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	skip.On(t, err)
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Raw: a TPM's bytes are no text.
	raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
	raw.Cflag = raw.Cflag&^unix.CSIZE | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, raw); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(slave.Close(), master.Close()); err != nil {
			t.Error(err)
		}
	})
	frame := func(r io.Reader) ([]byte, error) {
		b := make([]byte, 10)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		b = append(b, make([]byte, binary.BigEndian.Uint32(b[2:6])-10)...)
		_, err := io.ReadFull(r, b[10:])
		return b, err
	}
	go func() {
		for {
			command, err := frame(master)
			if err != nil {
				return
			}
			c, err := net.Dial("unix", x.Socket)
			if err != nil {
				return
			}
			_, err = c.Write(command)
			var response []byte
			if err == nil {
				response, err = frame(c)
			}
			c.Close()
			if err != nil {
				return
			}
			if hold != nil {
				<-hold
			}
			if _, err := master.Write(response); err != nil {
				return
			}
		}
	}()
	return path
}

// The path through linuxtpm: the same answers as over the socket.
func TestCharacterDevice(t *testing.T) {
	x := swtpmtest.Start(t)
	d := open(t, charDevice(t, x, nil), tpm.Options{})
	if d.Class() != tpm.Software {
		t.Errorf("libtpms behind a device is %s", d.Class())
	}
	digests := tpm.HashAll(d.Banks(), []byte("event"))
	if err := d.Extend(t.Context(), pcr, digests); err != nil {
		t.Fatal(err)
	}
	if v := read(t, d); !v.Equal(tpm.Zero(d.Banks()).Extended(digests)) {
		t.Errorf("PCR is %v", v)
	}
	if s := open(t, x.Device(), tpm.Options{}); !read(t, s).Equal(read(t, d)) {
		t.Error("device and socket differ")
	}
}

// A device that never answers is given up on in time, too.
func TestCharacterDeviceTimeout(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	path := charDevice(t, swtpmtest.Start(t), hold)
	// It would wait for ever: that it returns is what is tested.
	_, err := tpm.OpenWith(t.Context(), path, tpm.Options{Timeout: 300 * time.Millisecond})
	var late *tpm.TimeoutError
	if !errors.As(err, &late) {
		t.Errorf("%v", err)
	}
}
