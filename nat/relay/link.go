package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
)

// sendQueue is how many packets wait for a TCP connection.
const sendQueue = 64

// door is one place where a relay is asked.
type door struct {
	addr   netip.AddrPort
	nonce  string      // known before; may be stale or empty
	secure *tls.Config // for "tls"
}

// packetLink carries whole messages to and from the relay.
type packetLink interface {
	read(b []byte) (int, error)
	write(b []byte) error // may wait on a stream
	Close() error
	LocalAddr() net.Addr
	reliable() bool
}

// dialLink opens a way to the relay; over TLS it has been authenticated.
func dialLink(ctx context.Context, network string, at door) (packetLink, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	transport := network
	if network == "tls" {
		transport = "tcp"
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, transport, at.addr.String())
	if err != nil {
		return nil, fmt.Errorf("dial relay: %w", err)
	}
	if u, ok := c.(*net.UDPConn); ok {
		return udpLink{u}, nil
	}
	if network == "tls" {
		secured := tls.Client(c, at.secure)
		if err := secured.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, fmt.Errorf("secure the way to the relay: %w", err)
		}
		c = secured
	}
	return newTCPLink(c), nil
}

type udpLink struct{ *net.UDPConn }

func (l udpLink) read(b []byte) (int, error) { return l.Read(b) }
func (l udpLink) write(b []byte) error       { _, err := l.Write(b); return err }
func (udpLink) reliable() bool               { return false }

type tcpLink struct {
	*streamConn
	queue chan []byte // packets waiting for the connection
	spare chan []byte // their buffers, to be used again
}

func newTCPLink(c net.Conn) tcpLink {
	return tcpLink{newStreamConn(c), make(chan []byte, sendQueue), make(chan []byte, sendQueue)}
}

func (l tcpLink) read(b []byte) (int, error) { n, _, err := l.ReadFrom(b); return n, err }
func (l tcpLink) write(b []byte) error       { _, err := l.WriteTo(b, nil); return err }
func (tcpLink) reliable() bool               { return true }

// offer queues a packet. When the connection is slower than its user, the
// newest packet is dropped, as a full router would.
func (l tcpLink) offer(b []byte) {
	var buf []byte
	select {
	case buf = <-l.spare:
	default:
	}
	select {
	case l.queue <- append(buf[:0], b...):
	default:
	}
}

// drain writes what offer queued until stop is closed or the connection fails.
func (l tcpLink) drain(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case b := <-l.queue:
			if l.write(b) != nil {
				return // the connection is closed now; the reader reports it
			}
			select {
			case l.spare <- b:
			default:
			}
		}
	}
}
