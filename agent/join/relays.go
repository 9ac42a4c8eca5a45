package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	// maxRelayed is how many remote addresses are known on allocations.
	maxRelayed = 256
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
	j.running.Go(func() { r.watch(at, p) })
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
	if peer := w.first(); peer != nil {
		peer.Inject(b)
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
	if answer, err := probe.Answer(b, e.ours); err == nil {
		p.allocation.WriteTo(answer, from)
		r.reached(e, p, from)
	}
}

// reached makes the place the way to the other side of e.
func (r *relays) reached(e *relayEnd, p *place, from netip.AddrPort) {
	r.mu.Lock()
	if len(r.ways) >= maxRelayed {
		clear(r.ways)
	}
	r.ways[from] = e.w
	r.mu.Unlock()
	e.use(route{
		path:   nat.Path{Kind: nat.KindRelay, Carrier: carrier{p, from}},
		local:  describe("relay", p.allocation.RelayedAddr()),
		remote: describe("srflx", from),
	})
}

// relayEnd is our end of one attempt to meet at a relay.
type relayEnd struct {
	r      *relays
	w      *way
	ours   probe.Credentials
	places []*place

	mu     sync.Mutex
	theirs probe.Credentials
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

// follow lets the other side in at our places and asks at its own.
func (e *relayEnd) follow(ctx context.Context, theirs introduce.Offer) error {
	if len(e.places)+len(theirs.Relay) == 0 {
		return errors.New("neither side has a place at a relay")
	}
	ctx, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	e.mu.Lock()
	e.theirs = probe.Credentials{Ufrag: theirs.ICE.Ufrag, Pwd: theirs.ICE.Pwd}
	e.mu.Unlock()
	e.permit(ctx, theirs)
	stop, err := e.ask(ctx, theirs)
	if err != nil {
		return err
	}
	defer stop()
	select {
	case <-e.met:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("meet at a relay: %w", ctx.Err())
	}
}

// permit opens our places to the addresses the other side may come from.
func (e *relayEnd) permit(ctx context.Context, theirs introduce.Offer) {
	from := map[netip.Addr]bool{}
	for _, c := range theirs.ICE.Candidates {
		if a := c.Addr.Addr().Unmap(); a.IsGlobalUnicast() && !a.IsPrivate() || e.r.j.cfg.Loopback {
			from[a] = true
		}
	}
	for _, a := range theirs.Relay {
		from[a.Addr().Unmap()] = true
	}
	for _, p := range e.places {
		for a := range from {
			// A relay refuses some; the others may be enough.
			e.r.j.running.Go(func() { p.allocation.Permit(ctx, a) })
		}
	}
}

// ask probes the other side's places, from the shared socket or, where UDP is
// blocked, from our own places.
func (e *relayEnd) ask(ctx context.Context, theirs introduce.Offer) (stop func(), err error) {
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
	_, noUDP := e.r.j.cfg.Situation.NAT()
	e.r.j.running.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			for _, at := range theirs.Relay {
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
