package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// watchEvery is how often the watchdog looks; a task may exceed a limit for
// that long.
const watchEvery = 50 * time.Millisecond

// clockTick is the unit of times in /proc, fixed for all Linux ports here.
const clockTick = 10 * time.Millisecond

// watchdog kills a child that exceeds its limits.
type watchdog struct {
	c      *child
	lim    Limits
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	stop    Stop
	highest int64
	seen    bool
}

// watch starts the watchdog of a child; close ends it.
func (c *child) watch(ctx context.Context, lim Limits) *watchdog {
	c.cgroup = newCgroup(c.cmd.Process.Pid, lim)
	ctx, cancel := context.WithCancel(ctx)
	w := &watchdog{c: c, lim: lim, cancel: cancel, done: make(chan struct{})}
	own := make(chan struct{})
	w.cancel = func() { close(own); cancel() }
	go w.run(ctx, own)
	return w
}

func (w *watchdog) run(ctx context.Context, own <-chan struct{}) {
	defer close(w.done)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	wall := time.NewTimer(time.Until(w.c.started.Add(w.lim.Wall)))
	defer wall.Stop()
	for {
		select {
		case <-own:
			return
		case <-ctx.Done():
			select {
			case <-own:
			default:
				w.end(StopCanceled)
			}
			return
		case <-wall.C:
			w.end(StopWall)
			return
		case <-tick.C:
			if over := w.sample(); over != StopNone {
				w.end(over)
				return
			}
		}
	}
}

// end records the reason and kills.
func (w *watchdog) end(why Stop) {
	w.mu.Lock()
	w.stop = why
	w.mu.Unlock()
	w.c.kill()
}

// close stops watching and waits until the watchdog has.
func (w *watchdog) close() {
	w.cancel()
	<-w.done
}

func (w *watchdog) reason() Stop {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop
}

func (w *watchdog) peak() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.highest
}

func (w *watchdog) sees() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// sample looks once and says which limit is exceeded.
func (w *watchdog) sample() Stop {
	pid := w.c.cmd.Process.Pid
	rss, peak, err := residentBytes(pid)
	if err != nil {
		return StopNone // it has just ended, or /proc is hidden
	}
	w.mu.Lock()
	w.seen, w.highest = true, max(w.highest, peak)
	w.mu.Unlock()
	if rss > w.lim.Memory {
		return StopMemory
	}
	if used, err := processorTime(pid); err == nil && used >= w.lim.CPU {
		return StopCPU
	}
	return StopNone
}

// residentBytes reads the resident size and its peak from /proc/PID/status.
func residentBytes(pid int) (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	if now, err = statusField(b, "VmRSS:"); err != nil {
		return 0, 0, err
	}
	peak, err = statusField(b, "VmHWM:")
	return now, peak, err
}

// statusField finds a field in kB and returns bytes.
func statusField(status []byte, name string) (int64, error) {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) == 0 {
			break
		}
		kb, err := strconv.ParseInt(string(f[0]), 10, 64)
		return kb << 10, err
	}
	return 0, fmt.Errorf("no %s in process status", name)
}

// processorTime reads user and system time from /proc/PID/stat: fields 14 and
// 15, counted behind the name in parentheses, which may contain anything.
func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("process stat of %d fields", len(f))
	}
	user, err := strconv.ParseInt(string(f[11]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process stat: %w", err)
	}
	system, err := strconv.ParseInt(string(f[12]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process stat: %w", err)
	}
	return time.Duration(user+system) * clockTick, nil
}
