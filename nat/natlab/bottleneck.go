package natlab

import (
	"sync"
	"time"
)

// bottleneckQueue is how long a packet waits at most before a bottleneck; what would
// wait longer is dropped. It holds a few round trips, as home routers do.
const bottleneckQueue = 250 * time.Millisecond

// bottleneck lets one packet pass after the other, each for as long as its bits
// need. The zero value lets everything pass at once.
type bottleneck struct {
	mu   sync.Mutex
	rate int64 // bits per second, 0: no limit
	free int64 // when the packet before has passed, lab clock
}

// limit sets the rate in bits per second; 0 is none.
func (b *bottleneck) limit(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate = rate
}

// pass returns when a packet of n bytes that comes at that time has passed, or false
// if the queue is full.
func (b *bottleneck) pass(at int64, n int) (done int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate == 0 {
		return at, true
	}
	begin := max(at, b.free)
	if begin-at > int64(bottleneckQueue) {
		return 0, false
	}
	b.free = begin + int64(float64(n)*8e9/float64(b.rate))
	return b.free, true
}
