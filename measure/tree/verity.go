package tree

import (
	"encoding/hex"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// VerityDigest is a file's fs-verity digest: the root the kernel checks every
// read of the file against (Linux Documentation/filesystems/fsverity.rst). A
// file that has one cannot be opened for writing any more.
type VerityDigest struct {
	Algorithm uint16 // FS_VERITY_HASH_ALG_*: 1 is SHA-256, 2 is SHA-512
	Size      uint16 // bytes of Digest in use
	Digest    [64]byte
}

// String names the algorithm and shows the digest in hexadecimal.
func (d VerityDigest) String() string {
	name := fmt.Sprintf("fsverity-alg%d", d.Algorithm)
	switch d.Algorithm {
	case unix.FS_VERITY_HASH_ALG_SHA256:
		name = "fsverity-sha256"
	case unix.FS_VERITY_HASH_ALG_SHA512:
		name = "fsverity-sha512"
	}
	return name + ":" + hex.EncodeToString(d.Digest[:min(int(d.Size), len(d.Digest))])
}

// ErrNoVerity means that the file system could have fs-verity but this file
// does not.
var ErrNoVerity = errors.New("the file has no fs-verity digest")

// MeasureVerity asks the kernel for the fs-verity digest of an open file. It
// returns ErrNoVerity, wrapped, for a file without one, and an error that is
// errors.ErrUnsupported where kernel or file system has no fs-verity.
func MeasureVerity(fd int) (VerityDigest, error) {
	var arg struct {
		algorithm uint16
		size      uint16
		digest    [64]byte
	}
	arg.size = uint16(len(arg.digest))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_MEASURE_VERITY, uintptr(unsafe.Pointer(&arg)))
	switch errno {
	case 0:
		return VerityDigest{Algorithm: arg.algorithm, Size: arg.size, Digest: arg.digest}, nil
	case unix.ENODATA:
		return VerityDigest{}, fmt.Errorf("FS_IOC_MEASURE_VERITY: %w", ErrNoVerity)
	case unix.ENOTTY:
		// Same meaning as EOPNOTSUPP: no file system code knows the call.
		errno = unix.EOPNOTSUPP
	}
	return VerityDigest{}, fmt.Errorf("FS_IOC_MEASURE_VERITY: %w", errno)
}
