package natlab

import (
	"sync"
)

const (
	// snapLen is how much of a packet is kept: IPv4, UDP and a STUN message with
	// its usual attributes.
	snapLen = 128

	// captureFirst packets from the beginning are kept for good, so that a long
	// transfer does not wash out how the parties found each other.
	captureFirst = 2048

	// captureLast packets before the dump are kept besides; those between are
	// forgotten (their number is told).
	captureLast = 8192
)

// sighting is one packet as the forwarder saw it.
type sighting struct {
	at       int64 // lab clock, nanoseconds
	src, dst *link // dst nil: nobody has the address
	verdict  verdict
	length   int // of the whole packet
	kept     int
	data     [snapLen]byte
}

// capture remembers the heads of the first and of the last packets.
type capture struct {
	mu    sync.Mutex
	first []sighting
	last  []sighting // a ring once it is full
	next  int        // in last
	total int
}

func newCapture() *capture { return &capture{} }

func (c *capture) add(at int64, src, dst *link, v verdict, packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slot()
	s.at, s.src, s.dst, s.verdict, s.length = at, src, dst, v, len(packet)
	s.kept = copy(s.data[:], packet)
	c.total++
}

// slot returns where the next sighting goes.
func (c *capture) slot() *sighting {
	if len(c.first) < captureFirst {
		c.first = append(c.first, sighting{})
		return &c.first[len(c.first)-1]
	}
	if len(c.last) < captureLast {
		c.last = append(c.last, sighting{})
		return &c.last[len(c.last)-1]
	}
	s := &c.last[c.next]
	c.next = (c.next + 1) % captureLast
	return s
}

// snapshot returns what is remembered, oldest first, and how many packets between
// the first and the last ones are forgotten.
func (c *capture) snapshot() (all []sighting, forgotten int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all = make([]sighting, 0, len(c.first)+len(c.last))
	all = append(all, c.first...)
	all = append(all, c.last[c.next:]...)
	all = append(all, c.last[:c.next]...)
	return all, c.total - len(all)
}
