package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"porchlight/nat/natlab"
)

// essential are the kinds of the short matrix; the long one takes all.
var essential = []natlab.Kind{
	natlab.Public, natlab.FullCone, natlab.AddressRestricted, natlab.PortRestricted,
	natlab.Symmetric, natlab.CGNAT, natlab.UDPBlocked,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to show: demo or matrix")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	short := flags.Bool("short", false, "matrix: only the essential kinds")
	once := flags.Bool("once", false, "demo: end after the report instead of keeping the console open")
	out := flags.String("out", "lab-out", "folder for logs and captures")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	dir, err := emptyFolder(*out)
	if err != nil {
		return err
	}
	program, err := build(ctx, dir)
	if err != nil {
		return err
	}
	switch args[0] {
	case "demo":
		return demo(ctx, os.Stdout, dir, program, *once)
	case "matrix":
		kinds := natlab.Kinds()
		if *short {
			kinds = essential
		}
		return matrix(ctx, os.Stdout, dir, program, kinds)
	}
	return fmt.Errorf("unknown word %q: demo or matrix", args[0])
}

func emptyFolder(name string) (string, error) {
	dir, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// buildArgs build what is installed: the same flags as make build.
var buildArgs = []string{"build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w"}

// build builds the agent as it is in this tree.
func build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "porchlight")
	cmd := exec.CommandContext(ctx, "go", append(slices.Clone(buildArgs), "-o", program, "porchlight/agent")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the agent: %w", err)
	}
	return program, nil
}
