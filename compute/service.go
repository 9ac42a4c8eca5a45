package compute

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"porchlight/compute/frames"
	"porchlight/compute/sandbox"
)

// resultType is the media type of a stream of frames.
const resultType = "application/vnd.porchlight.frames"

// spoolStep is how much of the spool is taken at a time, in bytes.
const spoolStep = 64 << 10

// statusOf gives the HTTP status of a refusal.
var statusOf = map[string]int{
	CodeBadRequest: http.StatusBadRequest, CodeNotAllowed: http.StatusForbidden,
	CodeModuleUnknown: http.StatusNotFound, CodeTooLarge: http.StatusRequestEntityTooLarge,
	CodeBusy: http.StatusTooManyRequests, CodeDonationOff: http.StatusServiceUnavailable,
	CodeNoSpace: http.StatusInsufficientStorage,
}

func refuse(w http.ResponseWriter, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	if code == CodeBusy {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	w.WriteHeader(statusOf[code])
	// A caller that has gone does not read it.
	_ = json.NewEncoder(w).Encode(Refusal{Code: code, Message: message})
}

func (d *Donor) headModule(w http.ResponseWriter, r *http.Request) {
	if !d.modules.has(r.PathValue("hash")) {
		w.WriteHeader(http.StatusNotFound)
	}
}

func (d *Donor) putModule(w http.ResponseWriter, r *http.Request) {
	hash := r.PathValue("hash")
	if err := checkHash(hash); err != nil {
		refuse(w, CodeBadRequest, err.Error())
		return
	}
	if !d.Stats().Enabled {
		refuse(w, CodeDonationOff, "this device gives no processor time at the moment")
		return
	}
	err := d.modules.put(hash, &patient{w: w, r: r.Body})
	switch {
	case errors.Is(err, errTooLarge):
		refuse(w, CodeTooLarge, fmt.Sprintf("modules have at most %d bytes here", MaxModule))
	case errors.Is(err, errWrongHash):
		refuse(w, CodeBadRequest, err.Error())
	case err != nil:
		d.cfg.Logger.Warn("store module", "err", err)
		refuse(w, CodeNoSpace, "the module could not be stored")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// job is one task being served.
type job struct {
	header TaskHeader
	module []byte
	input  *spoolFile // nil without input
}

func (d *Donor) postTask(w http.ResponseWriter, r *http.Request) {
	session, refusal := d.admit()
	if refusal != nil {
		refuse(w, refusal.Code, refusal.Message)
		return
	}
	began, res := false, sandbox.Result{}
	defer func() { d.leave(d.cfg.Caller(r), began, res) }()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(session, func() { cancel(errDonationOff) })()
	j, ok := d.receive(w, r)
	if !ok {
		return
	}
	defer j.input.close()
	out := newAnswer(w)
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	if out.Notice(Notice{State: "queued"}) != nil {
		return
	}
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		_ = out.End(d.status(ctx, res))
		return
	}
	defer func() { <-d.slots }()
	began = true
	d.count(func(s *Stats) { s.Queued--; s.Running++ })
	res = d.work(ctx, j, out)
}

// work runs the task and answers. Errors are those of the caller's
// connection, or of this device, which the caller hears of.
func (d *Donor) work(ctx context.Context, j job, out *frames.Writer) sandbox.Result {
	if out.Notice(Notice{State: "running"}) != nil {
		return sandbox.Result{Stop: sandbox.StopCanceled}
	}
	task := sandbox.Task{
		Module: j.module, Args: j.header.Args, Seed: j.header.Seed, Limits: d.cfg.Limits,
		Stdout: stdoutOf(out), File: out.File,
	}
	if j.input != nil {
		task.Input, task.InputName = j.input.file, j.header.InputName
	}
	res, err := d.cfg.Runner.Run(ctx, task)
	if err != nil {
		d.cfg.Logger.Warn("run task", "err", err)
		res.Stop, res.Detail = sandbox.StopCrashed, "the donor could not run the task"
	}
	if out.Stderr(res.Stderr) == nil {
		_ = out.End(d.status(ctx, res))
	}
	return res
}

func (d *Donor) status(ctx context.Context, res sandbox.Result) Status {
	s := Status{
		ExitCode: res.ExitCode, Stop: res.Stop, Detail: res.Detail, Engine: res.Engine,
		CPUMillis: res.CPU.Milliseconds(), WallMillis: res.Wall.Milliseconds(), PeakRSSBytes: res.PeakRSS,
	}
	if errors.Is(context.Cause(ctx), errDonationOff) {
		s.Stop, s.Detail = StopDonationOff, "the owner has switched donation off"
	}
	return s
}

// receive reads the header line and the input.
func (d *Donor) receive(w http.ResponseWriter, r *http.Request) (job, bool) {
	body := bufio.NewReaderSize(&patient{w: w, r: r.Body}, MaxHeader)
	line, err := body.ReadSlice('\n')
	if err != nil {
		refuse(w, CodeBadRequest, "the task begins with no header line of JSON")
		return job{}, false
	}
	var j job
	if j.header, err = ParseTaskHeader(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
		refuse(w, CodeBadRequest, err.Error())
		return job{}, false
	}
	if j.module, err = d.modules.get(j.header.Module); err != nil {
		refuse(w, CodeModuleUnknown, "send the module first")
		return job{}, false
	}
	if j.header.InputName != "" {
		j.input, err = d.spoolInput(body)
	} else if n, _ := io.CopyN(io.Discard, body, 1); n > 0 {
		err = &Refusal{CodeBadRequest, "the task brings input without an input name"}
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		refuse(w, refusal.Code, refusal.Message)
	case err != nil:
		d.cfg.Logger.Debug("receive input", "err", err)
		refuse(w, CodeBadRequest, "the input broke off")
	}
	// The wait for the result is no stall.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return j, err == nil
}

// spoolFile is an input on disk. Its name is removed at once, so that nothing
// is left whatever happens.
type spoolFile struct {
	file  *os.File
	size  int64
	quota *quota
}

func (f *spoolFile) close() {
	if f == nil {
		return
	}
	f.file.Close()
	f.quota.give(f.size)
}

func (d *Donor) spoolInput(r io.Reader) (*spoolFile, error) {
	file, err := os.CreateTemp(d.cfg.SpoolDir, "input-*")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	_ = os.Remove(file.Name())
	f := &spoolFile{file: file, quota: &d.spool}
	if err := d.fill(f, r); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (d *Donor) fill(f *spoolFile, r io.Reader) error {
	for {
		if !d.spool.take(spoolStep) {
			return &Refusal{CodeNoSpace, "no room for more inputs at the moment"}
		}
		n, err := io.CopyN(f.file, r, spoolStep)
		f.size += n
		d.spool.give(spoolStep - n)
		if f.size > d.cfg.InputBytes {
			return &Refusal{CodeTooLarge, fmt.Sprintf("inputs have at most %d bytes here", d.cfg.InputBytes)}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// patient reads a body from a peer that may pause, but not for ever.
type patient struct {
	w http.ResponseWriter
	r io.Reader
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	// Connections without deadlines are watched by their own keep-alives.
	_ = http.NewResponseController(p.w).SetReadDeadline(time.Now().Add(stall))
	return p.r.Read(b)
}

// answer writes to a peer that may be slow, but not for ever, and lets each
// frame go at once.
type answer struct{ w http.ResponseWriter }

func newAnswer(w http.ResponseWriter) *frames.Writer {
	w.Header().Set("Content-Type", resultType)
	return frames.NewWriter(&answer{w})
}

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	rc := http.NewResponseController(a.w)
	_ = rc.SetWriteDeadline(time.Now().Add(stall))
	n, err := a.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, rc.Flush()
}

// stdoutOf is the standard output of a task as an io.Writer.
func stdoutOf(w *frames.Writer) io.Writer { return stdoutWriter{w} }

type stdoutWriter struct{ w *frames.Writer }

// Write implements io.Writer.
func (s stdoutWriter) Write(p []byte) (int, error) {
	if err := s.w.Stdout(p); err != nil {
		return 0, err
	}
	return len(p), nil
}
