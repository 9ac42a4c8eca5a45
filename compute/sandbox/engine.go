package sandbox

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
	"golang.org/x/sys/unix"
)

// engine executes one module once.
type engine interface {
	// Compile decodes and prepares the module.
	Compile(ctx context.Context, module []byte) error
	// Run executes the command and returns its exit status; an error is a
	// trap, or a *refusedError.
	Run(ctx context.Context) (uint32, error)
}

// refusedError is a module that compiles but cannot be instantiated.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// engineChoice is how modules are executed on this machine.
type engineChoice struct {
	name     string
	compiles bool
}

// chooseEngine finds out whether compiled code may be executed here; it must
// ask before the process is confined.
func chooseEngine(wish Engine) engineChoice {
	native := runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"
	if wish == EngineInterpreter || !native || !executableMemory() {
		return engineChoice{name: "interpreter"}
	}
	return engineChoice{name: "compiler", compiles: true}
}

// executableMemory says whether memory that was written may be executed.
func executableMemory() bool {
	b, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return false
	}
	defer unix.Munmap(b) //nolint:errcheck // one page of a short-lived process
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC) == nil
}

// wazeroEngine is the engine of today.
type wazeroEngine struct {
	g        *guest
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
}

func newWazero(choice engineChoice, g *guest) *wazeroEngine {
	// The plain default would choose the compiler; with a choice of
	// "compiler" it does so only where the processor is good enough.
	cfg := wazero.NewRuntimeConfigInterpreter()
	if choice.compiles {
		cfg = wazero.NewRuntimeConfig()
	}
	cfg = cfg.WithMemoryLimitPages(g.pages).WithDebugInfoEnabled(false)
	return &wazeroEngine{g: g, runtime: wazero.NewRuntimeWithConfig(context.Background(), cfg)}
}

// Compile implements engine.
func (e *wazeroEngine) Compile(ctx context.Context, module []byte) error {
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, e.runtime); err != nil {
		return fmt.Errorf("prepare WASI: %w", err)
	}
	var err error
	e.compiled, err = e.runtime.CompileModule(ctx, module)
	return err
}

// Run implements engine. Nothing of the host is given but what the guest's
// world contains.
func (e *wazeroEngine) Run(ctx context.Context) (uint32, error) {
	ctx = experimental.WithMemoryAllocator(ctx, experimental.MemoryAllocatorFunc(newLinearMemory))
	files := wazero.NewFSConfig().(sysfs.FSConfig).WithSysFSMount(e.g.in, "/in").(sysfs.FSConfig).
		WithSysFSMount(e.g.out, "/out")
	c := &clock{}
	cfg := wazero.NewModuleConfig().WithName("task").WithArgs(e.g.args...).
		WithStdin(e.g.stdin).WithStdout(e.g.stdout).WithStderr(e.g.stderr).
		WithRandSource(e.g.random).WithFSConfig(files).WithStartFunctions().
		WithWalltime(c.wall, sys.ClockResolution(clockStep)).
		WithNanotime(c.monotonic, sys.ClockResolution(clockStep)).WithNanosleep(c.sleep)
	mod, err := e.runtime.InstantiateModule(ctx, e.compiled, cfg)
	if err != nil {
		return 0, &refusedError{err}
	}
	start := mod.ExportedFunction("_start")
	if start == nil {
		return 0, &refusedError{errors.New("no function exported as _start")}
	}
	_, err = start.Call(ctx)
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
