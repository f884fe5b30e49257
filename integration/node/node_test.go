package node_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
)

func TestMain(m *testing.M) {
	host.Reexec()
	os.Exit(m.Run())
}

// The ground under every other test: a stock containerd of either line runs our
// images with the stock shim.
func TestStockContainerd(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			ctx := t.Context()
			n, err := node.New(ctx, node.Options{Name: "stock", Line: line, Bare: true})
			skip.On(t, err)
			defer func() {
				if t.Failed() {
					n.DumpLogs(t.Output())
				}
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}()
			version, err := n.Run(ctx, "containerd", "--version")
			if err != nil || !strings.Contains(version, string(line)+".") {
				t.Errorf("containerd is %q, %v", version, err)
			}
			tiny, err := made.Image(ctx, "tiny", image.Tiny)
			skip.On(t, err)
			if err := n.Import(ctx, tiny); err != nil {
				t.Fatal(err)
			}
			out, err := n.Ctr(ctx, "run", "--rm", "--runtime", node.Stock, image.TinyName, "one", "cat", "/etc/motd")
			if err != nil || out != "an ordinary container\n" {
				t.Errorf("got %q, %v", out, err)
			}
			large, err := made.Image(ctx, "large", image.Large)
			skip.On(t, err)
			if err := n.Import(ctx, large); err != nil {
				t.Fatal(err)
			}
			checkLarge(t, n)
			address, err := n.Registry(ctx, tiny, "tiny")
			if err != nil {
				t.Fatal(err)
			}
			if out, err := n.Ctr(ctx, "image", "pull", "--plain-http", address+"/tiny:latest"); err != nil {
				t.Errorf("pull: %s %v", out, err)
			}
		})
	}
}

// checkLarge looks at the odd entries from inside a container.
func checkLarge(t *testing.T, n *node.Node) {
	t.Helper()
	script := `
[ "$(stat -c %h /odd/original)" = 3 ]; [ "$(stat -c %i /odd/original)" = "$(stat -c %i /odd/third-name)" ]
[ "$(stat -c %a /odd/setuid)" = 4755 ]
[ "$(stat -c %u:%g /odd/owned)" = 65534:1000 ]
[ "$(stat -c %s /odd/sparse)" = 50331648 ]
[ ! -e /data/00/001 ]; [ ! -e /data/59 ]; [ "$(ls /data/01)" = only ]; [ -e /data/02/001 ]
cat "/odd/Ünïcødé-名前-🦭" /no/parents/named/file
`
	out, err := n.Ctr(t.Context(), "run", "--rm", "--runtime", node.Stock, image.LargeName, "large", "sh", "-euc", script)
	if err != nil || out != "utf-8\nimplied\n" {
		t.Errorf("got %q, %v", out, err)
	}
}
