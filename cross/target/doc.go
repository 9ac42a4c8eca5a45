// Package target is the table of machines that Porchlight is built for.
//
// Promise: one row per target holds everything that depends on it: Go's
// settings, what the ELF file must look like, the emulator that runs it, the
// package architectures of OpenWrt and Debian it serves, and its size budget.
// Building, checking, packaging and emulated tests all read this table, so
// that a new target is one new row.
//
// Sources: the rule by which OpenWrt's feed chooses Go settings (the part of
// CPU_TYPE after "+": none → GOARM=5, vfp or vfpv2 → 6, others → 7; MIPS is
// hard-float only where the kernel has an FPU); Go's documentation of
// GOARM, GOMIPS, GOARM64, GOAMD64 and GORISCV64.
//
// Data flow:
//
//	All() ──┬── cross build ── go build ── elfcheck ── size against Budget
//	        ├── cross test ─── go test -exec, less Exclusions
//	        └── packagers ──── OpenWrt and Debian architecture names
//
// # Caveats
//
// OpenWrt architectures that need another Go setting (mips64, 386, loong64)
// are not rows: nothing is built for them. The OpenWrt lists name the
// architectures of common devices, not every one that would run the file.
package target
