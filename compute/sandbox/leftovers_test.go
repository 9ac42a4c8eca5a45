package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// residentSelf is the resident size of the test itself.
func residentSelf(t *testing.T) int64 {
	t.Helper()
	now, _, err := residentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// living lists the children of this process that are not yet dead.
func living() []string {
	var out []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) > 1 && f[0] != "Z" && f[1] == strconv.Itoa(os.Getpid()) {
			out = append(out, string(b))
		}
	}
	return out
}

// noLeftovers fails if a child of this process or a control group is left.
func noLeftovers(t *testing.T) {
	t.Helper()
	if left := living(); len(left) > 0 {
		t.Errorf("children left: %v", left)
	}
	parent, _ := memoryCgroup()
	groups, _ := filepath.Glob(filepath.Join(parent, fmt.Sprintf("porchlight-task-%d-*", os.Getpid())))
	if len(groups) > 0 {
		t.Errorf("control groups left: %v", groups)
	}
}
