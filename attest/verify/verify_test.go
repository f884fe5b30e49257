package verify_test

import (
	"testing"
)

func TestGoodEvidenceIsTrusted(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	v := w.trusted(w.host.evidence(ask{nonce: nonce}))
	t.Log(explain(v))
	if v.Host != "host-a" || len(v.Containers) != 1 || v.Unproven != 0 || v.Next == nil {
		t.Errorf("%+v", v)
	}
}
