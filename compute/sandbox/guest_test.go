package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// buildGuest builds testdata/guest for WASI.
func buildGuest(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest.wasm")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "./testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	module, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

func TestGuestSeesItsWorldAndNothingElse(t *testing.T) {
	module := buildGuest(t)
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	input, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	guest := func(seed string, e Engine) (Result, string, string) {
		cfg := testConfig()
		cfg.Engine = e
		var out bytes.Buffer
		var files strings.Builder
		res, err := New(cfg).Run(t.Context(), Task{
			Module: module, Args: []string{"guest", "x"}, Seed: seed, Stdout: &out,
			Input: input, InputName: "notes.txt", Limits: Limits{Wall: 50 * time.Second},
			File: func(name string, size int64, r io.Reader) error {
				b, err := io.ReadAll(r)
				fmt.Fprintf(&files, "%s %d %s;", name, size, b)
				return err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("engine %s, module %d KiB: peak %d MiB, cpu %v", res.Engine, len(module)>>10, res.PeakRSS>>20, res.CPU)
		return res, out.String(), files.String()
	}
	res, out, files := guest("1", EngineInterpreter)
	if res.Stop != StopNone || res.ExitCode != 3 || string(res.Stderr) != "done\n" {
		t.Fatalf("stop %q %s, exit code %d, stderr %q", res.Stop, res.Detail, res.ExitCode, res.Stderr)
	}
	if want := "a/b/deep.txt 4 deep;top.txt 3 top;"; files != want {
		t.Errorf("files %s, want %s", files, want)
	}
	for _, want := range []string{
		`stdin "hello" <nil>`, `in "hello" <nil>`, "args [guest x] env 0", "write to in: true",
		"read passwd: true", "climb: true", "symlink: true", "dial: true", "out [d a/ - top.txt] <nil>",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no line %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, fmt.Sprint("year ", time.Now().Year())) {
		t.Error("the guest knows the time")
	}
	if _, again, _ := guest("1", EngineAuto); again != out {
		t.Errorf("the same task gave\n%s\nand\n%s", out, again)
	}
	if _, other, _ := guest("2", EngineInterpreter); other == out {
		t.Error("another seed gave the same random numbers")
	}
}
