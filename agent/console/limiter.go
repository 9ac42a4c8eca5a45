package console

import (
	"net/netip"
	"sync"
	"time"
)

// The log-in limits. One source gets 5 tries at once and about 60 an hour
// after that; all unknown sources together 20 at once and 1,200 an hour. A
// source that has logged in before does not share the common allowance, so an
// attack from elsewhere cannot lock the owner out.
const (
	freeTries   = 5
	firstPause  = 5 * time.Second
	longestStop = time.Minute
	forgetAfter = time.Hour
	commonBurst = 20
	commonEvery = 3 * time.Second
	maxSources  = 1024 // beyond it the one silent longest is forgotten
	maxKnown    = 64   // beyond it the one silent longest is forgotten
)

// limiter counts log-in tries by source: an IPv4 address or an IPv6 /64.
type limiter struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*tries
	known   map[netip.Prefix]time.Time // last success
	common  float64                    // tries left for all unknown sources
	filled  time.Time                  // when common was brought up to date
}

type tries struct {
	count int
	last  time.Time
	next  time.Time // not before
}

func newLimiter() *limiter {
	return &limiter{
		sources: make(map[netip.Prefix]*tries),
		known:   make(map[netip.Prefix]time.Time),
		common:  commonBurst,
		filled:  time.Now(),
	}
}

// sourceKey is the unit the limiter counts by.
func sourceKey(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// take counts one try and returns 0, or returns how long to wait and counts
// nothing. It is called before the hash, so parallel guesses count too.
func (l *limiter) take(src netip.Prefix) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	t := l.sources[src]
	if t != nil && now.Sub(t.last) > forgetAfter {
		delete(l.sources, src)
		t = nil
	}
	if t != nil && now.Before(t.next) {
		return t.next.Sub(now)
	}
	if _, known := l.known[src]; !known {
		if wait := l.takeCommon(now); wait > 0 {
			return wait
		}
	}
	if t == nil {
		makeRoom(l.sources, maxSources, func(t *tries) time.Time { return t.last })
		t = &tries{}
		l.sources[src] = t
	}
	t.count++
	t.last, t.next = now, now.Add(pauseAfter(t.count))
	return 0
}

// pauseAfter is the wait after the n-th try in a row: none at first, then
// doubling up to longestStop.
func pauseAfter(n int) time.Duration {
	if n < freeTries {
		return 0
	}
	pause := firstPause
	for i := freeTries; i < n && pause < longestStop; i++ {
		pause *= 2
	}
	return min(pause, longestStop)
}

func (l *limiter) takeCommon(now time.Time) time.Duration {
	l.common += float64(now.Sub(l.filled)) / float64(commonEvery)
	l.common = min(l.common, commonBurst)
	l.filled = now
	if l.common < 1 {
		return max(time.Duration((1-l.common)*float64(commonEvery)), time.Millisecond)
	}
	l.common--
	return 0
}

// forgive clears a source that knew the password and remembers it.
func (l *limiter) forgive(src netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sources, src)
	if _, known := l.known[src]; !known {
		makeRoom(l.known, maxKnown, func(t time.Time) time.Time { return t })
		l.common = min(l.common+1, commonBurst)
	}
	l.known[src] = time.Now()
}

// makeRoom removes the entry with the oldest time if the map is full.
func makeRoom[K comparable, V any](m map[K]V, limit int, age func(V) time.Time) {
	if len(m) < limit {
		return
	}
	var oldest K
	var when time.Time
	first := true
	for k, v := range m {
		if t := age(v); first || t.Before(when) {
			oldest, when, first = k, t, false
		}
	}
	delete(m, oldest)
}
