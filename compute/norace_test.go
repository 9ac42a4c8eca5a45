//go:build !race

package compute

// childCommand is nil: the test binary is its own child.
func childCommand() []string { return nil }

func removeChild() {}
