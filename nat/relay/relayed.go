package relay

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// permissionTTL is how long a permission lasts, RFC 8656 §9.
const permissionTTL = 5 * time.Minute

// relayed is the socket of one allocation as pion sees it: it counts, limits
// and refuses on each packet.
type relayed struct {
	srv    *Server
	front  *front
	sock   *net.UDPConn
	public netip.AddrPort // what peers see
	prefix netip.Prefix   // of the client

	claim    claim
	username string
	key      []byte
	account  *account
	control  *rate.Limiter

	mu       sync.Mutex
	peers    map[netip.Addr]time.Duration // permitted at, on the server's clock
	channels map[uint16]struct{}

	heard, used, expires, goneAt atomic.Int64 // time.Duration on the server's clock
	dead                         atomic.Bool  // no more packets; pion may not know yet
	gone                         chan struct{}
	goneOnce                     sync.Once
}

var _ net.PacketConn = (*relayed)(nil)

// mayReach applies the ticket's restriction to one peer, and that of the
// family: an IPv4 socket reaches no IPv6 address, in whatever form it is
// written (RFC 8656 §10.1).
func (r *relayed) mayReach(peer netip.Addr) bool {
	if !peer.IsValid() || peer.Is4In6() || peer.Is4() != r.public.Addr().Is4() {
		return false
	}
	return !r.claim.peer.IsValid() || r.claim.peer == peer
}

// admitPeer notes a permission, and a channel unless that is 0, within Limits.Peers.
func (r *relayed) admitPeer(peer netip.Addr, channel uint16) bool {
	now, limit := r.srv.since(), r.srv.cfg.Limits.Peers
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.peers[peer]; !known && len(r.peers) >= limit {
		for p, at := range r.peers {
			if now-at >= permissionTTL {
				delete(r.peers, p)
			}
		}
		if len(r.peers) >= limit {
			return false
		}
	}
	if _, known := r.channels[channel]; channel != 0 && !known {
		if len(r.channels) >= limit {
			return false
		}
		r.channels[channel] = struct{}{}
	}
	r.peers[peer] = now
	return true
}

func (r *relayed) permitted(peer netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.peers[peer]
	return ok && r.srv.since()-at < permissionTTL
}

// ReadFrom returns the next packet the client may have. After the end it waits
// until pion has closed the allocation itself, because pion answers an error
// by deleting it from this goroutine, and that races with requests.
func (r *relayed) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.sock.ReadFromUDPAddrPort(b)
		if err != nil {
			r.srv.kill(r, sendFailed)
			<-r.gone
			r.srv.wg.Done()
			return 0, nil, net.ErrClosed
		}
		from = r.srv.outside(unmap(from))
		switch {
		case !r.permitted(from.Addr()):
			r.srv.count.refuse(unsolicited)
		case n > MaxPayload:
			r.srv.count.refuse(oversize)
		case r.charge(n):
			r.srv.count.bytesToClients.Add(int64(n))
			r.srv.count.packetsToClients.Add(1)
			return n, net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// WriteTo sends to a peer or drops silently, as networks do; pion would log
// errors a stranger can cause.
func (r *relayed) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok || r.dead.Load() {
		return len(b), nil
	}
	to, why, ok := r.route(udp.AddrPort())
	switch {
	case !ok:
		r.srv.count.refuse(why)
	case len(b) > MaxPayload:
		r.srv.count.refuse(oversize)
	case r.charge(len(b)):
		r.send(b, to)
	}
	return len(b), nil
}

func (r *relayed) send(b []byte, to netip.AddrPort) {
	if _, err := r.sock.WriteToUDPAddrPort(b, to); err != nil {
		r.srv.count.refuse(sendFailed)
		return
	}
	r.srv.count.bytesToPeers.Add(int64(len(b)))
	r.srv.count.packetsToPeers.Add(1)
}

// route turns a peer's address into where to send. The relay's own public
// address leads to another allocation of this server or nowhere.
func (r *relayed) route(to netip.AddrPort) (netip.AddrPort, reason, bool) {
	if !r.mayReach(to.Addr()) {
		return to, peerAddress, false
	}
	if inside, ok := r.srv.inside(to); ok {
		return inside, 0, true
	}
	if !r.srv.rule.maySend(to.Addr()) {
		return to, peerAddress, false
	}
	if !peerPortAllowed(to.Port()) {
		return to, peerPort, false
	}
	return to, 0, true
}

// charge accounts payload and closes the allocation when the day's is used up.
func (r *relayed) charge(n int) bool {
	switch r.account.charge(n, r.srv.now()) {
	case pass:
		r.used.Store(int64(r.srv.since()))
		return true
	case overRate:
		r.srv.count.refuse(overRateDrop)
	case overQuota:
		r.srv.kill(r, quota)
	}
	return false
}

// Close is called by pion when the allocation has ended on its side.
func (r *relayed) Close() error {
	r.goneOnce.Do(func() {
		r.srv.retire(r)
		r.goneAt.Store(int64(r.srv.since()))
		if r.front.stream {
			r.front.conn.SetReadDeadline(time.Now().Add(r.srv.cfg.Limits.SetUp))
		}
		close(r.gone)
	})
	return nil
}

// LocalAddr is the public side.
func (r *relayed) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(r.public) }

// SetDeadline and its kin are not used by pion.
func (r *relayed) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (r *relayed) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (r *relayed) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// portTries is how often a taken port is answered with another choice.
const portTries = 16

// listenRelayed binds a socket at ip, for its IP version alone: a port of the
// range chosen by a secret random source, or the kernel's choice if there is no
// range.
func listenRelayed(ip netip.Addr, minPort, maxPort uint16) (*net.UDPConn, error) {
	network := "udp6"
	if ip.Is4() {
		network = "udp4"
	}
	var last error
	for range portTries {
		port := uint16(0)
		if minPort != 0 {
			var b [4]byte
			rand.Read(b[:])
			port = minPort + uint16(binary.BigEndian.Uint32(b[:])%(uint32(maxPort)-uint32(minPort)+1))
		}
		c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
		if err == nil {
			return c, nil
		}
		last = err
	}
	return nil, fmt.Errorf("open relayed socket: %w", last)
}
