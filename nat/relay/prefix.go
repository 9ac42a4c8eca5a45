package relay

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// prefixOf is the network that shares limits: IPv4 /24, IPv6 /56.
func prefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

const prefixSlots = 256

// prefixBuckets is a token bucket per network in a table of fixed size.
// Networks whose hashes meet share a bucket; the seed is secret, so nobody can
// choose whom to share with.
type prefixBuckets struct {
	seed  maphash.Seed
	mu    sync.Mutex
	slots [prefixSlots]*rate.Limiter
	rate  rate.Limit
	burst int
}

func newPrefixBuckets(perSecond, burst int) *prefixBuckets {
	return &prefixBuckets{seed: maphash.MakeSeed(), rate: rate.Limit(perSecond), burst: burst}
}

func (p *prefixBuckets) allow(a netip.Addr, now time.Time) bool {
	slot := maphash.Comparable(p.seed, prefixOf(a)) % prefixSlots
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[slot] == nil {
		p.slots[slot] = rate.NewLimiter(p.rate, p.burst)
	}
	return p.slots[slot].AllowN(now, 1)
}
