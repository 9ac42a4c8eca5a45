package nat

import "sync"

const (
	// maxInbox is how many packets carriers may have waiting for the reader,
	// all together, and maxInboxPeer how many for one peer, so that a flood
	// over one carrier leaves room for the others. Further ones are dropped.
	maxInbox     = 1024
	maxInboxPeer = 256
)

// packetBuf holds one packet of a carrier.
type packetBuf struct {
	data [MaxPacket]byte
	n    int
}

var packetPool = sync.Pool{New: func() any { return new(packetBuf) }}

func (b *packetBuf) release() { packetPool.Put(b) }

type inboxItem struct {
	peer *Peer
	buf  *packetBuf
}

// inbox is the queue between carriers and the reader, oldest first. Buffers
// are allocated by need: its zero value holds nothing.
type inbox struct {
	mu    sync.Mutex
	items []inboxItem // items[head:] are waiting
	head  int
}

func (q *inbox) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head == len(q.items)
}

// push copies b in; false if there is no room.
func (q *inbox) push(p *Peer, b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items)-q.head >= maxInbox || p.count.waiting >= maxInboxPeer {
		return false
	}
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	buf := packetPool.Get().(*packetBuf)
	buf.n = copy(buf.data[:], b)
	q.items = append(q.items, inboxItem{p, buf})
	p.count.waiting++
	return true
}

// pop takes the oldest packet out; nil if there is none. Packets of peers
// closed meanwhile are thrown away.
func (q *inbox) pop() (*Peer, *packetBuf) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head < len(q.items) {
		it := q.items[q.head]
		q.items[q.head] = inboxItem{}
		q.head++
		if q.head == len(q.items) {
			q.items, q.head = q.items[:0], 0
		}
		it.peer.count.waiting--
		if !it.peer.closed.Load() {
			return it.peer, it.buf
		}
		it.buf.release()
	}
	return nil, nil
}
