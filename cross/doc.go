// Command cross builds Porchlight for every target, checks the result and
// runs the tests on emulated processors:
//
//	go run ./cross targets                       print the table of targets
//	go run ./cross build [-o DIR] [TARGET…]      build, check, measure
//	go run ./cross test [-pkgs P,…] TARGET…      run tests under qemu-user
//	go run ./cross exec TARGET PROGRAM [ARG…]    run one foreign program
//
// Promise: build leaves DIR/porchlight-TARGET for every target, static and
// reproducible (the same source and version give the same bytes), and exits 1
// when a file would not start on its device or is over its size budget. test
// takes every package of the module that has tests, less the table of
// exclusions, each of which has a reason that is printed.
//
// Data flow:
//
//	target table ── go build ── elfcheck ── size, xz -9e size ── report
//	      └──────── go list, less exclusions ── go test -exec "cross exec"
//
// Sizes are in MB = 10^6 bytes.
//
// # Caveats
//
// Without the xz program a compressor in Go takes its place; it compresses
// less well, and the report says so. Programs under the emulator that start
// other programs need Linux 6.7 or a registered emulator (package emulate).
package main
