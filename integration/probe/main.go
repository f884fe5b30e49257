// Command probe speaks to the node socket for the tests, from wherever it is
// put: at a shim's path, where it may, and everywhere else, where it may not.
//
//	probe try [-uid N] [-socket PATH]     connect, say hello, and tell how it went
//	probe borrow PROGRAM [ARG...]         connect, give the connection to a child
//	                                      that says hello, and become PROGRAM
//	probe serve                           carry out the requests of standard input,
//	                                      and look at roots as a container would
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want try, borrow, child or serve")
	}
	switch args[0] {
	case "try":
		return try(args[1:])
	case "borrow":
		return borrow(args[1:])
	case "child":
		return child()
	case "serve":
		return serve(os.Stdin, os.Stdout)
	}
	return fmt.Errorf("want try, borrow, child or serve, not %s", args[0])
}

func try(args []string) error {
	f := flag.NewFlagSet("try", flag.ContinueOnError)
	uid := f.Int("uid", 0, "user to become first")
	socket := f.String("socket", node.Socket, "socket")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *uid != 0 {
		if err := unix.Setresuid(*uid, *uid, *uid); err != nil {
			return fmt.Errorf("setresuid: %w", err)
		}
	}
	c, err := net.Dial("unix", *socket)
	if err != nil {
		return err
	}
	return hello(c)
}

func hello(c net.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	t := ttrpc.NewClient(c)
	defer t.Close()
	n := nodev1.NewNodeClient(t)
	if _, err := n.Hello(ctx, &nodev1.HelloRequest{Version: node.Version, Client: "probe"}); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	// What a shim and what root's CLI may: one of them answers.
	_, shim := n.Report(ctx, &nodev1.ReportRequest{Namespace: "none", Id: "none", Kind: nodev1.ReportKind_REPORT_KIND_EXIT})
	_, cli := n.Status(ctx, &nodev1.StatusRequest{})
	fmt.Printf("let in: report: %v; status: %v\n", shim, cli)
	return nil
}

// borrow is how a stranger could show the agent the face of a program of ours.
func borrow(args []string) error {
	c, err := net.Dial("unix", node.Socket)
	if err != nil {
		return err
	}
	file, err := c.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	kid := exec.Command(self, "child")
	kid.ExtraFiles, kid.Stdout, kid.Stderr = []*os.File{file}, os.Stdout, os.Stderr
	if err := kid.Start(); err != nil {
		return err
	}
	return unix.Exec(args[0], args, os.Environ())
}

func child() error {
	time.Sleep(50 * time.Millisecond) // until the parent is another program
	c, err := net.FileConn(os.NewFile(3, "borrowed"))
	if err != nil {
		return err
	}
	return hello(c)
}

// Request is a line of standard input: a call, raw bytes for a connection of
// their own, a root to look at, or images to mount. Reply is the line that answers it.
type Request struct {
	Method  string          `json:"method"`
	Message json.RawMessage `json:"message"`
	Raw     []byte          `json:"raw"`
	View    *View           `json:"view"`
	Mount   *Mount          `json:"mount"`
}

type Reply struct {
	Error   string          `json:"error,omitempty"`
	Message json.RawMessage `json:"message,omitempty"`
}

func serve(r io.Reader, w io.Writer) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 64<<20)
	out := json.NewEncoder(w)
	var c *node.Client
	for in.Scan() {
		var q Request
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return err
		}
		var a Reply
		err := error(nil)
		switch {
		case q.Raw != nil:
			err = raw(q.Raw)
		case q.View != nil:
			var lines []string
			if lines, err = q.View.lines(); err == nil {
				a.Message, err = json.Marshal(lines)
			}
		case q.Mount != nil:
			err = q.Mount.do()
		default:
			if c == nil {
				c, err = node.Dial(context.Background(), node.Socket, "shim", "probe")
			}
			if err == nil {
				a.Message, err = call(c, q)
			}
		}
		if err != nil {
			a.Error = err.Error()
			if c != nil {
				c.Close() // a new one for the next request
				c = nil
			}
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return in.Err()
}

func call(c *node.Client, q Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var resp proto.Message
	var err error
	switch q.Method {
	case "Hello":
		m := &nodev1.HelloRequest{}
		if err = protojson.Unmarshal(q.Message, m); err == nil {
			resp, err = c.Hello(ctx, m)
		}
	case "Launch":
		m := &nodev1.LaunchRequest{}
		if err = protojson.Unmarshal(q.Message, m); err == nil {
			resp, err = c.Launch(ctx, m)
		}
	case "Report":
		m := &nodev1.ReportRequest{}
		if err = protojson.Unmarshal(q.Message, m); err == nil {
			resp, err = c.Report(ctx, m)
		}
	case "Burst":
		return burst(q.Message)
	case "Status":
		resp, err = c.Status(ctx, &nodev1.StatusRequest{})
	case "Acknowledge":
		resp, err = c.Acknowledge(ctx, &nodev1.AcknowledgeRequest{State: "foreign", Reason: "probe"})
	default:
		err = fmt.Errorf("no method %s", q.Method)
	}
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(resp)
}

// raw writes bytes and waits until the agent answers or hangs up.
func raw(b []byte) error {
	c, err := net.Dial("unix", node.Socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, c)
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	return nil
}
