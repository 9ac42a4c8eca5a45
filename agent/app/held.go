package app

import (
	"errors"
	"slices"

	"go.uber.org/fx"
)

// held is what constructors opened. It is closed last, and also if a later
// constructor fails: hooks of a graph that never stood are not run.
type held struct{ closers []func() error }

func (h *held) keep(close func() error) { h.closers = append(h.closers, close) }

// close closes everything, the last opened first.
func (h *held) close() error {
	var errs []error
	for _, close := range slices.Backward(h.closers) {
		errs = append(errs, close())
	}
	h.closers = nil
	return errors.Join(errs...)
}

// closeHeld comes first in the graph, so that it is the last to stop.
func closeHeld(lc fx.Lifecycle, h *held) { lc.Append(fx.StopHook(h.close)) }
