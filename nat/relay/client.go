package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// What went wrong with an allocation; errors of this package wrap one of these.
var (
	// ErrRefused: the relay does not accept the ticket (expired, used, forged)
	// or, a stock one, user name and password.
	ErrRefused = errors.New("relay refused the credentials: ask it for a new ticket, or correct user name and password")
	// ErrFull: the relay has no room for this client now.
	ErrFull = errors.New("relay has no room: try another relay or later")
	// ErrFamily: the relay has no relayed address of that IP version.
	ErrFamily = errors.New("relay has no address of that ip version: ask for the other, or another relay")
	// ErrPeerRefused: the relay will not send to that address.
	ErrPeerRefused = errors.New("relay refused the peer address")
	// ErrNotPermitted: WriteTo to an address without Permit.
	ErrNotPermitted = errors.New("no permission at the relay: call Permit first")
	// ErrLost: the relay no longer answers, or no longer knows the allocation.
	ErrLost = errors.New("relay allocation lost: allocate again")
	// ErrTooLarge: more than MaxPayload.
	ErrTooLarge = errors.New("payload too large for the relay")
	// ErrTooMany: more than MaxPeers.
	ErrTooMany = errors.New("too many peers on one relay allocation")
)

const (
	// DefaultKeepAlive keeps the NAT's mapping towards the relay: home
	// gateways drop it after 30 s.
	DefaultKeepAlive = 20 * time.Second
	// MaxPeers bounds permissions, and channels, of one allocation.
	MaxPeers = 64

	permissionRenewal = 4 * time.Minute // of 5, RFC 8656 §9
	channelRetry      = time.Minute     // after a refused channel
	closeTimeout      = 500 * time.Millisecond
)

// Options for Allocate.
type Options struct {
	Network   string                              // "udp", "tcp" or "tls"
	Family    Family                              // of the relayed address, whatever the way to the relay is: IPv4 if 0
	Handler   func(b []byte, from netip.AddrPort) // gets what peers send, on one goroutine; must not block; b is valid during the call
	KeepAlive time.Duration                       // DefaultKeepAlive if 0
	Logger    *slog.Logger                        // not set: discards
	TLS       *tls.Config                         // verifies a stock server; not set: by the system's roots
	Lookup    Lookup                              // finds a stock server's name; not set: the system's resolver
}

func (o Options) withDefaults() Options {
	if o.KeepAlive <= 0 {
		o.KeepAlive = DefaultKeepAlive
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Family == 0 {
		o.Family = IPv4
	}
	return o
}

// Allocation is an address at a relay through which peers can be reached and
// can reach us. It refreshes itself until Close.
type Allocation struct {
	opts   Options
	conn   packetLink
	server netip.AddrPort
	log    *slog.Logger
	creds  credentials

	relayed, mapped netip.AddrPort
	roundTrips      int

	txMu    sync.Mutex
	pending map[[12]byte]chan message

	wmu     sync.Mutex
	scratch [channelHeader + MaxPayload + 3]byte

	peerMu   sync.RWMutex
	permits  map[netip.Addr]time.Time // granted at
	channels map[netip.AddrPort]*channel
	byNumber [MaxPeers]*channel
	wanted   chan *channel

	cancel  context.CancelCauseFunc
	ctx     context.Context // of the running allocation
	open    atomic.Bool     // data may pass
	closed  chan struct{}
	endOnce sync.Once
	wg      sync.WaitGroup
}

// Allocate opens an allocation with a ticket. The addresses of the ticket are
// tried in their order within ctx, which bounds only this call.
func Allocate(ctx context.Context, t Ticket, opts Options) (*Allocation, error) {
	doors, err := t.doors(opts.Network)
	if err != nil {
		return nil, err
	}
	return allocateFirst(ctx, t, doors, opts)
}

// doors are where the ticket's relay is asked over a network.
func (t Ticket) doors(network string) ([]door, error) {
	var texts []string
	switch network {
	case "udp":
		texts = t.UDP
	case "tcp":
		texts = t.TCP
	case "tls":
		texts = t.TLS
	default:
		return nil, fmt.Errorf("relay network %q is neither udp, tcp nor tls", network)
	}
	var doors []door
	for i, s := range texts {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("relay address in ticket: %w", err)
		}
		d := door{addr: a, secure: pinned(t.Pin)}
		if network == "udp" && i < len(t.Nonces) {
			d.nonce = t.Nonces[i]
		}
		doors = append(doors, d)
	}
	if len(doors) == 0 {
		return nil, fmt.Errorf("ticket names no relay address for %s", network)
	}
	return doors, nil
}

// allocateFirst tries the doors in turn.
func allocateFirst(ctx context.Context, t Ticket, doors []door, opts Options) (*Allocation, error) {
	var failures []error
	for i, at := range doors {
		a, err := allocateAt(ctx, t, opts, at, len(doors)-i)
		if err == nil {
			return a, nil
		}
		failures = append(failures, fmt.Errorf("allocate at relay %s over %s: %w", at.addr, opts.Network, err))
		final := errors.Is(err, ErrRefused) || errors.Is(err, ErrFull) || errors.Is(err, ErrFamily)
		if final || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// allocateAt tries one door in its share of the time left.
func allocateAt(ctx context.Context, t Ticket, opts Options, at door, left int) (*Allocation, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	a, err := connect(ctx, t, opts, at)
	if err != nil {
		return nil, err
	}
	if err := a.handshake(ctx); err != nil {
		a.end(err)
		a.wg.Wait()
		return nil, err
	}
	return a, nil
}

// connect opens the way to the relay and begins to read from it.
func connect(ctx context.Context, t Ticket, opts Options, at door) (*Allocation, error) {
	opts = opts.withDefaults()
	link, err := dialLink(ctx, opts.Network, at)
	if err != nil {
		return nil, err
	}
	a := &Allocation{
		opts: opts, conn: link, server: at.addr, log: opts.Logger,
		creds:    newCredentials(t, at.nonce),
		pending:  make(map[[12]byte]chan message),
		permits:  make(map[netip.Addr]time.Time),
		channels: make(map[netip.AddrPort]*channel),
		wanted:   make(chan *channel, MaxPeers),
		closed:   make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	a.wg.Add(1)
	go a.readLoop()
	if l, ok := link.(tcpLink); ok {
		a.wg.Add(1)
		go func() { defer a.wg.Done(); l.drain(a.closed) }()
	}
	return a, nil
}

// RelayedAddr is the address at which peers reach us.
func (a *Allocation) RelayedAddr() netip.AddrPort { return a.relayed }

// MappedAddr is our address as the relay sees it.
func (a *Allocation) MappedAddr() netip.AddrPort { return a.mapped }

// Server is the relay's address.
func (a *Allocation) Server() netip.AddrPort { return a.server }

// Network is how the relay is reached: "udp", "tcp" or "tls". Over UDP the
// relay knows its client by address and port (RFC 8656 §3.2).
func (a *Allocation) Network() string { return a.opts.Network }

// RoundTrips is how many exchanges Allocate took: 1 with a fresh nonce in the
// ticket, otherwise 2.
func (a *Allocation) RoundTrips() int { return a.roundTrips }

// Closed is closed when the allocation has ended; Err then says why.
func (a *Allocation) Closed() <-chan struct{} { return a.closed }

// Err is nil while the allocation lives, net.ErrClosed after Close, else a
// reason that wraps ErrLost or ErrRefused.
func (a *Allocation) Err() error {
	select {
	case <-a.closed:
		return context.Cause(a.ctx)
	default:
		return nil
	}
}

// Close gives the allocation back and waits until nothing runs. It takes half
// a second when the relay does not answer. Not to be called from the handler.
func (a *Allocation) Close() error {
	if a.open.Swap(false) && a.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(a.ctx, closeTimeout)
		if _, err := a.refresh(ctx, 0); err != nil {
			a.log.Debug("relay allocation left to lapse", "err", err)
		}
		cancel()
	}
	a.end(net.ErrClosed)
	a.wg.Wait()
	return nil
}

// end stops everything once and for all, without waiting.
func (a *Allocation) end(cause error) {
	a.endOnce.Do(func() {
		a.open.Store(false)
		a.cancel(cause)
		a.conn.Close()
		close(a.closed)
	})
}

// readLoop is the only reader, and calls the handler.
func (a *Allocation) readLoop() {
	defer a.wg.Done()
	var b [inboundBuffer]byte
	for failed := 0; ; {
		n, err := a.conn.read(b[:])
		if err != nil {
			// On UDP an ICMP message of any author surfaces as an error;
			// whether the relay is gone is for refresh to find out.
			failed++
			if a.ctx.Err() != nil || a.conn.reliable() || failed >= maxReadErrors {
				a.end(fmt.Errorf("%w: %w", ErrLost, err))
				return
			}
			continue
		}
		failed = 0
		a.receive(b[:n])
	}
}

func (a *Allocation) receive(b []byte) {
	if isChannelData(b) {
		number, data, err := parseChannelData(b)
		if ch := a.channelByNumber(number); err == nil && ch != nil {
			a.deliver(data, ch.peer)
		}
		return
	}
	m, err := parseMessage(b)
	if err != nil {
		return
	}
	switch {
	case m.kind == typeData:
		if peer, ok := m.address(attrPeerAddress); ok {
			a.deliver(m.attribute(attrData), peer)
		}
	case m.isResponse():
		a.settle(m)
	}
}

func (a *Allocation) deliver(b []byte, from netip.AddrPort) {
	if a.open.Load() && a.opts.Handler != nil {
		a.opts.Handler(b, from)
	}
}

// keeper refreshes allocation, permissions and channels, and binds channels.
func (a *Allocation) keeper() {
	defer a.wg.Done()
	t := time.NewTicker(a.opts.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case ch := <-a.wanted:
			if err := a.bind(a.ctx, ch); errors.Is(err, ErrLost) && !a.alive() {
				return
			}
		case <-t.C:
			if !a.alive() {
				return
			}
			a.renewPeers()
		}
	}
}

// alive refreshes the allocation, or ends it.
func (a *Allocation) alive() bool {
	_, err := a.refresh(a.ctx, defaultLifetime)
	if err != nil && a.ctx.Err() == nil {
		a.log.Info("relay allocation lost", "relay", a.server, "err", err)
		a.end(fmt.Errorf("refresh relay allocation: %w", lostUnless(err)))
	}
	return err == nil
}

// lostUnless makes every reason for a failed refresh an ErrLost.
func lostUnless(err error) error {
	if errors.Is(err, ErrLost) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}
