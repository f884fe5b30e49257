package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
)

// prover makes this host's evidence. It is safe for concurrent use; the TPM
// makes one quote at a time.
type prover struct {
	device  tpm.Device
	log     *eventlog.Log
	pcr     int
	channel *channelKey
	// directory keeps the attestation key's seed and certificates, boot and ima
	// are the files of the firmware's and the kernel's log.
	directory, boot, ima string

	mu sync.Mutex
	ak *key.AK
}

// view is what of the log goes into evidence. The zero value is all of it.
type view struct {
	namespace, container string
	// from is the first record wanted, if the log's epoch is still epoch.
	from  uint64
	epoch eventlog.Hash
}

// attestationKey returns the AK. A TPM that cannot make it does not keep
// containers from starting, so it is made when it is first wanted.
func (p *prover) attestationKey(ctx context.Context) (*key.AK, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ak != nil {
		return p.ak, nil
	}
	ak, err := key.Open(ctx, p.device, p.directory)
	if err != nil {
		return nil, err
	}
	p.ak = ak
	return ak, nil
}

// selection are the PCRs that are quoted: firmware and boot loader (0 to 9),
// IMA (10), what shim measures (14), and ours. The value of one without a log
// must be its initial one, which the verifier checks. A tenant's view leaves
// IMA out, whose log names every tenant's programs.
func (p *prover) selection(v view) ([]tpm.Selection, error) {
	d, ok := p.device.(tpm.Selector)
	if !ok {
		return nil, fmt.Errorf("TPM %s: cannot say which PCRs are allocated: %w", p.device.Path(), errors.ErrUnsupported)
	}
	pcrs := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, p.pcr}
	if v.namespace == "" {
		pcrs = append(pcrs, imalog.PCR)
	}
	return d.Select(pcrs...), nil
}

// Prove makes evidence for the binding, whose own key, nonce and AK name it
// fills in.
func (p *prover) Prove(ctx context.Context, b evidence.Binding, v view) ([]byte, error) {
	ak, err := p.attestationKey(ctx)
	if err != nil {
		return nil, err
	}
	b.OwnSPKI, b.AKName = p.channel.spki, ak.Name()
	if len(b.OwnNonce) == 0 {
		b.OwnNonce = make([]byte, 32)
		if _, err := rand.Read(b.OwnNonce); err != nil {
			return nil, fmt.Errorf("evidence: own nonce: %w", err)
		}
	}
	e := &evidence.Evidence{
		Version: evidence.Version, Purpose: b.Purpose, Nonces: evidence.Nonces{Verifier: b.VerifierNonce, Own: b.OwnNonce},
		Exporter: b.Exporter, SPKI: evidence.Keys{Own: b.OwnSPKI, Peer: b.PeerSPKI}, Ticket: b.Ticket,
		AK: evidence.AK{Public: ak.Public.Public()},
	}
	if e.AK.Certificates, e.AK.Owner, err = certificates(p.directory, ak.Public); err != nil {
		return nil, err
	}
	props, err := p.device.Properties(ctx)
	if err != nil {
		return nil, err
	}
	e.Properties = evidence.Properties{Manufacturer: props.Manufacturer, Vendor: props.Vendor, Firmware: props.Firmware}
	if err := p.quote(ctx, e, ak, b, v); err != nil {
		return nil, err
	}
	// The logs are read after the quote: they may hold more than it covers, and
	// never less.
	if e.Boot, err = readLog(p.boot, evidence.MaxBoot); err != nil {
		return nil, err
	}
	if v.namespace == "" {
		if e.IMA, err = readLog(p.ima, evidence.MaxIMA); err != nil {
			return nil, err
		}
	}
	if e.Log, err = p.lines(ctx, v); err != nil {
		return nil, err
	}
	if err := e.Sign(p.channel.Signer()); err != nil {
		return nil, err
	}
	return e.Encode()
}

// quotes is how often a quote is taken again because the PCR moved by other
// hands around it: a value between two looks is in no log.
const quotes = 3

// quote has the log catch up with the PCR before and after the quote. A state
// that got worse in between may have moved the PCR under it.
func (p *prover) quote(ctx context.Context, e *evidence.Evidence, ak *key.AK, b evidence.Binding, v view) error {
	q := evidence.Qualification(b)
	sel, err := p.selection(v)
	if err != nil {
		return err
	}
	for range quotes {
		if err := p.look(ctx); err != nil {
			return err
		}
		before := p.log.State()
		if e.Quote.Message, e.Quote.Signature, err = ak.Quote(ctx, sel, q[:]); err != nil {
			return err
		}
		if err := p.look(ctx); err != nil {
			return err
		}
		after := p.log.State()
		if after.Epoch == before.Epoch && after.Name == before.Name && after.Acknowledged == before.Acknowledged {
			return nil
		}
	}
	return nil // the verifier will say what it sees
}

// look tolerates a log that cannot record: what it holds can still be quoted.
func (p *prover) look(ctx context.Context) error {
	err := p.log.Look(ctx)
	var away *eventlog.UnavailableError
	if errors.As(err, &away) && away.State.Cause != eventlog.CauseClosed {
		return nil
	}
	return err
}

func (p *prover) lines(ctx context.Context, v view) (evidence.Log, error) {
	l := evidence.Log{Namespace: v.namespace, Container: v.container, From: 1}
	if v.from > 1 && v.epoch == p.log.State().Epoch {
		l.From = v.from
	}
	size := 0
	err := p.log.Read(ctx, l.From, false, func(_ uint64, line []byte) error {
		if v.namespace != "" {
			var err error
			if line, err = evidence.View(line, v.namespace, v.container); err != nil {
				return err
			}
		}
		if size += len(line) + 1; size > evidence.MaxSize {
			return fmt.Errorf("evidence: the log is larger than %d bytes\nhint: a verifier that keeps a checkpoint (--state) asks for new records only", evidence.MaxSize)
		}
		l.Lines = append(l.Lines, line)
		return nil
	})
	return l, err
}

// readLog reads a log of the firmware or the kernel; a host that has none sends
// none, and its evidence says less.
func readLog(file string, limit int) ([]byte, error) {
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("evidence: %w", err)
	case len(b) > limit:
		return nil, fmt.Errorf("evidence: %s has %d bytes, more than %d\nhint: attest.ima_log and attest.boot_log in the configuration name the files; a narrower IMA policy makes its log shorter", file, len(b), limit)
	}
	return b, nil
}

// maxNonce bounds a verifier's nonce.
const maxNonce = 64

// partSize is what one message of an Attest stream carries.
const partSize = 1 << 20

func (s *cliService) Attest(ctx context.Context, req *nodev1.AttestRequest, out nodev1.Node_AttestServer) error {
	v := view{namespace: req.GetNamespace(), container: req.GetContainer(), from: req.GetFrom()}
	switch {
	case len(req.GetNonce()) > maxNonce:
		return status.Errorf(codes.InvalidArgument, "a nonce of %d bytes: at most %d", len(req.GetNonce()), maxNonce)
	case v.container != "" && v.namespace == "":
		return status.Error(codes.InvalidArgument, "a container without its namespace")
	case v.from > 1 && len(req.GetEpoch()) != len(v.epoch):
		return status.Error(codes.InvalidArgument, "a place in the log without its epoch")
	}
	copy(v.epoch[:], req.GetEpoch())
	b, err := s.a.prover.Prove(ctx, evidence.Binding{Purpose: evidence.Offline, VerifierNonce: req.GetNonce()}, v)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	for part := range slices.Chunk(b, partSize) {
		if err := out.Send(&nodev1.AttestPart{Data: part}); err != nil {
			return err
		}
	}
	return nil
}
