package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"porchlight/compute/frames"
	"porchlight/compute/precheck"
)

// Exit statuses of a child; the parent goes by the results instead.
const (
	exitDone   = 0
	exitFailed = 1
)

// stderrCut ends a standard error that was longer than its limit.
const stderrCut = "\n[standard error cut here]\n"

// ChildMain is the whole life of a task process. The program's main calls it
// when its first argument is [ChildArgument], and exits with its result.
// It trusts its descriptors 3 to 5 to be those of [Sandbox.Run].
func ChildMain() int {
	orders := os.NewFile(orderFD, "order")
	results := os.NewFile(resultFD, "results")
	o, module, err := readOrder(orders)
	if err != nil {
		fmt.Fprintln(os.Stderr, "task process: started by hand?", err)
		return exitFailed
	}
	var input io.ReaderAt = emptyInput{}
	if o.HasInput {
		input = rawFile(inputFD)
	}
	out := frames.NewWriter(results)
	choice := chooseEngine(o.Engine)
	debug.SetMemoryLimit(o.Limits.Memory * 3 / 4)
	report := confined{Engine: choice.name, Mechanisms: confine(o, choice.compiles)}
	if err := out.Notice(report); err != nil {
		return exitFailed
	}
	var end ending
	if o.Probe {
		end.Attempts = attemptAll()
	} else {
		end = execute(o, module, input, out, choice)
	}
	if err := out.End(end); err != nil {
		return exitFailed
	}
	// The parent reads this process's figures before it closes the pipe.
	_, _ = io.Copy(io.Discard, orders)
	return exitDone
}

// execute runs the guest and sends what it leaves.
func execute(o order, module []byte, input io.ReaderAt, out *frames.Writer, choice engineChoice) ending {
	if !o.Unchecked {
		if _, err := precheck.Check(module, o.Modules); err != nil {
			return ending{Stop: StopRefused, Detail: err.Error()}
		}
	}
	g := newGuest(o, input, out)
	ctx := context.Background()
	var e engine = newWazero(choice, g)
	if err := e.Compile(ctx, module); err != nil {
		return ending{Stop: StopRefused, Detail: cut(err.Error())}
	}
	debug.FreeOSMemory()
	code, err := e.Run(ctx)
	if err := g.sendFiles(); err != nil {
		return ending{Stop: StopCrashed, Detail: cut(err.Error())}
	}
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		return ending{Stop: StopRefused, Detail: cut(err.Error())}
	case err != nil:
		return ending{Stop: StopTrap, Detail: cut(err.Error())}
	}
	return ending{ExitCode: int(code)}
}

func cut(s string) string { return s[:min(len(s), maxDetail)] }

// emptyInput is standard input where none was given.
type emptyInput struct{}

// ReadAt implements io.ReaderAt.
func (emptyInput) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
