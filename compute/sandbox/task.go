package sandbox

import (
	"io"
	"log/slog"
	"os"
	"time"

	"porchlight/compute/frames"
	"porchlight/compute/precheck"
)

// Limits bound one task. A zero field means the default of [DefaultLimits].
type Limits struct {
	Memory      int64         // bytes resident in the child, engine and guest together
	GuestMemory int64         // bytes of the guest's linear memory
	Wall        time.Duration // from the start of the child to its last byte
	CPU         time.Duration // processor time of the child
	Stdout      int64         // bytes of standard output
	Stderr      int64         // bytes of standard error; what exceeds is dropped
	FileBytes   int64         // bytes below /out
	Files       int           // files and folders below /out
}

// DefaultLimits are for a device with 128 MiB to spare. The engine's own form
// of a module counts: the child needs 9 MiB for a module of a few kilobytes,
// and for the 2.5 MB that the Go tool chain makes of one line of output
// 53 MiB with the compiler, 67 MiB with the interpreter (64-bit). A device
// with less must set less, and then runs small modules only.
func DefaultLimits() Limits {
	return Limits{
		Memory:      128 << 20,
		GuestMemory: 64 << 20,
		Wall:        10 * time.Minute,
		CPU:         5 * time.Minute,
		Stdout:      64 << 20,
		Stderr:      64 << 10,
		FileBytes:   16 << 20,
		Files:       256,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	l.Memory = orDefault(l.Memory, d.Memory)
	l.GuestMemory = orDefault(l.GuestMemory, d.GuestMemory)
	l.Wall = orDefault(l.Wall, d.Wall)
	l.CPU = orDefault(l.CPU, d.CPU)
	l.Stdout = orDefault(l.Stdout, d.Stdout)
	l.Stderr = orDefault(l.Stderr, d.Stderr)
	l.FileBytes = orDefault(l.FileBytes, d.FileBytes)
	l.Files = orDefault(l.Files, d.Files)
	return l
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Task is one run of one module.
type Task struct {
	Module []byte   // WebAssembly binary, a WASI preview 1 command
	Args   []string // what the program sees as os.Args, its name first
	Seed   string   // random numbers follow from it; the task's id
	// Input is standard input and the file /in/InputName. It is read from
	// offset 0 by the child and must stay unchanged; nil means empty.
	Input     *os.File
	InputName string // one path element; "input" if empty
	Limits    Limits
	// Stdout takes standard output as it comes; nil drops it. Run waits for
	// it, so a writer that blocks stops the task at its limit only.
	Stdout io.Writer
	// File takes each file the guest left below /out, after the guest has
	// ended by itself; nil drops them. The name has passed frames.CheckName.
	File func(name string, size int64, r io.Reader) error
}

// Stop says why a task was ended from outside.
type Stop string

// Reasons to stop a task. They are part of the protocol: machines read them.
const (
	StopNone     Stop = ""         // it ended by itself, see ExitCode
	StopWall     Stop = "wall"     // too long by the clock
	StopCPU      Stop = "cpu"      // too much processor time
	StopMemory   Stop = "memory"   // too much memory
	StopOutput   Stop = "output"   // too much output
	StopRefused  Stop = "refused"  // the module was refused, see Detail
	StopTrap     Stop = "trap"     // the guest trapped: out of bounds, recursion
	StopCrashed  Stop = "crashed"  // the child ended without a result
	StopCanceled Stop = "canceled" // the context of Run was done
	StopProtocol Stop = "protocol" // the child sent nonsense: taken over, or a bug
)

// Mechanism is one way of confinement and whether it holds.
type Mechanism struct {
	Name    string `json:"name"`
	InForce bool   `json:"in_force"`
	Detail  string `json:"detail,omitempty"` // figures, or why not
}

// Result is what became of a task.
type Result struct {
	ExitCode   int           // of the guest, if Stop is StopNone
	Stop       Stop          // why it was stopped
	Detail     string        // words for people: the trap, the refusal
	Stderr     []byte        // standard error, cut at Limits.Stderr
	CPU        time.Duration // processor time of the child
	Wall       time.Duration // from start to end
	PeakRSS    int64         // bytes, as far as seen; 0 if not known
	Engine     string        // "compiler" or "interpreter"
	Mechanisms []Mechanism   // confinement of this run
}

// Priority is how much processor a task may take from others.
type Priority string

const (
	// PriorityIdle gives the task what nobody else wants (SCHED_IDLE, nice
	// 19, idle I/O). It is the default.
	PriorityIdle Priority = ""
	// PriorityNormal leaves the priority alone: for machines that do nothing
	// but compute, and for tests on busy ones.
	PriorityNormal Priority = "normal"
)

// Engine chooses how modules are executed.
type Engine string

const (
	// EngineAuto compiles where the engine can (amd64 and arm64, executable
	// memory allowed) and interprets elsewhere. It is the default.
	EngineAuto Engine = ""
	// EngineInterpreter never makes memory executable.
	EngineInterpreter Engine = "interpreter"
)

// ChildArgument is the hidden first argument with which the agent's main must
// call [ChildMain] before it does anything else.
const ChildArgument = "task-sandbox"

// Config says how children are started. The zero value is right for a binary
// whose main calls [ChildMain] when its first argument is [ChildArgument].
type Config struct {
	// Command is the program and arguments that enter the child; default
	// /proc/self/exe and ChildArgument. A test under an emulator puts the
	// emulator in front.
	Command  []string
	Priority Priority
	Engine   Engine
	Modules  precheck.Limits // default precheck.Default()
	Logger   *slog.Logger    // default: none

	// skipPrecheck lets tests show that the second wall holds by itself.
	skipPrecheck bool
}

// frameLimits is what the parent takes from a child.
func (l Limits) frameLimits() frames.Limits {
	return frames.Limits{
		Stdout: l.Stdout, Stderr: l.Stderr + int64(len(stderrCut)),
		FileBytes: l.FileBytes, Files: l.Files, Notices: 2,
	}
}
