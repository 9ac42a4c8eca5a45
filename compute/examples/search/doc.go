// Command search is an example of a task: search prints the lines of standard input that contain all of its arguments.
//
// Promise: it does the same natively and as a WASI preview 1 command on every
// donor. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -ldflags="-s -w" -o search.wasm ./compute/examples/search
//
//	arguments, standard input ──► search ──► standard output
//
// # Caveats
//
// It shows the form of a task, not the fastest way to do the work.
package main
