package node

import (
	"context"
	"io"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
)

// registryAddress is inside, on the loopback: containerd speaks plain HTTP to it.
const registryAddress = "127.0.0.1:5055"

// Import gives containerd an image and unpacks it; args go to ctr.
func (n *Node) Import(ctx context.Context, img *image.Image, args ...string) error {
	_, err := n.RunCmd(ctx, host.Cmd{Args: append(append([]string{"ctr", "image", "import"}, args...), "-"), Stdin: archive(img)})
	return err
}

// ImportTo is Import into a containerd namespace.
func (n *Node) ImportTo(ctx context.Context, namespace string, img *image.Image) error {
	_, err := n.RunCmd(ctx, host.Cmd{Args: []string{"ctr", "-n", namespace, "image", "import", "-"}, Stdin: archive(img)})
	return err
}

// Registry starts a registry on the node's loopback that serves an image under
// some names, and returns its address.
func (n *Node) Registry(ctx context.Context, img *image.Image, names ...string) (string, error) {
	if err := n.InstallTool(ctx, "registry"); err != nil {
		return "", err
	}
	if _, err := n.RunCmd(ctx, host.Cmd{
		Args:  []string{"sh", "-euc", "mkdir -p /srv/layout; tar -C /srv/layout -x"},
		Stdin: archive(img),
	}); err != nil {
		return "", err
	}
	args := []string{"registry", registryAddress}
	for _, name := range names {
		args = append(args, name+"=/srv/layout")
	}
	d, err := n.Daemon("registry", host.Cmd{Args: args})
	if err != nil {
		return "", err
	}
	return registryAddress, n.await(ctx, d, "curl", "-sf", "http://"+registryAddress+"/v2/")
}

func archive(img *image.Image) io.Reader {
	r, w := io.Pipe()
	go func() { w.CloseWithError(img.Archive(w)) }()
	return r
}
