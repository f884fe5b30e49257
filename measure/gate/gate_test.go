package gate

import (
	"testing"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/policy"
)

func TestDecide(t *testing.T) {
	bad := []*nodev1.Reason{{Code: "layer-content", Message: "content differs"}}
	never := []*nodev1.Reason{{Code: "own-state", Message: "shows our state"}}
	with := func(m policy.Mode) policy.Effective {
		e := policy.Default()
		e.Content = m
		return e
	}
	for _, tc := range []struct {
		name    string
		facts   Facts
		policy  policy.Effective
		allowed bool
		would   int
	}{
		{"good image", Facts{HasImage: true, Class: "tree"}, with(policy.Enforce), true, 0},
		{"changed content, enforce", Facts{HasImage: true, Class: "tree", Content: bad}, with(policy.Enforce), false, 0},
		{"changed content, audit", Facts{HasImage: true, Class: "tree", Content: bad}, with(policy.Audit), true, 1},
		{"changed content, off", Facts{HasImage: true, Class: "tree", Content: bad}, with(policy.Off), true, 0},
		{"changed content, unknown mode", Facts{HasImage: true, Class: "tree", Content: bad}, with("loose"), false, 0},
		{"no image, default", Facts{}, with(policy.Enforce), false, 0},
		{"no image, audit", Facts{}, with(policy.Audit), true, 1},
		{"weak binding", Facts{HasImage: true, Class: "none"}, with(policy.Enforce), false, 0},
		{"our state, off", Facts{HasImage: true, Class: "tree", Never: never}, with(policy.Off), false, 0},
		{"our state, audit", Facts{HasImage: true, Class: "tree", Never: never}, with(policy.Audit), false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := Decide(tc.facts, tc.policy)
			if v.Allowed != tc.allowed || len(v.WouldRefuse) != tc.would {
				t.Fatalf("allowed %v, would refuse %v, reasons %v", v.Allowed, v.WouldRefuse, v.Reasons)
			}
			if !v.Allowed && len(v.Reasons) == 0 {
				t.Fatal("refused without a reason")
			}
		})
	}
}
