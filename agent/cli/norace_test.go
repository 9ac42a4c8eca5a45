//go:build !race

package cli_test

// raced says that this binary carries the race detector.
const raced = false
