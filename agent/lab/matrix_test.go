package main

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

// met is the outcome of a pair that met directly.
func met(a, b natlab.Kind, firstMS, directMS float64) outcome {
	return outcome{a: a, b: b, ping: api.Ping{Path: direct, FirstByteMS: firstMS, DirectMS: &directMS}}
}

func viaRelay(a, b natlab.Kind, firstMS float64, reason api.Reason) outcome {
	return outcome{a: a, b: b, ping: api.Ping{Path: relayed, FirstByteMS: firstMS, Reason: reason}}
}

func never(a, b natlab.Kind, why string) outcome {
	return outcome{a: a, b: b, err: errors.New(why)}
}

func TestOutcomeInAFewWords(t *testing.T) {
	for _, tc := range []struct {
		name               string
		outcome            outcome
		result, cell, line string
	}{
		{"direct", met(natlab.Public, natlab.CGNAT, 210, 345), direct, "direct 0.21/0.34",
			"public                 cgnat                  direct 0.21/0.34"},
		{"relayed", viaRelay(natlab.Symmetric, natlab.Symmetric, 1500, api.BothRandom), relayed, "relay 1.50 both_random",
			"symmetric              symmetric              relay 1.50 both_random"},
		{"failed", never(natlab.UDPBlocked, natlab.UDPBlocked, "no way"), failed, "FAIL",
			"udp-blocked            udp-blocked            FAIL  no way"},
		{"failed after a first byte", outcome{a: natlab.Public, b: natlab.Public, ping: api.Ping{Path: relayed}, err: errors.New("broke")}, failed, "FAIL",
			"public                 public                 FAIL  broke"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.outcome.result(); got != tc.result {
				t.Errorf("result %q, want %q", got, tc.result)
			}
			if got := tc.outcome.cell(); got != tc.cell {
				t.Errorf("cell %q, want %q", got, tc.cell)
			}
			if got := tc.outcome.line(); got != tc.line {
				t.Errorf("line %q, want %q", got, tc.line)
			}
		})
	}
}

func TestPairsAreEachKindWithItselfAndAllThatFollow(t *testing.T) {
	var got []string
	for _, p := range pairsOf([]natlab.Kind{"a", "b", "c"}) {
		got = append(got, string(p.a+p.b))
	}
	if text := strings.Join(got, " "); text != "aa ab ac bb bc cc" {
		t.Error(text)
	}
}

func TestTableShowsEveryPairOnceAndCounts(t *testing.T) {
	var out bytes.Buffer
	table(&out, []natlab.Kind{"x", "y"}, []outcome{
		met("x", "x", 100, 250), viaRelay("x", "y", 300, api.NoDirect), never("y", "y", "no way"),
	})
	want := `
seconds to first byte / to direct; one kind calls (row) another (column)
   x                 y
x  direct 0.10/0.25  relay 0.30 no_direct
y                    FAIL

3 pairs: 1 direct, 1 relayed, 1 failed
relayed because no_direct: 1
seconds to first byte  median 0.10, 90 % within 0.30 (2 pairs)
seconds to direct      median 0.25, 90 % within 0.25 (1 pairs)
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSideBySideShowsBothAndCounts(t *testing.T) {
	var out bytes.Buffer
	sideBySide(&out, []outcome{met("x", "x", 100, 250), viaRelay("x", "y", 300, api.NoDirect), never("y", "y", "no way")},
		map[[2]natlab.Kind]peerOutcome{
			{"x", "x"}: {A: "x", B: "x", Result: "direct", FirstS: 1.2},
			{"x", "y"}: {A: "x", B: "y", Result: "fail"},
		})
	want := `
pair     Porchlight  first byte (s)  pion/ice + coturn  first byte (s)
x     x  direct      0.10            direct             1.20
x     y  relay       0.30            fail               0.00

pion/ice + coturn, 2 pairs: 1 direct, 0 relayed, 1 failed
seconds to first byte  median 1.20, 90 % within 1.20
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSummaryOfNothingIsEmpty(t *testing.T) {
	var out bytes.Buffer
	summary(&out, []outcome{never("x", "y", "no way")})
	if out.Len() > 0 {
		t.Error(out.String())
	}
}

func TestFailuresNameEveryPair(t *testing.T) {
	pairs := []outcome{never("x", "x", "no way"), met("x", "y", 1, 1), never("y", "y", "no road")}
	if err := failures(pairs); err == nil || err.Error() != "x × x: no way\ny × y: no road" {
		t.Error(err)
	}
	if err := failures(pairs[1:2]); err != nil {
		t.Error(err)
	}
}

// TestJoinable counts what physics allows between the published kinds.
func TestJoinable(t *testing.T) {
	direct := 0
	pairs := pairsOf(natlab.PublishedKinds())
	for _, p := range pairs {
		if joinable(p.a, p.b) != joinable(p.b, p.a) {
			t.Errorf("%s × %s: not the same both ways", p.a, p.b)
		}
		if joinable(p.a, p.b) {
			direct++
		}
	}
	if len(pairs) != 105 || direct != 93 {
		t.Errorf("%d of %d pairs can be joined, want 93 of 105", direct, len(pairs))
	}
	detour := viaRelay(natlab.PortRestricted, natlab.CGNAT, 300, api.NoDirect)
	if err := detours([]outcome{detour, viaRelay(natlab.Symmetric, natlab.Symmetric, 300, api.BothRandom)}); err == nil ||
		err.Error() != "port-restricted × cgnat: relayed (no_direct), and could be direct" {
		t.Error(err)
	}
}

func TestNoHomeIsInTwoPairsAtOnce(t *testing.T) {
	pairs := pairsOf([]natlab.Kind{"a", "b", "c", "d"})
	var mu sync.Mutex
	calling, called, most := map[natlab.Kind]bool{}, map[natlab.Kind]bool{}, 0
	eachPair(pairs, func(p *outcome) {
		mu.Lock()
		if calling[p.a] || called[p.b] {
			t.Errorf("%s × %s: a home is busy", p.a, p.b)
		}
		calling[p.a], called[p.b] = true, true
		most = max(most, len(calling))
		mu.Unlock()
		runtime.Gosched()
		mu.Lock()
		delete(calling, p.a)
		delete(called, p.b)
		p.ping.Path = direct
		mu.Unlock()
	})
	if most > pairsAtOnce {
		t.Errorf("%d pairs at once", most)
	}
	for _, p := range pairs {
		if p.ping.Path != direct {
			t.Errorf("%s × %s was left out", p.a, p.b)
		}
	}
}

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3, 10, 9, 8, 7, 6}
	for _, tc := range []struct {
		values []float64
		p      int
		want   float64
	}{
		{values, 50, 5}, {values, 90, 9}, {values, 91, 10}, {values, 100, 10}, {values, 1, 1}, {values, 0, 1},
		{values[:1], 50, 5}, {[]float64{1, 2}, 50, 1}, {[]float64{3, 1, 2}, 50, 2},
	} {
		if got := percentile(tc.values, tc.p); got != tc.want {
			t.Errorf("percentile %d of %v is %v, want %v", tc.p, tc.values, got, tc.want)
		}
	}
	if values[0] != 5 {
		t.Error("the values were sorted in place")
	}
}
