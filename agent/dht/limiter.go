package dht

import (
	"net/netip"
	"time"
)

// bucket lets through a bounded amount in a time.
type bucket struct {
	level float32
	at    time.Duration // since the core was made
}

// take takes n out of a bucket that fills at rate a second up to burst, and
// says whether there was enough.
func (b *bucket) take(now time.Duration, n, rate, burst float32) bool {
	b.fill(now, rate, burst)
	if b.level < n {
		return false
	}
	b.level -= n
	return true
}

func (b *bucket) fill(now time.Duration, rate, burst float32) {
	if b.at == 0 {
		b.level = burst
	} else if now > b.at {
		b.level = min(burst, b.level+rate*float32((now-b.at).Seconds()))
	}
	b.at = max(now, 1)
}

// wait returns how long it takes until n is there.
func (b *bucket) wait(n, rate float32) time.Duration {
	if b.level >= n {
		return 0
	}
	return time.Duration(float64((n-b.level)/rate)*float64(time.Second)) + time.Millisecond
}

// limiterSlots is how many buckets a limiter has for addresses, and again for
// networks.
const limiterSlots = 256

// limiter bounds the answers to addresses that may be forged: by address, by
// network, and in all. Addresses share buckets by a keyed hash, so that no
// flood of forged ones can push out the account of a victim; what it costs is
// that strangers who share a bucket share its rate.
type limiter struct {
	seed     uint64
	all      bucket
	verifies bucket
	ips      [limiterSlots]bucket
	networks [limiterSlots]bucket
}

// answer says whether n bytes may go to ip.
func (l *limiter) answer(now time.Duration, ip netip.Addr, n int) bool {
	one := &l.ips[l.slot(ip)]
	near := &l.networks[l.slot(network(ip))]
	one.fill(now, answersPerIP, answersPerIP*answerBurst)
	near.fill(now, answersPerNetwork, answersPerNetwork*answerBurst)
	l.all.fill(now, answersAll, answersAll*answerBurst)
	size := float32(n)
	if one.level < size || near.level < size || l.all.level < size {
		return false
	}
	one.level -= size
	near.level -= size
	l.all.level -= size
	return true
}

// verify says whether one more signature of a stranger may be checked.
func (l *limiter) verify(now time.Duration) bool {
	return l.verifies.take(now, 1, verifiesAll, verifiesAll*answerBurst)
}

// slot is FNV-1a with a secret start.
func (l *limiter) slot(ip netip.Addr) uint64 {
	h := l.seed
	a := ip.As16()
	for _, c := range a {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return (h ^ h>>32) % limiterSlots
}
