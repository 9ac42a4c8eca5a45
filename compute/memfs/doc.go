// Package memfs is the file system a task sees: folders and files in memory,
// or one read-only file that is read from its source as it is asked for.
//
// Promise: nothing a guest does here reaches a file system of the host. A
// [FS] never holds more bytes or entries than its quota; there are no links,
// no modes, no clock (all times are the epoch), and entries are listed in
// the order of their names, so that two donors see the same.
//
// It implements [experimentalsys.FS] of wazero v1.12.0, whose comments state
// the POSIX behaviour expected of each method.
//
//	guest path_open ─► FS.OpenFile ─► file ─┬─► chunks in memory (/out)
//	                                        └─► io.ReaderAt      (/in)
//
// # Caveats
//
// Exceeding the quota is reported to the guest as EIO, since wazero has no
// ENOSPC. A sparse file counts with its whole size.
//
// A file that was removed while open stays readable and counts until it is
// closed; its entry is free at once. FS is for one guest thread.
package memfs
