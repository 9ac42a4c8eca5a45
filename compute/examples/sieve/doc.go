// Command sieve is an example of a task: sieve prints how many primes lie in a range, and the last of them.
//
// Promise: it does the same natively and as a WASI preview 1 command on every
// donor. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -ldflags="-s -w" -o sieve.wasm ./compute/examples/sieve
//
//	arguments, standard input ──► sieve ──► standard output
//
// # Caveats
//
// It shows the form of a task, not the fastest way to do the work.
package main
