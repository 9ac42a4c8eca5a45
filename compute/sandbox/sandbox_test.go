package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/compute/hostile"
)

// TestMain lets the test binary be its own child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildArgument {
		os.Exit(ChildMain())
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		removeChild()
		os.Exit(code)
	}))
}

// testConfig is a sandbox whose children do not wait for an idle processor,
// started through an emulator where the tests themselves run in one.
func testConfig() Config {
	cfg := Config{Priority: PriorityNormal, Command: childCommand()}
	if prefix := os.Getenv("PORCHLIGHT_EXEC_PREFIX"); prefix != "" {
		exe, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cfg.Command = append(strings.Fields(prefix), exe, ChildArgument)
	}
	return cfg
}

// emulated says that the tests run in an emulator, where seccomp and
// namespaces may be missing.
func emulated() bool { return os.Getenv("PORCHLIGHT_EXEC_PREFIX") != "" }

func run(t *testing.T, cfg Config, task Task) (Result, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var out bytes.Buffer
	task.Stdout = &out
	res, err := New(cfg).Run(ctx, task)
	if err != nil {
		t.Fatal(err)
	}
	return res, out.String()
}

func TestQuietProgramEndsByItself(t *testing.T) {
	for _, e := range []Engine{EngineAuto, EngineInterpreter} {
		cfg := testConfig()
		cfg.Engine = e
		res, _ := run(t, cfg, Task{Module: hostile.Quiet()})
		if res.Stop != StopNone || res.ExitCode != 0 {
			t.Errorf("engine %q: stop %q (%s), exit code %d", res.Engine, res.Stop, res.Detail, res.ExitCode)
		}
		t.Logf("engine %s: peak %d KiB, cpu %v, wall %v", res.Engine, res.PeakRSS>>10, res.CPU, res.Wall)
	}
}

// TestEveryAttackIsStopped runs the corpus with the pre-parser off: the
// second wall must hold alone.
func TestEveryAttackIsStopped(t *testing.T) {
	lim := Limits{
		Memory: 64 << 20, GuestMemory: 48 << 20, Wall: 400 * time.Millisecond,
		CPU: 350 * time.Millisecond, Stdout: 4 << 20,
	}
	for _, m := range hostile.Corpus() {
		for _, e := range []Engine{EngineAuto, EngineInterpreter} {
			t.Run(m.Name+" "+string(e), func(t *testing.T) {
				cfg := testConfig()
				cfg.Engine, cfg.skipPrecheck = e, true
				before := residentSelf(t)
				res, _ := run(t, cfg, Task{Module: m.Bytes, Limits: lim})
				t.Logf("%s: stop %q after %v, cpu %v, peak %d MiB; %.80s", res.Engine, res.Stop, res.Wall, res.CPU, res.PeakRSS>>20, res.Detail)
				if res.Wall > lim.Wall+time.Second && !emulated() {
					t.Errorf("lasted %v", res.Wall)
				}
				if res.PeakRSS > 4*lim.Memory {
					t.Errorf("peak %d MiB with a limit of %d", res.PeakRSS>>20, lim.Memory>>20)
				}
				if grown := residentSelf(t) - before; grown > growth() {
					t.Errorf("this process grew by %d KiB", grown>>10)
				}
				if m.Compiles && res.Stop == StopNone {
					t.Error("it ended as if nothing were wrong")
				}
			})
		}
	}
	noLeftovers(t)
}

func TestLimitsAreNamed(t *testing.T) {
	lim := Limits{Memory: 96 << 20, Wall: 5 * time.Second, CPU: 5 * time.Second}
	tests := []struct {
		name   string
		module []byte
		change func(l *Limits)
		stop   Stop
	}{
		{"wall clock", hostile.EndlessLoop(), func(l *Limits) { l.Wall = 150 * time.Millisecond }, StopWall},
		{"processor time", hostile.EndlessLoop(), func(l *Limits) { l.CPU = 150 * time.Millisecond }, StopCPU},
		{"standard output", hostile.Flood(1), func(l *Limits) { l.Stdout = 1 << 20 }, StopOutput},
		{"start section", hostile.StartLoop(), nil, StopRefused},
		{"huge table", hostile.Table(134217727), nil, StopRefused},
		{"recursion", hostile.Recursion(), func(l *Limits) { l.Memory = 1 << 30 }, StopTrap},
		{"memory", hostile.MemoryBomb(), func(l *Limits) { l.Memory, l.GuestMemory = 48<<20, 512<<20 }, StopMemory},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := lim
			if tt.change != nil {
				tt.change(&l)
			}
			cfg := testConfig()
			cfg.Engine = EngineInterpreter
			res, _ := run(t, cfg, Task{Module: tt.module, Limits: l})
			if res.Stop != tt.stop {
				t.Errorf("stopped by %q (%s) after %v, want %q", res.Stop, res.Detail, res.Wall, tt.stop)
			}
		})
	}
}

func TestStandardErrorIsCut(t *testing.T) {
	res, _ := run(t, testConfig(), Task{Module: hostile.Flood(2), Limits: Limits{Wall: 3 * time.Second, Stderr: 1000}})
	if want := 1000 + len(stderrCut); len(res.Stderr) != want || res.Stop != StopWall {
		t.Errorf("%d bytes, stop %q; want %d bytes and %q", len(res.Stderr), res.Stop, want, StopWall)
	}
}

func TestCancelStopsTheChild(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	res, err := New(testConfig()).Run(ctx, Task{Module: hostile.EndlessLoop()})
	if err != nil || res.Stop != StopCanceled {
		t.Fatalf("stop %q, err %v; want %q", res.Stop, err, StopCanceled)
	}
	noLeftovers(t)
}

// stuckWriter takes nothing until no child is left.
type stuckWriter struct{ t *testing.T }

func (w stuckWriter) Write([]byte) (int, error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		if len(living()) == 0 {
			return 0, errors.New("stuck")
		}
	}
	w.t.Error("the child lives on while its output is not taken")
	return 0, errors.New("stuck")
}

func TestBlockedWriterDoesNotHoldTheChild(t *testing.T) {
	_, err := New(testConfig()).Run(t.Context(), Task{
		Module: hostile.Flood(1), Stdout: stuckWriter{t}, Limits: Limits{Wall: time.Second},
	})
	if err == nil {
		t.Error("a writer that failed was not reported")
	}
	noLeftovers(t)
}

func TestPrecheckRefusesInTheChild(t *testing.T) {
	res, _ := run(t, testConfig(), Task{Module: hostile.Nested(500000)})
	if res.Stop != StopRefused || !strings.Contains(res.Detail, "limit") {
		t.Errorf("stop %q, detail %q", res.Stop, res.Detail)
	}
}

func TestBadOrdersAreRefusedBeforeTheChild(t *testing.T) {
	for _, name := range []string{"a/b", "..", ".", "a\x00b"} {
		_, err := New(testConfig()).Run(t.Context(), Task{Module: hostile.Quiet(), InputName: name})
		if err == nil {
			t.Errorf("input name %q was taken", name)
		}
	}
}
