package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porchlight/compute/frames"
)

const (
	// maxTrace is what is kept of the child's own standard error: a Go
	// runtime that gives up explains itself there.
	maxTrace = 16 << 10
	// waitDelay bounds how long a dead child's pipes are waited for.
	waitDelay = time.Second
	// namespaces hide the network, other processes, System V objects and the
	// host name.
	namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
)

// rung is one way to start a child.
type rung struct {
	name  string
	flags uintptr
	user  bool // with a user namespace, for agents without privileges
}

// ladder lists the ways to start a child, the strongest first.
var ladder = []rung{
	{name: "network, pid, ipc, uts", flags: namespaces},
	{name: "user, network, pid, ipc, uts", flags: namespaces | unix.CLONE_NEWUSER, user: true},
	{name: "none"},
}

// child is a running task process.
type child struct {
	pipes
	cmd      *exec.Cmd
	trace    *tail
	cgroup   *cgroup
	started  time.Time
	rung     rung
	sending  sync.WaitGroup
	killed   sync.Once
	priority Mechanism
	starved  bool // the kernel has killed it for memory
}

// start goes down the ladder until the kernel lets a child begin.
func (s *Sandbox) start(input *os.File) (*child, error) {
	for i := s.rung.Load(); ; i++ {
		c, err := s.startOn(ladder[i], input)
		if err == nil {
			s.rung.Store(i)
			return c, nil
		}
		if int(i) == len(ladder)-1 || !refusedByKernel(err) {
			return nil, err
		}
	}
}

func refusedByKernel(err error) bool {
	for _, e := range []error{unix.EPERM, unix.EINVAL, unix.ENOSYS, unix.ENOSPC, unix.EACCES, unix.EUSERS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Sandbox) startOn(r rung, input *os.File) (*child, error) {
	orderR, orderW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer orderR.Close()
	resultR, resultW, err := os.Pipe()
	if err != nil {
		orderW.Close()
		return nil, err
	}
	defer resultW.Close()
	c := &child{pipes: pipes{orderW, resultR}, trace: &tail{limit: maxTrace}, rung: r, started: time.Now()}
	c.cmd = exec.Command(s.cfg.Command[0], s.cfg.Command[1:]...)
	c.cmd.Env = []string{"GOMAXPROCS=1", "GOTRACEBACK=single"}
	c.cmd.Dir = "/"
	c.cmd.Stderr = c.trace
	c.cmd.WaitDelay = waitDelay
	c.cmd.ExtraFiles = []*os.File{orderR, resultW}
	if input != nil {
		c.cmd.ExtraFiles = append(c.cmd.ExtraFiles, input)
	}
	c.cmd.SysProcAttr = r.attributes()
	if err := c.cmd.Start(); err != nil {
		orderW.Close()
		resultR.Close()
		return nil, err
	}
	return c, nil
}

func (r rung) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: r.flags}
	if r.user {
		a.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// send writes the order and module while the results are already read.
func (c *child) send(o order, module []byte) {
	c.sending.Go(func() {
		// A child that dies early breaks the pipe; its results tell why.
		_ = o.write(c.orders, module)
	})
}

// kill ends the child and everything in its session and process namespace.
func (c *child) kill() {
	c.killed.Do(func() {
		pid := c.cmd.Process.Pid
		if err := unix.Kill(-pid, unix.SIGKILL); err != nil {
			_ = c.cmd.Process.Kill()
		}
		c.orders.Close()
	})
}

// wait reaps the child and gives back all that belonged to it.
func (c *child) wait() {
	_ = c.cmd.Wait()
	c.sending.Wait()
	c.results.Close()
	c.starved = c.cgroup.outOfMemory()
	c.cgroup.remove()
}

func (c *child) result(w *watchdog, sink *collector) Result {
	usage := c.cmd.ProcessState
	return Result{
		Stop: w.reason(), Stderr: sink.stderr, Engine: sink.report.Engine,
		CPU: usage.UserTime() + usage.SystemTime(), Wall: time.Since(c.started),
		PeakRSS:    w.peak(),
		Mechanisms: append(c.mechanisms(w), sink.report.Mechanisms...),
	}
}

// mechanisms are those that the parent has put in force.
func (c *child) mechanisms(w *watchdog) []Mechanism {
	return []Mechanism{
		{Name: "namespaces", InForce: c.rung.flags != 0, Detail: c.rung.name},
		c.cgroup.mechanism(),
		c.priority,
		{Name: "watchdog", InForce: w.sees(), Detail: "memory, processor time, wall clock"},
	}
}

// causeOfDeath explains a child that ended without a last word.
func (c *child) causeOfDeath() (Stop, string) {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	trace := c.trace.String()
	switch {
	case c.starved:
		return StopMemory, "killed by the kernel at the memory limit"
	case strings.Contains(trace, "out of memory"), strings.Contains(trace, "cannot allocate memory"):
		return StopMemory, "no more memory to allocate"
	case ok && status.Signaled() && status.Signal() == syscall.SIGXCPU:
		return StopCPU, "processor time used up"
	case ok && status.Signaled():
		return StopCrashed, fmt.Sprintf("ended by signal %d", status.Signal())
	}
	return StopCrashed, fmt.Sprintf("ended with status %d: %s", c.cmd.ProcessState.ExitCode(), trace)
}

// tail keeps the first bytes of a stream and drops the rest.
type tail struct {
	limit int
	mu    sync.Mutex
	buf   []byte
}

// Write implements io.Writer; it never fails, so the child cannot block on it.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[:min(len(p), t.limit-len(t.buf))]...)
	return len(p), nil
}

// String returns what was kept, fit for a log.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return frames.Printable(string(t.buf), t.limit)
}
