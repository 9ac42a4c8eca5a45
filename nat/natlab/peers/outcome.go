package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"porchlight/nat/natlab"
)

// The results a pair can have.
const (
	direct  = "direct"
	relayed = "relay"
	failed  = "fail"
)

// outcome is what became of one pair.
type outcome struct {
	Round  int         `json:"round"`
	A      natlab.Kind `json:"a"` // calls
	B      natlab.Kind `json:"b"` // is called
	Result string      `json:"result"`
	// FirstS and ConnectedS are seconds from the start until one byte had come
	// back, and to the state Connected; zero and left out if the pair failed.
	FirstS     float64 `json:"first_s,omitempty"`
	ConnectedS float64 `json:"connected_s,omitempty"`
	// Candidates are the types of the selected pair as the caller sees it, its
	// own first.
	Candidates string `json:"candidates,omitempty"`
	Error      string `json:"error,omitempty"`
}

// settle notes how a pair's meeting went.
func (o *outcome) settle(r reached, err error) {
	if err != nil {
		o.Result, o.Error = failed, err.Error()
		return
	}
	o.Result = direct
	if r.relayed() {
		o.Result = relayed
	}
	o.FirstS, o.ConnectedS = seconds(r.first), seconds(r.connected)
	o.Candidates = r.caller.Local + " " + r.caller.Remote
}

// seconds are in full milliseconds.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// line tells an outcome in full.
func (o outcome) line() string {
	return fmt.Sprintf("%-22s %-22s %s  %s%s", o.A, o.B, o.cell(), o.Candidates, o.Error)
}

// cell is an outcome in two words.
func (o outcome) cell() string {
	if o.Result == failed {
		return failed
	}
	return fmt.Sprintf("%s %.2f", o.Result, o.FirstS)
}

// table prints one round as a table.
func table(out io.Writer, kinds []natlab.Kind, pairs []outcome) {
	cells := map[[2]natlab.Kind]string{}
	for _, p := range pairs {
		cells[[2]natlab.Kind{p.A, p.B}] = p.cell()
	}
	fmt.Fprintln(out, "\nseconds to first byte; one kind calls (row) another (column)")
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
}

// total counts results, and prints how soon pairs met: the median, and the time
// that nine of ten keep.
func total(out io.Writer, pairs []outcome) {
	first := map[string][]float64{}
	for _, p := range pairs {
		first[p.Result] = append(first[p.Result], p.FirstS)
	}
	fmt.Fprintf(out, "\n%d pairs: %d direct, %d relayed, %d failed\n",
		len(pairs), len(first[direct]), len(first[relayed]), len(first[failed]))
	for _, result := range []string{direct, relayed} {
		if times := first[result]; len(times) > 0 {
			fmt.Fprintf(out, "seconds to first byte, %-6s median %.2f, 90 %% within %.2f\n",
				result, percentile(times, 50), percentile(times, 90))
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
