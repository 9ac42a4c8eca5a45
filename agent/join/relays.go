package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
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
