// Package cli is the command line: one table of commands, each of which talks
// to the daemon over its control socket.
//
// Promise: every command knows --json and --state, never asks questions, and
// ends with 0 ok, 1 failed, 2 usage, 3 agent not running, 4 not allowed or
// 5 timed out; an error says what to do next.
//
//	Main ─► commands (table) ─► client ─► control.sock ─► daemon
//	                     get, put, jobs ─► share/fetch, compute over a stream to the peer
//
// Codes for verdicts and reasons become sentences in words.go, the same that
// the console's page shows; names that others chose are shown without what
// could speak to a terminal.
//
// Caveats: commands that move files do so in this process, with the rights of
// who typed them.
package cli
