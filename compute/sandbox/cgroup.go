package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxThreads bounds the threads of a child where a cgroup or RLIMIT_NPROC can
// say so. The Go runtime needs about eight.
const maxThreads = 64

// cgroup is a control group made for one child; nil where none can be made.
type cgroup struct {
	dir     string
	unified bool // version 2
}

// newCgroup puts the process in a group of its own below the agent's, under a
// memory limit. The child waits for its order meanwhile.
func newCgroup(pid int, lim Limits) *cgroup {
	parent, unified := memoryCgroup()
	if parent == "" {
		return nil
	}
	g := &cgroup{dir: filepath.Join(parent, fmt.Sprintf("porchlight-task-%d-%d", os.Getpid(), pid)), unified: unified}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil
	}
	if err := g.limit(pid, lim); err != nil {
		g.remove()
		return nil
	}
	return g
}

// memoryCgroup finds the agent's own group of the memory controller.
func memoryCgroup() (dir string, unified bool) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) != 3:
		case strings.Contains(","+f[1]+",", ",memory,"):
			return existing("/sys/fs/cgroup/memory", f[2], "memory.limit_in_bytes"), false
		case f[0] == "0" && dir == "":
			dir, unified = existing("/sys/fs/cgroup", f[2], "cgroup.subtree_control"), true
		}
	}
	return dir, unified
}

// existing joins a mount and a path; in a container the path may be that of
// another root, so the mount itself is tried too.
func existing(mount, path, file string) string {
	for _, dir := range []string{filepath.Join(mount, path), mount} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return dir
		}
	}
	return ""
}

func (g *cgroup) limit(pid int, lim Limits) error {
	memory := strconv.FormatInt(lim.Memory, 10)
	if g.unified {
		if err := g.set("memory.max", memory); err != nil {
			return err
		}
		_ = g.set("memory.swap.max", "0")
		_ = g.set("pids.max", strconv.Itoa(maxThreads))
	} else {
		if err := g.set("memory.limit_in_bytes", memory); err != nil {
			return err
		}
		_ = g.set("memory.memsw.limit_in_bytes", memory)
	}
	return g.set("cgroup.procs", strconv.Itoa(pid))
}

func (g *cgroup) set(file, value string) error {
	f, err := os.OpenFile(filepath.Join(g.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// outOfMemory says whether the kernel has killed in this group.
func (g *cgroup) outOfMemory() bool {
	if g == nil {
		return false
	}
	file, field := "memory.oom_control", "oom_kill "
	if g.unified {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if n, ok := bytes.CutPrefix(line, []byte(field)); ok {
			return string(bytes.TrimSpace(n)) != "0"
		}
	}
	return false
}

// remove deletes the group of a reaped child. The kernel may need a moment to
// notice that the group is empty.
func (g *cgroup) remove() {
	if g == nil {
		return
	}
	for range 20 {
		if err := os.Remove(g.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g *cgroup) mechanism() Mechanism {
	if g == nil {
		return Mechanism{Name: "cgroup", Detail: "no writable memory cgroup"}
	}
	version := "version 1"
	if g.unified {
		version = "version 2"
	}
	return Mechanism{Name: "cgroup", InForce: true, Detail: version}
}
