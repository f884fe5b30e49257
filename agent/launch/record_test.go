package launch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Every kind that measure/layer can report has a sentence here.
func TestEveryDifferenceIsDescribed(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../measure/layer/compare.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(v.Names[0].Name, "Kind") || len(v.Values) != 1 {
			return true
		}
		kinds++
		kind := strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)
		if describe[kind] == "" {
			t.Errorf("kind %q has no sentence", kind)
		}
		return true
	})
	if kinds < 15 {
		t.Fatalf("only %d kinds were found: has the list moved?", kinds)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	var r Record
	r.SetVerdict(make([]*nodev1.Reason, maxRecorded+5), make([]*nodev1.Reason, 2))
	if len(r.Reasons) != maxRecorded || r.MoreReasons != 5 || len(r.WouldRefuse) != 2 {
		t.Fatalf("%d reasons, %d more, %d would refuse", len(r.Reasons), r.MoreReasons, len(r.WouldRefuse))
	}
}
