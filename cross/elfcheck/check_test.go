package elfcheck_test

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"porchlight/cross/elfcheck"
	"porchlight/cross/target"
)

// build compiles the hello program with the given Go settings and flags.
func build(t *testing.T, env []string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hello")
	args := append([]string{"build", "-trimpath", "-o", out}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, "./testdata/hello")...)
	cmd.Env = append(os.Environ(), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build hello: %v\n%s", err, text)
	}
	return out
}

func find(t *testing.T, name string) target.Target {
	t.Helper()
	found, err := target.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEveryTargetsProgramFits(t *testing.T) {
	for _, tgt := range target.All() {
		t.Run(tgt.Name, func(t *testing.T) {
			problems, err := elfcheck.Check(build(t, tgt.GoEnv(), "-ldflags=-s -w"), tgt.Want())
			if err != nil || len(problems) > 0 {
				t.Errorf("problems %q, error %v", problems, err)
			}
		})
	}
}

func TestWrongProgramsAreRefusedWithTheReason(t *testing.T) {
	mipsle, mips, arm5, amd64 := find(t, "mipsle"), find(t, "mips"), find(t, "arm5"), find(t, "amd64")
	cases := []struct {
		name  string
		env   []string
		flags []string
		want  elfcheck.Want
		says  []string
	}{
		{"hard float for a router without FPU", append(mipsle.GoEnv(), "GOMIPS=hardfloat"), nil, mipsle.Want(),
			[]string{"floating-point ABI is 1", "SIGILL", `GOMIPS="hardfloat"`}},
		{"other byte order", mipsle.GoEnv(), nil, mips.Want(),
			[]string{"byte order is ELFDATA2LSB", `GOARCH="mipsle"`}},
		{"other machine", amd64.GoEnv(), nil, arm5.Want(),
			[]string{"word size", "machine is EM_X86_64", "ABI flags"}},
		{"newer ARM than the device", append(arm5.GoEnv(), "GOARM=7"), nil, arm5.Want(),
			[]string{`GOARM="7", the target needs "5"`}},
		{"dynamic loader", amd64.GoEnv(), []string{"-buildmode=pie"}, amd64.Want(),
			[]string{"ET_DYN", "PT_INTERP", "PT_DYNAMIC"}},
		{"C library", append(amd64.GoEnv(), "CGO_ENABLED=1"), []string{"-ldflags=-linkmode=external"}, amd64.Want(),
			[]string{"libc.so.6", `CGO_ENABLED="1"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			problems, err := elfcheck.Check(build(t, c.env, c.flags...), c.want)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for _, problem := range problems {
				text.WriteString(string(problem) + "\n")
			}
			for _, says := range c.says {
				if !strings.Contains(text.String(), says) {
					t.Errorf("nothing about %q in:\n%s", says, text.String())
				}
			}
		})
	}
}

func TestWhatIsNoGoELFFileIsAnErrorOrAProblem(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := elfcheck.Check(text, elfcheck.Want{}); err == nil {
		t.Error("a shell script passed for an ELF file")
	}
	if _, err := elfcheck.Check(filepath.Join(t.TempDir(), "absent"), elfcheck.Want{}); err == nil {
		t.Error("a missing file passed")
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	problems, err := elfcheck.Check(shell, elfcheck.Want{Settings: map[string]string{"GOOS": "linux"}})
	if err != nil || len(problems) == 0 {
		t.Errorf("a C program passed: problems %q, error %v", problems, err)
	}
}

func TestFPUInstructionsAreCountedInEitherByteOrder(t *testing.T) {
	words := []uint32{
		0x46000000,             // add.s: COP1
		0xc7a10000, 0xd7a20008, // lwc1, ldc1
		0xe7a10000, 0xf7a20008, // swc1, sdc1
		0x8fa10000, 0x00000000, 0x24420001, 0x40016800, // lw, nop, addiu, mfc0: none
	}
	for _, order := range []interface {
		binary.ByteOrder
		binary.AppendByteOrder
	}{binary.LittleEndian, binary.BigEndian} {
		var text []byte
		for _, word := range words {
			text = order.AppendUint32(text, word)
		}
		if got := elfcheck.CountOpcodes(append(text, 0xff), order); got != 5 {
			t.Errorf("%v: counted %d FPU instructions, want 5", order, got)
		}
	}
}

func TestTheTargetsExpectationsAreComplete(t *testing.T) {
	for _, tgt := range target.All() {
		want := tgt.Want()
		if want.Class == elf.ELFCLASSNONE || want.Data == elf.ELFDATANONE || want.Machine == elf.EM_NONE {
			t.Errorf("%s: incomplete expectation %+v", tgt.Name, want)
		}
	}
}
