package vm

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// copySparse copies a file whose holes are to stay, or shares its blocks where
// the file system can.
func (v *VM) copySparse(ctx context.Context, from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("%w\nhint: integration/bootstrap.sh test installs what machines boot with", err)
	}
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy %s: %w\n%s", from, err, out)
	}
	return nil
}

func emptyFile(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// writePayload writes files as a tar that is a disk to the machine. A directory
// is taken with all that it holds.
func writePayload(name string, files []File) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	tw := tar.NewWriter(out)
	for _, f := range files {
		st, err := os.Stat(f.Source)
		if err != nil {
			return err
		}
		if st.IsDir() {
			err = addTree(tw, f)
		} else {
			err = addFile(tw, f, st)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Source, err)
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	st, err := out.Stat()
	if err != nil {
		return err
	}
	// A disk has whole sectors.
	return out.Truncate((st.Size() + 4095) &^ 4095)
}

func addFile(tw *tar.Writer, f File, st fs.FileInfo) error {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Target, "/"), Size: st.Size(),
		Mode: int64(st.Mode().Perm()), ModTime: st.ModTime(),
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	in, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(tw, in)
	return err
}

func addTree(tw *tar.Writer, f File) error {
	return fs.WalkDir(os.DirFS(f.Source), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		return addFile(tw, File{Source: f.Source + "/" + path, Target: f.Target + "/" + path}, st)
	})
}
