package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"porchlight/compute/frames"
	"porchlight/compute/precheck"
)

// Sandbox starts children. It is safe for concurrent use.
type Sandbox struct {
	cfg Config
	// rung is the strongest way to start a child that this kernel allows, an
	// index of ladder found out by the first starts.
	rung atomic.Int64
}

// New returns a sandbox. It starts nothing yet.
func New(cfg Config) *Sandbox {
	if len(cfg.Command) == 0 {
		cfg.Command = []string{"/proc/self/exe", ChildArgument}
	}
	if cfg.Modules == (precheck.Limits{}) {
		cfg.Modules = precheck.Default()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Sandbox{cfg: cfg}
}

// Run executes the task and waits for its end. Errors mean that the task
// could not be started or its output not be taken; whatever the task itself
// does is told in the result.
func (s *Sandbox) Run(ctx context.Context, t Task) (Result, error) {
	o, err := s.order(t)
	if err != nil {
		return Result{}, err
	}
	res, end, err := s.run(ctx, o, t)
	if err != nil || res.Stop != StopNone {
		return res, err
	}
	res.ExitCode, res.Stop, res.Detail = end.ExitCode, end.Stop, end.Detail
	return res, nil
}

// Probe starts a child that confines itself as for a task and then tries what
// a program that has taken it over would try.
func (s *Sandbox) Probe(ctx context.Context) (Result, []Attempt, error) {
	o := order{Probe: true, Limits: DefaultLimits(), Engine: s.cfg.Engine}
	o.Limits.Wall = 30 * time.Second
	res, end, err := s.run(ctx, o, Task{Limits: o.Limits})
	return res, end.Attempts, err
}

func (s *Sandbox) order(t Task) (order, error) {
	o := order{
		Args: t.Args, Seed: t.Seed, Limits: t.Limits.withDefaults(), Modules: s.cfg.Modules,
		Engine: s.cfg.Engine, Unchecked: s.cfg.skipPrecheck,
		InputName: orDefault(t.InputName, "input"),
	}
	if strings.Contains(o.InputName, "/") || frames.CheckName(o.InputName) != nil {
		return o, fmt.Errorf("input name %q: give a plain file name", o.InputName)
	}
	if t.Input != nil {
		info, err := t.Input.Stat()
		if err != nil {
			return o, fmt.Errorf("input: %w", err)
		}
		o.HasInput, o.InputSize = true, info.Size()
	}
	return o, nil
}

// run starts a child, gives it the order, and takes its results. The thread
// is locked because the kernel kills a child whose parent *thread* ends.
func (s *Sandbox) run(ctx context.Context, o order, t Task) (Result, ending, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := ctx.Err(); err != nil {
		return Result{Stop: StopCanceled}, ending{}, nil
	}
	c, err := s.start(t.Input)
	if err != nil {
		return Result{}, ending{}, fmt.Errorf("start task process: %w", err)
	}
	c.priority = lowerPriority(c.cmd.Process.Pid, s.cfg.Priority)
	w := c.watch(ctx, o.Limits)
	c.send(o, t.Module)
	sink := &collector{task: t}
	last, readErr := frames.Read(c.results, o.Limits.frameLimits(), sink)
	w.sample()
	w.close()
	c.kill()
	c.wait()
	res := c.result(w, sink)
	end, err := judge(&res, last, readErr, sink, c)
	s.cfg.Logger.Debug("task ended", "stop", string(res.Stop), "exit_code", end.ExitCode,
		"cpu_ms", res.CPU.Milliseconds(), "wall_ms", res.Wall.Milliseconds(), "peak_rss_bytes", res.PeakRSS)
	return res, end, err
}

// judge finds out why the results ended.
func judge(res *Result, last []byte, readErr error, sink *collector, c *child) (ending, error) {
	var end ending
	switch {
	case sink.err != nil:
		return end, sink.err
	case res.Stop != StopNone: // the watchdog's word
		return end, nil
	case readErr == nil:
		if err := json.Unmarshal(last, &end); err != nil {
			res.Stop, res.Detail = StopProtocol, "unreadable end"
		}
		end.Detail = frames.Printable(end.Detail, maxDetail)
		return end, nil
	case errors.Is(readErr, frames.ErrTooMuch):
		res.Stop, res.Detail = StopOutput, readErr.Error()
	case errors.Is(readErr, frames.ErrMalformed):
		res.Stop, res.Detail = StopProtocol, readErr.Error()
	default:
		res.Stop, res.Detail = c.causeOfDeath()
	}
	return end, nil
}

// maxDetail is the longest explanation taken from a child, in bytes.
const maxDetail = 2000

// collector takes what a child sends.
type collector struct {
	task   Task
	stderr []byte
	report confined
	err    error // of the caller's writers
}

// Stdout implements frames.Sink.
func (c *collector) Stdout(p []byte) error {
	if c.task.Stdout == nil {
		return nil
	}
	if _, err := c.task.Stdout.Write(p); err != nil {
		c.err = fmt.Errorf("take standard output: %w", err)
	}
	return c.err
}

// Stderr implements frames.Sink.
func (c *collector) Stderr(p []byte) error {
	c.stderr = append(c.stderr, p...)
	return nil
}

// File implements frames.Sink.
func (c *collector) File(name string, size int64, r io.Reader) error {
	if c.task.File == nil {
		return nil
	}
	if err := c.task.File(name, size, r); err != nil {
		c.err = fmt.Errorf("take output %q: %w", name, err)
	}
	return c.err
}

// Notice implements frames.Sink.
func (c *collector) Notice(p []byte) error {
	if err := json.Unmarshal(p, &c.report); err != nil {
		return fmt.Errorf("%w: confinement report", frames.ErrMalformed)
	}
	return nil
}

var _ frames.Sink = (*collector)(nil)

// pipes holds the parent's ends.
type pipes struct {
	orders  *os.File // written by the parent
	results *os.File // read by the parent
}
