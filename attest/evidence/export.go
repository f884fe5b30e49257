package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/eventlog"
)

// Names of what Export writes.
const (
	ExportMessage       = "quote.msg"
	ExportSignature     = "quote.sig"
	ExportKey           = "ak.pem"
	ExportQualification = "qualification"
	ExportEventLog      = "eventlog.tcg2"
	ExportBootLog       = "bootlog.tcg2"
	ExportIMA           = "ima.bin"
)

// Export writes the evidence's parts into dir in the forms of other people's
// tools: quote.msg and quote.sig (TPMS_ATTEST and TPMT_SIGNATURE), ak.pem,
// qualification (hex), certificates, the logs of firmware and kernel as they
// are, and eventlog.tcg2, the event log as a TCG log. The last is left out where
// no TCG log can stand for it: a view that begins later than at record 1, an
// epoch that did not begin at zero. dir is made if it is not there.
func (e *Evidence) Export(dir string) error {
	public, err := key.ParsePublic(e.AK.Public)
	if err != nil {
		return fmt.Errorf("export: attestation key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public.Key())
	if err != nil {
		return fmt.Errorf("export: attestation key: %w", err)
	}
	b, err := e.Binding()
	if err != nil {
		return err
	}
	q := Qualification(b)
	files := map[string][]byte{
		ExportMessage: e.Quote.Message, ExportSignature: e.Quote.Signature,
		ExportKey:           pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		ExportQualification: []byte(hex.EncodeToString(q[:]) + "\n"),
	}
	for name, chain := range map[string][][]byte{"certificates.pem": e.AK.Certificates, "owner.pem": e.AK.Owner} {
		for _, der := range chain {
			files[name] = append(files[name], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	}
	if len(e.Boot) > 0 {
		files[ExportBootLog] = e.Boot
	}
	if len(e.IMA) > 0 {
		files[ExportIMA] = e.IMA
	}
	if e.Log.From == 1 {
		var log bytes.Buffer
		var cannot *eventlog.ExportError
		switch err := eventlog.ExportTCG2(&log, e.lines()); {
		case err == nil:
			files[ExportEventLog] = log.Bytes()
		case !errors.As(err, &cannot):
			return fmt.Errorf("export: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	return nil
}

func (e *Evidence) lines() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, l := range e.Log.Lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}
