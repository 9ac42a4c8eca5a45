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
	Cut     int64 // dropped because one side's cable is pulled or its router restarts
	Parted  int64 // dropped because the two sides are parted
	Queue   int64 // dropped because 8 MiB of the sender were under way, or a bottleneck was full
	TTL     int64 // died on the way
	NoRoute int64 // to an address nobody has, or not IP
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
	reorder float64
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
	addrs  []netip.Addr       // one in each of its networks
	behind byte               // last byte of the IPv4 address they are reached by
	dev    io.ReadWriteCloser // packets with vnetHeaderLen bytes in front
	line   *delayLine
	cut    atomic.Bool  // by Host.Cut
	down   atomic.Bool  // by an event
	exempt bool         // from loss, jitter and reordering: the lab's own measuring host
	delay  atomic.Int64 // nanoseconds of this cable
	up     bottleneck
	toward bottleneck // to the party
	done   chan struct{}

	// Used by the reading goroutine only.
	random *rand.Rand
	last   []int64 // when the last packet to each other link is due, by index
}

// dark reports whether nothing passes.
func (l *link) dark() bool { return l.cut.Load() || l.down.Load() }

// pair is two links, in one order for both directions.
type pair [2]*link

func pairOf(a, b *link) pair {
	if a.index > b.index {
		a, b = b, a
	}
	return pair{a, b}
}

func newCore(o Options) *core {
	c := &core{start: time.Now(), latency: o.Latency, jitter: o.Jitter, loss: o.Loss, reorder: o.Reorder, capture: newCapture()}
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
	l.delay.Store(int64(c.latency / 2))
	c.links = append(c.links, l)
	c.reroute()
	c.wg.Add(2)
	go c.read(l)
	go c.deliver(l)
	return l
}

// reroute publishes who has which network. The caller holds c.mu.
func (c *core) reroute() {
	routes := make(map[netip.Addr]*link)
	for _, l := range c.links {
		for _, a := range l.addrs {
			routes[networkOf(a)] = l
		}
	}
	c.routes.Store(&routes)
}

// move gives a link other addresses.
func (c *core) move(l *link, addrs []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.addrs = addrs
	c.reroute()
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
	room := make([]byte, maxPacket)
	for {
		n, err := l.dev.Read(room)
		if err != nil {
			return
		}
		if record := room[:n]; n > vnetHeaderLen && !staysOnLink(record[vnetHeaderLen:]) {
			c.take(l, record)
		}
	}
}

// take decides about one packet, notes it and sends it on its way.
func (c *core) take(l *link, record []byte) {
	packet := record[vnetHeaderLen:]
	now := c.now()
	dst, v := c.judge(l, packet)
	var due int64
	if v == forwarded {
		due, v = c.plan(l, dst, now, len(record))
	}
	c.packets.Add(1)
	c.bytes.Add(int64(len(packet)))
	c.counts[v].Add(1)
	c.capture.add(now, l, dst, v, packet)
	if v != forwarded {
		return
	}
	decreaseTTL(packet, coreHops)
	l.line.push(record, due, dst)
}

// plan says when a packet of n bytes arrives, or that a queue has no room for it.
func (c *core) plan(l, dst *link, now int64, n int) (due int64, v verdict) {
	if !l.line.fits(n) {
		return 0, lostQueue
	}
	due, ok := l.up.pass(now, n-vnetHeaderLen)
	if !ok {
		return 0, lostQueue
	}
	delay := l.delay.Load() + dst.delay.Load()
	due += delay
	if c.jitter > 0 && !l.exempt && !dst.exempt {
		due += l.random.Int64N(int64(c.jitter))
	}
	if due, ok = dst.toward.pass(due, n-vnetHeaderLen); !ok {
		return 0, lostQueue
	}
	for len(l.last) <= dst.index {
		l.last = append(l.last, 0)
	}
	due = max(due, l.last[dst.index])
	if c.reorder > 0 && !l.exempt && !dst.exempt && l.random.Float64() < c.reorder {
		return due - delay/2, forwarded
	}
	l.last[dst.index] = due
	return due, forwarded
}

// judge finds a packet's receiver and whether the packet gets there.
func (c *core) judge(l *link, packet []byte) (*link, verdict) {
	from, to, hops, ok := header(packet)
	if !ok {
		return nil, lostNoRoute
	}
	routes := *c.routes.Load()
	dst := routes[networkOf(to)]
	switch {
	case routes[networkOf(from)] != l:
		return dst, lostSpoofed
	case dst == nil:
		return nil, lostNoRoute
	case l.dark() || dst.dark():
		return dst, lostCut
	case c.apart(l, dst):
		return dst, lostParted
	case hops <= coreHops:
		return dst, lostTTL
	case c.loss > 0 && !l.exempt && !dst.exempt && l.random.Float64() < c.loss:
		return dst, lostRandom
	}
	return dst, forwarded
}

// staysOnLink reports whether an IPv6 packet is for neighbours only, as the kernel's
// own reports of multicast groups are.
func staysOnLink(packet []byte) bool {
	_, to, _, ok := header(packet)
	return ok && to.Is6() && (to.IsLinkLocalMulticast() || to.IsLinkLocalUnicast())
}

// The fixed part of an IPv6 header (RFC 8200 §3).
const ipv6HeaderLen = 40

// header reads what a router needs of a packet: addresses and hops left.
func header(packet []byte) (from, to netip.Addr, hops uint8, ok bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), packet[8], true
	case len(packet) >= ipv6HeaderLen && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), packet[7], true
	}
	return from, to, 0, false
}

// deliver hands one party's packets to their receivers when they are due, and
// ends with the reader.
func (c *core) deliver(l *link) {
	defer c.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p, wait := l.line.pop(c.now())
		if wait == 0 {
			c.hand(l, p)
			continue
		}
		if wait > 0 {
			timer.Reset(time.Duration(wait))
		}
		select {
		case <-timer.C:
		case <-l.line.wake:
		case <-l.done:
			return
		}
	}
}

// hand gives a packet to its receiver.
func (c *core) hand(l *link, p parcel) {
	switch {
	case p.dst.dark() || l.dark():
		c.counts[lostCut].Add(1)
	case c.apart(l, p.dst):
		c.counts[lostParted].Add(1)
	default:
		if _, err := p.dst.dev.Write(p.record); err != nil {
			c.refused.Add(1)
		}
	}
	l.line.recycle(p)
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
// checksum as RFC 1624 §3 (equation 3) has it, or from the hop limit of an IPv6
// packet, which has none. The TTL must be larger than hops.
func decreaseTTL(packet []byte, hops uint8) {
	if packet[0]>>4 == 6 {
		packet[7] -= hops
		return
	}
	before := binary.BigEndian.Uint16(packet[8:])
	packet[8] -= hops
	after := binary.BigEndian.Uint16(packet[8:])
	sum := uint32(^binary.BigEndian.Uint16(packet[10:])) + uint32(^before) + uint32(after)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum))
}
