// Package made holds what the tests run on and do not want to make twice: the
// root file system of a test host, the newest containerd, our own binaries.
//
// Each thing lives in a directory of the cache named after what it is made
// from, so that a changed recipe makes a new one and an old checkout finds its
// own. A thing is made in a temporary directory and renamed, under a lock:
// whoever sees the directory sees all of it.
package made

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// CacheEnv names the variable that moves the cache out of build/cache, so that
// several checkouts can share one.
const CacheEnv = "SEALIFT_CACHE"

// Root returns the directory of this checkout: the one with Sealift's go.mod,
// at or above the working directory.
var Root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/sealift/sealift\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no checkout of Sealift at or above %s: %w", dir, fs.ErrNotExist)
		}
	}
})

// Cache returns the cache's directory and makes it.
func Cache() (string, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		root, err := Root()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "build", "cache")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// key is a short name for everything a thing is made from.
func key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// ensure returns the directory name of the cache, made by fill when it is not
// there yet. fill gets an empty directory on the same file system.
func ensure(ctx context.Context, name string, fill func(ctx context.Context, dir string) error) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := lock(filepath.Join(cache, "."+name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	start := time.Now()
	slog.Info("making, once", "thing", name, "in", cache)
	// A maker that was killed left its directory: the lock says it is nobody's.
	stale, err := filepath.Glob(filepath.Join(cache, "."+name+".tmp-*"))
	if err != nil {
		return "", err
	}
	for _, d := range stale {
		if err := os.RemoveAll(d); err != nil {
			return "", err
		}
	}
	tmp, err := os.MkdirTemp(cache, "."+name+".tmp-")
	if err != nil {
		return "", err
	}
	if err := fill(ctx, tmp); err != nil {
		return "", errors.Join(fmt.Errorf("%s: %w", name, err), os.RemoveAll(tmp))
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", err
	}
	slog.Info("made", "thing", name, "took", time.Since(start).Round(time.Second))
	return final, nil
}

// lock takes an exclusive lock on a file, waiting for it, and returns what
// gives it back.
func lock(file string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

// Scratch returns the directory in which test hosts keep what they write while
// they live.
func Scratch() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "hosts")
	return dir, os.MkdirAll(dir, 0o755)
}
