package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// leave starts a container that echoes, talks to it, and ends without a word,
// as a client does that is killed.
func leave(ctx context.Context, c *client.Client, s settings) error {
	image, err := c.GetImage(ctx, s.image)
	if err != nil {
		return err
	}
	container, err := c.NewContainer(ctx, s.id, client.WithImage(image), client.WithNewSnapshot(s.id, image),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("cat")), client.WithRuntime(s.runtime, nil))
	if err != nil {
		return err
	}
	t := newTalk()
	task, err := container.NewTask(ctx, cio.NewCreator(t.streams()), s.taskOptions()...)
	if err != nil {
		return errors.Join(err, container.Delete(ctx, client.WithSnapshotCleanup))
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	if err := t.say("one"); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// attach takes the streams up again as another client would, talks on, and ends
// the container.
func attach(ctx context.Context, c *client.Client, s settings) error {
	container, err := c.LoadContainer(ctx, s.id)
	if err != nil {
		return err
	}
	t := newTalk()
	task, err := container.Task(ctx, cio.NewAttach(t.streams()))
	if err != nil {
		return err
	}
	said := t.say("two")
	task.IO().Cancel()
	_, err = task.Delete(ctx, client.WithProcessKill)
	return errors.Join(said, err, container.Delete(ctx, client.WithSnapshotCleanup))
}

// talk is one client's end of a container's streams.
type talk struct {
	inner, out *io.PipeReader
	in, outer  *io.PipeWriter
	lines      *bufio.Scanner
}

func newTalk() *talk {
	var t talk
	t.inner, t.in = io.Pipe()
	t.out, t.outer = io.Pipe()
	t.lines = bufio.NewScanner(t.out)
	return &t
}

func (t *talk) streams() cio.Opt { return cio.WithStreams(t.inner, t.outer, io.Discard) }

func (t *talk) say(word string) error {
	if _, err := fmt.Fprintln(t.in, word); err != nil {
		return err
	}
	if !t.lines.Scan() || t.lines.Text() != word {
		return fmt.Errorf("said %q, heard %q", word, t.lines.Text())
	}
	fmt.Println(word)
	return nil
}
