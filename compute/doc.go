// Package compute lets a device work for others: the donor's HTTP service and
// the submitter's client.
//
// Promise: a donor runs only what granted callers send, never more at once
// than it was told, each task in a sandbox, with its input in a spool file
// that has no name and its memory use independent of the size of inputs and
// outputs. A submitter gets either the whole result of a task or an error; it
// stores nothing that a lying donor could aim at other files or fill the disk
// with.
//
//	submitter                                  donor
//	HEAD /modules/HASH  ────────────────────►  known?
//	PUT  /modules/HASH  ── module ──────────►  verified, kept until others
//	                                           push it out
//	POST /tasks ── header line, input ──────►  spool ─► queue ─► sandbox
//	            ◄── frames: queued, running,
//	                stdout, files, stderr, end
//	OUT/<input>.out, OUT/<input>/...
//
// The body of POST /tasks is one line of JSON, [TaskHeader], and behind its
// line feed the bytes of the input. The body of the answer is a stream of
// package frames; its notices are [Notice], its end is [Status]. Refusals
// before that are JSON, [Refusal], with the HTTP status:
//
//	403 not_allowed   404 module_unknown   413 too_large
//	429 busy (Retry-After)   400 bad_request   503 donation_off
//	507 no_space
//
// A caller that goes away cancels its task.
//
// # Caveats
//
// The donor may lie about the result; comparing the copies of several donors
// is not part of this form. Modules are content named by their SHA-256.
//
// Switching donation off ends running tasks at once: the owner wants the
// machine back.
package compute
