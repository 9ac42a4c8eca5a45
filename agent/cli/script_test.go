package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"porchlight/agent/cli"
	"porchlight/compute/sandbox"
)

// patience is how long a script waits for something that takes a moment.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	// An agent under test starts its tasks as children of this binary.
	if len(os.Args) > 1 && os.Args[1] == sandbox.ChildArgument {
		os.Exit(sandbox.ChildMain())
	}
	os.Setenv("GORACE", noLinger)
	testscript.Main(m, map[string]func(){
		"porchlight": func() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) },
		"agent":      func() { os.Exit(cli.Main(quietRun(os.Args[1:]), os.Stdout, os.Stderr)) },
	})
}

// quietRun turns "agent STATE [FLAGS]" into a porchlight run that disturbs
// nobody: on loopback, without beacons, without nodes of the DHT outside, and
// away from the ports that only one agent of a machine can have.
func quietRun(args []string) []string {
	if len(args) == 0 {
		return []string{"run", "--help"}
	}
	return append([]string{
		"run", "--state", args[0], "--listen", "127.0.0.1:0", "--loopback",
		"--console", "off", "--gateway", "off", "--lan", "off", "--dht-node", "none",
	}, args[1:]...)
}

// noLinger is the GORACE with which a program under the race detector ends at
// once; the scripts start hundreds.
const noLinger = "atexit_sleep_ms=0"

func TestScripts(t *testing.T) {
	if emulated() {
		t.Skip("the kernel cannot start this foreign binary by itself (no binfmt_misc entry), and the scripts start it")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"await":   await,
			"let":     let,
			"json":    checkJSON,
			"program": program,
			"donor":   donor,
			"socket":  socket,
			"refused": refused,
			"typo":    typo,
			"field":   field,
			"mode":    mode,
			"flip":    flip,
			"echo":    startEcho,
			"forward": startForward,
			"talk":    talk,
			"hangup":  hangUp,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", noLinger)
			return nil
		},
		RequireExplicitExec: true,
	})
}

// emulated reports whether this binary runs under an emulator that the
// kernel does not know.
func emulated() bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	return errors.Is(exec.Command(self, "-test.run=^$").Run(), syscall.ENOEXEC)
}

// exits CODE COMMAND… checks the exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := code(ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// refused COMMAND… checks that a command is not allowed, or gets no answer:
// who is blocked need not be told so.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	if got := code(ts.Exec(args[0], args[1:]...)); neg || got != 4 && got != 5 {
		ts.Fatalf("exit code %d, want 4 or 5", got)
	}
}

// typo NAME sets a variable to the first word of the last output, with its
// tenth letter mistyped.
func typo(ts *testscript.TestScript, neg bool, args []string) {
	word := []byte(strings.Fields(ts.ReadFile("stdout"))[0])
	word[9] = map[bool]byte{true: 'b', false: 'a'}[word[9] == 'a']
	ts.Setenv(args[0], string(word))
}

// await PATTERN COMMAND… repeats a command until it succeeds and its output
// matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await PATTERN COMMAND…")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// Quiet: only what is waited for belongs into the log.
		out, err := quiet(ts, args[1:])
		if err == nil && pattern.MatchString(out) {
			ts.Check(ts.Exec(args[1], args[2:]...))
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("after %v still: %v\n%s", patience, err, out)
		}
	}
}

func quiet(ts *testscript.TestScript, args []string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// let NAME… sets variables to the words of the last output; "-" skips one.
func let(ts *testscript.TestScript, neg bool, args []string) {
	words := strings.Fields(ts.ReadFile("stdout"))
	if neg || len(words) < len(args) {
		ts.Fatalf("%d words for %d names", len(words), len(args))
	}
	for i, name := range args {
		ts.Setenv(name, words[i])
	}
}

// json FIELD PATTERN checks a field of the last line of output, which is
// JSON; FIELD is a path such as contacts.0.name. "! json FIELD" has it absent.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	var v any
	ts.Check(json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	v, ok := lookUp(v, strings.Split(args[0], "."))
	switch {
	case neg && ok:
		ts.Fatalf("%s is there: %v", args[0], v)
	case neg:
		return
	case !ok:
		ts.Fatalf("%s is missing", args[0])
	}
	b, err := json.Marshal(v)
	ts.Check(err)
	if len(args) > 1 && !regexp.MustCompile(`^(?:`+args[1]+`)$`).Match(b) {
		ts.Fatalf("%s is %s, want %s", args[0], b, args[1])
	}
}

func lookUp(v any, path []string) (any, bool) {
	for _, key := range path {
		switch x := v.(type) {
		case map[string]any:
			field, ok := x[key]
			if !ok {
				return nil, false
			}
			v = field
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(x) {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// program NAME FILE puts an example of compute, built for WASI, into FILE.
func program(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: program NAME FILE")
	}
	b, err := built(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
}

// donor NAME sets a variable to an agent that can run tasks: this binary, or,
// because the race detector's shadow memory is above what a task may have, one
// built without it.
func donor(ts *testscript.TestScript, neg bool, args []string) {
	agent := "porchlight"
	if raced {
		agent = ts.MkAbs("agent-without-race")
		if out, err := exec.Command("go", "build", "-o", agent, "porchlight/agent").CombinedOutput(); err != nil {
			ts.Fatalf("build the agent: %v\n%s", err, out)
		}
	}
	ts.Setenv(args[0], agent)
}

var programs sync.Map // name → func() ([]byte, error)

// built builds an example once.
func built(name string) ([]byte, error) {
	build, _ := programs.LoadOrStore(name, sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "program")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, name+".wasm")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "porchlight/compute/examples/"+name)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		return os.ReadFile(file)
	}))
	return build.(func() ([]byte, error))()
}

// socket FILE checks that it is a socket for its owner alone.
func socket(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got, want := info.Mode(), os.ModeSocket|0o600; got != want {
		ts.Fatalf("mode of %s is %v, want %v", args[0], got, want)
	}
}
