package spray

import (
	"math/rand/v2"
	"testing"
)

func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

func TestEveryPortIsTriedOnceBeforeAnyIsTriedAgain(t *testing.T) {
	for name, p := range map[string]Plan{
		"birthday": {Method: Birthday},
		"block":    {Method: Birthday, Last: 65000, Block: 1024},
		"window":   {Method: Window, Last: 65000, Delta: 1, Sockets: 64},
		"falling":  {Method: Window, Last: 2000, Delta: -maxDelta, Sockets: 16},
	} {
		s := newPorts(p, newRandom(7))
		seen := make(map[uint16]bool)
		for range portCount {
			port := s.port()
			if port < lowestPort || seen[port] {
				t.Fatalf("%s: port %d after %d", name, port, len(seen))
			}
			seen[port] = true
		}
		if port := s.port(); port != 0 {
			t.Errorf("%s: port %d once more", name, port)
		}
	}
}

func TestRandomPortsAreSpreadEvenly(t *testing.T) {
	const runs, quarters = 400, 4
	var count [quarters]int
	for seed := range uint64(runs) {
		s := newPorts(Plan{Method: Birthday}, newRandom(seed))
		for range 100 {
			count[(int(s.port())-lowestPort)*quarters/portCount]++
		}
	}
	for i, n := range count {
		if want := runs * 100 / quarters; n < want*9/10 || n > want*11/10 {
			t.Errorf("quarter %d gets %d, not about %d", i, n, want)
		}
	}
}

func TestABlockGetsEverySecondProbe(t *testing.T) {
	s := newPorts(Plan{Method: Birthday, Last: 30000, Block: 512}, newRandom(1))
	near := 0
	for range 1000 {
		if p := s.port(); p >= 30000-512 && p <= 30000+512 {
			near++
		}
	}
	if near < 500 {
		t.Errorf("%d of 1000", near)
	}
}

func TestARowIsMetWithinASweepWhereverItBegins(t *testing.T) {
	for _, delta := range []int{1, 2, -1} {
		for skipped := range 450 {
			s := newPorts(Plan{Method: Window, Last: 40000, Delta: delta, Sockets: 64}, newRandom(1))
			open := make(map[uint16]bool)
			for i := range 64 {
				open[wrap(40000+delta*(1+skipped+i))] = true
			}
			tries := 1
			for !open[s.port()] {
				tries++
			}
			if tries > shortSweep {
				t.Errorf("steps of %d, %d skipped: %d probes", delta, skipped, tries)
			}
		}
	}
}

func TestPortsWrapAtBothEnds(t *testing.T) {
	for in, want := range map[int]uint16{1024: 1024, 65535: 65535, 65536: 1024, 65600: 1088, 1023: 65535, 0: 64512, -1024: 63488} {
		if got := wrap(in); got != want {
			t.Errorf("wrap(%d) = %d, not %d", in, got, want)
		}
	}
}
