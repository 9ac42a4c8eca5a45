package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"porchlight/cross/elfcheck"
	"porchlight/cross/target"
)

// versionVariable is what the linker sets to the version.
const versionVariable = module + "agent/version.version"

// builder holds what is the same for all targets of one run.
type builder struct {
	// pkg is the main package, dir the folder that receives the programs.
	pkg, dir string
	// version is linked into versionVariable.
	version string
}

func buildCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	set := flag.NewFlagSet("build", flag.ContinueOnError)
	dir := set.String("o", filepath.Join("bin", "cross"), "folder for the programs")
	pkg := set.String("pkg", "./agent", "main package to build")
	version := set.String("version", "", "version to link in (default: git describe, else dev)")
	jobs := set.Int("j", runtime.NumCPU(), "targets built at the same time")
	if err := parse(set, args, stderr); err != nil {
		return err
	}
	targets, err := target.Select(set.Args())
	if err != nil {
		return err
	}
	if *version == "" {
		*version = describe(ctx)
	}
	b := builder{pkg: *pkg, dir: *dir, version: *version}
	results, err := b.buildAll(ctx, targets, max(1, *jobs))
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "porchlight %s\n", *version)
	return report(stdout, results)
}

// buildAll returns one result per target, in the order of targets.
func (b builder) buildAll(ctx context.Context, targets []target.Target, jobs int) ([]result, error) {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make output folder: %w", err)
	}
	results := make([]result, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for i, t := range targets {
		group.Go(func() (err error) {
			results[i], err = b.build(ctx, t)
			return err
		})
	}
	return results, group.Wait()
}

func (b builder) build(ctx context.Context, t target.Target) (result, error) {
	program := filepath.Join(b.dir, "porchlight-"+t.Name)
	args := slices.Concat([]string{"build"}, t.ProgramFlags(),
		[]string{"-ldflags", "-s -w -X " + versionVariable + "=" + b.version, "-o", program, b.pkg})
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), t.GoEnv()...)
	// Targets are built side by side: each keeps what its go command says.
	if said, err := cmd.CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("build for %s: %w\n%s", t.Name, err, said)
	}
	problems, err := elfcheck.Check(program, t.Want())
	if err != nil {
		return result{}, err
	}
	size, err := measure(ctx, program)
	if err != nil {
		return result{}, err
	}
	return result{target: t, size: size, problems: problems}, nil
}

// describe names the source by its last tag or commit, or "dev" outside a
// repository.
func describe(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "dev"
	}
	return strings.TrimSpace(string(out))
}
