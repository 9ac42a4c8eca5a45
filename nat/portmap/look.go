package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// patience is how long a method that could map waits for the answers of better
// ones, counted from when it could.
const patience = 100 * time.Millisecond

// look asks every router by every method at the same time. It returns when all
// are done, after lookTime at the latest, or when ctx ends.
func (m *Mapper) look(ctx context.Context) {
	routes, err := m.cfg.Routes()
	if err != nil {
		m.log.Warn("default routes unknown", "error", err)
	}
	m.arrive(routes)
	settle := time.AfterFunc(SettleTime, func() { m.settle(ctx) })
	defer settle.Stop()

	asking, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	l := &look{m: m, outcomes: make(map[Method]Outcome)}
	var wg sync.WaitGroup
	order := map[bool]int{}
	for _, r := range routes {
		v6 := r.Local.Addr().Is6()
		place := order[v6]
		order[v6]++
		wg.Go(func() { l.ask(asking, r, place) })
	}
	wg.Wait()
	l.lastResort(asking)
	l.finish(ctx)
}

// arrive takes note of the routes, and forgets the mappings of others.
func (m *Mapper) arrive(routes []Route) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gateway, m.gateways, m.wanted = netip.Addr{}, nil, nil
	local := make(map[netip.Addr]bool)
	families := make(map[bool]bool)
	for _, r := range routes {
		if r.Gateway.Is4() && !m.gateway.IsValid() {
			m.gateway = r.Gateway
		}
		m.gateways = append(m.gateways, r.Gateway)
		local[r.Local.Addr()] = true
		families[r.Local.Addr().Is6()] = true
	}
	for _, v6 := range []bool{false, true} {
		if families[v6] && m.cfg.UDPPort != 0 {
			m.wanted = append(m.wanted, slot{"udp", v6})
		}
		if families[v6] && m.cfg.TCPPort != 0 {
			m.wanted = append(m.wanted, slot{"tcp", v6})
		}
	}
	for s, h := range m.slots {
		if !local[h.way.local] {
			delete(m.slots, s)
		}
	}
	m.publish()
}

// settle ends the wait of others for slow routers. What is still pending has
// not answered.
func (m *Mapper) settle(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	for method, o := range m.outcomes {
		if o == Pending {
			m.outcomes[method] = Silent
		}
	}
	m.settled = true
	m.publish()
}

// look is one round of asking.
type look struct {
	m *Mapper

	mu       sync.Mutex
	outcomes map[Method]Outcome
	gained   bool
	last     []resort
}

// resort is a distrusted way, to be tried with another port if all else fails.
type resort struct {
	way  *way
	slot slot
}

// ask asks one router by all methods.
func (l *look) ask(ctx context.Context, r Route, place int) {
	v4 := r.Local.Addr().Is4()
	byPCP, byNATPMP, byUPnP := newTurn(), newTurn(), newTurn()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(byPCP.done)
		err := l.m.find.pcp(ctx, r, l.offer(ctx, place, byPCP))
		l.ended(v4, err, PCP)
	})
	wg.Go(func() {
		defer close(byNATPMP.done)
		err := l.m.find.natpmp(ctx, r, l.offer(ctx, place, byNATPMP, byPCP))
		l.ended(v4, err, NATPMP)
	})
	wg.Go(func() {
		defer close(byUPnP.done)
		err := l.m.find.upnp(ctx, r, l.offer(ctx, place, byUPnP, byPCP, byNATPMP))
		l.ended(v4, err, IGD2, IGD1)
	})
}

// turn is one method's part in a look at one router.
type turn struct {
	// granting is closed at the first grant, done when all was asked for.
	granting, done chan struct{}
	once           sync.Once
}

func newTurn() *turn { return &turn{granting: make(chan struct{}), done: make(chan struct{})} }

// wait waits until the turn is over: as long as it needs if it has begun to
// grant, else until patience ends.
func (t *turn) wait(ctx, patient context.Context) {
	select {
	case <-t.done:
		return
	case <-t.granting:
	case <-patient.Done():
		return
	}
	select {
	case <-t.done:
	case <-ctx.Done():
	}
}

// ended notes how a method ended that may have offered nothing.
func (l *look) ended(v4 bool, err error, methods ...Method) {
	if !v4 {
		return
	}
	o := Silent
	if err != nil {
		o = outcome(err, Silent)
	}
	for _, method := range methods {
		l.note(method, o)
	}
}

// note keeps the best outcome of a method, and shows it unless an earlier look
// has already told.
func (l *look) note(method Method, o Outcome) {
	l.mu.Lock()
	if weight(o) > weight(l.outcomes[method]) {
		l.outcomes[method] = o
	}
	o = l.outcomes[method]
	l.mu.Unlock()
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if weight(o) > weight(l.m.outcomes[method]) {
		l.m.outcomes[method] = o
		l.m.publish()
	}
}

// offer returns what a finder calls with each way: it waits for the better
// methods and then asks for every port that is still wanted.
func (l *look) offer(ctx context.Context, place int, mine *turn, better ...*turn) func(*way) {
	return func(w *way) {
		w.order = place
		patient, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for _, t := range better {
			t.wait(ctx, patient)
		}
		for _, s := range []slot{{"udp", w.v6()}, {"tcp", w.v6()}} {
			if !l.try(ctx, w, s, mine) {
				return
			}
		}
	}
}

// try asks w for s if that is an improvement. It returns false if w does not
// answer, so that asking for more is of no use.
func (l *look) try(ctx context.Context, w *way, s slot, mine *turn) bool {
	port, need, later := l.m.need(w, s)
	if later {
		l.mu.Lock()
		l.last = append(l.last, resort{w, s})
		l.mu.Unlock()
	}
	if !need {
		if l.m.wants(s) && !w.v6() {
			l.note(w.method, Offered)
		}
		return true
	}
	return l.add(ctx, w, s, port, mine)
}

// add asks w for s and takes what it gives.
func (l *look) add(ctx context.Context, w *way, s slot, suggested uint16, mine *turn) bool {
	mapping, err := w.add(ctx, s.transport, l.m.port(s), suggested)
	otherwise := Silent // our own socket failed
	if w.method == IGD1 || w.method == IGD2 {
		otherwise = Broken // it has described itself and now talks nonsense
	}
	o := outcome(err, otherwise)
	if !w.v6() {
		l.note(w.method, o)
	}
	if err != nil {
		l.m.log.Debug("no mapping", "method", w.method, "gateway", w.gateway, "transport", s.transport, "error", err)
		l.m.abandon(w, mapping)
		return o != Silent && o != Broken
	}
	l.mu.Lock()
	l.gained = true
	l.mu.Unlock()
	l.m.take(ctx, s, l.m.newHeld(mapping, w))
	mine.once.Do(func() { close(mine.granting) })
	return true
}

// lastResort tries distrusted ways with another port where nothing else was
// granted.
func (l *look) lastResort(ctx context.Context) {
	for _, r := range l.last {
		l.m.mu.Lock()
		taken := l.m.slots[r.slot] != nil
		l.m.mu.Unlock()
		if !taken && ctx.Err() == nil {
			l.add(ctx, r.way, r.slot, randomPort(), newTurn())
		}
	}
}

// finish shows the result and forgets what routers did not confirm.
func (l *look) finish(ctx context.Context) {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	for s, h := range m.slots {
		if h.stale {
			delete(m.slots, s)
		}
	}
	for method := range m.outcomes {
		o := l.outcomes[method]
		if o == "" {
			o = Silent
		}
		m.outcomes[method] = o
	}
	m.misses++
	if l.gained {
		m.misses = 0
	}
	m.settled = true
	m.publish()
}

// wants reports whether s is to be mapped.
func (m *Mapper) wants(s slot) bool { return m.port(s) != 0 }

// port is this device's port for s.
func (m *Mapper) port(s slot) uint16 {
	if s.transport == "tcp" {
		return m.cfg.TCPPort
	}
	return m.cfg.UDPPort
}

// need says whether w should be asked for s now, and for which external port;
// or later, if all else fails, with another one.
func (m *Mapper) need(w *way, s slot) (port uint16, now, later bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	port = m.port(s)
	if port == 0 {
		return 0, false, false
	}
	h := m.slots[s]
	if h != nil && h.stale && h.Method == w.method {
		port = h.External.Port()
	}
	d := m.doubts[doubt{w.method, w.gateway.String(), s}]
	if d.count > 0 && time.Now().Before(d.until) {
		return 0, false, d.count == 1 && !s.v6 && h == nil
	}
	if h == nil || h.stale {
		return port, true, false
	}
	would := &held{Mapping: Mapping{Method: w.method, External: h.External}, way: w}
	if w.external.IsValid() {
		would.External = netip.AddrPortFrom(w.external, 0)
	}
	return port, would.betterThan(h), false
}

// take keeps the better of two mappings for s and removes the other from its
// router.
func (m *Mapper) take(ctx context.Context, s slot, h *held) {
	m.mu.Lock()
	old, loser := m.slots[s], (*held)(nil)
	switch {
	case old == nil:
		m.slots[s] = h
	case old.stale || h.betterThan(old):
		m.slots[s], loser = h, old
	default:
		loser = h
	}
	kept := m.slots[s]
	m.publish()
	m.mu.Unlock()
	if kept == h {
		m.log.Info("port mapped", "method", h.Method, "gateway", h.Gateway, "transport", h.Transport,
			"internal", h.Internal, "external", h.External, "lifetime", h.Lifetime)
	}
	if loser == nil {
		return
	}
	if !loser.sharedWith(kept) {
		m.remove(ctx, loser)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kept.inherit(loser)
}

// abandon remembers, while closing, a request whose answer was not awaited:
// the router may have done it.
func (m *Mapper) abandon(w *way, mapping Mapping) {
	if m.ctx.Err() == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.orphans = append(m.orphans, &held{Mapping: mapping, way: w})
}

// randomPort is a port above 1023.
func randomPort() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return 1024 + binary.NativeEndian.Uint16(b[:])%(65535-1024)
}
