// Package elfcheck refuses a Linux program that would not start on the device
// it was built for.
//
// Promise: [Check] names every way in which a file differs from what its
// target needs, in words that say what goes wrong on the device: the wrong
// byte order, a dynamic loader that a router does not have, floating-point
// instructions on a processor without an FPU (stock OpenWrt kernels for MIPS
// do not emulate one, so the program dies with SIGILL).
//
// Sources: the ELF header and e_flags of the System V ABI and its processor
// supplements; the MIPS ABI flags section (.MIPS.abiflags, 24 bytes, the
// floating-point ABI at offset 7); the build settings that Go records in
// every binary (debug/buildinfo).
//
// Data flow:
//
//	file ─┬─ ELF header, program headers ── class, byte order, machine, static
//	      ├─ e_flags, .MIPS.abiflags ────── ABI, floating-point ABI
//	      ├─ .text, word by word (MIPS) ─── no FPU instruction
//	      └─ Go build settings ──────────── GOARM, GOMIPS, CGO_ENABLED, …
//	                                         │
//	                                 []Problem, empty = fits
//
// # Caveats
//
// On ARM the instruction check is not possible: the runtime of a GOARM=5
// program carries VFP instructions that it only reaches after looking at the
// processor, and literal pools lie between instructions. There the recorded
// GOARM is the evidence, and running under an emulated processor without an
// FPU (package emulate) the proof.
package elfcheck
