package emulate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"porchlight/cross/emulate"
	"porchlight/cross/target"
)

func find(t *testing.T, name string) target.Target {
	t.Helper()
	found, err := target.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func build(t *testing.T, tgt target.Target, extra ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "child")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", out, "./testdata/child")
	cmd.Env = append(append(os.Environ(), tgt.GoEnv()...), extra...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build child: %v\n%s", err, text)
	}
	return out
}

func TestAProgramUnderEmulationStartsItself(t *testing.T) {
	for _, name := range []string{"mipsle", "arm5"} {
		t.Run(name, func(t *testing.T) {
			tgt := find(t, name)
			mode, err := emulate.Choose(t.Context(), tgt)
			if err != nil {
				t.Fatal(err)
			}
			cmd, err := emulate.Command(t.Context(), tgt, build(t, tgt), "parent")
			if err != nil {
				t.Fatal(err)
			}
			cmd.WaitDelay = time.Second
			out, err := cmd.CombinedOutput()
			parent := tgt.GOARCH + " parent\n"
			switch {
			case mode == emulate.Bare:
				// The kernel is older than 6.7: the parent must run all the same.
				if !strings.HasPrefix(string(out), parent) {
					t.Errorf("%s: printed %q, want it to begin with %q", mode, out, parent)
				}
			case err != nil:
				t.Errorf("%s: %v\n%s", mode, err, out)
			case string(out) != parent+tgt.GOARCH+" child\n":
				t.Errorf("%s: printed %q", mode, out)
			}
		})
	}
}

func TestAHardFloatProgramDiesOnAProcessorWithoutFPU(t *testing.T) {
	tgt := find(t, "mipsle")
	program := build(t, tgt, "GOMIPS=hardfloat")
	cmd, err := emulate.Command(t.Context(), tgt, program, "child")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a hard-float program ran on a %s: %s", tgt.QEMUCPU, out)
	}
}

func TestTheBuildMachinesOwnProgramsRunWithoutEmulator(t *testing.T) {
	for _, tgt := range target.All() {
		args := emulate.Args(emulate.Native, tgt, []string{"./program", "argument"})
		if !slices.Equal(args, []string{"./program", "argument"}) {
			t.Errorf("%s: native command line is %q", tgt.Name, args)
		}
		if env := emulate.Env(emulate.Native, tgt); len(env) != 0 {
			t.Errorf("%s: native environment adds %q", tgt.Name, env)
		}
	}
}

func TestTheEmulatorGetsTheLeastProcessor(t *testing.T) {
	env := emulate.Env(emulate.Bare, find(t, "mips"))
	for _, want := range []string{"QEMU_CPU=24Kc", "QUIC_GO_DISABLE_GSO=true", "PORCHLIGHT_EXEC_PREFIX=qemu-mips-static"} {
		if !slices.Contains(env, want) {
			t.Errorf("environment for mips lacks %s: %q", want, env)
		}
	}
	args := emulate.Args(emulate.Bare, find(t, "arm64"), []string{"./program"})
	if !slices.Equal(args, []string{"qemu-aarch64-static", "./program"}) {
		t.Errorf("bare command line is %q", args)
	}
}
