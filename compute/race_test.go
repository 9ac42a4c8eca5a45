//go:build race

package compute

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// childDir is where the child was built, if it was.
var childDir string

// buildChild builds a child without the race detector, whose shadow memory
// would break every limit.
var buildChild = sync.OnceValue(func() []string {
	dir, err := os.MkdirTemp("", "porchlight-child-")
	if err != nil {
		panic(err)
	}
	childDir = dir
	exe := filepath.Join(dir, "child")
	cmd := exec.Command("go", "build", "-o", exe, "./sandbox/testdata/child")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(string(out))
	}
	return []string{exe}
})

func childCommand() []string { return buildChild() }

func removeChild() { os.RemoveAll(childDir) }
