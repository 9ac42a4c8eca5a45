package ice

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// pipeLength is how many checks wait for the engine. They wait only before
// Connect; what a peer sends in that time is repeated by it, so the oldest
// are dropped when the pipe is full.
const pipeLength = 64

// pipe is the socket that the engine sees for one address family.
type pipe struct {
	local netip.AddrPort
	write func(b []byte, to netip.AddrPort) error
	queue chan datagram

	closing sync.Once
	closed  chan struct{}
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

func newPipe(local netip.AddrPort, write func([]byte, netip.AddrPort) error) *pipe {
	return &pipe{
		local: local, write: write,
		queue:  make(chan datagram, pipeLength),
		closed: make(chan struct{}),
	}
}

// put hands a datagram to the engine; it never blocks. b is kept.
func (p *pipe) put(b []byte, from netip.AddrPort) {
	for {
		select {
		case p.queue <- datagram{b, from}:
			return
		default:
		}
		select {
		case <-p.queue: // the oldest
		default:
		}
	}
}

func (p *pipe) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-p.closed:
		return 0, nil, net.ErrClosed
	case d := <-p.queue:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	}
}

func (p *pipe) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not a UDP address", Addr: to.String()}
	}
	if err := p.write(b, canonical(udp.AddrPort())); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *pipe) Close() error {
	p.closing.Do(func() { close(p.closed) })
	return nil
}

func (p *pipe) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(p.local) }

// The engine sets a deadline only right before it closes the pipe, and Close
// is what ends a read.
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
