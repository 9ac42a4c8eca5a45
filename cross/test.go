package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"porchlight/cross/emulate"
	"porchlight/cross/target"
)

const module = "porchlight/"

// group is a set of packages whose tests run in one go command.
type group struct {
	// packages are import paths below the module.
	packages []string
	// skip is a pattern of tests to leave out.
	skip string
}

// plan is what runs for one target and what does not.
type plan struct {
	groups   []group
	excluded []string
}

func testCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	set := flag.NewFlagSet("test", flag.ContinueOnError)
	pkgs := set.String("pkgs", "./...", "packages to test, separated by commas")
	timeout := set.String("timeout", "10m", "longest time for one package's tests")
	list := set.Bool("n", false, "only print what would run and what would not")
	if err := parse(set, args, stderr); err != nil {
		return err
	}
	if set.NArg() == 0 {
		fmt.Fprintf(stderr, "name one or more targets: %s\n", strings.Join(target.Names(), ", "))
		return errUsage
	}
	targets, err := target.Select(set.Args())
	if err != nil {
		return err
	}
	var failed []error
	for _, t := range targets {
		r := runner{target: t, timeout: *timeout, stdout: stdout, stderr: stderr}
		if err := r.run(ctx, strings.Split(*pkgs, ","), *list); err != nil {
			failed = append(failed, fmt.Errorf("tests for %s: %w", t.Name, err))
		}
	}
	return errors.Join(failed...)
}

type runner struct {
	target         target.Target
	timeout        string
	stdout, stderr io.Writer
}

func (r runner) run(ctx context.Context, patterns []string, listOnly bool) error {
	mode, err := emulate.Choose(ctx, r.target)
	if err != nil {
		return err
	}
	packages, err := tested(ctx, r.target, patterns)
	if err != nil {
		return err
	}
	p := makePlan(r.target, packages, target.Exclusions())
	fmt.Fprintf(r.stdout, "== %s: %s\n", r.target.Name, mode)
	for _, line := range p.excluded {
		fmt.Fprintf(r.stdout, "   without %s\n", line)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	var failed []error
	for _, g := range p.groups {
		if listOnly {
			fmt.Fprintf(r.stdout, "   %s\n", strings.Join(g.packages, " "))
			continue
		}
		failed = append(failed, r.testTwice(ctx, self, g))
	}
	return errors.Join(failed...)
}

// testTwice gives the packages of a group that failed a second try, alone. An
// emulator on a busy machine is slow enough to break what rests on time; what
// is wrong on the target fails again. The first failure stays in the output.
func (r runner) testTwice(ctx context.Context, self string, g group) error {
	watch := &failures{to: r.stdout}
	r.stdout = watch
	err := r.test(ctx, self, g)
	if err == nil || ctx.Err() != nil || len(watch.packages) == 0 || len(watch.packages) > maxAgain {
		return err
	}
	fmt.Fprintf(watch.to, "== %s: once more, alone: %s\n", r.target.Name, strings.Join(watch.packages, " "))
	r.stdout = watch.to
	return r.test(ctx, self, group{packages: watch.packages, skip: g.skip})
}

// maxAgain is how many packages may fail and still be tried again: more are
// no accident.
const maxAgain = 3

// failures passes output on and notes which packages "go test" says failed.
type failures struct {
	to       io.Writer
	line     []byte
	packages []string
}

// Write implements io.Writer.
func (f *failures) Write(b []byte) (int, error) {
	f.line = append(f.line, b...)
	for {
		line, rest, whole := bytes.Cut(f.line, []byte("\n"))
		if !whole {
			break
		}
		f.line = rest
		if fields := strings.Fields(string(line)); len(fields) >= 2 && fields[0] == "FAIL" {
			if pkg, ours := strings.CutPrefix(fields[1], module); ours && !slices.Contains(f.packages, pkg) {
				f.packages = append(f.packages, pkg)
			}
		}
	}
	return f.to.Write(b)
}

// test runs one group. Tests are short ones, and not vetted again: the native
// run has done that. They are compiled as the agent is, so that they test what
// is shipped and use again what "cross build" compiled.
func (r runner) test(ctx context.Context, self string, g group) error {
	args := slices.Concat([]string{"test", "-short", "-vet=off", "-timeout", r.timeout,
		"-exec", fmt.Sprintf("'%s' exec %s", self, r.target.Name)}, r.target.BuildFlags())
	if g.skip != "" {
		args = append(args, "-skip", g.skip)
	}
	for _, pkg := range g.packages {
		args = append(args, module+pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), r.target.GoEnv()...)
	cmd.Stdout, cmd.Stderr = r.stdout, r.stderr
	// An interrupt lets the go command end the emulated programs too.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd.Run()
}

// tested lists the packages with tests that this target would compile.
func tested(ctx context.Context, t target.Target, patterns []string) ([]string, error) {
	args := append([]string{"list", "-json=ImportPath,TestGoFiles,XTestGoFiles"}, patterns...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), t.GoEnv()...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var found []string
	for stream := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath                string
			TestGoFiles, XTestGoFiles []string
		}
		if err := stream.Decode(&pkg); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		if len(pkg.TestGoFiles)+len(pkg.XTestGoFiles) > 0 {
			found = append(found, strings.TrimPrefix(pkg.ImportPath, module))
		}
	}
}

// makePlan puts all packages without exceptions into one group and each
// package with tests to leave out into its own.
func makePlan(t target.Target, packages []string, exclusions []target.Exclusion) plan {
	var p plan
	var whole group
	for _, pkg := range packages {
		skip, out := []string{}, false
		for _, e := range exclusions {
			if !e.Applies(t, pkg) {
				continue
			}
			if e.Tests == "" {
				p.excluded = append(p.excluded, pkg+": "+e.Reason)
				out = true
				break
			}
			p.excluded = append(p.excluded, fmt.Sprintf("%s, tests matching %s: %s", pkg, e.Tests, e.Reason))
			skip = append(skip, e.Tests)
		}
		switch {
		case out:
		case len(skip) > 0:
			p.groups = append(p.groups, group{packages: []string{pkg}, skip: strings.Join(skip, "|")})
		default:
			whole.packages = append(whole.packages, pkg)
		}
	}
	if len(whole.packages) > 0 {
		p.groups = append([]group{whole}, p.groups...)
	}
	return p
}

// execCommand becomes the program: signals and exit code are the program's.
func execCommand(ctx context.Context, args []string, stderr io.Writer) error {
	if len(args) < 2 {
		fmt.Fprintln(stderr, "usage: go run ./cross exec TARGET PROGRAM [ARG…]")
		return errUsage
	}
	t, err := target.Find(args[0])
	if err != nil {
		return err
	}
	mode, err := emulate.Choose(ctx, t)
	if err != nil {
		return err
	}
	argv := emulate.Args(mode, t, args[1:])
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run for %s: %w", t.Name, err)
	}
	env := append(os.Environ(), emulate.Env(mode, t)...)
	return fmt.Errorf("run %s: %w", program, syscall.Exec(program, argv, env))
}
