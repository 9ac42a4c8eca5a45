package public

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/reach"
	"porchlight/nat"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

const (
	// maxFramed is how many TCP connections carry packets at once.
	maxFramed = 64
	// relayedFrom and relayedCount place the relayed ports behind the UDP
	// port: twice as many as there are allocations, so that one is free.
	relayedFrom  = 9
	relayedCount = 64
	// lookEvery is how often reachability is looked at until it is there.
	lookEvery = 500 * time.Millisecond
)

// Config is what a Host needs.
type Config struct {
	Socket *nat.Socket
	State  func() reach.State
	Mux    *stun.Mux
	// SecondPort answers behaviour discovery (RFC 5780 §4.4); 0 if there is none.
	SecondPort uint16
	// Friend says whether a device gets a friend's share of the relay.
	Friend func(identity.Address) bool
	// Loopback lets the relay lead to loopback addresses, for trying out.
	Loopback bool
	Logger   *slog.Logger
}

// Host helps others while the device is reachable.
type Host struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	framed  atomic.Int64
	relay   atomic.Pointer[relay.Server]

	mu      sync.Mutex
	closers []interface{ Close() error }
}

// New returns a Host that is not yet started.
func New(cfg Config) *Host {
	h := &Host{cfg: cfg}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// Start waits for the device to be reachable and opens then.
func (h *Host) Start() { h.running.Go(h.run) }

// Close closes what was opened and waits.
func (h *Host) Close() error {
	h.cancel()
	h.mu.Lock()
	closers := h.closers
	h.closers = nil
	h.mu.Unlock()
	var errs []error
	for _, c := range closers {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	h.running.Wait()
	return errors.Join(errs...)
}

func (h *Host) run() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !h.cfg.State().Reachable {
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			return
		}
	}
	h.tellPlaces()
	if err := h.openFramed(); err != nil {
		h.cfg.Logger.Warn("homes without UDP cannot come in", "err", err)
	}
	if err := h.openRelay(); err != nil {
		h.cfg.Logger.Warn("no relay for others", "err", err)
	}
}

// keep has c closed with the Host; it reports false if that is now.
func (h *Host) keep(c interface{ Close() error }) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		c.Close()
		return false
	}
	h.closers = append(h.closers, c)
	return true
}

// tellPlaces lets the STUN server say where it answers from, so that others
// can find out how their routers behave.
func (h *Host) tellPlaces() {
	address, ok := h.address()
	if !ok || h.cfg.SecondPort == 0 {
		return
	}
	h.cfg.Mux.SetPublic(netip.AddrPortFrom(address, h.cfg.Socket.Port()), netip.AddrPortFrom(address, h.cfg.SecondPort))
}

// openFramed accepts sessions over TCP at the port of the UDP socket.
func (h *Host) openFramed() error {
	listener, err := listen(h.ctx, "tcp", h.cfg.Socket.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		return err
	}
	if h.keep(listener) {
		h.running.Go(func() { h.accept(listener) })
	}
	return nil
}

func (h *Host) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or the like: others may close some.
			select {
			case <-time.After(lookEvery):
				continue
			case <-h.ctx.Done():
				return
			}
		}
		if h.framed.Add(1) > maxFramed {
			h.framed.Add(-1)
			conn.Close()
			continue
		}
		counted := &countedConn{TCPConn: conn.(*net.TCPConn), count: &h.framed}
		if _, err := h.cfg.Socket.AcceptFramed(counted, nat.KindDirect, nat.FrameConfig{}); err != nil {
			counted.Close()
		}
	}
}

// countedConn takes itself off a count when it is closed. It still is a
// syscall.Conn, by which the socket keeps the kernel's queue short.
type countedConn struct {
	*net.TCPConn
	count *atomic.Int64
	once  sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.count.Add(-1) })
	return c.TCPConn.Close()
}

// openRelay starts the TURN server next to the UDP port.
func (h *Host) openRelay() error {
	address, ok := h.address()
	if !ok {
		return errors.New("no public IPv4 address is known")
	}
	udp, tcp, err := h.listenRelay()
	if err != nil {
		return fmt.Errorf("open a port for the relay: %w", err)
	}
	cfg := relay.Config{
		UDP:     []net.PacketConn{udp},
		TCP:     []net.Listener{tcp},
		RelayIP: address,
		Logger:  h.cfg.Logger,
		Limits:  relay.DefaultLimits(),
	}
	cfg.MinPort, cfg.MaxPort = relayedPorts(h.cfg.Socket.Port())
	if h.cfg.Loopback {
		cfg.AllowPeer = netip.Addr.IsLoopback
		// All of this machine's agents share one prefix.
		cfg.Limits.PerPrefix = cfg.Limits.Allocations
	}
	server, err := relay.NewServer(cfg)
	if err != nil {
		return errors.Join(err, udp.Close(), tcp.Close())
	}
	if h.keep(server) {
		h.relay.Store(server)
	}
	return nil
}

// relayedPorts are the ports packets are relayed at, few and next to the
// device's own, so that one rule opens a firewall for all of them. Where they
// would be too high the kernel chooses.
func relayedPorts(port uint16) (low, high uint16) {
	if port > math.MaxUint16-relayedFrom-relayedCount {
		return 0, 0
	}
	return port + relayedFrom, port + relayedFrom + relayedCount - 1
}

// listenRelay opens the relay's ports, each at the one next to the UDP port,
// or, if somebody else has that, at any.
func (h *Host) listenRelay() (net.PacketConn, net.Listener, error) {
	next := netip.AddrPortFrom(netip.IPv4Unspecified(), h.cfg.Socket.Port()+1)
	anyPort := netip.AddrPortFrom(next.Addr(), 0)
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(h.ctx, "udp4", hostPort(next))
	if err != nil {
		udp, err = lc.ListenPacket(h.ctx, "udp4", hostPort(anyPort))
	}
	if err != nil {
		return nil, nil, err
	}
	tcp, err := listen(h.ctx, "tcp4", next)
	if err != nil {
		tcp, err = listen(h.ctx, "tcp4", anyPort)
	}
	if err != nil {
		return nil, nil, errors.Join(err, udp.Close())
	}
	return udp, tcp, nil
}

// address is the IPv4 address relayed packets come from.
func (h *Host) address() (netip.Addr, bool) {
	state := h.cfg.State()
	if state.Public.Addr().Is4() {
		return state.Public.Addr(), true
	}
	for _, c := range state.Candidates {
		if a := c.Addr.Addr(); a.Is4() && (!a.IsPrivate() || h.cfg.Loopback) && (!a.IsLoopback() || h.cfg.Loopback) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Ticket makes a ticket for the relay; nil while there is none.
func (h *Host) Ticket(a identity.Address) *relay.Ticket {
	server := h.relay.Load()
	if server == nil {
		return nil
	}
	class := relay.Stranger
	if h.cfg.Friend(a) {
		class = relay.Friend
	}
	ticket := server.Ticket(relay.Grant{Client: a.String(), Class: class})
	return &ticket
}

// RelayedBytes counts what was passed on for others.
func (h *Host) RelayedBytes() int64 {
	server := h.relay.Load()
	if server == nil {
		return 0
	}
	stats := server.Stats()
	return stats.BytesToPeers + stats.BytesToClients
}

// listen listens for connections at addr.
func listen(ctx context.Context, network string, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, network, hostPort(addr))
}

func hostPort(addr netip.AddrPort) string {
	if addr.Addr().IsUnspecified() && addr.Addr().Is6() {
		return ":" + strconv.Itoa(int(addr.Port()))
	}
	return addr.String()
}
