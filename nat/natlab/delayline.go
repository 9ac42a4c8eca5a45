package natlab

import "sync"

const (
	// maxPacket is the largest record a TUN device hands over: the 10-byte
	// virtio-net header and one IPv4 packet (or super-packet, when the kernel
	// leaves segmentation to us) of 65,535 bytes, rounded up.
	maxPacket = 10 + 65535 + 7

	// queueBytes bounds the packets under way from one party: 8 MiB at 20 ms is
	// 400 MB/s. What finds the queue full is dropped and counted.
	queueBytes = 8 << 20

	// queuePackets bounds their number.
	queuePackets = 16384
)

// parcel is one packet under way.
type parcel struct {
	off, n int
	due    int64 // lab clock, nanoseconds
	dst    *link
}

// delayLine keeps the packets that one party has sent and that have not arrived
// yet, in the order of their sending. One goroutine fills it, another empties it;
// packet bytes lie in one ring, so that nothing is allocated per packet.
type delayLine struct {
	mu      sync.Mutex
	bytes   []byte
	tail    int // where the next packet goes
	parcels []parcel
	first   int
	count   int
	lastDue int64
	wake    chan struct{}
}

func newDelayLine(bytes, packets int) *delayLine {
	return &delayLine{
		bytes:   make([]byte, bytes),
		parcels: make([]parcel, packets),
		wake:    make(chan struct{}, 1),
	}
}

// reserve returns room for one packet, or nil if the line is full. The room stays
// the caller's until the next reserve.
func (d *delayLine) reserve() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == len(d.parcels) {
		return nil
	}
	if d.count == 0 {
		d.tail = 0
		return d.bytes[:maxPacket]
	}
	head := d.parcels[d.first].off
	if d.tail > head {
		if len(d.bytes)-d.tail >= maxPacket {
			return d.bytes[d.tail : d.tail+maxPacket]
		}
		if head <= maxPacket {
			return nil
		}
		d.tail = 0
	}
	if head-d.tail <= maxPacket {
		return nil
	}
	return d.bytes[d.tail : d.tail+maxPacket]
}

// push commits the first n bytes of the room last reserved. A packet never
// overtakes an earlier one, whatever its own delay.
func (d *delayLine) push(n int, due int64, dst *link) {
	d.mu.Lock()
	d.lastDue = max(d.lastDue, due)
	d.parcels[(d.first+d.count)%len(d.parcels)] = parcel{off: d.tail, n: n, due: d.lastDue, dst: dst}
	d.tail += n
	d.count++
	wasEmpty := d.count == 1
	d.mu.Unlock()
	if wasEmpty {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// peek returns the oldest packet without removing it.
func (d *delayLine) peek() (p parcel, packet []byte, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == 0 {
		return parcel{}, nil, false
	}
	p = d.parcels[d.first]
	return p, d.bytes[p.off : p.off+p.n], true
}

// pop removes the packet that peek returned; its bytes may be overwritten from now on.
func (d *delayLine) pop() {
	d.mu.Lock()
	d.parcels[d.first].dst = nil
	d.first = (d.first + 1) % len(d.parcels)
	d.count--
	d.mu.Unlock()
}
