package eventlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

// storeOn makes a store on a tmpfs with the given options.
func storeOn(t *testing.T, options string) *store {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	skip.On(t, err)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(dir, epochsName), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := createStore(dir, 1, random())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// When no further segment can be made, the old one serves on.
func TestNoRoomForAnotherSegment(t *testing.T) {
	s := storeOn(t, "nr_inodes=6")
	var err error
	for err == nil {
		if s.index > 10 {
			t.Fatal("inodes never ran out")
		}
		err = s.next()
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := errors.Join(s.ensure(10, 10), s.write([]byte("on\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := listSegments(s.dir); err != nil {
		t.Error(err)
	}
}

// Where blocks cannot be set aside, a full disk is met by the write: what was
// written of the batch is cut off again, and nothing before it is lost.
func TestShortWriteIsCutBack(t *testing.T) {
	s := storeOn(t, "size=65536")
	s.plain = true
	var err error
	batch := bytes.Repeat([]byte("x"), 5000)
	n := 0
	for err == nil {
		if err = s.write(batch); err == nil {
			n++
		}
	}
	if !errors.Is(err, errNoSpace) || n < 5 {
		t.Fatalf("after %d batches: %v", n, err)
	}
	got, err := os.ReadFile(s.f.Name())
	if err != nil || len(got) != n*len(batch) || s.size != int64(len(got)) {
		t.Errorf("%d batches are %d bytes, size says %d: %v", n, len(got), s.size, err)
	}
	if err := s.write([]byte("small")); err != nil {
		t.Errorf("after cutting back a smaller batch must fit: %v", err)
	}
}

// A segment whose beginning of a batch could not be cut off takes no other.
func TestTornSegmentTakesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, epochsName), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := createStore(dir, 1, random())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write([]byte("whole\n")); err != nil {
		t.Fatal(err)
	}
	path := s.f.Name()
	if err := os.WriteFile(path, []byte("whole\ntorn"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.torn = true
	if err := s.write([]byte("next\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole\nnext\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
