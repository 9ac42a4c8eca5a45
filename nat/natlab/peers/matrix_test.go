package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"porchlight/nat/natlab"
)

// labLimit ends the laboratory, whatever happens.
const labLimit = 2 * time.Minute

func TestPairsAreEachKindWithItselfAndAllThatFollow(t *testing.T) {
	var got []string
	for _, p := range pairsOf(3, []natlab.Kind{"a", "b", "c"}) {
		if p.Round != 3 {
			t.Errorf("%s × %s is in round %d", p.A, p.B, p.Round)
		}
		got = append(got, string(p.A+p.B))
	}
	if text := strings.Join(got, " "); text != "aa ab ac bb bc cc" {
		t.Error(text)
	}
	if n := len(pairsOf(1, natlab.PublishedKinds())); n != 105 {
		t.Errorf("%d pairs of published kinds, want 105", n)
	}
}

func TestPairsMeetTwoAtATimeAndShareNoHome(t *testing.T) {
	pairs := pairsOf(1, natlab.PublishedKinds())
	var mu sync.Mutex
	running, most := 0, 0
	callers, called := map[natlab.Kind]bool{}, map[natlab.Kind]bool{}
	done := map[[2]natlab.Kind]int{}
	both := make(chan struct{}, pairsAtOnce) // lets a pair wait for another
	do := func(_ context.Context, o *outcome) {
		mu.Lock()
		if callers[o.A] || called[o.B] {
			t.Errorf("%s × %s: a home is in another pair", o.A, o.B)
		}
		callers[o.A], called[o.B] = true, true
		running++
		most = max(most, running)
		first := len(done) == 0 && running == 1
		mu.Unlock()
		if first {
			<-both
		} else {
			select {
			case both <- struct{}{}:
			default:
			}
		}
		mu.Lock()
		defer mu.Unlock()
		running--
		callers[o.A], called[o.B] = false, false
		done[[2]natlab.Kind{o.A, o.B}]++
	}
	told := 0
	eachPair(t.Context(), pairs, do, func(outcome) { told++ })
	if most != pairsAtOnce || len(done) != len(pairs) || told != len(pairs) {
		t.Errorf("%d at once, %d pairs met, %d told, of %d", most, len(done), told, len(pairs))
	}
}

func TestPairsAfterTheEndAreNeitherMadeNorTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	began, told := make(chan struct{}, 105), 0
	do := func(context.Context, *outcome) {
		began <- struct{}{}
		cancel()
	}
	eachPair(ctx, pairsOf(1, natlab.PublishedKinds()), do, func(outcome) { told++ })
	if n := len(began); n < 1 || n > pairsAtOnce || told > 0 {
		t.Errorf("%d pairs began, %d were told", n, told)
	}
}

// TestLaboratory lets the library meet itself between three kinds of homes, with
// outcomes that follow from RFC 4787: random symmetric mappings can be reached from
// a public address, and not from a home that filters by port.
func TestLaboratory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	ctx, cancel := context.WithTimeout(t.Context(), labLimit)
	defer cancel()
	var out, progress bytes.Buffer
	kinds := []natlab.Kind{natlab.Public, natlab.PortRestricted, natlab.Symmetric}
	if err := matrix(ctx, &out, &progress, options{kinds: kinds, repeat: 1, json: true}); err != nil {
		t.Fatal(err)
	}
	want := map[[2]natlab.Kind]string{
		{natlab.Public, natlab.Public}:                 direct,
		{natlab.Public, natlab.PortRestricted}:         direct,
		{natlab.Public, natlab.Symmetric}:              direct,
		{natlab.PortRestricted, natlab.PortRestricted}: direct,
		{natlab.PortRestricted, natlab.Symmetric}:      relayed,
		{natlab.Symmetric, natlab.Symmetric}:           relayed,
	}
	lines := json.NewDecoder(&out)
	for lines.More() {
		var o outcome
		if err := lines.Decode(&o); err != nil {
			t.Fatal(err)
		}
		t.Log(o.line())
		pair := [2]natlab.Kind{o.A, o.B}
		if o.Result != want[pair] {
			t.Errorf("%s × %s: %s, want %q", o.A, o.B, o.Result, want[pair])
		}
		if o.ConnectedS <= 0 || o.FirstS < o.ConnectedS || o.FirstS > pairLimit.Seconds() {
			t.Errorf("%s × %s: connected after %v s, first byte after %v s", o.A, o.B, o.ConnectedS, o.FirstS)
		}
		delete(want, pair)
	}
	if len(want) > 0 {
		t.Errorf("no word of %v", want)
	}
	left, err := os.ReadDir(temporary)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}
