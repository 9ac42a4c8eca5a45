// Package precheck reads a WebAssembly binary before any engine does and
// refuses modules whose compilation would be the attack.
//
// Promise: [Check] takes time linear in the size of the module, allocates a
// fixed few kilobytes whatever the module says, never panics, and a module it
// accepts stays below every number of [Limits] and asks its host for nothing
// but functions of WASI preview 1. It is not a validator: types are left to
// the engine. It only makes sure that the engine's work is bounded by numbers
// we have chosen instead of numbers the sender has chosen.
//
// The binary format is that of the WebAssembly Core Specification 2.0,
// chapter 5, with the opcodes of chapter 5.4 (sign extension, saturating
// truncation, bulk memory, reference types and 128-bit vectors included;
// threads, tail calls, exceptions and garbage collection refused as unknown).
//
//	bytes ─► header ─► sections in order ─┬─► counts, sizes, names ─► Limits
//	                                      └─► code: opcode by opcode,
//	                                          nesting, locals, tables of
//	                                          branches             ─► Limits
//
// Why it exists: the limits of engines cover running, not compiling. A module
// of 1.5 MiB with half a million nested blocks keeps an optimising compiler
// busy for minutes, and 17 bytes can ask for a table of a gigabyte.
//
// # Caveats
//
// A start section is refused: a command begins at its export _start, and code
// that runs while a module is still being instantiated has no use but to
// surprise. A module must export _start and its memory.
//
// What is accepted can still be slow to compile for its size; the sandbox
// around the engine bounds that in time and memory.
package precheck
