package portmap

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"porchlight/nat/portmap/pcp"
)

const (
	// SettleTime is when [State.Settled] is true at the latest after a start
	// or a change of network.
	SettleTime = 3 * time.Second
	// lookTime is when slow routers are given up.
	lookTime = 4 * time.Second
	// closeTime is how long Close may take for removing mappings.
	closeTime = 2 * time.Second
	// orphanTime is how long it may take for mappings of which it is not known
	// whether they were made, mostly at routers that never answered.
	orphanTime = 500 * time.Millisecond
	// maxDistrust is how many calls of Distrust wait; more are dropped, the
	// caller will find them wanting again.
	maxDistrust = 16
)

// Config says what is to be mapped.
type Config struct {
	// UDPPort and TCPPort are ports of this device that are to be reached
	// from outside; 0 is not wanted.
	UDPPort, TCPPort uint16
	// Secret, if not zero, makes PCP give back the mappings of an earlier run
	// that crashed: their nonces are derived from it. It must be the device's
	// own. Zero: drawn for each Mapper.
	Secret [32]byte
	// Routes tells the default routes; nil for [KernelRoutes].
	Routes func() ([]Route, error)
	// Logger is for what happens; nil for nothing.
	Logger *slog.Logger
}

// Mapper keeps ports open. Its methods are safe for concurrent use.
type Mapper struct {
	cfg    Config
	log    *slog.Logger
	secret [32]byte
	find   finders
	pace   pace

	ctx    context.Context // from Start to Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // distrusts is not empty
	heard  chan struct{} // a router announced something

	closing sync.Once

	mu         sync.Mutex
	started    bool
	closed     bool
	interrupt  context.CancelFunc // ends the present look or rest
	refreshed  bool
	settled    bool
	gateway    netip.Addr
	gateways   []netip.Addr // of all routes, for announcements
	router     string
	routerSure bool // the name is the default router's own
	outcomes   map[Method]Outcome
	wanted     []slot
	slots      map[slot]*held
	orphans    []*held // made while closing
	doubts     map[doubt]distrust
	distrusts  []Mapping
	misses     int // looks in a row without anything new
	state      State
	changed    chan struct{}
}

// New returns a Mapper that does nothing until [Mapper.Start].
func New(cfg Config) *Mapper {
	m := &Mapper{
		cfg: cfg, log: cfg.Logger, secret: cfg.Secret, pace: usual,
		wake: make(chan struct{}, 1), heard: make(chan struct{}, 1),
		outcomes: pendingOutcomes(), slots: make(map[slot]*held), doubts: make(map[doubt]distrust),
		changed: make(chan struct{}),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.cfg.Routes == nil {
		m.cfg.Routes = KernelRoutes
	}
	if m.secret == [32]byte{} {
		rand.Read(m.secret[:])
	}
	m.find = m.realFinders()
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.state = State{Outcomes: pendingOutcomes()}
	return m
}

func pendingOutcomes() map[Method]Outcome {
	return map[Method]Outcome{PCP: Pending, NATPMP: Pending, IGD2: Pending, IGD1: Pending}
}

// Start begins to look for routers. Later calls, and calls after Close, do
// nothing.
func (m *Mapper) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started || m.closed {
		return
	}
	m.started = true
	m.wg.Go(m.run)
	m.wg.Go(m.listen)
}

// listen hears announcements of routers.
func (m *Mapper) listen() {
	err := pcp.Listen(m.ctx, func(from netip.Addr) {
		m.mu.Lock()
		ours := slices.Contains(m.gateways, from)
		m.mu.Unlock()
		if ours {
			select {
			case m.heard <- struct{}{}:
			default: // one is enough
			}
		}
	})
	if err != nil {
		m.log.Debug("routers are asked instead of listened to", "error", err)
	}
}

// State returns what is known now.
func (m *Mapper) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	s.Mappings = slices.Clone(s.Mappings)
	s.Outcomes = maps.Clone(s.Outcomes)
	return s
}

// Changed returns a channel that is closed at the next change of State. Take
// the channel first, then the State.
func (m *Mapper) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Refresh says that an address or route has changed: everything is asked again
// at once. Mappings for addresses that we no longer have, or at routers that
// are no longer ours, are forgotten; the others stay in the State until the
// routers have answered. What was distrusted gets another chance.
func (m *Mapper) Refresh() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refreshed = true
	if m.interrupt != nil {
		m.interrupt()
	}
}

// Distrust says that nobody gets in by a mapping of the State. It is removed,
// and another method takes its place; if there is none, the same one with
// another port, once. After that the port stays unmapped for [distrustFor] or
// until [Mapper.Refresh].
func (m *Mapper) Distrust(mapping Mapping) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.distrusts) >= maxDistrust {
		return
	}
	m.distrusts = append(m.distrusts, mapping)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Close stops everything, removes the mappings from the routers, for which it
// takes at most 2 s, and waits, also for a call of somebody else. Later calls
// do nothing. The error is always nil.
func (m *Mapper) Close() error {
	m.closing.Do(func() {
		m.mu.Lock()
		m.closed = true
		m.mu.Unlock()
		m.cancel()
		m.wg.Wait()
		m.removeAll()
	})
	return nil
}

// removeAll removes what is held, all at the same time. A router that does not
// answer keeps its mapping until the lease ends; that is no error of ours.
func (m *Mapper) removeAll() {
	m.mu.Lock()
	all, orphans := slices.Collect(maps.Values(m.slots)), m.orphans
	clear(m.slots)
	m.orphans = nil
	m.publish()
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, h := range all {
		wg.Go(func() { m.remove(ctx, h) })
	}
	brief, cancelBrief := context.WithTimeout(ctx, orphanTime)
	defer cancelBrief()
	for _, h := range orphans {
		wg.Go(func() { m.remove(brief, h) })
	}
	wg.Wait()
}

// remove takes one mapping off its router, by whichever method may.
func (m *Mapper) remove(ctx context.Context, h *held) {
	err := h.way.remove(ctx, h.Mapping)
	m.mu.Lock()
	also := slices.Clone(h.also)
	m.mu.Unlock()
	for _, a := range also {
		if err != nil && ctx.Err() == nil {
			err = a.way.remove(ctx, a.Mapping)
		}
	}
	if err != nil {
		m.log.Debug("mapping stays until its lease ends", "method", h.Method, "gateway", h.Gateway,
			"transport", h.Transport, "external", h.External, "error", err)
	}
}

// run looks and keeps, until Close.
func (m *Mapper) run() {
	for m.ctx.Err() == nil {
		ctx, cancel := m.begin()
		m.look(ctx)
		m.keep(ctx)
		cancel()
	}
}

// begin returns the context of one look and the rest after it, which Refresh
// ends, and takes a Refresh that has come.
func (m *Mapper) begin() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(m.ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.interrupt = cancel
	if m.refreshed {
		m.refreshed = false
		m.settled, m.misses = false, 0
		m.router, m.routerSure = "", false
		m.outcomes = pendingOutcomes()
		clear(m.doubts)
		for _, h := range m.slots {
			h.stale = true
		}
		m.publish()
	}
	return ctx, cancel
}

// setRouter keeps the name of a router, the default router's before others'.
func (m *Mapper) setRouter(name string, own bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name == "" || m.routerSure && !own {
		return
	}
	m.router, m.routerSure = name, own
	m.publish()
}

// publish makes the State anew and tells if it differs. The lock is held.
func (m *Mapper) publish() {
	s := State{Gateway: m.gateway, Router: m.router, Outcomes: maps.Clone(m.outcomes), Settled: m.settled}
	all := slices.Collect(maps.Values(m.slots))
	slices.SortFunc(all, compareHeld)
	for _, h := range all {
		s.Mappings = append(s.Mappings, h.Mapping)
	}
	if reflect.DeepEqual(s, m.state) {
		return
	}
	m.state = s
	close(m.changed)
	m.changed = make(chan struct{})
}

// compareHeld orders the mappings of a State: the better first, UDP before
// TCP, IPv4 before IPv6.
func compareHeld(a, b *held) int {
	switch {
	case a.betterThan(b):
		return -1
	case b.betterThan(a):
		return 1
	case a.Transport != b.Transport:
		if a.Transport == "udp" {
			return -1
		}
		return 1
	}
	return a.Internal.Addr().Compare(b.Internal.Addr())
}
