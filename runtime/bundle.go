package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Bundles is where the private bundles lie, one directory a container below one
// a namespace. runc reads the measured config.json from there; containerd's own
// bundle can change as it likes.
const Bundles = RunDir + "/bundles"

// PrivateBundle is the directory of one container's private bundle.
type PrivateBundle struct{ Dir string }

// Private names the private bundle of a container below root (Bundles when
// empty). It makes nothing.
func Private(root, namespace, id string) (PrivateBundle, error) {
	if root == "" {
		root = Bundles
	}
	for _, s := range []string{namespace, id} {
		if err := ValidID(s); err != nil {
			return PrivateBundle{}, err
		}
	}
	return PrivateBundle{filepath.Join(root, namespace, id)}, nil
}

// ownerFile names, in a private bundle, the bundle of containerd that it stands
// for. Two containerds on one host can have a container of the same name; runc
// takes them for one.
const ownerFile = "owner"

// Reserve makes the bundle for containerd's bundle directory owner, still
// without a config.json. All of it is this user's alone. Where a bundle is there
// already it is taken for a living container's, unless stale says that its
// container is gone; then it is replaced.
func (b PrivateBundle) Reserve(owner string, stale func() bool) error {
	// The mode of directories that exist is not trusted either.
	for _, dir := range []string{filepath.Dir(filepath.Dir(b.Dir)), filepath.Dir(b.Dir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("private bundle: %w", err)
		}
		if err := privateDir(dir); err != nil {
			return err
		}
	}
	err := os.Mkdir(b.Dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if stale == nil || !stale() {
			return fmt.Errorf("private bundle %s: %w\nhint: another container of this namespace and id is known to the OCI runtime", b.Dir, errdefs.ErrAlreadyExists)
		}
		if err := os.RemoveAll(b.Dir); err != nil {
			return fmt.Errorf("private bundle: %w", err)
		}
		err = os.Mkdir(b.Dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("private bundle: %w", err)
	}
	if err := writeNew(filepath.Join(b.Dir, ownerFile), []byte(owner)); err != nil {
		return errors.Join(err, b.Remove())
	}
	return nil
}

// Write writes config as the config.json of a bundle that Reserve has made. It
// is an error if there is one.
func (b PrivateBundle) Write(config []byte) error {
	return writeNew(filepath.Join(b.Dir, "config.json"), config)
}

// Owned says whether the private bundle is there and stands for the bundle
// directory owner.
func (b PrivateBundle) Owned(owner string) (bool, error) {
	got, err := os.ReadFile(filepath.Join(b.Dir, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("private bundle: %w", err)
	}
	return string(got) == owner, nil
}

func privateDir(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("private bundle: %w", err)
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("private bundle: %s is open to others (%v)\nhint: chmod 0700 %s", dir, st.Mode(), dir)
	}
	return nil
}

func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("private bundle: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("private bundle: %w", err)
	}
	return nil
}

// Remove removes the bundle, and the namespace's directory with the last of
// them. It may be called twice.
func (b PrivateBundle) Remove() error {
	if err := os.RemoveAll(b.Dir); err != nil {
		return fmt.Errorf("private bundle: %w", err)
	}
	// Another container of the namespace keeps the directory: not an error.
	os.Remove(filepath.Dir(b.Dir))
	return nil
}
