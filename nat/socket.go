package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

// PacketSize is the largest UDP payload, in bytes, that every path takes: what
// RFC 9000 §14 demands of a path, and what still fits once a relay has put its
// header around it. Sessions over a [Socket] must be configured with
// InitialPacketSize: PacketSize and DisablePathMTUDiscovery: true (see the
// package documentation for the reason).
const PacketSize = 1200

// MaxPacket is the largest packet, in bytes, that carriers and frames may
// hold: an Ethernet frame's worth. Larger ones are dropped and counted.
const MaxPacket = 1500

// Config says where a [Socket] listens.
type Config struct {
	// Addr is "host:port" with an IP literal or empty host. ":0", ":port" and
	// "[::]:port" take both families, or IPv4 alone where the host has no
	// IPv6; "0.0.0.0:port" is IPv4 alone. Default ":0".
	Addr string
	// Logger gets what the owner may want to know. Default: nothing is logged.
	Logger *slog.Logger
}

// A Socket is the one UDP socket of a device. It is the Conn of one quic-go
// Transport, see the package documentation. All methods may be called at the
// same time from several goroutines.
type Socket struct {
	conn  *net.UDPConn
	batch batchReader
	log   *slog.Logger
	local *net.UDPAddr

	stun  atomic.Pointer[func(b []byte, from netip.AddrPort)]
	count counters

	// Reading. readMu is held while a read blocks; rx belongs to its holder.
	readMu   sync.Mutex
	rx       received
	inbox    inbox
	sides    sideQueue
	waiting  atomic.Bool // a reader may be blocked in the kernel
	deadline readDeadline

	peers peerTable

	closeOnce sync.Once
	closeErr  error
	closed    chan struct{}
	pumps     sync.WaitGroup // goroutines of framed connections and side sockets
}

// batchReader is what of an ipv4.PacketConn is used, for either family.
type batchReader interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
}

// Listen opens the socket. It fails when the port is taken.
func Listen(ctx context.Context, cfg Config) (*Socket, error) {
	return listen(ctx, cfg, enableGRO)
}

// listen is Listen with the system call that switches GRO on as a parameter:
// old kernels refuse it, and tests need to.
func listen(ctx context.Context, cfg Config, gro func(syscall.RawConn) error) (*Socket, error) {
	network, addr, err := listenAddr(cfg.Addr)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("open udp socket %s: %w", addr, err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, fmt.Errorf("open udp socket %s: not a UDP connection", addr)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Socket{
		conn:   conn,
		batch:  ipv4.NewPacketConn(conn),
		log:    log,
		local:  conn.LocalAddr().(*net.UDPAddr),
		closed: make(chan struct{}),
	}
	s.deadline.conn = conn
	s.peers.init()
	s.rx.init(s.switchOnGRO(gro))
	return s, nil
}

// switchOnGRO reports whether the kernel will join datagrams for us.
func (s *Socket) switchOnGRO(gro func(syscall.RawConn) error) bool {
	raw, err := s.conn.SyscallConn()
	if err == nil {
		err = gro(raw)
	}
	if err != nil {
		s.log.Debug("udp receive offload not available", "err", err)
	}
	return err == nil
}

// listenAddr turns Config.Addr into what package net wants. Package net opens
// a dual-stack socket for an empty host where it can, but for "[::]" fails on
// a host without IPv6, and makes "0.0.0.0" dual-stack too.
func listenAddr(addr string) (network, address string, err error) {
	if addr == "" {
		addr = ":0"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", "", fmt.Errorf("listen address %q: %w", addr, err)
	}
	if host == "" {
		return "udp", addr, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", "", fmt.Errorf("listen address %q: %w; give an IP address, not a name", addr, err)
	}
	ip = ip.Unmap()
	switch {
	case ip == netip.IPv6Unspecified():
		return "udp", ":" + port, nil
	case ip.Is4():
		return "udp4", net.JoinHostPort(ip.String(), port), nil
	default:
		return "udp6", net.JoinHostPort(ip.String(), port), nil
	}
}

// HandleSTUN sets who gets the datagrams whose first byte is 0–3. h runs on
// the reading goroutine: it must not block and must not keep b. Without a
// handler such datagrams are dropped and counted. quic-go's Transport does the
// reading, so h is called only once a Transport (or another reader) runs.
func (s *Socket) HandleSTUN(h func(b []byte, from netip.AddrPort)) {
	if h == nil {
		s.stun.Store(nil)
		return
	}
	s.stun.Store(&h)
}

// ErrNotSTUN says that a datagram given to [Socket.WriteSTUN] does not begin
// like one (RFC 9443 §2: first byte 0–3).
var ErrNotSTUN = errors.New("not a STUN message")

// ErrTTL says that a time to live is not within 1–255.
var ErrTTL = errors.New("time to live not within 1 to 255")

// WriteSTUN sends b as it is to a real address.
func (s *Socket) WriteSTUN(b []byte, to netip.AddrPort) error {
	return s.writeSTUN(b, nil, to)
}

// WriteSTUNTTL is WriteSTUN for an opener: a datagram that passes this home's
// routers, which then let the peer's in, and ends after ttl hops (1–255: IPv4
// time to live, IPv6 hop limit), before the peer's router sees it. A router
// that does not filter would take the early datagram for a flow of its own and
// give the peer's answer another port. Only this one datagram is concerned.
// A ttl out of range is [ErrTTL].
func (s *Socket) WriteSTUNTTL(b []byte, to netip.AddrPort, ttl int) error {
	if ttl < 1 || ttl > 255 {
		return fmt.Errorf("send stun to %v: %w: %d", to, ErrTTL, ttl)
	}
	var buf [32]byte
	return s.writeSTUN(b, appendTTL(buf[:0], unmap(to).Addr().Is4(), ttl), to)
}

func (s *Socket) writeSTUN(b, oob []byte, to netip.AddrPort) error {
	if classify(b) != protoSTUN {
		return ErrNotSTUN
	}
	if isAlias(to.Addr()) {
		return fmt.Errorf("send stun to %v: made-up address", to)
	}
	if _, _, err := s.conn.WriteMsgUDPAddrPort(b, oob, unmap(to)); err != nil {
		return fmt.Errorf("send stun: %w", err)
	}
	s.count.stunOut.Add(1)
	return nil
}

// LocalAddr is the address listened on, a *net.UDPAddr. Its IP is unspecified
// unless Config.Addr named one.
func (s *Socket) LocalAddr() net.Addr { return s.local }

// Port is the UDP port of the socket, to be kept for the next start.
func (s *Socket) Port() uint16 { return uint16(s.local.Port) }

// SyscallConn gives quic-go the descriptor for its socket options.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// SetReadBuffer sets the kernel's receive buffer, in bytes.
func (s *Socket) SetReadBuffer(bytes int) error { return s.conn.SetReadBuffer(bytes) }

// SetWriteBuffer sets the kernel's send buffer, in bytes.
func (s *Socket) SetWriteBuffer(bytes int) error { return s.conn.SetWriteBuffer(bytes) }

// SetDeadline sets the read deadline and the write deadline.
func (s *Socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on; the
// zero time takes the limit away.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.deadline.set(t) }

// SetWriteDeadline is the same for writes to UDP addresses.
func (s *Socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// ForgetLocal makes every path find out anew which local address to send from,
// for all peers at once: after an interface came, went or changed its address.
// Until then writes go on from the old address where the kernel still has it.
func (s *Socket) ForgetLocal() {
	t := &s.peers
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, b := range t.sources {
		b.forgetLocal()
	}
}

// Close closes the socket, every peer, every framed connection and side socket
// it owns,
// and waits for their goroutines. Close the quic-go Transport first. Calling
// it again returns the first result.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.closeErr = s.conn.Close()
		for _, p := range s.peers.seal() {
			p.Close()
		}
	})
	s.pumps.Wait()
	return s.closeErr
}

// isClosed reports whether Close was called.
func (s *Socket) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}
