package stun

import (
	"sync"
	"time"
)

// Keepalive intervals.
const (
	// DefaultKeepalive suits any NAT whose mappings live for 30 s, the shortest
	// usual lifetime.
	DefaultKeepalive = 20 * time.Second
	// MaxKeepalive is the longest interval. Beyond it little is saved and a
	// dead path is noticed late.
	MaxKeepalive = 55 * time.Second

	minKeepalive  = 5 * time.Second
	keepaliveStep = 5 * time.Second
	// keepaliveProof is how many keepalives in a row have to be answered
	// before the interval grows. It doubles with each loss, up to
	// maxKeepaliveProof.
	keepaliveProof    = 3
	maxKeepaliveProof = 96
)

// Keepalive decides how long a path may be silent. The zero value says
// [DefaultKeepalive] until it knows better. It grows only when the mapping's
// lifetime was measured and keepalives are answered, step by step, and falls
// back at the first one lost. All methods may be called concurrently.
type Keepalive struct {
	mu       sync.Mutex
	lifetime time.Duration // 0: unknown
	above    time.Duration // over the floor
	answered int           // in a row
	losses   int
}

// Interval is how long to wait for the next keepalive, from the last packet
// sent.
func (k *Keepalive) Interval() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return min(k.floor()+k.above, k.ceiling())
}

// Learned notes a lifetime as [Lifetime] measured it; 0 forgets it. Measuring
// anew, as after a change of networks, also forgets old losses.
func (k *Keepalive) Learned(lifetime time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lifetime, k.above, k.answered, k.losses = max(lifetime, 0), 0, 0, 0
}

// Answered notes that a keepalive after a silence of the whole interval was
// answered.
func (k *Keepalive) Answered() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.answered++; k.answered < min(keepaliveProof<<min(k.losses, 8), maxKeepaliveProof) {
		return
	}
	k.answered = 0
	if k.floor()+k.above < k.ceiling() {
		k.above += keepaliveStep
	}
}

// Lost notes that a keepalive was not answered, for whatever reason.
func (k *Keepalive) Lost() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.above, k.answered = 0, 0
	k.losses++
}

// floor is the interval without proof: the default, unless the mapping would
// not survive it.
func (k *Keepalive) floor() time.Duration {
	if k.lifetime == 0 || k.lifetime >= DefaultKeepalive*5/4 {
		return DefaultKeepalive
	}
	return max(k.lifetime*7/10, minKeepalive)
}

// ceiling lets two keepalives fit into a lifetime, so that one may be lost.
func (k *Keepalive) ceiling() time.Duration {
	return max(min(k.lifetime*45/100, MaxKeepalive), k.floor())
}
