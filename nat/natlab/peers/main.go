package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"porchlight/nat/natlab"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == childWord {
		return child(os.Stdin, os.Stdout, os.Stderr)
	}
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	only := flags.String("kinds", "", "these kinds, with commas in between, instead of the published ones; or all")
	repeat := flags.Int("repeat", 1, "rounds, all in one laboratory")
	lines := flags.Bool("json", false, "print a line of JSON for each pair, and no tables")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *repeat < 1 {
		return fmt.Errorf("%q, -repeat %d: give flags only, and at least one round", flags.Args(), *repeat)
	}
	kinds, err := kindsOf(*only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return matrix(ctx, os.Stdout, os.Stderr, options{kinds: kinds, repeat: *repeat, json: *lines})
}

// kindsOf are the kinds that are asked for.
func kindsOf(only string) (kinds []natlab.Kind, err error) {
	switch only {
	case "":
		return natlab.PublishedKinds(), nil
	case "all":
		return natlab.Kinds(), nil
	}
	for name := range strings.SplitSeq(only, ",") {
		kind := natlab.Kind(strings.TrimSpace(name))
		if !slices.Contains(natlab.Kinds(), kind) {
			return nil, fmt.Errorf("unknown kind %q: one of %v", kind, natlab.Kinds())
		}
		if slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("kind %q is named twice", kind)
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}
