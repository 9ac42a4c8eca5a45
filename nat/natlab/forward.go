package natlab

import (
	"encoding/binary"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// coreHops is how many routers the internet of the lab pretends to have: a packet
// sent with a smaller TTL leaves its own router and dies before the other one, as
// openers with a low TTL want it. Nobody reports its death by ICMP.
const coreHops = 5

// verdict is what became of a packet at the forwarder.
type verdict uint8

const (
	forwarded verdict = iota
	lostRandom
	lostCut
	lostParted
	lostQueue
	lostTTL
	lostNoRoute
	lostSpoofed
	verdicts // their number
)

func (v verdict) String() string {
	return [...]string{"forwarded", "lost", "cut", "parted", "queue full", "ttl", "no route", "bad source", "?"}[min(v, verdicts)]
}

// Stats counts packets at the forwarder since the lab began. A super-packet that
// the kernel left unsegmented counts once.
type Stats struct {
	Packets int64 // taken from senders, dropped ones included
	Bytes   int64 // of Packets, IP headers included
	Lost    int64 // dropped by Options.Loss
	Cut     int64 // dropped because one side's cable is pulled
	Parted  int64 // dropped because the two sides are parted
	Queue   int64 // dropped because 8 MiB of the sender were under way already
	TTL     int64 // died on the way
	NoRoute int64 // to an address nobody has, or not IPv4
	Spoofed int64 // from an address that the sender does not have
	Refused int64 // arrived, and the receiver's kernel did not take it
}

// Dropped is the number of packets that did not arrive.
func (s Stats) Dropped() int64 {
	return s.Lost + s.Cut + s.Parted + s.Queue + s.TTL + s.NoRoute + s.Spoofed + s.Refused
}

// core is the internet: it takes packets from every link and gives each, a while
// later, to the link that has the packet's destination address. Two goroutines
// serve each link: one reads, one waits and writes.
type core struct {
	start   time.Time
	latency time.Duration
	jitter  time.Duration
	loss    float64
	capture *capture

	routes  atomic.Pointer[map[netip.Addr]*link]
	parted  atomic.Pointer[map[pair]bool]
	packets atomic.Int64
	bytes   atomic.Int64
	refused atomic.Int64
	counts  [verdicts]atomic.Int64

	mu    sync.Mutex // guards links and the writing of routes and parted
	links []*link
	wg    sync.WaitGroup
}

// link is one party's cable into the core.
type link struct {
	name   string
	index  int
	addrs  []netip.Addr
	dev    io.ReadWriteCloser // packets with vnetHeaderLen bytes in front
	line   *delayLine
	cut    atomic.Bool
	exempt bool // from loss and jitter: the lab's own measuring host
	done   chan struct{}
	random *rand.Rand // used by the reading goroutine only
}

// pair is two links, in one order for both directions.
type pair [2]*link

func pairOf(a, b *link) pair {
	if a.index > b.index {
		a, b = b, a
	}
	return pair{a, b}
}

func newCore(o Options) *core {
	c := &core{start: time.Now(), latency: o.Latency, jitter: o.Jitter, loss: o.Loss, capture: newCapture()}
	c.routes.Store(&map[netip.Addr]*link{})
	c.parted.Store(&map[pair]bool{})
	return c
}

// now is the lab clock: nanoseconds since the lab began.
func (c *core) now() int64 { return int64(time.Since(c.start)) }

// attach plugs a party in. The core owns dev from here on.
func (c *core) attach(name string, dev io.ReadWriteCloser, exempt bool, addrs ...netip.Addr) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &link{
		name: name, index: len(c.links), addrs: addrs, dev: dev, exempt: exempt,
		line: newDelayLine(queueBytes, queuePackets), done: make(chan struct{}),
		random: rand.New(rand.NewPCG(uint64(len(c.links)), 1)),
	}
	c.links = append(c.links, l)
	routes := make(map[netip.Addr]*link)
	for _, other := range c.links {
		for _, a := range other.addrs {
			routes[a] = other
		}
	}
	c.routes.Store(&routes)
	c.wg.Add(2)
	go c.read(l)
	go c.deliver(l)
	return l
}

// part makes two links lose what they send each other, or ends that.
func (c *core) part(a, b *link, parted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pairs := maps.Clone(*c.parted.Load())
	if parted {
		pairs[pairOf(a, b)] = true
	} else {
		delete(pairs, pairOf(a, b))
	}
	c.parted.Store(&pairs)
}

// apart reports whether two links are parted.
func (c *core) apart(a, b *link) bool {
	pairs := *c.parted.Load()
	return len(pairs) > 0 && pairs[pairOf(a, b)]
}

// read takes packets from one party until its device is closed.
func (c *core) read(l *link) {
	defer c.wg.Done()
	defer close(l.done)
	spill := make([]byte, maxPacket)
	for {
		record, full, err := l.receive(spill)
		if err != nil {
			return
		}
		if len(record) > vnetHeaderLen {
			c.take(l, record, full)
		}
	}
}

// receive reads one packet into the room that the delay line has reserved for it;
// into spill if the line is full.
func (l *link) receive(spill []byte) (record []byte, full bool, err error) {
	if room := l.line.reserve(); room != nil {
		n, err := l.dev.Read(room)
		return room[:n], false, err
	}
	n, err := l.dev.Read(spill)
	if err != nil {
		return nil, false, err
	}
	// Reading may have taken long enough for the line to have room again.
	if room := l.line.reserve(); room != nil {
		return room[:copy(room, spill[:n])], false, nil
	}
	return spill[:n], true, nil
}

// take decides about one packet, notes it and sends it on its way.
func (c *core) take(l *link, record []byte, full bool) {
	packet := record[vnetHeaderLen:]
	now := c.now()
	dst, v := c.judge(l, packet)
	if full && v == forwarded {
		v = lostQueue
	}
	c.packets.Add(1)
	c.bytes.Add(int64(len(packet)))
	c.counts[v].Add(1)
	c.capture.add(now, l, dst, v, packet)
	if v != forwarded {
		return
	}
	decreaseTTL(packet, coreHops)
	due := now + int64(c.latency)
	if c.jitter > 0 && !l.exempt && !dst.exempt {
		due += l.random.Int64N(int64(c.jitter))
	}
	l.line.push(len(record), due, dst)
}

// judge finds a packet's receiver and whether the packet gets there.
func (c *core) judge(l *link, packet []byte) (*link, verdict) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return nil, lostNoRoute
	}
	src := netip.AddrFrom4([4]byte(packet[12:16]))
	routes := *c.routes.Load()
	dst := routes[netip.AddrFrom4([4]byte(packet[16:20]))]
	switch {
	case routes[src] != l:
		return dst, lostSpoofed
	case dst == nil:
		return nil, lostNoRoute
	case l.cut.Load() || dst.cut.Load():
		return dst, lostCut
	case c.apart(l, dst):
		return dst, lostParted
	case packet[8] <= coreHops:
		return dst, lostTTL
	case c.loss > 0 && !l.exempt && !dst.exempt && l.random.Float64() < c.loss:
		return dst, lostRandom
	}
	return dst, forwarded
}

// deliver hands one party's packets to their receivers when they are due, and
// ends with the reader.
func (c *core) deliver(l *link) {
	defer c.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p, record, ok := l.line.peek()
		if !ok {
			select {
			case <-l.line.wake:
				continue
			case <-l.done:
				return
			}
		}
		if wait := p.due - c.now(); wait > 0 {
			timer.Reset(time.Duration(wait))
			select {
			case <-timer.C:
			case <-l.done:
				return
			}
		}
		if p.dst.cut.Load() || l.cut.Load() {
			c.counts[lostCut].Add(1)
		} else if c.apart(l, p.dst) {
			c.counts[lostParted].Add(1)
		} else if _, err := p.dst.dev.Write(record); err != nil {
			c.refused.Add(1)
		}
		l.line.pop()
	}
}

// close unplugs everybody and waits for the goroutines.
func (c *core) close() {
	c.mu.Lock()
	links := c.links
	c.mu.Unlock()
	for _, l := range links {
		l.dev.Close()
	}
	c.wg.Wait()
}

func (c *core) stats() Stats {
	return Stats{
		Packets: c.packets.Load(), Bytes: c.bytes.Load(),
		Lost: c.counts[lostRandom].Load(), Cut: c.counts[lostCut].Load(),
		Parted: c.counts[lostParted].Load(), Queue: c.counts[lostQueue].Load(),
		TTL: c.counts[lostTTL].Load(), NoRoute: c.counts[lostNoRoute].Load(),
		Spoofed: c.counts[lostSpoofed].Load(), Refused: c.refused.Load(),
	}
}

// decreaseTTL takes hops from the TTL of an IPv4 packet and mends the header
// checksum as RFC 1624 §3 (equation 3) has it. The TTL must be larger than hops.
func decreaseTTL(packet []byte, hops uint8) {
	before := binary.BigEndian.Uint16(packet[8:])
	packet[8] -= hops
	after := binary.BigEndian.Uint16(packet[8:])
	sum := uint32(^binary.BigEndian.Uint16(packet[10:])) + uint32(^before) + uint32(after)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum))
}
