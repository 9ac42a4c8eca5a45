// Package emulate runs programs of other processors on the build machine.
//
// Promise: [Command] starts a program built for a target under Debian's
// qemu-user, on a processor no better than the target needs (so a hard-float
// program dies here as it would on the router), and programs that it starts
// in turn, itself among them, run as well. Nothing on the machine is changed
// for that.
//
// Source: the kernel's binfmt_misc (Documentation/admin-guide/binfmt-misc.rst),
// of which every user namespace has its own instance since Linux 6.7; Debian's
// rules in /usr/lib/binfmt.d, package qemu-user-static.
//
// Data flow:
//
//	                      ┌ same processor ────────── program
//	Command(target, …) ───┼ rule already registered ─ qemu program
//	                      ├ private user namespace ── mount binfmt_misc,
//	                      │                           register, program
//	                      └ none of these ─────────── qemu program, children fail
//
// # Caveats
//
// In the private namespace a program that seems to be root holds no power over
// the machine's network or files of others. Under big-endian MIPS qemu-user
// passes some kernel messages in the wrong byte order; target.Exclusions lists
// what that rules out. Time passes 10–50 times slower than natively.
package emulate
