package stun

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Rate limit of unauthenticated answers, per IPv4 /24 and IPv6 /56.
const (
	DefaultRate  = 20 // answers a second
	DefaultBurst = 60 // answers at once

	limiterBuckets = 1024
	v4Prefix       = 24
	v6Prefix       = 56
)

// limiter is a token bucket per prefix in a table of fixed size. Prefixes
// share a bucket when their hashes meet, so that a flood from everywhere
// costs no memory; the seed is secret, so that nobody can choose to share.
type limiter struct {
	rate, burst float64
	seed        maphash.Seed
	start       time.Time

	mu      sync.Mutex
	buckets [limiterBuckets]bucket
}

type bucket struct {
	used float64 // tokens taken and not yet refilled
	at   time.Duration
}

func newLimiter(rate float64, burst int) *limiter {
	if rate <= 0 {
		rate = DefaultRate
	}
	if burst <= 0 {
		burst = DefaultBurst
	}
	return &limiter{rate: rate, burst: float64(burst), seed: maphash.MakeSeed(), start: time.Now()}
}

// allow takes one token for the network of addr, if there is one.
func (l *limiter) allow(addr netip.Addr) bool {
	bits := v6Prefix
	if addr.Is4() {
		bits = v4Prefix
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return false
	}
	slot := maphash.Comparable(l.seed, prefix) % limiterBuckets
	now := time.Since(l.start)

	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.buckets[slot]
	b.used = max(0, b.used-l.rate*(now-b.at).Seconds())
	b.at = now
	if b.used+1 > l.burst {
		return false
	}
	b.used++
	return true
}
