package reference

import (
	"fmt"
	"time"
)

// MalformedError says that something is not a bundle.
type MalformedError struct{ Reason string }

func (e *MalformedError) Error() string { return "reference: " + e.Reason }

// UntrustedError says that no trusted key signed a bundle.
type UntrustedError struct {
	// KeyIDs are those the envelope names; they prove nothing.
	KeyIDs []string
	// Trusted is how many keys were tried.
	Trusted int
}

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("reference: none of its %d signatures is by one of the %d trusted keys\nhint: put the signer's public key (PEM) into %s as NAME.pem; NAME is what policies call it", len(e.KeyIDs), e.Trusted, TrustDir)
}

// ExpiredError says that a bundle has had its time.
type ExpiredError struct {
	Name    string
	Version uint64
	Expires time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("reference %s version %d: expired at %s\nhint: import a newer version, and check this host's clock", e.Name, e.Version, e.Expires.Format(time.RFC3339))
}

// RollbackError says that a bundle is not newer than what is known.
type RollbackError struct {
	Name          string
	Have, Offered uint64
}

func (e *RollbackError) Error() string {
	if e.Have == e.Offered {
		return fmt.Sprintf("reference %s version %d: another bundle of this version was imported before\nhint: a changed bundle needs a higher version", e.Name, e.Have)
	}
	return fmt.Sprintf("reference %s version %d: version %d was imported before\nhint: versions only grow; to go back, sign the old content under a new version", e.Name, e.Offered, e.Have)
}

// NotLayoutError says that a file or directory is not an OCI image layout.
type NotLayoutError struct {
	// Err is set when it is not even a tar.
	Err error
}

func (e *NotLayoutError) Error() string {
	why := "no index.json, so not an OCI image layout"
	if e.Err != nil {
		why = "not a tar archive: " + e.Err.Error()
	}
	return why + "\nhint: ctr images export FILE.tar IMAGE, skopeo copy … oci-archive:FILE, or docker save of version 25 or newer"
}

func (e *NotLayoutError) Unwrap() error { return e.Err }
