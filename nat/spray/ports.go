package spray

import "math/rand/v2"

// Ports that NATs give to new mappings: those above the well-known ones.
const (
	lowestPort = 1024
	portCount  = 65536 - lowestPort
)

// wrap brings a port number that was counted past an end back into the range.
func wrap(port int) uint16 {
	n := (port - lowestPort) % portCount
	if n < 0 {
		n += portCount
	}
	return uint16(lowestPort + n)
}

// ports is a sequence of ports to try, each at most once as long as there are
// untried ones.
type ports struct {
	next  func() int // offset-free port number, before wrap
	tried [65536 / 64]uint64
}

// newPorts makes the sequence for a plan that sprays.
func newPorts(p Plan, random *rand.Rand) *ports {
	anywhere := shuffled(random, lowestPort, portCount)
	s := &ports{next: anywhere}
	switch {
	case p.Method == Window:
		s.next = concat(sweeps(int(p.Last), p.Delta, p.Sockets), anywhere)
	case p.Block > 0:
		near := shuffled(random, int(p.Last)-p.Block, 2*p.Block+1)
		s.next = alternate(near, 2*p.Block+1, anywhere)
	}
	return s
}

// port returns the next port to try; 0 when all have been tried.
func (s *ports) port() uint16 {
	for range 4 * portCount {
		p := wrap(s.next())
		if bit := uint64(1) << (p % 64); s.tried[p/64]&bit == 0 {
			s.tried[p/64] |= bit
			return p
		}
	}
	return 0
}

// shuffled visits count numbers from first on in a random order, over and
// over. The order is that of a full-period walk by a random step: which ports
// come early is all that must be unpredictable for the NAT, nothing is secret.
func shuffled(random *rand.Rand, first, count int) func() int {
	at, step := random.IntN(count), 1
	if count > 2 {
		step = 1 + random.IntN(count-1)
		for gcd(step, count) != 1 {
			step = 1 + random.IntN(count-1)
		}
	}
	return func() int {
		at = (at + step) % count
		return first + at
	}
}

// alternate takes turns between two sequences until the first is at its end.
func alternate(first func() int, length int, second func() int) func() int {
	turn := 0
	return func() int {
		turn++
		if turn%2 == 1 && turn/2 < length {
			return first()
		}
		return second()
	}
}

// concat is the first sequence, until it returns noPort, then the second.
func concat(first, second func() int) func() int {
	ended := false
	return func() int {
		if !ended {
			if n := first(); n != noPort {
				return n
			}
			ended = true
		}
		return second()
	}
}

// noPort ends a finite sequence: below all ports that wrap to anything sensible.
const noPort = -1 << 31

// Sweeps over the ports after the last one known.
const (
	shortSweep = 16 // strides: some hundred ports, other flows of a home
	longSweep  = 64 // strides: some thousand, a carrier's NAT
	sweepCount = 12 // of which the last third is long
)

// sweeps tries ports half a row apart, so that a row of open ports is met by
// two probes of each sweep wherever it begins. Sweeps differ by a few ports,
// as other flows of the home leave gaps in the row.
func sweeps(last, delta, row int) func() int {
	stride := max(row/2, 1)
	sweep, i := 0, 0
	return func() int {
		length := shortSweep
		if sweep >= sweepCount*2/3 {
			length = longSweep
		}
		if i == length {
			sweep, i = sweep+1, 0
		}
		if sweep == sweepCount {
			return noPort
		}
		i++
		shift := (sweep * 5) % stride
		return last + delta*(stride*i-shift)
	}
}

// predicted is the port that socket i aims at when both sides predict: the
// port of the other's socket i, moved on by what other flows may have taken.
// The asker moves by i mod 8, the other side by i/8 mod 8. So the 64 sockets
// cover every sum of the two moves from 0 to 14, and whatever ports both
// homes have lost together, up to that, some pair aims at each other.
func predicted(p Plan, i int) uint16 {
	move := i % 8
	if !p.Asking {
		move = i / 8 % 8
	}
	return wrap(int(p.Last) + p.Delta*(i+1+move))
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, -a)
}
