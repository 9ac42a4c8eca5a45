package natlab

import (
	"math/bits"
	"sync"
)

const (
	// maxPacket is the largest record a TUN device hands over: the 10-byte
	// virtio-net header and one packet (or super-packet, when the kernel leaves
	// segmentation to us) of 65,535 bytes, rounded up.
	maxPacket = 10 + 65535 + 7

	// queueBytes bounds the packets under way from one party: 8 MiB at 20 ms is
	// 400 MB/s. What finds the queue full is dropped and counted.
	queueBytes = 8 << 20

	// queuePackets bounds their number.
	queuePackets = 16384
)

// parcel is one packet under way.
type parcel struct {
	record []byte
	due    int64  // lab clock, nanoseconds
	nth    uint64 // of the sender's packets: decides between equal times
	dst    *link
}

func (p *parcel) before(q *parcel) bool {
	return p.due < q.due || p.due == q.due && p.nth < q.nth
}

// delayLine keeps the packets that one party has sent and that have not arrived yet.
// The one that is due first comes out first. One goroutine fills it, another empties
// it; buffers are used again, so that nothing is allocated per packet.
type delayLine struct {
	mu      sync.Mutex
	heap    []parcel // the earliest at 0, as container/heap orders
	bytes   int      // of all records
	nth     uint64
	free    shelves
	limit   int           // bytes
	packets int           // and packets at most
	wake    chan struct{} // told when there is a new first packet
}

func newDelayLine(bytes, packets int) *delayLine {
	return &delayLine{limit: bytes, packets: packets, wake: make(chan struct{}, 1)}
}

// fits reports whether there is room for a record of n bytes. Only the filling
// goroutine makes room scarcer.
func (d *delayLine) fits(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.heap) < d.packets && d.bytes+n <= d.limit
}

// push puts a copy of a record on its way.
func (d *delayLine) push(record []byte, due int64, dst *link) {
	d.mu.Lock()
	p := parcel{record: append(d.free.take(len(record)), record...), due: due, nth: d.nth, dst: dst}
	d.nth++
	d.bytes += len(record)
	d.heap = append(d.heap, p)
	first := d.up(len(d.heap)-1) == 0
	d.mu.Unlock()
	if first {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// pop takes the first packet if it is due. Otherwise it returns how long that will
// take, or -1 if there is none.
func (d *delayLine) pop(now int64) (p parcel, wait int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) == 0 {
		return parcel{}, -1
	}
	if wait := d.heap[0].due - now; wait > 0 {
		return parcel{}, wait
	}
	p = d.heap[0]
	last := len(d.heap) - 1
	d.heap[0], d.heap[last] = d.heap[last], parcel{}
	d.heap = d.heap[:last]
	d.down()
	d.bytes -= len(p.record)
	return p, 0
}

// recycle takes a popped packet's buffer back.
func (d *delayLine) recycle(p parcel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free.put(p.record)
}

// up moves parcel i towards the front as far as it belongs and returns its place.
func (d *delayLine) up(i int) int {
	for i > 0 {
		parent := (i - 1) / 2
		if !d.heap[i].before(&d.heap[parent]) {
			break
		}
		d.heap[i], d.heap[parent] = d.heap[parent], d.heap[i]
		i = parent
	}
	return i
}

// down moves the first parcel back as far as it belongs.
func (d *delayLine) down() {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(d.heap) {
			return
		}
		if right := child + 1; right < len(d.heap) && d.heap[right].before(&d.heap[child]) {
			child = right
		}
		if !d.heap[child].before(&d.heap[i]) {
			return
		}
		d.heap[i], d.heap[child] = d.heap[child], d.heap[i]
		i = child
	}
}

// smallest is the size of the smallest buffer: an ordinary packet.
const smallest = 2048

// shelves keep free buffers by size, each twice the one before, the last maxPacket
// and some. There are never more of them than were under way at a time.
type shelves [7][][]byte

// shelf is where buffers for n bytes are.
func shelf(n int) int { return bits.Len(uint(max(n, smallest)-1)) - bits.Len(smallest-1) }

// take returns an empty buffer with room for n bytes.
func (s *shelves) take(n int) []byte {
	at := &s[shelf(n)]
	if last := len(*at) - 1; last >= 0 {
		b := (*at)[last]
		*at = (*at)[:last]
		return b
	}
	return make([]byte, 0, smallest<<shelf(n))
}

// put gives back a buffer that take returned, filled or not.
func (s *shelves) put(b []byte) {
	at := &s[shelf(cap(b))]
	*at = append(*at, b[:0])
}
