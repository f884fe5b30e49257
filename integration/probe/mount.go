package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Mount puts EROFS image files on the directories 0, 1, ... below At, as
// containerd's mount manager would, or takes away what is there.
type Mount struct {
	Images  []string `json:"images"`
	At      string   `json:"at"`
	Options string   `json:"options"`
}

func (m Mount) do() error {
	if len(m.Images) == 0 {
		return m.away()
	}
	for i, file := range m.Images {
		dir := filepath.Join(m.At, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(file, dir, "erofs", unix.MS_RDONLY, m.Options); err != nil {
			return errors.Join(fmt.Errorf("erofs %s: %w", file, err), m.away())
		}
	}
	return nil
}

func (m Mount) away() error {
	dirs, err := filepath.Glob(filepath.Join(m.At, "*"))
	for _, dir := range dirs {
		if e := unix.Unmount(dir, 0); !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, e)
		}
	}
	return err
}
