package key

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// Foreign bytes never panic, and what is read is read whole.
func FuzzPublic(f *testing.F) {
	for _, k := range kinds {
		f.Add(tpm2.Marshal(k.standard), []byte{}, []byte{})
	}
	f.Add(tpm2.Marshal(akTemplate(seed{1})), tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{}),
	}), tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256})}))
	f.Fuzz(func(t *testing.T, public, message, signature []byte) {
		p, err := ParsePublic(public)
		if err != nil {
			return
		}
		if string(p.Public()) != string(public) {
			t.Error("read other bytes than there were")
		}
		_, _ = p.CheckAttestation(), p.CheckEndorsement()
		if _, err := p.CheckQuote(message, signature); err == nil {
			t.Error("a quote was made up")
		}
	})
}
