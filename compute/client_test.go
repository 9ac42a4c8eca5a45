package compute

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"porchlight/compute/frames"
	"porchlight/compute/hostile"
	"porchlight/compute/sandbox"
)

// liar is a donor that answers as it likes. attempt counts from 1.
func liar(t *testing.T, answer func(w http.ResponseWriter, out *frames.Writer, attempt int)) *Client {
	t.Helper()
	var attempts atomic.Int64 // connections that broke off end when they like
	mux := http.NewServeMux()
	mux.HandleFunc("HEAD /modules/{hash}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("PUT /modules/{hash}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /tasks", func(w http.ResponseWriter, r *http.Request) {
		attempt := attempts.Add(1)
		w.Header().Set("Content-Type", resultType)
		answer(w, frames.NewWriter(w), int(attempt))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	t.Cleanup(srv.Client().CloseIdleConnections)
	return &Client{HTTP: srv.Client(), Base: srv.URL,
		wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func one(t *testing.T, c *Client, j Job) TaskResult {
	t.Helper()
	j.Name, j.Module = "prog", hostile.Quiet()
	if j.Out == "" {
		j.Out = t.TempDir()
	}
	sum, err := c.Submit(t.Context(), j, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sum.Tasks[0]
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestResultsAreStoredWhole(t *testing.T) {
	c := liar(t, func(_ http.ResponseWriter, out *frames.Writer, _ int) {
		out.Stdout([]byte("hello"))
		out.File("sub/a.txt", 1, strings.NewReader("a"))
		out.End(Status{})
	})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "prog/old"), "of an earlier run")
	res := one(t, c, Job{Out: dir})
	if res.Error != "" || read(t, res.Output) != "hello" || read(t, res.Files[0]) != "a" {
		t.Errorf("%+v", res)
	}
	if got := listing(t, dir); got != "prog/sub/a.txt prog.out" {
		t.Errorf("folder holds %s", got)
	}
}

func TestBrokenConnectionsAreTriedAgain(t *testing.T) {
	c := liar(t, func(w http.ResponseWriter, out *frames.Writer, attempt int) {
		out.Stdout([]byte(fmt.Sprint("attempt ", attempt)))
		if attempt < 3 {
			panic(http.ErrAbortHandler)
		}
		out.End(Status{})
	})
	res := one(t, c, Job{})
	if res.Error != "" || res.Attempts != 3 || read(t, res.Output) != "attempt 3" {
		t.Errorf("%+v", res)
	}
}

func TestAttemptsAreBoundedAndNothingIsLeft(t *testing.T) {
	c := liar(t, func(w http.ResponseWriter, out *frames.Writer, _ int) {
		out.File("a", 10, strings.NewReader("0123456789"))
		panic(http.ErrAbortHandler)
	})
	dir := t.TempDir()
	res := one(t, c, Job{Out: dir})
	if res.Error == "" || res.Attempts != maxAttempts {
		t.Errorf("%+v", res)
	}
	if got := listing(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestLyingDonors(t *testing.T) {
	tests := map[string]func(w http.ResponseWriter, out *frames.Writer, attempt int){
		"flood": func(_ http.ResponseWriter, out *frames.Writer, _ int) {
			for out.Stdout(make([]byte, 60000)) == nil {
			}
		},
		"climbing name": func(_ http.ResponseWriter, out *frames.Writer, _ int) {
			out.File("../evil", 0, nil)
			out.End(Status{})
		},
		"huge file": func(_ http.ResponseWriter, out *frames.Writer, _ int) {
			out.File("a", 1<<40, strings.NewReader(""))
		},
		"file below a file": func(_ http.ResponseWriter, out *frames.Writer, _ int) {
			out.File("a", 0, nil)
			out.File("a/b", 0, nil)
			out.End(Status{})
		},
		"page of a portal": func(w http.ResponseWriter, _ *frames.Writer, _ int) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>")
		},
		"unreadable end": func(_ http.ResponseWriter, out *frames.Writer, _ int) { out.End("x") },
		"unknown reason": func(_ http.ResponseWriter, out *frames.Writer, _ int) {
			out.End(Status{Stop: "\x1b[31m", Detail: "\x1b[31m" + strings.Repeat("x", 10000)})
		},
		"endless error page": func(w http.ResponseWriter, _ *frames.Writer, _ int) {
			w.WriteHeader(418)
			for {
				if _, err := w.Write(make([]byte, 60000)); err != nil {
					return
				}
			}
		},
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			res := one(t, liar(t, answer), Job{Out: filepath.Join(dir, "out"), MaxBytes: 1 << 20})
			if res.Error == "" || res.Attempts != 1 {
				t.Errorf("%+v", res)
			}
			if strings.Contains(res.Error, "\x1b") || len(res.Error) > maxText+200 {
				t.Errorf("unsafe words: %.100q", res.Error)
			}
			if got := listing(t, dir); got != "" {
				t.Errorf("left behind: %s", got)
			}
		})
	}
}

func TestBusyDonorIsAskedAgain(t *testing.T) {
	c := liar(t, func(w http.ResponseWriter, out *frames.Writer, attempt int) {
		if attempt < 10 {
			refuse(w, CodeBusy, "later")
			return
		}
		out.End(Status{})
	})
	if res := one(t, c, Job{}); res.Error != "" || res.Attempts != 1 {
		t.Errorf("%+v", res)
	}
}

func TestPause(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": retryAfter, "x": retryAfter, "-5": time.Second, "0": time.Second, "7": 7 * time.Second, "99999999": maxPause,
	} {
		if got := pause(header); got != want {
			t.Errorf("Retry-After %q: %v, want %v", header, got, want)
		}
	}
}

func TestMissingInputFailsItsTaskOnly(t *testing.T) {
	_, c := newDonor(t, func(cfg *DonorConfig) { cfg.Runner = fakeRunner(echo) })
	dir := t.TempDir()
	inputs := []string{filepath.Join(dir, "absent"), write(t, filepath.Join(dir, "a"), "hello"), dir}
	sum, err := c.Submit(t.Context(), Job{Name: "p", Module: hostile.Quiet(), Inputs: inputs, Out: t.TempDir()}, nil)
	if err != nil || sum.Failed != 2 || read(t, sum.Tasks[1].Output) != "hello" {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestResultNames(t *testing.T) {
	inputs := []string{"x/a.txt", "y/a.txt", "A.TXT", "a", "a.out", "..", ".hidden", "a\nb", "-rf", strings.Repeat("é", 100), "sp. "}
	names := resultNames("prog", inputs)
	want := []string{"a.txt", "a.txt-2", "A.TXT-3", "a", "a.out-2", "_", "_hidden", "a_b", "_rf", strings.Repeat("é", 40), "sp"}
	for i := range want {
		if names[i] != want[i] {
			t.Errorf("%q became %q, want %q", inputs[i], names[i], want[i])
		}
		if err := frames.CheckName(names[i]); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadProgramExplains(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "x.wasm"), "not a module")
	if _, _, err := LoadProgram(path); err == nil || !strings.Contains(err.Error(), "GOOS=wasip1") {
		t.Errorf("%v", err)
	}
}

func TestHostileModulesEndAsFailedTasks(t *testing.T) {
	_, c := newDonor(t, func(cfg *DonorConfig) {
		cfg.Limits = sandbox.Limits{Wall: 300 * time.Millisecond, Stdout: 1 << 20, Memory: 96 << 20}
	})
	for _, m := range hostile.Corpus() {
		if len(m.Bytes) > 1<<20 {
			continue // the sandbox's own test has them
		}
		sum, err := c.Submit(t.Context(), Job{Name: "p", Module: m.Bytes, Out: t.TempDir()}, nil)
		if err != nil || sum.Failed != 1 || sum.Tasks[0].Attempts != 1 {
			t.Errorf("%s: %+v, %v", m.Name, sum, err)
		}
	}
}
