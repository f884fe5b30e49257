// Package durable changes single files so that a crash, of the process or of
// the machine, leaves the old content or the new, whole, and never neither.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces path, or makes it, with exactly the mode. When it returns
// without an error the content outlives a power loss; after an error path is as
// it was, or holds the new content.
func Write(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, os.Rename)
}

// Create is Write of a file that must not be there: the error is fs.ErrExist
// otherwise.
func Create(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, os.Link)
}

// Remove removes path for good. Of several at once one succeeds; for the others
// the error is fs.ErrNotExist.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

func put(path string, data []byte, mode fs.FileMode, name func(from, to string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = name(f.Name(), path)
	}
	// A link leaves the first name, an error too; after a renaming it is gone.
	if gone := os.Remove(f.Name()); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	if err != nil {
		return err
	}
	return Sync(dir)
}

// Sync makes durable which names a directory holds.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
