package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porchlight/compute/sandbox"
)

// TestEmulatedAgents lets agents built for small machines meet one of this
// machine: they fetch from it and work for it.
func TestEmulatedAgents(t *testing.T) {
	t.Parallel()
	wasm, err := buildExample(bounded(t), built.dir, "search")
	check(t, err)
	for _, machine := range []struct {
		name, emulator string
		env            []string
	}{
		{"mipsle", "qemu-mipsel-static", []string{"GOARCH=mipsle", "GOMIPS=softfloat"}},
		{"armv7", "qemu-arm-static", []string{"GOARCH=arm", "GOARM=7"}},
	} {
		t.Run(machine.name, func(t *testing.T) {
			t.Parallel()
			emulator, err := exec.LookPath(machine.emulator)
			if err != nil {
				t.Fatalf("%v: apt install qemu-user-static", err)
			}
			ctx := bounded(t)
			program, err := buildFor(ctx, machine.name, machine.env...)
			check(t, err)
			dir := newFolder(t)
			native := startHere(t, ctx, dir, "native", []string{built.program}, "--reachability", "public")
			link, err := native.link(ctx)
			check(t, err)
			foreign := startHere(t, ctx, dir, machine.name, []string{emulator, program},
				"--config", taskConfig(t, dir, emulator, program), "--bootstrap", link)
			check(t, foreign.awaitHelpers(ctx, 1))
			check(t, introduce(ctx, native, foreign))
			offer(t, ctx, native, 6<<20).get(ctx, foreign, "arrived").arrived()
			workFor(t, ctx, native, foreign, dir, wasm)
		})
	}
}

// startHere starts an agent on loopback.
func startHere(t *testing.T, ctx context.Context, dir, name string, program []string, args ...string) *agent {
	t.Helper()
	a, err := newAgent(dir, "", name, here{}, append(args, "--loopback", "--listen", "127.0.0.1:0", "--console", "off")...)
	check(t, err)
	a.program = program
	t.Cleanup(func() {
		stopInTime(t, a)
		a.log.Close()
	})
	check(t, a.start(ctx))
	return a
}

// taskConfig writes a config file by which tasks start under the emulator too.
func taskConfig(t *testing.T, dir, emulator, program string) string {
	t.Helper()
	b, err := json.Marshal(map[string][]string{"task_command": {emulator, program, sandbox.ChildArgument}})
	check(t, err)
	name := filepath.Join(dir, "config.json")
	check(t, os.WriteFile(name, b, 0o600))
	return name
}

// workFor lets donor run a task for a.
func workFor(t *testing.T, ctx context.Context, a, donor *agent, dir, wasm string) {
	t.Helper()
	check(t, donor.run(ctx, nil, "donate", "on", "--to", "friends"))
	input := filepath.Join(dir, "diary.txt")
	check(t, os.WriteFile(input, []byte("Monday: rain\nTuesday: light\n"), 0o644))
	results := filepath.Join(dir, "results")
	began := time.Now()
	check(t, a.run(ctx, nil, "jobs", "submit", wasm, "--to", donor.name, "--input", input, "-o", results, "--", "light"))
	t.Logf("task: %.1f s", time.Since(began).Seconds())
	files, err := filepath.Glob(filepath.Join(results, "*.out"))
	check(t, err)
	if len(files) != 1 {
		t.Fatalf("%d results", len(files))
	}
	answer, err := os.ReadFile(files[0])
	check(t, err)
	if !strings.Contains(string(answer), "Tuesday: light") || strings.Contains(string(answer), "Monday") {
		t.Errorf("the task answered %q", answer)
	}
}
