// Package tpm talks to one TPM 2.0: it reads and extends platform
// configuration registers, all allocated banks at once, and says what the TPM
// says of itself. Every command has a bounded time, and every error names the
// device and the command.
package tpm

import (
	"context"
	"fmt"
	"time"
)

// Timeout bounds a command where Options name no other time. A start must be
// refused within two seconds when the TPM is dead.
const Timeout = 1500 * time.Millisecond

// Class says what may be claimed of a TPM without having checked a certificate.
type Class string

const (
	// Software is a TPM whose identity and history can be copied.
	Software Class = "software"
	// HardwareUnverified is a device that looks like hardware; only enrolment
	// against an endorsement key certificate can say more.
	HardwareUnverified Class = "hardware-unverified"
)

// Device is one TPM. It is safe for concurrent use; commands run one at a time.
// After Close every command fails; Close may be called more than once.
type Device interface {
	// Path is the name the device was opened by.
	Path() string
	Class() Class
	// Banks lists the banks in which at least one PCR is allocated, ascending.
	Banks() []Bank
	// ReadPCR returns the values of one PCR in all banks that have it.
	ReadPCR(ctx context.Context, pcr int) (Values, error)
	// Extend extends one PCR in all banks that have it, in one command; digests
	// must hold each of them. After an error other than *ResponseError it is
	// unknown whether the TPM did it: read the PCR to find out.
	Extend(ctx context.Context, pcr int, digests Values) error
	Properties(ctx context.Context) (Properties, error)
	Close() error
}

// Properties is what a TPM says of itself.
type Properties struct {
	// Manufacturer is TPM_PT_MANUFACTURER, e.g. "IBM".
	Manufacturer string
	// Vendor is the four vendor strings joined, e.g. "SW   TPM".
	Vendor string
	// Firmware is both halves of the version in hex: "20191023.00163636".
	Firmware string
	// ResetCount counts TPM resets (TCG Part 1, section 36.2), RestartCount
	// restarts and resumes since the last reset.
	ResetCount, RestartCount uint32
	// Clock is the TPM's clock; it stands still without power.
	Clock time.Duration
	// Safe is false when the clock may have gone backwards since the last
	// orderly shutdown.
	Safe bool
}

// TimeoutError says that a command did not answer in time. The connection has
// been dropped; the next command opens a new one.
type TimeoutError struct {
	Device, Command string
	After           time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("TPM %s: %s: no answer within %v\nhint: %s", e.Device, e.Command, e.After, hint(e.Device))
}

// Timeout marks the error for os.IsTimeout and net.Error users.
func (e *TimeoutError) Timeout() bool { return true }

// UnreachableError says that the device could not be opened, or that the
// connection broke while a command was under way.
type UnreachableError struct {
	Device, Command string
	Err             error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("TPM %s: %s: %v\nhint: %s", e.Device, e.Command, e.Err, hint(e.Device))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// ResponseError says that the TPM answered with an error code, which Err holds
// as go-tpm's TPMRC: the command was not carried out.
type ResponseError struct {
	Device, Command string
	Err             error
}

func (e *ResponseError) Error() string {
	return fmt.Sprintf("TPM %s: %s: %v\nhint: %s", e.Device, e.Command, e.Err, "the TPM refused the command; sealift doctor shows its state and the PCRs it allows")
}

func (e *ResponseError) Unwrap() error { return e.Err }

func hint(device string) string {
	if _, ok := socketPath(device); ok {
		return "systemctl status sealift-swtpm; the software TPM must be running and no other client may hold its socket"
	}
	return "see dmesg for tpm messages; the device must exist, be readable by root and not be held by another program"
}
