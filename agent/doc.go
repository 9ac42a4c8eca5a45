// Command porchlight makes home hardware reachable by its public key, lets it
// share storage and lend spare processor time.
//
// The program is put together in package app; the command line is package cli.
//
//	porchlight run ─► config ─► app ─► the daemon
//	porchlight …   ─► cli ─► STATE/control.sock ─► the daemon
//
// Caveats: the first argument task-sandbox is for the daemon's own children.
package main
