package overlay

import (
	"sync"
	"sync/atomic"
)

const (
	// queuePackets and queueBytes bound a Queue: 1.3 s of a telephone call, or
	// 56 packets as large as a path takes.
	queuePackets = 64
	queueBytes   = 64 << 10
)

// Queue holds packets between who has them and who takes them. When it is
// full, the oldest are dropped and counted: late packets are worth the least
// to what uses datagrams.
type Queue struct {
	mu      sync.Mutex
	packets [][]byte
	bytes   int
	ready   chan struct{} // a token while there are packets
	dropped atomic.Int64
}

// NewQueue returns an empty Queue of 64 packets, 64 KiB at most.
func NewQueue() *Queue { return &Queue{ready: make(chan struct{}, 1)} }

// Put adds a packet of at most [MaxPacket] bytes and keeps b.
func (q *Queue) Put(b []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.packets) == queuePackets || q.bytes+len(b) > queueBytes {
		q.take()
		q.dropped.Add(1)
	}
	q.packets = append(q.packets, b)
	q.bytes += len(b)
	q.signal()
}

// Get takes the oldest packet; false says that there is none.
func (q *Queue) Get() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.packets) == 0 {
		return nil, false
	}
	b := q.take()
	if len(q.packets) > 0 {
		q.signal()
	}
	return b, true
}

// Ready yields a token after packets came. Of several readers one gets it, and
// its Get makes the next.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// Dropped counts the packets that had to make room.
func (q *Queue) Dropped() int64 { return q.dropped.Load() }

func (q *Queue) take() []byte {
	b := q.packets[0]
	q.packets[0] = nil
	q.packets = q.packets[1:]
	q.bytes -= len(b)
	return b
}

func (q *Queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
