package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"porchlight/cross/target"
)

const usage = `usage: go run ./cross COMMAND

  targets                      print the table of targets
  build [-o DIR] [TARGET…]     build the agent, check it, print its sizes
  test [-pkgs P,…] TARGET…     run the tests of the module under qemu-user
  exec TARGET PROGRAM [ARG…]   run one program built for TARGET
`

// errUsage ends the program with exit code 2; what is wrong has been printed.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, errUsage):
		stop()
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cross:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return errUsage
	}
	switch args[0] {
	case "targets":
		return printTargets(stdout)
	case "build":
		return buildCommand(ctx, args[1:], stdout, stderr)
	case "test":
		return testCommand(ctx, args[1:], stdout, stderr)
	case "exec":
		return execCommand(ctx, args[1:], stderr)
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return nil
	}
	fmt.Fprintf(stderr, "no command %q\n%s", args[0], usage)
	return errUsage
}

// parse reads the flags of one command; the flag package prints what is wrong.
func parse(set *flag.FlagSet, args []string, stderr io.Writer) error {
	set.SetOutput(stderr)
	if err := set.Parse(args); err != nil {
		return errUsage
	}
	return nil
}

func printTargets(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "target\tGo\temulator\tprocessor\tDebian\tOpenWrt")
	for _, t := range target.All() {
		fmt.Fprintf(table, "%s\t%s %s\t%s\t%s\t%s\t%s\n", t.Name, t.GOARCH, t.Variant,
			t.QEMU, orDash(t.QEMUCPU), orDash(t.Debian), strings.Join(t.OpenWrt, " "))
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
