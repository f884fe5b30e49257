package eventlog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/sealift/sealift/measure/tpm"
)

// Event types of the TCG PC Client Platform Firmware Profile, section 10.4.1.
const (
	evNoAction = 0x00000003
	evEventTag = 0x00000006
)

// ExportError says that no TCG log can stand for these lines.
type ExportError struct {
	Seq    uint64
	Reason string
}

func (e *ExportError) Error() string {
	return fmt.Sprintf("event log cannot be exported as a TCG log: record %d: %s\nhint: sealift log --verify checks the log in its own format", e.Seq, e.Reason)
}

// ExportTCG2 writes the epoch as a crypto-agile TCG log (TCG PC Client Platform
// Firmware Profile, section 10.2.2): the Spec ID Event03 header and one
// EV_EVENT_TAG a batch, whose digest in each bank is the hash of its data.
// Readers of that format begin at zero and know no foreign extends: an epoch
// over another initial value, or with a foreign segment, is an *ExportError.
// Records that no batch ends yet are left out.
func ExportTCG2(w io.Writer, lines iter.Seq2[[]byte, error]) error {
	out := bufio.NewWriter(w)
	r := newReplay()
	began := false
	for line, err := range lines {
		if err != nil {
			return err
		}
		s, err := r.feed(line)
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		if s.foreign {
			return &ExportError{s.batch.First, "a foreign extend, whose digest nobody knows, came before it"}
		}
		list := s.before.Banks()
		if !began {
			if !s.before.IsZero() {
				return &ExportError{s.batch.First, fmt.Sprintf("the PCR was at %s before it, not zero", s.before.Brief())}
			}
			began = true
			if _, err := out.Write(specID(list)); err != nil {
				return err
			}
		}
		if _, err := out.Write(event2(r.epoch.PCR, list, s.data)); err != nil {
			return err
		}
	}
	if !began {
		return errors.New("event log: no batch is there to export")
	}
	return out.Flush()
}

// specID is the first event, in the format of TPM 1.2 logs.
func specID(list []tpm.Bank) []byte {
	le := binary.LittleEndian
	body := append([]byte("Spec ID Event03"), 0)
	body = le.AppendUint32(body, 0) // platform class: client
	body = append(body, 0, 2, 0, 2) // version 2.0, errata 0, UINTN of 64 bits
	body = le.AppendUint32(body, uint32(len(list)))
	for _, b := range list {
		body = le.AppendUint16(body, uint16(b))
		body = le.AppendUint16(body, uint16(b.Size()))
	}
	body = append(body, 0) // no vendor information

	out := le.AppendUint32(nil, 0)
	out = le.AppendUint32(out, evNoAction)
	out = append(out, make([]byte, tpm.SHA1.Size())...)
	out = le.AppendUint32(out, uint32(len(body)))
	return append(out, body...)
}

// event2 is a TCG_PCR_EVENT2.
func event2(pcr uint32, list []tpm.Bank, data []byte) []byte {
	le := binary.LittleEndian
	out := le.AppendUint32(nil, pcr)
	out = le.AppendUint32(out, evEventTag)
	out = le.AppendUint32(out, uint32(len(list)))
	for _, b := range list {
		out = le.AppendUint16(out, uint16(b))
		out = append(out, b.Hash(data)...)
	}
	out = le.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}
