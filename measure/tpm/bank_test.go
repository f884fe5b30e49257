package tpm

import (
	"strings"
	"testing"
)

func TestValues(t *testing.T) {
	v := Zero([]Bank{SHA256, SHA1})
	if !v.IsZero() || v.Equal(Values{}) || (Values{}).Equal(Values{}) || v.Equal(Zero([]Bank{SHA1})) {
		t.Error("equality: other banks, and no banks at all, are not equal")
	}
	// H(32 zero bytes ‖ H("")), by another program.
	x := v.Extended(HashAll(v.Banks(), nil))
	if got, want := x.Strings()["sha256"], "1c9ecec90e28d2461650418635878a5c91e49f47586ecf75f2b0cbb94e897112"; got != want {
		t.Errorf("extended: %s, want %s", got, want)
	}
	back, err := ParseValues(x.Strings())
	if err != nil || !back.Equal(x) {
		t.Errorf("%v, %v", back, err)
	}
	if s := x.String(); !strings.HasPrefix(s, "sha1:") || !strings.Contains(s, " sha256:") {
		t.Errorf("order of banks: %s", s)
	}
	for _, bad := range []map[string]string{{"md5": "00"}, {"sha1": "00"}, {"sha1": strings.Repeat("z", 40)}} {
		if v, err := ParseValues(bad); err == nil {
			t.Errorf("%v was read as %v", bad, v)
		}
	}
}

func TestClassify(t *testing.T) {
	for _, k := range []struct {
		path string
		p    Properties
		want Class
	}{
		{"unix:/run/x", Properties{Manufacturer: "INTC", Vendor: "Intel"}, Software},
		{"/dev/tpmrm0", Properties{Manufacturer: "IBM", Vendor: "SW   TPM"}, Software},
		{"/dev/tpmrm0", Properties{Manufacturer: "MSFT", Vendor: "Simulator"}, Software},
		{"/dev/tpmrm0", Properties{Manufacturer: "INTC", Vendor: "Intel"}, HardwareUnverified},
	} {
		if got := classify(k.path, k.p); got != k.want {
			t.Errorf("%s %+v: %s", k.path, k.p, got)
		}
	}
}
