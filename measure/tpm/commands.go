package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// pcrCount is how many PCRs a PC client TPM has.
const pcrCount = 24

// readBanks asks which banks are allocated. A bank we cannot compute is an
// error, because a bank that nobody extends is one in which a log can be forged.
func (d *direct) readBanks(ctx context.Context) error {
	const command = "TPM2_GetCapability(PCRS)"
	list, err := run(ctx, d, command, true, func(t transport.TPM) ([]tpm2.TPMSPCRSelection, error) {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t)
		if err != nil {
			return nil, err
		}
		l, err := r.CapabilityData.Data.AssignedPCR()
		if err != nil {
			return nil, err
		}
		return l.PCRSelections, nil
	})
	if err != nil {
		return err
	}
	d.allocated = map[Bank][]byte{}
	for _, s := range list {
		b := Bank(s.Hash)
		if !slices.ContainsFunc(s.PCRSelect, func(x byte) bool { return x != 0 }) {
			continue
		}
		if !b.Known() {
			return fmt.Errorf("TPM %s: PCR bank %s is allocated and cannot be computed here\nhint: deallocate it with tpm2_pcrallocate and reboot", d.path, b)
		}
		d.allocated[b] = slices.Clone(s.PCRSelect)
		d.order = append(d.order, b)
	}
	if len(d.order) == 0 {
		return fmt.Errorf("TPM %s: no PCR bank is allocated\nhint: allocate one with tpm2_pcrallocate and reboot", d.path)
	}
	slices.Sort(d.order)
	return nil
}

// banksOf lists the banks in which the PCR is allocated.
func (d *direct) banksOf(pcr int) ([]Bank, error) {
	if pcr < 0 || pcr >= pcrCount {
		return nil, fmt.Errorf("TPM %s: PCR %d does not exist: PCRs are 0 to %d", d.path, pcr, pcrCount-1)
	}
	var out []Bank
	for _, b := range d.order {
		if m := d.allocated[b]; pcr/8 < len(m) && m[pcr/8]&(1<<(pcr%8)) != 0 {
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("TPM %s: PCR %d is allocated in no bank\nhint: choose another PCR, or allocate it with tpm2_pcrallocate and reboot", d.path, pcr)
	}
	return out, nil
}

func (d *direct) ReadPCR(ctx context.Context, pcr int) (Values, error) {
	list, err := d.banksOf(pcr)
	if err != nil {
		return nil, err
	}
	var sel tpm2.TPMLPCRSelection
	for _, b := range list {
		sel.PCRSelections = append(sel.PCRSelections, tpm2.TPMSPCRSelection{
			Hash:      tpm2.TPMAlgID(b),
			PCRSelect: tpm2.PCClientCompatible.PCRs(uint(pcr)),
		})
	}
	return run(ctx, d, fmt.Sprintf("TPM2_PCR_Read(%d)", pcr), true, func(t transport.TPM) (Values, error) {
		r, err := tpm2.PCRRead{PCRSelectionIn: sel}.Execute(t)
		if err != nil {
			return nil, err
		}
		// The answer's own selection says which values it holds, in order.
		out := Values{}
		rest := r.PCRValues.Digests
		for _, s := range r.PCRSelectionOut.PCRSelections {
			if pcr/8 >= len(s.PCRSelect) || s.PCRSelect[pcr/8]&(1<<(pcr%8)) == 0 {
				continue
			}
			b := Bank(s.Hash)
			if len(rest) == 0 || len(rest[0].Buffer) != b.Size() || !slices.Contains(list, b) {
				return nil, fmt.Errorf("answer's selection and values disagree in bank %s", b)
			}
			out[b], rest = rest[0].Buffer, rest[1:]
		}
		if len(out) != len(list) || len(rest) != 0 {
			return nil, fmt.Errorf("answer holds %d banks, %d were asked for: the allocation changed", len(out), len(list))
		}
		return out, nil
	})
}

func (d *direct) Extend(ctx context.Context, pcr int, digests Values) error {
	list, err := d.banksOf(pcr)
	if err != nil {
		return err
	}
	var all tpm2.TPMLDigestValues
	for _, b := range list {
		x, ok := digests[b]
		if !ok || len(x) != b.Size() {
			return fmt.Errorf("TPM %s: extend of PCR %d: bank %s needs a digest of %d bytes, got %d", d.path, pcr, b, b.Size(), len(x))
		}
		all.Digests = append(all.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(b), Digest: x})
	}
	command := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   all,
	}
	_, err = run(ctx, d, fmt.Sprintf("TPM2_PCR_Extend(%d)", pcr), false, func(t transport.TPM) (*tpm2.PCRExtendResponse, error) {
		return command.Execute(t)
	})
	return err
}

// Property tags of TPM_CAP_TPM_PROPERTIES (TCG Part 2, table 28).
const (
	ptManufacturer = 0x105
	ptVendor1      = 0x106
	ptVendor4      = 0x109
	ptFirmware1    = 0x10B
	ptFirmware2    = 0x10C
)

func (d *direct) Properties(ctx context.Context) (Properties, error) {
	list, err := run(ctx, d, "TPM2_GetCapability(TPM_PROPERTIES)", true, func(t transport.TPM) (*tpm2.TPMLTaggedTPMProperty, error) {
		const count = ptFirmware2 - ptManufacturer + 1
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: ptManufacturer, PropertyCount: count}.Execute(t)
		if err != nil {
			return nil, err
		}
		return r.CapabilityData.Data.TPMProperties()
	})
	if err != nil {
		return Properties{}, err
	}
	now, err := run(ctx, d, "TPM2_ReadClock", true, func(t transport.TPM) (*tpm2.ReadClockResponse, error) {
		return tpm2.ReadClock{}.Execute(t)
	})
	if err != nil {
		return Properties{}, err
	}
	var p Properties
	var vendor [4]string
	var firmware [2]uint32
	for _, x := range list.TPMProperty {
		switch tag := uint32(x.Property); {
		case tag == ptManufacturer:
			p.Manufacturer = strings.TrimSpace(text(x.Value))
		case tag >= ptVendor1 && tag <= ptVendor4:
			vendor[tag-ptVendor1] = text(x.Value)
		case tag == ptFirmware1:
			firmware[0] = x.Value
		case tag == ptFirmware2:
			firmware[1] = x.Value
		}
	}
	p.Vendor = strings.TrimSpace(strings.Join(vendor[:], ""))
	p.Firmware = fmt.Sprintf("%08x.%08x", firmware[0], firmware[1])
	c := now.CurrentTime.ClockInfo
	p.ResetCount, p.RestartCount = c.ResetCount, c.RestartCount
	p.Clock = time.Duration(c.Clock) * time.Millisecond
	p.Safe = bool(c.Safe)
	return p, nil
}

// text renders a property that holds up to four characters.
func text(v uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(b[:]))
}
