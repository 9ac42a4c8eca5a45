// Command hashfind is an example of a task: hashfind looks for a number whose SHA-256 begins with zero bits.
//
// Promise: it does the same natively and as a WASI preview 1 command on every
// donor. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -ldflags="-s -w" -o hashfind.wasm ./compute/examples/hashfind
//
//	arguments, standard input ──► hashfind ──► standard output
//
// # Caveats
//
// It shows the form of a task, not the fastest way to do the work.
package main
