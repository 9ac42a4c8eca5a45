package public

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/reach"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

const (
	// maxFramed is how many TCP connections carry packets at once.
	maxFramed = 64
	// maxAnswers is how many STUN requests of one connection are answered.
	maxAnswers = 8
	// relayedFrom and relayedCount place the relayed ports behind the UDP
	// port: twice as many as there are allocations, so that one is free.
	relayedFrom  = 9
	relayedCount = 64
	// lookEvery is how often reachability is looked at.
	lookEvery = 500 * time.Millisecond
	// openAgain is the pause after a relay could not be opened.
	openAgain = time.Minute
)

// Config is what a Host needs.
type Config struct {
	Socket *nat.Socket
	State  func() reach.State
	Mux    *stun.Mux
	// SecondPort answers behaviour discovery (RFC 5780 §4.4); 0 if there is none.
	SecondPort uint16
	// WebPort is a TCP port beside that of the socket at which the same is
	// served, where it is free and may be opened: 443, which networks let out
	// that let out nothing else. 0: none.
	WebPort uint16
	// Private says that nothing is opened: the owner wants nobody to come in.
	Private bool
	// Of the STUN datagrams that come in frames, Knocks answers those that
	// somebody here waits for, Asked takes other questions that name a user,
	// and RespondSTUN answers those that name none. Each may be nil; they must
	// not block and must not keep b.
	Knocks      func(b []byte, from netip.AddrPort) []byte
	Asked       func(b []byte, f *nat.Framed)
	RespondSTUN func(b []byte, from netip.AddrPort) []byte
	// Friend says whether a device gets a friend's share of the relay.
	Friend func(identity.Address) bool
	// Loopback lets the relay lead to loopback addresses, for trying out.
	Loopback bool
	Logger   *slog.Logger
}

// Host helps others.
type Host struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	framed  atomic.Int64
	relay   atomic.Pointer[relay.Server]
	secure  atomic.Pointer[handoff] // TLS connections for the relay
	relayed atomic.Int64            // bytes, by relays that are closed

	mu        sync.Mutex
	listeners []net.Listener // the best for TLS is the last
}

// New returns a Host that is not yet started.
func New(cfg Config) *Host {
	h := &Host{cfg: cfg}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// Start opens the way in over TCP, unless the owner wants nobody to come in,
// and the relay whenever the device can have one.
func (h *Host) Start() {
	if h.cfg.Private {
		return
	}
	own := h.cfg.Socket.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := h.openEntrance(own); err != nil {
		h.cfg.Logger.Warn("homes without UDP cannot come in", "err", err)
	}
	if web := h.cfg.WebPort; web != 0 && web != own.Port() {
		if err := h.openEntrance(netip.AddrPortFrom(own.Addr(), web)); err != nil {
			h.cfg.Logger.Debug("no way in where little gets out", "port", web, "err", err)
		}
	}
	h.running.Go(h.run)
}

// Close closes what was opened and waits.
func (h *Host) Close() error {
	h.cancel()
	h.mu.Lock()
	listeners := h.listeners
	h.listeners = nil
	h.mu.Unlock()
	errs := []error{closeAll(nil, listeners)}
	h.running.Wait()
	return errors.Join(append(errs, h.closeRelay())...)
}

// run opens and closes the relay as the device becomes reachable, stops being
// so, and gets other addresses.
func (h *Host) run() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var open, failed relayAddresses
	var failedAt time.Time
	for {
		state := h.cfg.State()
		want := h.addresses(state, open)
		if want != open && open.any() {
			h.cfg.Logger.Info("no relay for others any more", "verdict", state.Verdict)
			h.cfg.Mux.SetPublic(netip.AddrPort{}, netip.AddrPort{})
			if err := h.closeRelay(); err != nil {
				h.cfg.Logger.Debug("close the relay", "err", err)
			}
			open = relayAddresses{}
		}
		if want != open && (want != failed || time.Since(failedAt) > openAgain) {
			h.tellPlaces(want)
			if err := h.openRelay(want); err != nil {
				h.cfg.Logger.Warn("no relay for others", "err", err)
				failed, failedAt = want, time.Now()
			} else {
				open = want
			}
		}
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			return
		}
	}
}

// relayAddresses are where relayed packets come from, invalid where there is
// no such address.
type relayAddresses struct{ v4, v6 netip.Addr }

func (a relayAddresses) any() bool { return a.v4.IsValid() || a.v6.IsValid() }

// closeRelay ends the relay and what goes through it.
func (h *Host) closeRelay() error {
	server := h.relay.Swap(nil)
	h.secure.Store(nil)
	if server == nil {
		return nil
	}
	err := server.Close()
	h.relayed.Add(bytesOf(server))
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// tellPlaces lets the STUN server say where it answers from, so that others
// can find out how their routers behave.
func (h *Host) tellPlaces(a relayAddresses) {
	if !a.v4.IsValid() || h.cfg.SecondPort == 0 {
		return // the second port has IPv4 only
	}
	h.cfg.Mux.SetPublic(netip.AddrPortFrom(a.v4, h.cfg.Socket.Port()), netip.AddrPortFrom(a.v4, h.cfg.SecondPort))
}

// openRelay starts the TURN server next to the UDP port.
func (h *Host) openRelay(a relayAddresses) error {
	udp, tcp, err := h.listenRelay(a)
	if err != nil {
		return fmt.Errorf("open a port for the relay: %w", err)
	}
	cfg := relay.Config{
		UDP:      udp,
		TCP:      tcp,
		RelayIP:  a.v4,
		RelayIP6: a.v6,
		Logger:   h.cfg.Logger,
		Limits:   relay.DefaultLimits(),
	}
	cfg.MinPort, cfg.MaxPort = relayedPorts(h.cfg.Socket.Port())
	secure := h.newHandoff()
	if secure != nil {
		cfg.TLS = []net.Listener{secure}
	}
	if h.cfg.Loopback {
		cfg.AllowPeer = netip.Addr.IsLoopback
		// All of this machine's agents share one prefix.
		cfg.Limits.PerPrefix = cfg.Limits.Allocations
	}
	server, err := relay.NewServer(cfg)
	if err != nil {
		return errors.Join(err, closeAll(udp, tcp))
	}
	h.secure.Store(secure)
	h.relay.Store(server)
	return nil
}

func closeAll(udp []net.PacketConn, tcp []net.Listener) error {
	var errs []error
	for _, c := range udp {
		errs = append(errs, c.Close())
	}
	for _, c := range tcp {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
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

// listenRelay opens the relay's ports for the IP families it has addresses in,
// each at the one next to the UDP port, or, if somebody else has that, at any.
func (h *Host) listenRelay(a relayAddresses) (udp []net.PacketConn, tcp []net.Listener, err error) {
	for _, f := range []struct {
		name      string
		address   netip.Addr
		listening netip.Addr
	}{{"4", a.v4, netip.IPv4Unspecified()}, {"6", a.v6, netip.IPv6Unspecified()}} {
		if !f.address.IsValid() {
			continue
		}
		u, uErr := nextOrAny(h.ctx, "udp"+f.name, f.listening, h.cfg.Socket.Port(), listenPacket)
		if uErr == nil {
			udp = append(udp, u)
		}
		t, tErr := nextOrAny(h.ctx, "tcp"+f.name, f.listening, h.cfg.Socket.Port(), listen)
		if tErr == nil {
			tcp = append(tcp, t)
		}
		if err := errors.Join(uErr, tErr); err != nil {
			return nil, nil, errors.Join(err, closeAll(udp, tcp))
		}
	}
	return udp, tcp, nil
}

// nextOrAny opens the port after another, or any.
func nextOrAny[T any](ctx context.Context, network string, host netip.Addr, port uint16,
	open func(context.Context, string, netip.AddrPort) (T, error)) (T, error) {
	if port < math.MaxUint16 {
		if opened, err := open(ctx, network, netip.AddrPortFrom(host, port+1)); err == nil {
			return opened, nil
		}
	}
	return open(ctx, network, netip.AddrPortFrom(host, 0))
}

// addresses are those of a relay: what helpers see, or else what an interface
// has. There are none unless strangers reach every port of the device. Those
// that it has are kept as long as the device does: machines have several IPv6
// addresses, and which one helpers see changes.
func (h *Host) addresses(state reach.State, open relayAddresses) (a relayAddresses) {
	if !state.Reachable || !state.Open {
		return a
	}
	known := []netip.Addr{state.Public.Addr(), state.Public6.Addr()}
	for _, c := range state.Candidates {
		if c.Kind == ice.Host {
			known = append(known, c.Addr.Addr())
		}
	}
	take := func(addr netip.Addr) {
		switch {
		case addr.IsLoopback() && !h.cfg.Loopback, addr.IsPrivate() && !h.cfg.Loopback, !addr.IsValid():
		case !slices.Contains(known, addr):
		case addr.Is4() && !a.v4.IsValid():
			a.v4 = addr
		case addr.Is6() && !a.v6.IsValid():
			a.v6 = addr
		}
	}
	take(open.v4)
	take(open.v6)
	for _, addr := range known {
		take(addr)
	}
	return a
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
	if server := h.relay.Load(); server != nil {
		return h.relayed.Load() + bytesOf(server)
	}
	return h.relayed.Load()
}

func bytesOf(server *relay.Server) int64 {
	stats := server.Stats()
	return stats.BytesToPeers + stats.BytesToClients
}

// listen listens for connections at addr.
func listen(ctx context.Context, network string, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, network, hostPort(addr))
}

func listenPacket(ctx context.Context, network string, addr netip.AddrPort) (net.PacketConn, error) {
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, network, hostPort(addr))
}

func hostPort(addr netip.AddrPort) string {
	if addr.Addr().IsUnspecified() && addr.Addr().Is6() {
		return ":" + strconv.Itoa(int(addr.Port()))
	}
	return addr.String()
}
