package beacon

import (
	"net/netip"
	"time"
)

const (
	// heardPerSecond is how many beacons a second are compared with the known
	// devices' keys, heardAtOnce how many in a burst: enough for 600 devices in
	// one network, and a few percent of a router's processor at worst.
	heardPerSecond = 40
	heardAtOnce    = 160
	// sourcePerSecond and sourceAtOnce bound what one source may make us do.
	sourcePerSecond = 4
	sourceAtOnce    = 16
	// maxSources is how many sources have a limit of their own. Those that find
	// the table full share one.
	maxSources = 256
	// sourceIdle is how long a source is remembered: its bucket is full by then.
	sourceIdle = 10 * time.Second
)

// bucket holds a number of tokens that grows with time.
type bucket struct {
	tokens float64
	filled time.Time
}

// take removes one token if there is one.
func (b *bucket) take(now time.Time, perSecond, most float64) bool {
	if b.filled.IsZero() {
		b.tokens = most
	} else if d := now.Sub(b.filled); d > 0 {
		b.tokens = min(most, b.tokens+d.Seconds()*perSecond)
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// limiter decides which datagrams are worth any hashing.
type limiter struct {
	all     bucket
	rest    bucket
	sources map[netip.Addr]*bucket
	swept   time.Time
}

// allow takes one token for a source, and one of those for all, which sources
// that have proven themselves do not need: a flood does not silence them.
func (l *limiter) allow(now time.Time, src netip.Addr, proven bool) bool {
	if !l.source(now, src).take(now, sourcePerSecond, sourceAtOnce) {
		return false
	}
	return proven || l.all.take(now, heardPerSecond, heardAtOnce)
}

func (l *limiter) source(now time.Time, src netip.Addr) *bucket {
	if b := l.sources[src]; b != nil {
		return b
	}
	if now.Sub(l.swept) >= sourceIdle {
		l.swept = now
		for a, b := range l.sources {
			if now.Sub(b.filled) >= sourceIdle {
				delete(l.sources, a)
			}
		}
	}
	if len(l.sources) >= maxSources {
		return &l.rest
	}
	b := &bucket{}
	l.sources[src] = b
	return b
}
