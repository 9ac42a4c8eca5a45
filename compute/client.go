package compute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"porchlight/compute/frames"
	"porchlight/compute/precheck"
	"porchlight/compute/sandbox"
)

// Client sends tasks to one donor.
type Client struct {
	HTTP   *http.Client // reaches the donor; required
	Base   string       // URL of the donor's [Donor], without trailing slash
	Logger *slog.Logger

	// wait lets tests pass over pauses.
	wait func(ctx context.Context, d time.Duration) error
}

// Job is one program over many inputs.
type Job struct {
	Name     string   // of the program: its first argument, and of results without input
	Module   []byte   // see [LoadProgram]
	Args     []string // behind the name
	Inputs   []string // paths of files, one task each; none: one task without input
	Out      string   // folder for results, made if need be
	Parallel int      // tasks under way at once; 2
	// MaxBytes bounds the standard output, and again the files, of one task;
	// 1 GiB.
	MaxBytes int64
}

const (
	defaultParallel = 2
	defaultMaxBytes = 1 << 30
	maxFiles        = 4096
	maxStderr       = 128 << 10
	maxNotices      = 64
	// maxAttempts is how often a task is begun when connections break.
	maxAttempts = 4
	// maxBusy is how often a busy donor is asked again.
	maxBusy = 240
	// maxPause is the longest pause before asking again.
	maxPause = 30 * time.Second
	// maxRefusal is the longest body of an HTTP error, in bytes.
	maxRefusal = 8 << 10
	// maxText is the longest text of a donor that is passed on, in bytes.
	maxText = 2000
)

// Event tells of progress.
type Event struct {
	Task    int    `json:"task"`  // index of the input
	Input   string `json:"input"` // its path
	State   string `json:"state"` // sending, queued, running, done, failed, again
	Message string `json:"message,omitempty"`
}

// TaskResult is what became of one input.
type TaskResult struct {
	Input    string   `json:"input,omitempty"`
	Output   string   `json:"output,omitempty"` // path of the standard output
	Files    []string `json:"files,omitempty"`  // paths of what was left below /out
	Status   Status   `json:"status"`
	Stderr   string   `json:"stderr,omitempty"`
	Attempts int      `json:"attempts"`
	Error    string   `json:"error,omitempty"` // empty if it worked
}

// Summary is what became of a job, its tasks in the order of the inputs.
type Summary struct {
	Module string       `json:"module"`
	Tasks  []TaskResult `json:"tasks"`
	Failed int          `json:"failed"`
}

// LoadProgram reads a module and refuses early what every donor refuses.
func LoadProgram(path string) (name string, module []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil, fmt.Errorf("program: %w", err)
	}
	defer f.Close()
	module, err = io.ReadAll(io.LimitReader(f, MaxModule+1))
	if err != nil {
		return "", nil, fmt.Errorf("program: %w", err)
	}
	if _, err := precheck.Check(module, precheck.Default()); err != nil {
		return "", nil, fmt.Errorf("program %s: %w; build a command for WASI preview 1, for instance with GOOS=wasip1 GOARCH=wasm", path, err)
	}
	return strings.TrimSuffix(filepath.Base(path), ".wasm"), module, nil
}

// Submit runs the job and stores its results. The error is for what concerns
// the whole job; failures of single tasks are in the summary. progress may be
// nil and is called from several goroutines, one call at a time.
func (c *Client) Submit(ctx context.Context, j Job, progress func(Event)) (Summary, error) {
	setDefault(&j.Parallel, defaultParallel)
	setDefault(&j.MaxBytes, defaultMaxBytes)
	s := Summary{Module: ModuleHash(j.Module)}
	if err := os.MkdirAll(j.Out, 0o755); err != nil {
		return s, fmt.Errorf("result folder: %w", err)
	}
	root, err := os.OpenRoot(j.Out)
	if err != nil {
		return s, fmt.Errorf("result folder: %w", err)
	}
	defer root.Close()
	if err := c.sendModule(ctx, s.Module, j.Module); err != nil {
		return s, err
	}
	inputs := j.Inputs
	if len(inputs) == 0 {
		inputs = []string{""}
	}
	var say sync.Mutex
	b := &batch{client: c, job: j, hash: s.Module, root: root, say: func(e Event) {
		say.Lock()
		defer say.Unlock()
		if progress != nil {
			progress(e)
		}
	}}
	s.Tasks = b.all(ctx, inputs, resultNames(j.Name, inputs))
	for _, t := range s.Tasks {
		if t.Error != "" {
			s.Failed++
		}
	}
	return s, ctx.Err()
}

// sendModule makes sure that the donor has the module.
func (c *Client) sendModule(ctx context.Context, hash string, module []byte) error {
	head, err := c.do(ctx, http.MethodHead, "/modules/"+hash, nil, 0)
	if err == nil {
		head.Body.Close()
		return nil
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return fmt.Errorf("reach the donor: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPut, "/modules/"+hash, bytes.NewReader(module), int64(len(module)))
	if err != nil {
		return fmt.Errorf("send program: %w", err)
	}
	return resp.Body.Close()
}

// busyError is a refusal that asks to come back later.
type busyError struct {
	after time.Duration
	err   error
}

func (e *busyError) Error() string { return e.err.Error() }
func (e *busyError) Unwrap() error { return e.err }

// do sends a request and turns HTTP errors into [Refusal] or busyError.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	refusal := readRefusal(resp)
	if resp.StatusCode == http.StatusTooManyRequests || refusal.Code == CodeNoSpace {
		return nil, &busyError{pause(resp.Header.Get("Retry-After")), refusal}
	}
	return nil, refusal
}

func readRefusal(resp *http.Response) *Refusal {
	r := &Refusal{}
	err := json.NewDecoder(io.LimitReader(resp.Body, maxRefusal)).Decode(r)
	if err != nil || r.Code == "" {
		return &Refusal{Code: strconv.Itoa(resp.StatusCode), Message: "the donor answered " + frames.Printable(resp.Status, maxText)}
	}
	r.Message = frames.Printable(r.Message, maxText)
	return r
}

// pause reads Retry-After in seconds, within bounds.
func pause(header string) time.Duration {
	n, err := strconv.Atoi(header)
	if err != nil {
		return retryAfter
	}
	return min(max(time.Duration(n)*time.Second, time.Second), maxPause)
}

func (c *Client) sleep(ctx context.Context, d time.Duration) error {
	if c.wait != nil {
		return c.wait(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// final says whether a task that failed so would fail again.
func final(err error) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && refusal.Code != CodeModuleUnknown ||
		errors.Is(err, frames.ErrTooMuch) || errors.Is(err, frames.ErrMalformed) || errors.Is(err, errLocal)
}

// errLocal marks errors of this side: a missing input, a full disk.
var errLocal = errors.New("on this side")

// failure puts the end of a task into words; empty if it worked.
func (s Status) failure() string {
	switch {
	case s.Stop == sandbox.StopNone && s.ExitCode == 0:
		return ""
	case s.Stop == sandbox.StopNone:
		return fmt.Sprintf("program ended with status %d", s.ExitCode)
	}
	return fmt.Sprintf("stopped: %s %s", s.Stop, s.Detail)
}
