package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"porchlight/agent/lab/scale"
	"porchlight/nat/natlab"
)

// essential are the kinds of the short matrix; the long one takes all.
var essential = []natlab.Kind{
	natlab.Public, natlab.FullCone, natlab.AddressRestricted, natlab.PortRestricted,
	natlab.OpenInput, natlab.Symmetric, natlab.SymmetricSequential, natlab.CGNAT, natlab.UDPBlocked,
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
		return fmt.Errorf("say what to show: demo, matrix, recovery, people, idle or scale")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	short := flags.Bool("short", false, "matrix: only the essential kinds; recovery: half of the table; people: three of the twelve are switched off")
	once := flags.Bool("once", false, "demo: end after the report instead of keeping the console open")
	only := flags.String("kinds", "", "matrix: these kinds, with commas in between, instead of the published ones; or all")
	repeat := flags.Int("repeat", 1, "matrix: rounds, each in a new laboratory")
	beside := flags.Bool("peers", false, "matrix: let pion/ice with coturn meet between the same kinds, after each round")
	watched := flags.Duration("for", 10*time.Minute, "idle: how long to listen")
	devices := flags.Int("devices", 10000, "scale: how many devices live in the simulation")
	seed := flags.Uint64("seed", 1, "scale: what decides all that is left to chance")
	hours := flags.Float64("hours", 3, "scale: how much time passes there")
	out := flags.String("out", "lab-out", "folder for logs and captures")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] == "scale" {
		span := time.Duration(*hours * float64(time.Hour))
		return simulate(os.Stdout, scale.Config{Devices: *devices, Seed: *seed, Span: span})
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
		kinds, err := chosen(*only, *short)
		if err != nil {
			return err
		}
		return matrix(ctx, os.Stdout, dir, program, options{kinds: kinds, repeat: *repeat, peers: *beside})
	case "recovery":
		return recovery(ctx, os.Stdout, dir, program, natlab.PortRestricted, *short)
	case "people":
		return people(ctx, os.Stdout, dir, program, *short)
	case "idle":
		return idleReport(ctx, os.Stdout, dir, program, *watched)
	}
	return fmt.Errorf("unknown word %q: demo, matrix, recovery, people, idle or scale", args[0])
}

// simulate prints what a simulated crowd costs each other.
func simulate(out io.Writer, cfg scale.Config) error {
	began := time.Now()
	cfg.Progress = func(at time.Duration) {
		fmt.Fprintf(os.Stderr, "%v of %v simulated, %v passed\n", at, cfg.Span, time.Since(began).Round(time.Second))
	}
	report, err := scale.Run(cfg)
	if err != nil {
		return fmt.Errorf("simulate %d devices for %v (%v at least): %w", cfg.Devices, cfg.Span, cfg.MinSpan(), err)
	}
	if err := report.Write(out); err != nil {
		return err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	_, err = fmt.Fprintf(out, "\ntook %v and %d MB\n", time.Since(began).Round(time.Second), m.Sys>>20)
	return err
}

// chosen are the kinds a matrix is asked for.
func chosen(only string, short bool) ([]natlab.Kind, error) {
	switch {
	case only == "all":
		return natlab.Kinds(), nil
	case only == "" && short:
		return essential, nil
	case only == "":
		return natlab.PublishedKinds(), nil
	}
	var kinds []natlab.Kind
	for name := range strings.SplitSeq(only, ",") {
		kind := natlab.Kind(strings.TrimSpace(name))
		if !slices.Contains(natlab.Kinds(), kind) {
			return nil, fmt.Errorf("unknown kind %q: one of %v", kind, natlab.Kinds())
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
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
