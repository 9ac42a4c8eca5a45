package compute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"porchlight/compute/frames"
)

// batch is a job under way.
type batch struct {
	client *Client
	job    Job
	hash   string
	root   *os.Root
	say    func(Event)
}

// all runs the tasks, so many at once.
func (b *batch) all(ctx context.Context, inputs, names []string) []TaskResult {
	out := make([]TaskResult, len(inputs))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(b.job.Parallel, len(inputs)) {
		workers.Go(func() {
			for i := range next {
				out[i] = b.one(ctx, i, inputs[i], names[i])
			}
		})
	}
	for i := range inputs {
		next <- i
	}
	close(next)
	workers.Wait()
	return out
}

// one runs a task until it has an answer or there is no point in going on.
func (b *batch) one(ctx context.Context, i int, input, name string) TaskResult {
	say := func(state, message string) {
		b.say(Event{Task: i, Input: input, State: state, Message: message})
	}
	res := TaskResult{Input: input}
	for busy := 0; ; {
		if err := ctx.Err(); err != nil {
			res.Error = err.Error()
			return res
		}
		res.Attempts++
		err := b.attempt(ctx, input, name, &res, say)
		if err == nil {
			break
		}
		d := time.Duration(1<<min(res.Attempts, 5)) * time.Second / 2
		var later *busyError
		if errors.As(err, &later) && busy < maxBusy {
			busy++
			res.Attempts--
			d = later.after
		} else if final(err) || res.Attempts >= maxAttempts || ctx.Err() != nil {
			res.Error = err.Error()
			break
		}
		say("again", err.Error())
		if b.client.sleep(ctx, d) != nil {
			res.Error = err.Error()
			break
		}
	}
	if res.Error == "" {
		res.Error = res.Status.failure()
	}
	if res.Error != "" {
		say("failed", res.Error)
	} else {
		say("done", "")
	}
	return res
}

// attempt sends a task once and stores what comes back.
func (b *batch) attempt(ctx context.Context, input, name string, res *TaskResult, say func(state, message string)) error {
	say("sending", "")
	resp, err := b.post(ctx, input)
	var refusal *Refusal
	if errors.As(err, &refusal) && refusal.Code == CodeModuleUnknown {
		if err := b.client.sendModule(ctx, b.hash, b.job.Module); err != nil {
			return err
		}
		resp, err = b.post(ctx, input)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if t := resp.Header.Get("Content-Type"); t != resultType {
		return fmt.Errorf("%w: answer of type %q", frames.ErrMalformed, t)
	}
	store, err := newResultFiles(b.root, name)
	if err != nil {
		return err
	}
	defer store.discard()
	sink := &resultSink{store: store, say: say}
	end, err := frames.Read(resp.Body, b.limits(), sink)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(end, &res.Status); err != nil {
		return fmt.Errorf("%w: end: %w", frames.ErrMalformed, err)
	}
	res.Status.Detail = frames.Printable(res.Status.Detail, maxText)
	res.Status.Stop = parseStop(res.Status.Stop)
	res.Stderr = frames.Printable(string(sink.stderr), maxStderr)
	if res.Status.Stop != "" {
		return nil
	}
	res.Output, res.Files, err = store.keep(b.job.Out)
	return err
}

func (b *batch) limits() frames.Limits {
	return frames.Limits{Stdout: b.job.MaxBytes, Stderr: maxStderr, FileBytes: b.job.MaxBytes, Files: maxFiles, Notices: maxNotices}
}

func (b *batch) post(ctx context.Context, input string) (*http.Response, error) {
	h := TaskHeader{Module: b.hash, Args: append([]string{b.job.Name}, b.job.Args...)}
	if input != "" {
		h.InputName = safeName(filepath.Base(input))
	}
	// The seed depends on what was asked alone, so that copies agree.
	h.Seed = ModuleHash([]byte(fmt.Sprintf("%s %q %q", b.hash, h.Args, h.InputName)))
	line, err := h.line()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	body, size, err := withInput(line, input)
	if err != nil {
		return nil, fmt.Errorf("%w: input: %w", errLocal, err)
	}
	defer body.Close()
	return b.client.do(ctx, http.MethodPost, "/tasks", body, size)
}

// taskBody is a header line and the bytes of a file.
type taskBody struct {
	io.Reader
	file *os.File
}

// Close implements io.Closer; it may be called twice.
func (t *taskBody) Close() error {
	if t.file != nil {
		t.file.Close()
	}
	return nil
}

func withInput(line []byte, input string) (*taskBody, int64, error) {
	if input == "" {
		return &taskBody{Reader: bytes.NewReader(line)}, int64(len(line)), nil
	}
	f, err := os.Open(input)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, 0, errors.Join(err, fmt.Errorf("%s is no regular file", input))
	}
	body := io.MultiReader(bytes.NewReader(line), io.LimitReader(f, info.Size()))
	return &taskBody{Reader: body, file: f}, int64(len(line)) + info.Size(), nil
}
