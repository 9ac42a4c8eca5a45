package stun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is the part of the shared socket that a [Mux] needs. WriteSTUN must
// not block for long and must not keep b.
type Conn interface {
	WriteSTUN(b []byte, to netip.AddrPort) error
	LocalAddr() net.Addr
}

// Limits of a [Mux].
const (
	// MaxEndpoints is how many ICE endpoints may be registered at once.
	MaxEndpoints = 256
	// MaxChecks is how many unanswered checks of one endpoint are
	// remembered; beyond that the oldest is forgotten, and an answer to it
	// dropped.
	MaxChecks = 256

	maxUfrag = 256 // characters, RFC 8445 §5.3
)

// Errors of the Mux.
var (
	ErrUfrag       = errors.New("stun: ufrag unusable or already registered")
	ErrTooMany     = errors.New("stun: too many endpoints")
	ErrNotBinding  = errors.New("stun: an endpoint sends only binding requests and answers")
	ErrServerAlone = errors.New("stun: an alternate port needs Serve")
)

// Config configures a [Mux]. The zero value is a client that answers nobody
// but its endpoints.
type Config struct {
	// Serve makes the Mux answer Binding requests without USERNAME.
	Serve bool
	// AltPort is a second socket on the same machine by which CHANGE-REQUEST
	// for another port is honoured, and which answers requests itself. The
	// Mux reads it and closes it.
	AltPort net.PacketConn

	Rate  float64 // answers a second per /24 or /56, default [DefaultRate]
	Burst int     // answers at once per /24 or /56, default [DefaultBurst]

	// Open opens another socket beside the shared one, for the filtering test
	// of [Mux.Discover]. Without it both tests share a socket, and behind a
	// router without a filter of its own the mapping may stay Unknown.
	Open Opener

	// Logger gets what the owner of a device could want to know; nil is
	// silence.
	Logger *slog.Logger
}

// Mux shares the STUN datagrams of one socket between our own client, our
// server and the ICE endpoints. All methods may be called concurrently.
type Mux struct {
	conn   Conn
	client *client
	server *responder // nil unless Config.Serve
	alt    net.PacketConn
	fresh  Opener
	log    *slog.Logger
	loops  sync.WaitGroup
	counts counters

	mu        sync.Mutex
	closed    bool
	stop      chan struct{}
	endpoints map[string]*Endpoint
	checks    map[TransactionID]check
}

// check is a Binding request that an endpoint has sent.
type check struct {
	owner *Endpoint
	to    netip.AddrPort
}

// Counts says what became of the datagrams a [Mux] was handed.
type Counts struct {
	Malformed   int64 // refused by Check
	Unasked     int64 // responses to nothing we sent
	WrongSource int64 // our transaction, somebody else's address
	Unreadable  int64 // our transaction, no usable address in it
	UnknownUser int64 // requests for a ufrag that is not registered
	Unserved    int64 // requests and messages nobody here answers
	Limited     int64 // requests over the rate
	Answered    int64 // requests answered by our server
	Answers     int64 // answers to our own requests, believed
	Endpoint    int64 // datagrams handed to endpoints
}

type counters struct {
	malformed, unasked, wrongSource, unreadable   atomic.Int64
	unknownUser, unserved, answers, endpointTotal atomic.Int64
}

// NewMux makes a Mux over conn. The caller reads the socket and hands every
// STUN datagram to [Mux.Handle].
func NewMux(conn Conn, cfg Config) (*Mux, error) {
	if cfg.AltPort != nil && !cfg.Serve {
		return nil, ErrServerAlone
	}
	m := &Mux{
		conn: conn, client: newClient(conn), alt: cfg.AltPort, fresh: cfg.Open, log: cfg.Logger,
		stop:      make(chan struct{}),
		endpoints: make(map[string]*Endpoint),
		checks:    make(map[TransactionID]check),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Serve {
		m.server = &responder{limit: newLimiter(cfg.Rate, cfg.Burst)}
		m.server.places[0].send = conn
	}
	if m.alt != nil {
		m.server.places[1].send = packetSender{m.alt}
		m.loops.Go(func() { readLoop(m.alt, m.stop, m.handleAlternate) })
	}
	return m, nil
}

// SetPublic tells the server which addresses it is seen at, for
// RESPONSE-ORIGIN and OTHER-ADDRESS; an unusable one is told no more.
// Until then the attributes are left out.
//
// The alternate is the other port of the same address. One at another address
// is left out, because requests to be answered from there would be refused:
// a server with one address can't be completed by another node, see the
// package's caveats.
func (m *Mux) SetPublic(primary, alternate netip.AddrPort) {
	if m.server == nil {
		return
	}
	if canonical(alternate).Addr() != canonical(primary).Addr() {
		alternate = netip.AddrPort{}
	}
	m.server.setPublic(0, primary)
	m.server.setPublic(1, alternate)
}

// Handle takes one datagram from the socket. b is not kept. It never blocks
// on the network and drops in silence whatever is not for us.
func (m *Mux) Handle(b []byte, from netip.AddrPort) {
	if err := Check(b); err != nil {
		m.counts.malformed.Add(1)
		return
	}
	from = canonical(from)
	switch messageType(b) {
	case bindingSuccess, bindingError:
		m.handleResponse(b, from)
	case bindingRequest:
		if username, ok := find(b, attrUsername); ok {
			m.handleCheck(b, from, username)
			return
		}
		m.serve(b, from, 0)
	default:
		m.counts.unserved.Add(1)
	}
}

func (m *Mux) handleResponse(b []byte, from netip.AddrPort) {
	switch m.client.deliver(b, from) {
	case believed:
		m.counts.answers.Add(1)
	case wrongSource:
		m.counts.wrongSource.Add(1)
	case unreadable:
		m.counts.unreadable.Add(1)
	case notOurs:
		m.handleCheckResponse(b, from)
	}
}

// handleCheckResponse hands the answer to a check to the endpoint that sent
// it, once, and only from the address that was checked (RFC 8445 §7.2.5.2.1).
func (m *Mux) handleCheckResponse(b []byte, from netip.AddrPort) {
	id := transactionID(b)
	m.mu.Lock()
	c, ok := m.checks[id]
	if ok && c.to == from {
		delete(m.checks, id)
	}
	m.mu.Unlock()
	switch {
	case !ok:
		m.counts.unasked.Add(1)
	case c.to != from:
		m.counts.wrongSource.Add(1)
	default:
		m.counts.endpointTotal.Add(1)
		c.owner.handle(b, from)
	}
}

func (m *Mux) handleCheck(b []byte, from netip.AddrPort, username []byte) {
	ufrag, _, _ := bytes.Cut(username, []byte{':'})
	m.mu.Lock()
	e := m.endpoints[string(ufrag)]
	m.mu.Unlock()
	if e == nil {
		m.counts.unknownUser.Add(1)
		return
	}
	m.counts.endpointTotal.Add(1)
	e.handle(b, from)
}

func (m *Mux) serve(b []byte, from netip.AddrPort, place int) {
	if m.server == nil {
		m.counts.unserved.Add(1)
		return
	}
	m.server.handle(b, from, place)
}

func (m *Mux) handleAlternate(b []byte, from netip.AddrPort) {
	if Check(b) != nil {
		m.counts.malformed.Add(1)
		return
	}
	m.serve(b, from, 1)
}

// Counts returns what has been counted so far.
func (m *Mux) Counts() Counts {
	c := Counts{
		Malformed: m.counts.malformed.Load(), Unasked: m.counts.unasked.Load(),
		WrongSource: m.counts.wrongSource.Load(), Unreadable: m.counts.unreadable.Load(),
		UnknownUser: m.counts.unknownUser.Load(), Unserved: m.counts.unserved.Load(),
		Answers: m.counts.answers.Load(), Endpoint: m.counts.endpointTotal.Load(),
	}
	if m.server != nil {
		c.Limited = m.server.limited.Load()
		c.Answered = m.server.answered.Load()
		c.Unserved += m.server.silent.Load()
	}
	return c
}

// LocalAddr is the address of the socket.
func (m *Mux) LocalAddr() net.Addr { return m.conn.LocalAddr() }

// Bind asks server how it sees the socket and measures the round trip. It
// sends again after 100, 200, 400 ms and so on until ctx ends (or
// [DefaultTimeout], if ctx has no deadline). Errors: [ErrNoAnswer],
// [ErrRefused], [ErrNonsense], [ErrBusy], net.ErrClosed.
func (m *Mux) Bind(ctx context.Context, server netip.AddrPort) (mapped netip.AddrPort, rtt time.Duration, err error) {
	mapped, rtt, err = m.client.bind(ctx, server)
	if err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("stun binding: %w", err)
	}
	return mapped, rtt, nil
}

// Discover runs the tests of RFC 5780 against a server with alternate
// addresses. Without Config.Open, Filtering is [Unknown] when the Mux has sent
// to one of them in the last five minutes, and Mapping is [Unknown] when it
// seems to depend on the endpoint but a packet that was sent to test the filter
// may be the cause; [DiscoverFresh] knows better.
func (m *Mux) Discover(ctx context.Context, server netip.AddrPort) (Behaviour, error) {
	b, err := m.prober().discover(ctx, server)
	if err != nil {
		return b, fmt.Errorf("discover nat behaviour: %w", err)
	}
	m.log.Debug("nat behaviour", "mapping", b.Mapping, "filtering", b.Filtering, "mapped", b.Mapped)
	return b, nil
}

// Mapping compares what several plain STUN servers see, asked one after the
// other. Filtering stays [Unknown]. It needs two answers, best from servers
// with different IPs; [ErrTooFewServers] otherwise.
func (m *Mux) Mapping(ctx context.Context, servers []netip.AddrPort) (Behaviour, error) {
	b, err := m.prober().mappingOf(ctx, servers)
	if err != nil {
		return b, fmt.Errorf("discover nat mapping: %w", err)
	}
	return b, nil
}

func (m *Mux) prober() prober {
	return prober{m.client, localAddress(m.conn.LocalAddr()), m.fresh}
}

// Close ends all requests of ours with net.ErrClosed, removes the endpoints
// and closes AltPort. The shared socket stays open.
func (m *Mux) Close() error {
	m.client.close()
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.stop)
		if m.alt != nil {
			_ = m.alt.Close()
		}
	}
	clear(m.endpoints)
	clear(m.checks)
	m.mu.Unlock()
	m.loops.Wait()
	return nil
}

// Endpoint is one ICE agent's share of the socket.
type Endpoint struct {
	mux    *Mux
	ufrag  string
	handle func(b []byte, from netip.AddrPort)

	// sent is a ring of the transaction ids in Mux.checks; Mux.mu guards it.
	sent [MaxChecks]TransactionID
	next int
}

// Register claims the checks addressed to a local ufrag and the answers to
// what the endpoint sends. handle runs while the socket is being read: it
// must not block and must not keep b. What it gets has passed [Check] but is
// not authenticated.
func (m *Mux) Register(ufrag string, handle func(b []byte, from netip.AddrPort)) (*Endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, taken := m.endpoints[ufrag]
	switch {
	case m.closed:
		return nil, net.ErrClosed
	case ufrag == "" || len(ufrag) > maxUfrag || strings.Contains(ufrag, ":") || taken:
		return nil, ErrUfrag
	case len(m.endpoints) >= MaxEndpoints:
		return nil, ErrTooMany
	}
	e := &Endpoint{mux: m, ufrag: ufrag, handle: handle}
	m.endpoints[ufrag] = e
	return e, nil
}

// Send sends a Binding message. The answer to a request is expected from to.
func (e *Endpoint) Send(b []byte, to netip.AddrPort) error {
	to = canonical(to)
	if err := e.admit(b, to); err != nil {
		return err
	}
	return e.mux.conn.WriteSTUN(b, to)
}

// admit refuses what an endpoint may not send, and expects the answer.
func (e *Endpoint) admit(b []byte, to netip.AddrPort) error {
	if err := Check(b); err != nil {
		return err
	}
	switch messageType(b) {
	case bindingRequest:
		return e.expect(transactionID(b), to)
	case bindingSuccess, bindingError:
		return nil
	}
	return ErrNotBinding
}

func (e *Endpoint) expect(id TransactionID, to netip.AddrPort) error {
	m := e.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.endpoints[e.ufrag] != e {
		return net.ErrClosed
	}
	if old := e.sent[e.next]; m.checks[old].owner == e {
		delete(m.checks, old)
	}
	e.sent[e.next] = id
	e.next = (e.next + 1) % MaxChecks
	m.checks[id] = check{e, to}
	m.client.noteSent(to)
	return nil
}

// Close gives the ufrag back. A handler that is running may still be running
// when Close returns.
func (e *Endpoint) Close() error {
	m := e.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.endpoints[e.ufrag] == e {
		delete(m.endpoints, e.ufrag)
	}
	for _, id := range e.sent {
		if m.checks[id].owner == e {
			delete(m.checks, id)
		}
	}
	return nil
}
