package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"porchlight/nat/natlab"
)

const (
	// maxIdleMemory is what an idle agent may hold, in bytes: 20 MB as ps and
	// the router's own pages count them.
	maxIdleMemory = 20_000_000
	// idle is how long nobody asks anything, before and after memory is read.
	// Contacts that have just come are asked once more within 20 s.
	idle = 25 * time.Second
)

func TestIdleHomeIsQuietAndStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	// As people run it: what it logs in the laboratory is work, too.
	attic, _ := s.at("attic", natlab.PortRestricted, "--log-level", "info")
	cabin, _ := s.at("cabin", natlab.CGNAT, "--log-level", "info")
	shed, _ := s.at("shed", natlab.UDPBlocked, "--log-level", "info")
	s.friends(attic, cabin)
	s.friends(attic, shed)
	file := offer(t, s.ctx, cabin, 64<<20)
	s.directly(attic, cabin)
	check(t, attic.run(s.ctx, nil, "ping", "shed"))

	before := map[*agent]map[string]written{}
	for _, a := range s.agents {
		before[a] = stateOf(t, a)
	}
	pause(s.ctx, idle)
	for _, a := range s.agents {
		resident, err := residentBytes(a.process.Process.Pid)
		check(t, err)
		status, err := a.status(s.ctx)
		check(t, err)
		t.Logf("%s: %.1f MB resident, %.1f once it was asked for its status", a.name, float64(resident)/1e6, float64(status.RSSBytes)/1e6)
		if resident <= 0 || resident > maxIdleMemory {
			t.Errorf("%s holds %d bytes when idle, at most %d are allowed", a.name, resident, maxIdleMemory)
		}
	}
	pause(s.ctx, idle)
	for _, a := range s.agents {
		if after := stateOf(t, a); !maps.Equal(before[a], after) {
			t.Errorf("%s wrote to its state although idle:\nbefore %v\nafter  %v", a.name, before[a], after)
		}
	}

	get := file.get(s.ctx, attic, "unfinished")
	file.awaitSent(s.ctx, 1)
	stopInTime(t, s.agents...)
	get.kill()
	<-get.done
}

// written is what tells that a file was written.
type written struct {
	size     int64
	modified time.Time
}

// stateOf lists the files of an agent's state folder.
func stateOf(t *testing.T, a *agent) map[string]written {
	t.Helper()
	files := map[string]written{}
	check(t, filepath.WalkDir(a.state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err == nil {
			files[path] = written{info.Size(), info.ModTime()}
		}
		return err
	}))
	return files
}

// residentBytes reads a process's resident memory (proc(5), statm). Asking the
// agent itself would touch a megabyte of its code first.
func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0, fmt.Errorf("statm %q: %w", b, err)
	}
	return pages * int64(os.Getpagesize()), nil
}
