package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"porchlight/nat/natlab"
)

// pairsAtOnce keeps two cores busy without making them the subject.
const pairsAtOnce = 2

// options are what the matrix is asked for.
type options struct {
	kinds  []natlab.Kind
	repeat int  // rounds, all in one laboratory
	json   bool // a line for each pair, no tables
}

// matrix lets every kind meet every other, and itself, in every round, and prints
// each outcome to out as it comes, and to progress what is not about one. That pairs
// fail is an outcome, not an error.
func matrix(ctx context.Context, out, progress io.Writer, o options) (err error) {
	began := time.Now()
	w, err := newWorld(ctx, o.kinds)
	if err != nil {
		return err
	}
	defer func() {
		if closed := w.close(); err == nil {
			err = closed
		}
	}()
	fmt.Fprintf(progress, "%d homes of %d verified kinds and coturn in %.0f s\n",
		2*len(o.kinds), len(o.kinds), time.Since(began).Seconds())
	var all []outcome
	for round := range o.repeat {
		pairs := pairsOf(round+1, o.kinds)
		eachPair(ctx, pairs, w.meet, func(p outcome) { o.tell(out, p) })
		if err := ctx.Err(); err != nil {
			return err
		}
		all = append(all, pairs...)
		if !o.json {
			table(out, o.kinds, pairs)
			total(out, pairs)
		}
	}
	if !o.json && o.repeat > 1 {
		fmt.Fprintf(out, "\nall %d rounds\n", o.repeat)
		total(out, all)
	}
	return nil
}

// tell prints an outcome.
func (o options) tell(out io.Writer, p outcome) {
	if !o.json {
		fmt.Fprintln(out, p.line())
		return
	}
	_ = json.NewEncoder(out).Encode(p)
}

// pairsOf lists each kind with itself and all that follow.
func pairsOf(round int, kinds []natlab.Kind) (pairs []outcome) {
	for i, a := range kinds {
		for _, b := range kinds[i:] {
			pairs = append(pairs, outcome{Round: round, A: a, B: b})
		}
	}
	return pairs
}

// eachPair calls do for all pairs, pairsAtOnce of them at the same time, and never
// two that have a home in common; and tell after each, one at a time. When ctx ends
// it starts no more, and does not tell of those that this has broken off.
func eachPair(ctx context.Context, pairs []outcome, do func(context.Context, *outcome), tell func(outcome)) {
	waiting := make([]*outcome, len(pairs))
	for i := range pairs {
		waiting[i] = &pairs[i]
	}
	calling, called := map[natlab.Kind]bool{}, map[natlab.Kind]bool{}
	ended := make(chan *outcome)
	for running := 0; len(waiting)+running > 0; {
		if ctx.Err() != nil {
			waiting = nil
		}
		next := slices.IndexFunc(waiting, func(o *outcome) bool { return !calling[o.A] && !called[o.B] })
		if next >= 0 && running < pairsAtOnce {
			o := waiting[next]
			waiting = slices.Delete(waiting, next, next+1)
			calling[o.A], called[o.B] = true, true
			running++
			go func() {
				do(ctx, o)
				ended <- o
			}()
			continue
		}
		if running == 0 {
			return
		}
		o := <-ended
		calling[o.A], called[o.B] = false, false
		running--
		if ctx.Err() == nil {
			tell(*o)
		}
	}
}
