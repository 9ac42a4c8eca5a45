//go:build mips

package beacon

// runHelper is for tests with real sockets, which do not run here.
func runHelper() bool { return false }
