package target

import (
	"debug/elf"
	"fmt"
	"maps"
	"slices"
	"strings"

	"porchlight/cross/elfcheck"
)

// Target is one kind of machine.
type Target struct {
	// Name is what the command line and file names use.
	Name string
	// GOARCH is Go's name of the architecture; GOOS is always linux.
	GOARCH string
	// Variant is Go's setting within the architecture, such as "GOARM=5".
	Variant string
	// QEMU is the emulator in Debian's qemu-user-static.
	QEMU string
	// Binfmt names Debian's rule (in /usr/lib/binfmt.d, without .conf) by
	// which the kernel hands such programs to QEMU.
	Binfmt string
	// QEMUCPU is the emulated processor, chosen as the least of its kind: one
	// without FPU where Go's setting says that none is needed. Empty means
	// QEMU's own choice.
	QEMUCPU string
	// TestEnv is set for tests under the emulator only.
	TestEnv []string
	// OpenWrt lists the package architectures that this build serves.
	OpenWrt []string
	// Debian is the Debian architecture, empty where Debian has none.
	Debian string
	// Class, Data, Machine, FlagsMask, Flags and SoftFloat are the
	// expectations of elfcheck.Want.
	Class            elf.Class
	Data             elf.Data
	Machine          elf.Machine
	FlagsMask, Flags uint32
	SoftFloat        bool
	// Budget bounds the size of the agent.
	Budget Budget
}

// Budget is the largest size allowed, in bytes; zero means no limit.
type Budget struct {
	// Raw is the size of the file.
	Raw int64
	// XZ is the size after xz -9e, close to what it takes in a squashfs image.
	XZ int64
}

const megabyte = 1_000_000

// smallFlash is the budget of routers with 16 MB of flash, where the program
// lies in a squashfs image: what counts is the size after xz. The raw size,
// which pages through memory as it is used, was 16 MB until people, their
// directory and their messages came; see RATIONALE.md.
var smallFlash = Budget{Raw: 17_500_000, XZ: 4 * megabyte}

const (
	// mipsFlags: o32 ABI, MIPS32 revision 1, calls through $t9 (cpic).
	mipsFlags, mipsFlagsMask = 0x50001004, 0xf000f004
	// armFlags: EABI version 5; the other bits say nothing about Go programs.
	armFlags, armFlagsMask = 0x05000000, 0xff000000
)

// bigEndianGSO: qemu-user does not swap the UDP_SEGMENT control message on
// big-endian machines, so sendmsg answers EINVAL there.
var bigEndianGSO = []string{"QUIC_GO_DISABLE_GSO=true"}

var all = []Target{
	{
		Name: "mipsle", GOARCH: "mipsle", Variant: "GOMIPS=softfloat",
		QEMU: "qemu-mipsel-static", Binfmt: "qemu-mipsel", QEMUCPU: "24Kc",
		OpenWrt: []string{"mipsel_24kc"},
		Class:   elf.ELFCLASS32, Data: elf.ELFDATA2LSB, Machine: elf.EM_MIPS,
		FlagsMask: mipsFlagsMask, Flags: mipsFlags, SoftFloat: true,
		Budget: smallFlash,
	},
	{
		Name: "mips", GOARCH: "mips", Variant: "GOMIPS=softfloat",
		QEMU: "qemu-mips-static", Binfmt: "qemu-mips", QEMUCPU: "24Kc",
		TestEnv: bigEndianGSO,
		OpenWrt: []string{"mips_24kc"},
		Class:   elf.ELFCLASS32, Data: elf.ELFDATA2MSB, Machine: elf.EM_MIPS,
		FlagsMask: mipsFlagsMask, Flags: mipsFlags, SoftFloat: true,
		Budget: smallFlash,
	},
	{
		Name: "arm5", GOARCH: "arm", Variant: "GOARM=5",
		QEMU: "qemu-arm-static", Binfmt: "qemu-arm", QEMUCPU: "pxa270",
		OpenWrt: []string{"arm_cortex-a9", "arm_cortex-a7", "arm_arm926ej-s", "arm_xscale", "arm_fa526"},
		Debian:  "armel",
		Class:   elf.ELFCLASS32, Data: elf.ELFDATA2LSB, Machine: elf.EM_ARM,
		FlagsMask: armFlagsMask, Flags: armFlags, SoftFloat: true,
	},
	{
		Name: "arm6", GOARCH: "arm", Variant: "GOARM=6",
		QEMU: "qemu-arm-static", Binfmt: "qemu-arm", QEMUCPU: "arm1176",
		OpenWrt: []string{"arm_arm1176jzf-s_vfp"},
		Class:   elf.ELFCLASS32, Data: elf.ELFDATA2LSB, Machine: elf.EM_ARM,
		FlagsMask: armFlagsMask, Flags: armFlags,
	},
	{
		Name: "arm7", GOARCH: "arm", Variant: "GOARM=7",
		QEMU: "qemu-arm-static", Binfmt: "qemu-arm", QEMUCPU: "cortex-a7",
		OpenWrt: []string{"arm_cortex-a7_neon-vfpv4", "arm_cortex-a15_neon-vfpv4", "arm_cortex-a9_vfpv3-d16"},
		Debian:  "armhf",
		Class:   elf.ELFCLASS32, Data: elf.ELFDATA2LSB, Machine: elf.EM_ARM,
		FlagsMask: armFlagsMask, Flags: armFlags,
	},
	{
		Name: "arm64", GOARCH: "arm64", Variant: "GOARM64=v8.0",
		QEMU: "qemu-aarch64-static", Binfmt: "qemu-aarch64", QEMUCPU: "cortex-a53",
		OpenWrt: []string{"aarch64_cortex-a53", "aarch64_cortex-a72", "aarch64_cortex-a76", "aarch64_generic"},
		Debian:  "arm64",
		Class:   elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Machine: elf.EM_AARCH64,
	},
	{
		Name: "amd64", GOARCH: "amd64", Variant: "GOAMD64=v1",
		QEMU: "qemu-x86_64-static", Binfmt: "qemu-x86_64",
		OpenWrt: []string{"x86_64"},
		Debian:  "amd64",
		Class:   elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Machine: elf.EM_X86_64,
	},
	{
		Name: "riscv64", GOARCH: "riscv64", Variant: "GORISCV64=rva20u64",
		QEMU: "qemu-riscv64-static", Binfmt: "qemu-riscv64",
		OpenWrt: []string{"riscv64_generic", "riscv64_riscv64"},
		Class:   elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Machine: elf.EM_RISCV,
	},
}

// All returns every target, the smallest devices first.
func All() []Target { return slices.Clone(all) }

// Find returns the target of that name; the error lists the names there are.
func Find(name string) (Target, error) {
	for _, t := range all {
		if t.Name == name {
			return t, nil
		}
	}
	return Target{}, fmt.Errorf("no target %q: choose one of %s", name, strings.Join(Names(), ", "))
}

// Select returns the targets of these names in the order given, or all of
// them when no name is given.
func Select(names []string) ([]Target, error) {
	if len(names) == 0 {
		return All(), nil
	}
	var chosen []Target
	for _, name := range names {
		t, err := Find(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, t)
	}
	return chosen, nil
}

// Names returns the names of all targets in the table's order.
func Names() []string {
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	return names
}

// GoEnv returns the settings that make the go command build for this target:
// static, and deaf to what the caller's environment says about variants.
func (t Target) GoEnv() []string {
	return []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + t.GOARCH, t.Variant, "GOFLAGS="}
}

// Want returns what the file of a program for this target must look like.
func (t Target) Want() elfcheck.Want {
	settings := map[string]string{
		"GOOS": "linux", "GOARCH": t.GOARCH, "CGO_ENABLED": "0", "-trimpath": "true",
	}
	name, value, _ := strings.Cut(t.Variant, "=")
	maps.Copy(settings, map[string]string{name: value})
	return elfcheck.Want{
		Class: t.Class, Data: t.Data, Machine: t.Machine,
		FlagsMask: t.FlagsMask, Flags: t.Flags, SoftFloat: t.SoftFloat,
		Settings: settings,
	}
}
