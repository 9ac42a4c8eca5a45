// Package sandbox runs one WebAssembly program in a child process of the same
// binary, confined by everything the kernel offers, and brings back what it
// wrote.
//
// Promise: whatever the module does, and even if it takes over the child
// process, [Sandbox.Run] returns within a second of the first limit reached,
// leaves no process and no file behind, holds a bounded amount of memory in
// the caller, and passes on only output within the limits under names that
// are safe to store.
//
//	      parent                                 child (ChildMain)
//	Run ── order, module ───────────── pipe ──►  read the order
//	 │                                           confine itself:
//	 │     watchdog: RSS, CPU, wall clock           namespaces, chroot, user,
//	 │     (kills the process group)                rlimits, priority, landlock,
//	 │                                              seccomp
//	 │  ◄─ report of what is in force ── pipe ──  precheck.Check
//	 │  ◄─ stdout, stderr, files, end ── pipe ──  wazero: interpreter, or
//	 ▼                                            compiler on amd64 and arm64
//	Result
//
// The child needs no file, no socket and no environment: its order and module
// come by one pipe, its input by one open file, its results leave by another
// pipe in the form of package frames. Whatever comes back is checked here,
// since the child may have been taken over.
//
// The guest sees WASI preview 1 as wazero v1.12.0 gives it: arguments, no
// environment, standard streams, its input as standard input and as a file
// below /in, an empty writable /out in memory. Its clock is not real (it
// jumps over sleeps), its random numbers follow from the seed of the task: the same task gives the
// same bytes on every donor.
//
// Memory is bounded four times, because none of the ways works everywhere: by
// a cgroup where one can be made, by RLIMIT_DATA, by the guest's page limit,
// and by a watchdog in the parent that reads the resident size 20 times a
// second. RLIMIT_AS is not used: the Go runtime reserves address space freely.
//
// # Caveats
//
// Linux only. What is missing on a device (seccomp in old kernels, namespaces
// without privileges, memory cgroups) is left out and said so in
// [Result.Mechanisms] and by [Sandbox.Probe]; the rest still applies.
//
// The guest cannot be interrupted from within: it is stopped by killing the
// child. The engine is asked for no cancellation checks, which would slow
// compiled code 5 to 14 times.
//
// Outputs below /out live in the child's memory and count towards its limit.
//
// A child of an agent that runs as root becomes user 65534. Elsewhere it keeps
// the agent's user, without capabilities, inside a user namespace if it can.
//
// Landlock needs a binary built without cgo, as releases are.
package sandbox
