// Command bindprobe measures a directory or an EROFS image, runs a command, and
// says whether the binding noticed, and whether measuring again finds the same.
// The tests run it where an attack needs a whole machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/sealift/sealift/measure/tree"
)

// Verdict is what it prints.
type Verdict struct {
	Class tree.Class
	Why   string // why the class is none
	// Command is the command's error and what it wrote; Moved is what the
	// binding's check says, empty when it saw nothing.
	Command, Moved string
	// Again is "same", "different", or the error of measuring again.
	Again string
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: bindprobe DIRECTORY|IMAGE COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	v, err := probe(context.Background(), os.Args[1], os.Args[2:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(v)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bindprobe:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, path string) (*tree.Result, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return tree.Measure(ctx, path, tree.Options{})
	}
	return tree.MeasureBlob(ctx, path, tree.Options{})
}

func probe(ctx context.Context, path string, command []string) (*Verdict, error) {
	before, err := measure(ctx, path)
	if err != nil {
		return nil, err
	}
	defer before.Binding.Close()
	v := &Verdict{Class: before.Binding.Class(), Why: before.Binding.Reason(), Again: "same"}
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		v.Command = fmt.Sprintf("%v: %s", err, out)
	}
	var moved *tree.MovedError
	switch err := before.Binding.Check(ctx); {
	case errors.As(err, &moved) || errors.Is(err, tree.ErrUnbound):
		v.Moved = err.Error()
	case err != nil:
		return nil, err
	}
	after, err := measure(ctx, path)
	if err != nil {
		v.Again = err.Error()
		return v, nil
	}
	defer after.Binding.Close()
	switch {
	case len(after.Differences) > 0:
		v.Again = fmt.Sprintf("unreadable: %v", after.Differences[0])
	case after.Manifest.Digest() != before.Manifest.Digest():
		v.Again = "different"
	}
	return v, nil
}
