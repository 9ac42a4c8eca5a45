package elfcheck

import (
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
)

// Want is what a target needs of a program's file.
type Want struct {
	// Class is the word size of the file.
	Class elf.Class
	// Data is the byte order.
	Data elf.Data
	// Machine is the processor family.
	Machine elf.Machine
	// FlagsMask selects the bits of e_flags that must equal Flags.
	FlagsMask, Flags uint32
	// SoftFloat asks for no floating-point hardware at all; it is checked for
	// MIPS, where the file can tell.
	SoftFloat bool
	// Settings are build settings that Go must have recorded with these
	// values, such as GOARM → "5".
	Settings map[string]string
}

// Problem is one reason why a program does not fit its target.
type Problem string

// Check compares the program at path with want. No problems means that it
// fits; an error means that the file could not be judged.
func Check(path string, want Want) ([]Problem, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("check program: %w", err)
	}
	defer file.Close()
	parsed, err := elf.NewFile(file)
	if err != nil {
		return nil, fmt.Errorf("check program %s: not an ELF file: %w", path, err)
	}
	flags, err := headerFlags(file, parsed)
	if err != nil {
		return nil, fmt.Errorf("check program %s: %w", path, err)
	}

	problems := slices.Concat(
		headerProblems(parsed, flags, want),
		loaderProblems(parsed),
	)
	if want.SoftFloat && parsed.Machine == elf.EM_MIPS {
		problems = append(problems, mipsFloatProblems(parsed)...)
	}
	return append(problems, settingProblems(path, want.Settings)...), nil
}

// headerFlags reads e_flags, which debug/elf keeps to itself: offset 36 in a
// 32-bit file, 48 in a 64-bit one.
func headerFlags(file io.ReaderAt, parsed *elf.File) (uint32, error) {
	offset := int64(36)
	if parsed.Class == elf.ELFCLASS64 {
		offset = 48
	}
	var word [4]byte
	if _, err := file.ReadAt(word[:], offset); err != nil {
		return 0, fmt.Errorf("read e_flags: %w", err)
	}
	return parsed.ByteOrder.Uint32(word[:]), nil
}

func headerProblems(parsed *elf.File, flags uint32, want Want) []Problem {
	var problems []Problem
	differ := func(what string, got, need any) {
		problems = append(problems, Problem(fmt.Sprintf("%s is %v, the target needs %v", what, got, need)))
	}
	if parsed.Class != want.Class {
		differ("word size", parsed.Class, want.Class)
	}
	if parsed.Data != want.Data {
		differ("byte order", parsed.Data, want.Data)
	}
	if parsed.Machine != want.Machine {
		differ("machine", parsed.Machine, want.Machine)
	}
	if parsed.Type != elf.ET_EXEC {
		differ("file type", parsed.Type, "ET_EXEC (position-independent code costs size and speed on MIPS)")
	}
	if flags&want.FlagsMask != want.Flags {
		differ("ABI flags (e_flags)", fmt.Sprintf("%#x", flags&want.FlagsMask), fmt.Sprintf("%#x", want.Flags))
	}
	return problems
}

// loaderProblems refuses everything that needs a dynamic loader or a C
// library: OpenWrt has musl, Debian glibc, and one file must run on both.
func loaderProblems(parsed *elf.File) []Problem {
	var problems []Problem
	for _, segment := range parsed.Progs {
		switch segment.Type {
		case elf.PT_INTERP:
			problems = append(problems, "not static: it asks for a dynamic loader (PT_INTERP); build with CGO_ENABLED=0")
		case elf.PT_DYNAMIC:
			problems = append(problems, "not static: it has a dynamic section (PT_DYNAMIC)")
		}
	}
	// A static file has no dynamic section, which is an error to debug/elf and
	// the good case here.
	libraries, err := parsed.ImportedLibraries()
	if err == nil && len(libraries) > 0 {
		problems = append(problems, Problem(fmt.Sprintf("not static: it needs %v (DT_NEEDED)", libraries)))
	}
	return problems
}

func settingProblems(path string, want map[string]string) []Problem {
	if len(want) == 0 {
		return nil
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return []Problem{Problem(fmt.Sprintf("no Go build settings in it: %v", err))}
	}
	recorded := make(map[string]string, len(info.Settings))
	for _, setting := range info.Settings {
		recorded[setting.Key] = setting.Value
	}
	var problems []Problem
	for key, need := range want {
		if got := recorded[key]; got != need {
			problems = append(problems, Problem(fmt.Sprintf("built with %s=%q, the target needs %q", key, got, need)))
		}
	}
	slices.Sort(problems)
	return problems
}

const (
	// abiFlagsSize and floatABIOffset describe .MIPS.abiflags version 0.
	abiFlagsSize   = 24
	floatABIOffset = 7
	// floatABISoft is Val_GNU_MIPS_ABI_FP_SOFT.
	floatABISoft = 3
)

// fpuOpcodes are the major opcodes (top six bits) of the MIPS32 instructions
// that need coprocessor 1: COP1, LWC1, LDC1, SWC1, SDC1.
var fpuOpcodes = [...]uint32{0x11, 0x31, 0x35, 0x39, 0x3d}

func mipsFloatProblems(parsed *elf.File) []Problem {
	var problems []Problem
	if abi, err := floatABI(parsed); err != nil {
		problems = append(problems, Problem(err.Error()))
	} else if abi != floatABISoft {
		problems = append(problems, Problem(fmt.Sprintf(
			"floating-point ABI is %d, the target needs %d (soft float); build with GOMIPS=softfloat", abi, floatABISoft)))
	}
	count, err := countFPUInstructions(parsed)
	if err != nil {
		problems = append(problems, Problem(err.Error()))
	} else if count > 0 {
		problems = append(problems, Problem(fmt.Sprintf(
			"%d floating-point instructions: a router without FPU kills it with SIGILL", count)))
	}
	return problems
}

func floatABI(parsed *elf.File) (byte, error) {
	section := parsed.Section(".MIPS.abiflags")
	if section == nil {
		return 0, fmt.Errorf("no .MIPS.abiflags section: the floating-point ABI is unknown")
	}
	content, err := section.Data()
	if err != nil || len(content) < abiFlagsSize {
		return 0, fmt.Errorf(".MIPS.abiflags is damaged: %d bytes, want %d", len(content), abiFlagsSize)
	}
	return content[floatABIOffset], nil
}

// countFPUInstructions looks at every word of .text. Go keeps no data between
// MIPS instructions, so a soft-float program has exactly none.
func countFPUInstructions(parsed *elf.File) (int, error) {
	section := parsed.Section(".text")
	if section == nil {
		return 0, fmt.Errorf("no .text section: instructions cannot be checked")
	}
	text, err := section.Data()
	if err != nil {
		return 0, fmt.Errorf("read .text: %w", err)
	}
	return countOpcodes(text, parsed.ByteOrder), nil
}

func countOpcodes(text []byte, order binary.ByteOrder) int {
	count := 0
	for ; len(text) >= 4; text = text[4:] {
		if slices.Contains(fpuOpcodes[:], order.Uint32(text)>>26) {
			count++
		}
	}
	return count
}
