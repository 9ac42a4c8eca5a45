package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/probe"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

const (
	// maxAllocations is how many relays a device keeps a place at.
	maxAllocations = introduce.MaxRelays
	// maxRelayed is how many addresses one device is known by on allocations;
	// the oldest is forgotten.
	maxRelayed = 8
	// maxPermits is how many addresses of one offer are let in at a place:
	// of the 64 that a relay allows in all.
	maxPermits = 4
	// askEvery is the pause between probes, and relayLimit the end of them.
	askEvery   = 100 * time.Millisecond
	relayLimit = iceLimit
)

// relays keeps places at relays warm and knows who comes in through them.
type relays struct {
	j *Joiner

	mu     sync.Mutex
	places map[identity.Address]*place
	ends   map[string]*relayEnd // by our ufrag
	ways   map[netip.AddrPort]*way
	known  map[*way][]netip.AddrPort // the keys of ways, oldest first
}

// place is an allocation at one relay (RFC 8656 §2).
type place struct {
	allocation *relay.Allocation
	relays     *relays
}

// carrier takes packets to one remote address through an allocation.
type carrier struct {
	place *place
	to    netip.AddrPort
}

// WritePacket implements nat.Carrier.
func (c carrier) WritePacket(b []byte) error { return c.place.allocation.WriteTo(b, c.to) }

func newRelays(j *Joiner) *relays {
	return &relays{
		j:      j,
		places: map[identity.Address]*place{},
		ends:   map[string]*relayEnd{},
		ways:   map[netip.AddrPort]*way{},
		known:  map[*way][]netip.AddrPort{},
	}
}

func (r *relays) close() error {
	r.mu.Lock()
	places := r.places
	r.places = map[identity.Address]*place{}
	r.mu.Unlock()
	var errs []error
	for _, p := range places {
		errs = append(errs, p.allocation.Close())
	}
	return errors.Join(errs...)
}

// KeepPlace takes a place at the relay that gave the ticket, unless there is
// one or there are enough. It returns once the place is there.
func (j *Joiner) KeepPlace(ctx context.Context, at identity.Address, ticket relay.Ticket, network string) error {
	r := j.relays
	r.mu.Lock()
	enough := r.places[at] != nil || len(r.places) >= maxAllocations
	r.mu.Unlock()
	if enough || j.ctx.Err() != nil {
		return nil
	}
	p := &place{relays: r}
	ready := make(chan struct{})
	allocation, err := relay.Allocate(ctx, ticket, relay.Options{
		Network: network,
		Logger:  j.cfg.Logger,
		Handler: func(b []byte, from netip.AddrPort) {
			<-ready
			p.receive(b, from)
		},
	})
	if err != nil {
		close(ready)
		return fmt.Errorf("take a place at relay %s: %w", at.Short(), err)
	}
	p.allocation = allocation
	close(ready)
	r.mu.Lock()
	taken := r.places[at] != nil || len(r.places) >= maxAllocations || j.ctx.Err() != nil
	if !taken {
		r.places[at] = p
	}
	r.mu.Unlock()
	if taken {
		return allocation.Close()
	}
	j.start(func() { r.watch(at, p) })
	return nil
}

// watch forgets a place that the relay took back.
func (r *relays) watch(at identity.Address, p *place) {
	select {
	case <-p.allocation.Closed():
	case <-r.j.ctx.Done():
		return
	}
	r.mu.Lock()
	if r.places[at] == p {
		delete(r.places, at)
	}
	r.mu.Unlock()
	p.allocation.Close()
}

// receive takes what came in through an allocation: probes, answers to our
// probes, and packets of peers.
func (p *place) receive(b []byte, from netip.AddrPort) {
	r := p.relays
	if len(b) > 0 && b[0] < 4 {
		if stun.Check(b) == nil {
			r.probed(p, b, from)
		}
		return
	}
	r.mu.Lock()
	w := r.ways[from]
	r.mu.Unlock()
	if w == nil {
		return
	}
	if !w.repliesBy(p, from) {
		w.replyBy(p.route(from))
	}
	if peer := w.first(); peer != nil {
		peer.Inject(b)
	}
}

// route is the way through the place to an address.
func (p *place) route(to netip.AddrPort) route {
	return route{
		path:   nat.Path{Kind: nat.KindRelay, Carrier: carrier{p, to}},
		local:  describe("relay", p.allocation.RelayedAddr()),
		remote: describe("prflx", to),
	}
}

// probed answers a question, or takes the answer to one of ours. Either
// proves that the other side can be reached through this place.
func (r *relays) probed(p *place, b []byte, from netip.AddrPort) {
	ufrag, err := probe.Asked(b)
	if err != nil {
		r.mu.Lock()
		var ends []*relayEnd
		for _, e := range r.ends {
			ends = append(ends, e)
		}
		r.mu.Unlock()
		for _, e := range ends {
			e.answered(b, func() { r.reached(e, p, from) })
		}
		return
	}
	r.mu.Lock()
	e := r.ends[ufrag]
	r.mu.Unlock()
	if e == nil {
		return
	}
	answer, err := probe.Answer(b, e.ours)
	if err == nil {
		// Fails until the place lets the other side in: it will ask again.
		err = p.allocation.WriteTo(answer, from)
	}
	if err == nil {
		r.reached(e, p, from)
	}
}

// reached makes the place the way to the other side of e.
func (r *relays) reached(e *relayEnd, p *place, from netip.AddrPort) {
	if !r.learn(e.w, from) {
		return
	}
	e.use(p.route(from))
}

// learn notes that what comes from an address belongs to a way; false if the
// way has ended, as it may under an attempt.
func (r *relays) learn(w *way, from netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.over() {
		return false
	}
	if r.ways[from] == w {
		return true
	}
	if old := r.ways[from]; old != nil {
		r.known[old] = slices.DeleteFunc(r.known[old], func(a netip.AddrPort) bool { return a == from })
	}
	r.ways[from] = w
	r.known[w] = append(r.known[w], from)
	if list := r.known[w]; len(list) > maxRelayed {
		delete(r.ways, list[0])
		r.known[w] = slices.Delete(list, 0, 1)
	}
	return true
}

// forget drops what is known about a way that has ended.
func (r *relays) forget(w *way) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.known[w] {
		delete(r.ways, a)
	}
	delete(r.known, w)
}

// isRelayed reports whether the other side of an attempt said that addr is its
// place at a relay.
func (r *relays) isRelayed(addr netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.ends {
		if e.isThere(addr) {
			return true
		}
	}
	return false
}

// relayEnd is our end of one attempt to meet at a relay.
type relayEnd struct {
	r      *relays
	w      *way
	ours   probe.Credentials
	places []*place

	mu     sync.Mutex
	theirs probe.Credentials
	there  []netip.AddrPort // their places
	asked  map[probe.ID]bool
	met    chan struct{}
	once   sync.Once
}

// open prepares to be probed with the credentials of a description.
func (r *relays) open(w *way, d ice.Description) *relayEnd {
	e := &relayEnd{
		r:     r,
		w:     w,
		ours:  probe.Credentials{Ufrag: d.Ufrag, Pwd: d.Pwd},
		asked: map[probe.ID]bool{},
		met:   make(chan struct{}),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.places {
		e.places = append(e.places, p)
	}
	r.ends[e.ours.Ufrag] = e
	return e
}

func (e *relayEnd) close() {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	delete(e.r.ends, e.ours.Ufrag)
}

func (e *relayEnd) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range e.places {
		all = append(all, p.allocation.RelayedAddr())
	}
	return all
}

func (e *relayEnd) use(r route) {
	e.w.use(r)
	e.once.Do(func() { close(e.met) })
}

// answered checks whether b answers one of our questions, and calls then.
func (e *relayEnd) answered(b []byte, then func()) {
	e.mu.Lock()
	id, err := probe.Answered(b, e.theirs)
	ok := err == nil && e.asked[id]
	e.mu.Unlock()
	if ok {
		then()
	}
}

// asks decides which of the two sides asks; both come to the same result.
// One that asks chooses the way and the other replies by it: with a way each,
// the router of a home that sends nowhere near its own would shut it after
// half a minute.
func asks(ours, theirs introduce.Offer, calling bool) bool {
	switch {
	case len(theirs.Relay) == 0:
		return false
	case ours.NoUDP != theirs.NoUDP:
		return theirs.NoUDP // plain UDP to their place is one hop less
	case calling:
		return true
	}
	return len(ours.Relay) == 0
}

// follow lets the other side in at our places, and asks at its own if that
// falls to us.
func (e *relayEnd) follow(ctx context.Context, ours, theirs introduce.Offer, calling bool) error {
	there := e.allowed(theirs.Relay)
	if len(e.places)+len(there) == 0 {
		return errors.New("neither side has a place at a relay")
	}
	limited, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	e.mu.Lock()
	e.theirs = probe.Credentials{Ufrag: theirs.ICE.Ufrag, Pwd: theirs.ICE.Pwd}
	e.there = there
	e.mu.Unlock()
	// What comes from their places is theirs, even before a probe says so.
	for _, a := range there {
		e.r.learn(e.w, a)
	}
	e.permit(limited, theirs.ICE.Candidates)
	if e.w.asks(asks(ours, theirs, calling)) {
		stop, err := e.ask(limited, ours.NoUDP)
		if err != nil {
			return err
		}
		defer stop()
	}
	select {
	case <-e.met:
	case <-limited.Done():
		return fmt.Errorf("meet at a relay: %w", limited.Err())
	}
	// Our answer may have been lost: the other side still asks.
	select {
	case <-time.After(lingerFor):
	case <-ctx.Done():
	}
	return nil
}

// allowed leaves out places that are nowhere a relay can be: a peer must not
// make us probe our own network.
func (e *relayEnd) allowed(relays []netip.AddrPort) []netip.AddrPort {
	filter := ice.Filter{Loopback: e.r.j.cfg.Loopback}
	var all []netip.AddrPort
	for _, a := range relays {
		if filter.Allow(a) {
			all = append(all, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	return all
}

func (e *relayEnd) isThere(addr netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.there, addr)
}

// permit opens our places to the addresses the other side may come from: its
// own and those of its places.
func (e *relayEnd) permit(ctx context.Context, candidates []ice.Candidate) {
	filter := ice.Filter{Loopback: e.r.j.cfg.Loopback}
	for _, p := range e.places {
		var from []netip.Addr
		add := func(a netip.AddrPort) {
			addr := a.Addr().Unmap()
			same := addr.Is4() == p.allocation.RelayedAddr().Addr().Is4() // a relay has one family
			if same && filter.Allow(a) && len(from) < maxPermits && !slices.Contains(from, addr) {
				from = append(from, addr)
			}
		}
		for _, a := range e.there {
			add(a)
		}
		for _, c := range candidates {
			add(c.Addr)
		}
		for _, a := range from {
			e.r.j.start(func() { p.permit(ctx, a) })
		}
	}
}

// permit lets an address in. A relay refuses some; the others may be enough.
// A place that has let in as many as it may, and carries nothing now, is given
// back: the next registration brings a ticket for another.
func (p *place) permit(ctx context.Context, a netip.Addr) {
	err := p.allocation.Permit(ctx, a)
	if errors.Is(err, relay.ErrTooMany) && !p.inUse() {
		p.allocation.Close()
	}
}

func (p *place) inUse() bool {
	j := p.relays.j
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range j.ways {
		if w.through(p) {
			return true
		}
	}
	return false
}

// ask probes the other side's places, from the shared socket or, where UDP is
// blocked, from our own places.
func (e *relayEnd) ask(ctx context.Context, noUDP bool) (stop func(), err error) {
	endpoint, err := e.r.j.cfg.Mux.Register("probe-"+e.ours.Ufrag, func(b []byte, from netip.AddrPort) {
		e.answered(b, func() {
			e.use(route{
				path:   nat.Path{Kind: nat.KindRelay, Addr: from},
				local:  "srflx",
				remote: describe("relay", from),
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("probe a relay: %w", err)
	}
	e.r.j.start(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			for _, at := range e.there {
				e.askOnce(endpoint, at, noUDP)
			}
			select {
			case <-tick.C:
			case <-e.met:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { endpoint.Close() }, nil
}

func (e *relayEnd) askOnce(endpoint *stun.Endpoint, at netip.AddrPort, noUDP bool) {
	e.mu.Lock()
	question, id, err := probe.Ask(e.theirs, e.ours.Ufrag)
	if err == nil {
		e.asked[id] = true
	}
	e.mu.Unlock()
	if err != nil {
		return
	}
	if !noUDP {
		endpoint.Send(question, at)
		return
	}
	for _, p := range e.places {
		p.allocation.WriteTo(question, at)
	}
}
