//go:build !race

package sandbox

// childCommand is nil: the test binary is its own child.
func childCommand() []string { return nil }

func removeChild() {}

// growth is how much the parent may grow during an attack, in bytes.
func growth() int64 { return 24 << 20 }
