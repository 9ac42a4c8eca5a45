package memnet

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// QueueLength is how many datagrams wait at a [Conn].
const QueueLength = 1024

// Net is one internet. The zero value is ready and has no latency.
type Net struct {
	// Latency is the time one way between any two hosts that are not in
	// the same home. Set it before traffic.
	Latency time.Duration
	// Drop, if set, sees every datagram on its way between homes, with
	// translated addresses, and says whether it is lost. Set it before
	// traffic; it runs concurrently.
	Drop func(b []byte, from, to netip.AddrPort) bool

	mu    sync.Mutex
	hosts map[netip.AddrPort]*Conn
	nats  map[netip.Addr]*NAT
}

// Host opens a socket at a public address.
func (n *Net) Host(addr netip.AddrPort) *Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[netip.AddrPort]*Conn)
	}
	c := newConn(n, nil, addr)
	n.hosts[addr] = c
	return c
}

// NAT adds a home router with a public address.
func (n *Net) NAT(public netip.Addr, mapping, filtering Rule, ports PortChoice) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nats == nil {
		n.nats = make(map[netip.Addr]*NAT)
	}
	r := newNAT(n, public, mapping, filtering, ports)
	n.nats[public] = r
	return r
}

// send carries a datagram whose source is already translated.
func (n *Net) send(b []byte, from, to netip.AddrPort) {
	if n.Drop != nil && n.Drop(b, from, to) {
		return
	}
	if n.Latency == 0 {
		n.arrive(b, from, to)
		return
	}
	time.AfterFunc(n.Latency, func() { n.arrive(b, from, to) })
}

func (n *Net) arrive(b []byte, from, to netip.AddrPort) {
	n.mu.Lock()
	host, router := n.hosts[to], n.nats[to.Addr()]
	n.mu.Unlock()
	switch {
	case host != nil:
		host.enqueue(b, from)
	case router != nil:
		if c := router.inbound(from, to.Port()); c != nil {
			c.enqueue(b, from)
		}
	}
}

// Conn is a net.PacketConn on the Net, and has the WriteSTUN method of a
// shared socket.
type Conn struct {
	net    *Net
	router *NAT // nil at a public address
	local  netip.AddrPort
	queue  chan datagram

	mu       sync.Mutex
	expired  chan struct{} // closed when the read deadline is over
	closed   chan struct{}
	shutdown sync.Once
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

func newConn(n *Net, r *NAT, local netip.AddrPort) *Conn {
	return &Conn{
		net: n, router: r, local: local,
		queue:   make(chan datagram, QueueLength),
		expired: make(chan struct{}),
		closed:  make(chan struct{}),
	}
}

func (c *Conn) enqueue(b []byte, from netip.AddrPort) {
	select {
	case c.queue <- datagram{b, from}:
	default: // full
	}
}

// ReadFrom returns the next datagram.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	expired := c.expired
	c.mu.Unlock()
	select {
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case d := <-c.queue:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	}
}

// WriteTo sends b, through the home's NAT if there is one.
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not a UDP address", Addr: to.String()}
	}
	addr := udp.AddrPort()
	return len(b), c.WriteSTUN(b, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
}

// WriteSTUN sends b, through the home's NAT if there is one.
func (c *Conn) WriteSTUN(b []byte, to netip.AddrPort) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	b = append([]byte(nil), b...)
	if c.router == nil {
		c.net.send(b, c.local, to)
		return nil
	}
	if neighbour := c.router.neighbour(to); neighbour != nil {
		neighbour.enqueue(b, c.local)
		return nil
	}
	if to.Addr().IsPrivate() {
		return nil // nobody there
	}
	from, ok := c.router.outbound(c, to)
	switch {
	case !ok:
	case to.Addr() != c.router.public:
		c.net.send(b, from, to)
	case c.router.Hairpin:
		if neighbour := c.router.inbound(from, to.Port()); neighbour != nil {
			neighbour.enqueue(b, from)
		}
	}
	return nil
}

// Close ends reads and writes.
func (c *Conn) Close() error {
	c.shutdown.Do(func() { close(c.closed) })
	return nil
}

// LocalAddr is the address the Conn was opened at.
func (c *Conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// SetReadDeadline knows two kinds of deadline: over already, and none.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.IsZero():
		c.expired = make(chan struct{})
	case time.Until(t) <= 0:
		select {
		case <-c.expired:
		default:
			close(c.expired)
		}
	default:
		return os.ErrInvalid
	}
	return nil
}

// SetDeadline is SetReadDeadline: writes never block.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes never block.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }
