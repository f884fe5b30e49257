package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Commander is what a Device may be besides: it lends its link to commands that
// this package has no method for, quotes and key handling. What Open returns is
// one.
type Commander interface {
	// Command runs f with the device's turn, over one link, and gives up on it
	// after timeout (the device's own when 0), waiting for the turn included;
	// name stands in errors, which are those of the other methods, or f's own.
	//
	// What f loads (objects, sessions) is flushed before the turn ends, whether f
	// failed or not. Where the flush cannot be done because the TPM does not answer,
	// a resource manager does it when the link is dropped; behind a socket there is
	// none, so the next Command first flushes everything that is loaded: the
	// device's opener is that TPM's owner.
	//
	// f may be called again from its start, and must stand that. After an error
	// it may still be running: what it writes to must not be read then.
	Command(ctx context.Context, name string, timeout time.Duration, f func(transport.TPM) error) error
}

// Selection names PCRs of one bank, ascending.
type Selection struct {
	Bank Bank
	PCRs []int
}

// Selector is what a Device may be besides: it knows which PCRs are allocated.
type Selector interface {
	// Select returns, for each bank in the order of Banks, those of the PCRs that
	// are allocated in it; banks that have none of them are left out.
	Select(pcrs ...int) []Selection
}

var (
	_ Commander = (*direct)(nil)
	_ Selector  = (*direct)(nil)
)

func (d *direct) Select(pcrs ...int) []Selection {
	pcrs = slices.Clone(pcrs)
	slices.Sort(pcrs)
	pcrs = slices.Compact(pcrs)
	var out []Selection
	for _, b := range d.order {
		s := Selection{Bank: b}
		for _, p := range pcrs {
			if m := d.allocated[b]; p >= 0 && p/8 < len(m) && m[p/8]&(1<<(p%8)) != 0 {
				s.PCRs = append(s.PCRs, p)
			}
		}
		if len(s.PCRs) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func (d *direct) Command(ctx context.Context, name string, timeout time.Duration, f func(transport.TPM) error) error {
	if timeout <= 0 {
		timeout = d.o.Timeout
	}
	_, bare := socketPath(d.path) // no resource manager behind it
	_, err := runFor(ctx, d, timeout, name, true, func(ctx context.Context, t transport.TPM) (struct{}, error) {
		k := &keeper{TPM: t, ctx: ctx}
		if bare && d.litter.Swap(true) {
			if err := sweep(k); err != nil {
				return struct{}{}, err
			}
		}
		err := k.lend(f)
		if bare && full(err) {
			// Other clients of the socket, tpm2-tools for one, leave objects behind.
			if err = sweep(k); err == nil {
				err = k.lend(f)
			}
		}
		if k.clean && ctx.Err() == nil {
			d.litter.Store(false)
		}
		return struct{}{}, err
	})
	var own *ownError
	if errors.As(err, &own) {
		return fmt.Errorf("TPM %s: %s: %w", d.path, name, own.err)
	}
	return err
}

// ownError is an error that f made itself: neither the link nor the TPM.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }

// keeper knows what is loaded over the link, and stops an f that was given up on.
type keeper struct {
	transport.TPM
	ctx   context.Context
	held  []tpm2.TPMHandle
	broke bool
	clean bool
}

// lend calls f and flushes what it loaded.
func (k *keeper) lend(f func(transport.TPM) error) error {
	k.clean = false
	err := f(k)
	var code tpm2.TPMRC
	if err != nil && !k.broke && k.ctx.Err() == nil && !errors.As(err, &code) {
		err = &ownError{err}
	}
	for len(k.held) > 0 {
		h := k.held[len(k.held)-1]
		k.held = k.held[:len(k.held)-1]
		if e := flush(k, h); e != nil {
			return errors.Join(err, e)
		}
	}
	k.clean = !k.broke
	return err
}

// Commands that load something, whose response begins with its handle (TCG Part
// 3), and the one that unloads.
var loads = []tpm2.TPMCC{
	tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCCreateLoaded, tpm2.TPMCCContextLoad,
	tpm2.TPMCCStartAuthSession, tpm2.TPMCCHMACStart, tpm2.TPMCCHashSequenceStart,
}

func (k *keeper) Send(command []byte) ([]byte, error) {
	if err := k.ctx.Err(); err != nil {
		return nil, err
	}
	response, err := k.TPM.Send(command)
	if err != nil {
		k.broke = true
		return nil, err
	}
	if len(command) < 10 || len(response) < 10 || binary.BigEndian.Uint32(response[6:10]) != uint32(tpm2.TPMRCSuccess) {
		return response, nil
	}
	switch code := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:10])); {
	case slices.Contains(loads, code) && len(response) >= 14:
		k.held = append(k.held, tpm2.TPMHandle(binary.BigEndian.Uint32(response[10:14])))
	case code == tpm2.TPMCCFlushContext && len(command) >= 14:
		h := tpm2.TPMHandle(binary.BigEndian.Uint32(command[10:14]))
		k.held = slices.DeleteFunc(k.held, func(x tpm2.TPMHandle) bool { return x == h })
	}
	return response, nil
}

// flush unloads one thing. A session that ended by itself is gone already.
func flush(t transport.TPM, h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
		return nil
	}
	return err
}

// Ranges of handles (TCG Part 2, section 7.2): loaded sessions and transient
// objects.
const (
	firstSession   = 0x02000000
	firstTransient = 0x80000000
)

// sweep flushes all sessions and objects that are loaded.
func sweep(t transport.TPM) error {
	for _, first := range []uint32{firstTransient, firstSession} {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 254}.Execute(t)
		if err != nil {
			return err
		}
		list, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		for _, h := range list.Handle {
			if uint32(h)>>24 != first>>24 {
				continue
			}
			if err := flush(t, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// full reports whether the TPM has no slot left for what is to be loaded.
func full(err error) bool {
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
