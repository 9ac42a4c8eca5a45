package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// pairLimit is how long one pair may take to find out its best path.
	pairLimit = 25 * time.Second
	// pairsAtOnce keeps two cores busy without making them the subject.
	pairsAtOnce = 2
	// matrixHelpers is how many public devices there are: more than a home
	// registers at, so that one is left that it has never contacted.
	matrixHelpers = 4
)

// outcome is what became of one pair.
type outcome struct {
	a, b natlab.Kind
	ping api.Ping
	err  error
}

// The results a pair can have.
const (
	direct  = "direct"
	relayed = "relay"
	failed  = "FAIL"
)

// result is direct, relayed or failed.
func (o outcome) result() string {
	if o.err != nil {
		return failed
	}
	return o.ping.Path
}

// line tells an outcome in full.
func (o outcome) line() string {
	line := fmt.Sprintf("%-22s %-22s %s", o.a, o.b, o.cell())
	if o.err != nil {
		line += "  " + o.err.Error()
	}
	return line
}

// cell is an outcome in a few words: its result, seconds, and why it is relayed.
func (o outcome) cell() string {
	switch {
	case o.err != nil:
		return failed
	case o.ping.DirectMS != nil:
		return fmt.Sprintf("direct %.2f/%.2f", o.ping.FirstByteMS/1000, *o.ping.DirectMS/1000)
	}
	return fmt.Sprintf("%s %.2f %s", o.ping.Path, o.ping.FirstByteMS/1000, o.ping.Reason)
}

// options are what the matrix is asked for.
type options struct {
	kinds  []natlab.Kind
	repeat int  // rounds, each in a laboratory of its own
	peers  bool // the same pairs by another program, after each round
}

// matrix lets every kind meet every other, and itself, in every round, and
// prints each outcome as it comes. The error names every pair that failed, and
// every one that could have met directly and did not.
func matrix(ctx context.Context, out io.Writer, dir, program string, o options) error {
	var all []outcome
	for round := range o.repeat {
		if o.repeat > 1 {
			tell(out, "\nround %d of %d", round+1, o.repeat)
		}
		pairs, err := matrixRound(ctx, out, filepath.Join(dir, fmt.Sprintf("round-%d", round+1)), program, o.kinds)
		if err != nil {
			return err
		}
		table(out, o.kinds, pairs)
		all = append(all, pairs...)
		if o.peers {
			theirs, err := peers(ctx, out, dir, o.kinds)
			if err != nil {
				return err
			}
			sideBySide(out, pairs, theirs)
		}
	}
	if o.repeat > 1 {
		tell(out, "\nall %d rounds", o.repeat)
		total(out, all)
	}
	return errors.Join(failures(all), detours(all))
}

// matrixRound builds a laboratory and lets all pairs meet in it.
func matrixRound(ctx context.Context, out io.Writer, dir, program string, kinds []natlab.Kind) (pairs []outcome, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	w, err := newWorld(ctx, natlab.Options{Dir: dir}, program, matrixHelpers)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			err = errors.Join(failures(pairs), detours(pairs))
			if err != nil {
				tell(out, "logs, capture and diagram: %s", dir)
				err = w.lab.Dump(dir, "matrix")
			}
		}
		err = errors.Join(err, w.close())
	}()
	began := time.Now()
	callers, called, err := w.homes(ctx, kinds)
	if err != nil {
		return nil, err
	}
	tell(out, "%d homes of %d verified kinds in %.0f s", 2*len(kinds), len(kinds), time.Since(began).Seconds())
	pairs = pairsOf(kinds)
	var printing sync.Mutex
	eachPair(pairs, func(p *outcome) {
		p.ping, p.err = meet(ctx, callers[p.a], called[p.b])
		printing.Lock()
		defer printing.Unlock()
		tell(out, "%s", p.line())
	})
	return pairs, nil
}

// eachPair calls do for all pairs, pairsAtOnce of them at the same time, and
// never two that have a home in common.
func eachPair(pairs []outcome, do func(*outcome)) {
	waiting := make([]*outcome, len(pairs))
	for i := range pairs {
		waiting[i] = &pairs[i]
	}
	calling, called := map[natlab.Kind]bool{}, map[natlab.Kind]bool{}
	ended := make(chan *outcome)
	for running := 0; len(waiting)+running > 0; {
		next := slices.IndexFunc(waiting, func(p *outcome) bool { return !calling[p.a] && !called[p.b] })
		if next >= 0 && running < pairsAtOnce {
			p := waiting[next]
			waiting = slices.Delete(waiting, next, next+1)
			calling[p.a], called[p.b] = true, true
			running++
			go func() {
				do(p)
				ended <- p
			}()
			continue
		}
		p := <-ended
		calling[p.a], called[p.b] = false, false
		running--
	}
}

// joinable reports whether packets can be made to go directly between two
// kinds, by any method there is.
func joinable(a, b natlab.Kind) bool {
	six := []natlab.Kind{natlab.Public, natlab.StatefulFirewall, natlab.IPv6Firewall, natlab.IPv6Only}
	random := []natlab.Kind{natlab.Symmetric, natlab.CGNATSymmetric, natlab.IPv6Firewall}
	either := func(x, y []natlab.Kind) bool {
		return slices.Contains(x, a) && slices.Contains(y, b) || slices.Contains(x, b) && slices.Contains(y, a)
	}
	hard := append([]natlab.Kind{natlab.SymmetricSequential}, random...)
	switch {
	case either(six, six):
		return true
	case a == natlab.IPv6Only, b == natlab.IPv6Only:
		return false
	}
	return !either(random, hard) && !either([]natlab.Kind{natlab.UDPBlocked}, hard)
}

// detours joins the pairs that are relayed although they can be joined.
func detours(pairs []outcome) error {
	var errs []error
	for _, p := range pairs {
		if p.result() == relayed && joinable(p.a, p.b) {
			errs = append(errs, fmt.Errorf("%s × %s: relayed (%s), and could be direct", p.a, p.b, p.ping.Reason))
		}
	}
	return errors.Join(errs...)
}

// pairsOf lists each kind with itself and all that follow.
func pairsOf(kinds []natlab.Kind) (pairs []outcome) {
	for i, a := range kinds {
		for _, b := range kinds[i:] {
			pairs = append(pairs, outcome{a: a, b: b})
		}
	}
	return pairs
}

// failures joins the errors of all pairs that have no way to each other. There
// is no pair that may fail.
func failures(pairs []outcome) error {
	var errs []error
	for _, p := range pairs {
		if p.err != nil {
			errs = append(errs, fmt.Errorf("%s × %s: %w", p.a, p.b, p.err))
		}
	}
	return errors.Join(errs...)
}

// homes starts two homes of each kind: one calls, the other is called.
func (w *world) homes(ctx context.Context, kinds []natlab.Kind) (callers, called map[natlab.Kind]*agent, err error) {
	callers, called = map[natlab.Kind]*agent{}, map[natlab.Kind]*agent{}
	for _, kind := range kinds {
		if callers[kind], _, err = w.home(ctx, "a-"+string(kind), kind); err != nil {
			return nil, nil, err
		}
		if called[kind], _, err = w.home(ctx, "b-"+string(kind), kind); err != nil {
			return nil, nil, err
		}
	}
	return callers, called, nil
}

// meet lets a call b for the first time.
func meet(ctx context.Context, a, b *agent) (p api.Ping, err error) {
	if err := introduce(ctx, a, b); err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeout(ctx, pairLimit+5*time.Second)
	defer cancel()
	return p, a.run(ctx, &p, "ping", b.name, "--until-direct", "--timeout", pairLimit.String())
}

// table prints the matrix as a table.
func table(out io.Writer, kinds []natlab.Kind, pairs []outcome) {
	cells := map[[2]natlab.Kind]string{}
	for _, p := range pairs {
		cells[[2]natlab.Kind{p.a, p.b}] = p.cell()
	}
	fmt.Fprintln(out, "\nseconds to first byte / to direct; one kind calls (row) another (column)")
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range kinds {
		fmt.Fprintf(t, "\t%s", k)
	}
	fmt.Fprintln(t)
	for _, a := range kinds {
		fmt.Fprintf(t, "%s", a)
		for _, b := range kinds {
			fmt.Fprintf(t, "\t%s", cells[[2]natlab.Kind{a, b}])
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	total(out, pairs)
}

// total counts results and reasons, and prints how soon pairs met.
func total(out io.Writer, pairs []outcome) {
	count := map[string]int{}
	reasons := map[string]int{}
	for _, p := range pairs {
		count[p.result()]++
		if p.result() == relayed {
			reasons[string(p.ping.Reason)]++
		}
	}
	fmt.Fprintf(out, "\n%d pairs: %d direct, %d relayed, %d failed\n", len(pairs), count[direct], count[relayed], count[failed])
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(out, "relayed because %s: %d\n", reason, reasons[reason])
	}
	summary(out, pairs)
}

// summary prints how soon pairs met: the median, and the time that nine of ten
// keep.
func summary(out io.Writer, pairs []outcome) {
	var first, whole []float64
	for _, p := range pairs {
		if p.err != nil {
			continue
		}
		first = append(first, p.ping.FirstByteMS/1000)
		if p.ping.DirectMS != nil {
			whole = append(whole, *p.ping.DirectMS/1000)
		}
	}
	for _, row := range []struct {
		what    string
		seconds []float64
	}{{"to first byte", first}, {"to direct", whole}} {
		if len(row.seconds) > 0 {
			fmt.Fprintf(out, "seconds %-14s median %.2f, 90 %% within %.2f (%d pairs)\n", row.what,
				percentile(row.seconds, 50), percentile(row.seconds, 90), len(row.seconds))
		}
	}
}

// percentile returns the smallest value that p percent of the values do not
// exceed (nearest rank). There is at least one value.
func percentile(values []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}
