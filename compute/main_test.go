package compute

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/compute/sandbox"
)

// TestMain lets the test binary be the sandbox's child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ChildArgument {
		os.Exit(sandbox.ChildMain())
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(examplesDir)
		removeChild()
		os.Exit(code)
	}))
}

// examplesDir is where the examples were built, if they were.
var examplesDir string

// realSandbox starts children of this binary, through an emulator where the
// tests themselves run in one.
func realSandbox() *sandbox.Sandbox {
	cfg := sandbox.Config{Priority: sandbox.PriorityNormal, Engine: sandbox.EngineInterpreter, Command: childCommand()}
	if prefix := os.Getenv("PORCHLIGHT_EXEC_PREFIX"); prefix != "" {
		exe, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cfg.Command = append(strings.Fields(prefix), exe, sandbox.ChildArgument)
	}
	return sandbox.New(cfg)
}

// everyone grants to all callers, or to none.
type everyone bool

func (e everyone) Allows(*http.Request, []string) bool { return bool(e) }

// fakeRunner is a Runner of one function.
type fakeRunner func(ctx context.Context, t sandbox.Task) (sandbox.Result, error)

func (f fakeRunner) Run(ctx context.Context, t sandbox.Task) (sandbox.Result, error) {
	return f(ctx, t)
}

// newDonor starts a donor that is switched on, and a client for it.
func newDonor(t *testing.T, change func(*DonorConfig)) (*Donor, *Client) {
	t.Helper()
	cfg := DonorConfig{
		Runner: realSandbox(), Grants: everyone(true),
		ModuleDir: filepath.Join(t.TempDir(), "modules"), SpoolDir: t.TempDir(),
	}
	if change != nil {
		change(&cfg)
	}
	d, err := NewDonor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.SetEnabled(true)
	srv := httptest.NewServer(d)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		srv.Client().CloseIdleConnections()
		srv.Close()
		if left, _ := filepath.Glob(filepath.Join(cfg.SpoolDir, "*")); len(left) > 0 {
			t.Errorf("left in the spool: %v", left)
		}
	})
	c := &Client{HTTP: srv.Client(), Base: srv.URL}
	c.wait = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return d, c
}

var buildExamples = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "porchlight-examples-")
	if err != nil {
		return "", err
	}
	examplesDir = dir
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir, "./examples/...")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &buildError{string(out), err}
	}
	return dir, nil
})

type buildError struct {
	out string
	err error
}

func (e *buildError) Error() string { return e.err.Error() + ": " + e.out }

// example builds the examples once and loads one.
func example(t *testing.T, name string) []byte {
	t.Helper()
	dir, err := buildExamples()
	if err != nil {
		t.Fatal(err)
	}
	_, module, err := LoadProgram(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return module
}
