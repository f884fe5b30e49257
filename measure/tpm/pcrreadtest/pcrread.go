// Package pcrreadtest gives tests the PCRs of a machine that is far away.
package pcrreadtest

import (
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/sealift/sealift/measure/tpm"
)

// Read reads a file with what tpm2_pcrread printed there.
func Read(t testing.TB, file string) map[int]tpm.Values {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]tpm.Values{}
	var bank tpm.Bank
	for _, line := range strings.Split(string(text), "\n") {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		if value == "" {
			if bank, err = tpm.ParseBank(name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		pcr, err := strconv.Atoi(strings.TrimSpace(name))
		if err != nil {
			t.Fatal(err)
		}
		v, err := hex.DecodeString(strings.ToLower(strings.TrimPrefix(strings.TrimSpace(value), "0x")))
		if err != nil {
			t.Fatal(err)
		}
		if out[pcr] == nil {
			out[pcr] = tpm.Values{}
		}
		out[pcr][bank] = v
	}
	return out
}
