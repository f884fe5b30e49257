package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealift/sealift/internal/durable"
)

// writeFile writes what a command was told to write somewhere: a file becomes
// the new content, whole, or stays as it was; what a symbolic link leads to is
// changed rather than the link; a device or a pipe is written into.
func writeFile(name string, content []byte, mode fs.FileMode) (err error) {
	switch real, err := filepath.EvalSymlinks(name); {
	case err == nil:
		name = real
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	switch was, err := os.Stat(name); {
	case errors.Is(err, fs.ErrNotExist), err == nil && was.Mode().IsRegular():
		return durable.Write(name, content, mode)
	case err != nil:
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
