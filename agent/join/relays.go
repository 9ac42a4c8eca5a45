package join

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

const (
	// maxAllocations is how many rendezvous a device keeps a place at; that at
	// a configured relay and the one for homes of the other IP version come in
	// addition.
	maxAllocations = introduce.MaxRelays
	// maxRelayed is how many addresses one device is known by on allocations;
	// the oldest is forgotten.
	maxRelayed = 8
	// udpTime and streamTime end the attempts to take a place over UDP, TCP and
	// TLS, which follow one another: a ticket is good for one place over UDP
	// and one over the other two.
	udpTime    = 2 * time.Second
	streamTime = 3 * time.Second
)

// What places are for that are not at a rendezvous.
const (
	configured = "configured" // the owner's TURN server
	crossing   = "crossing"   // homes whose IP version the others do not have
)

// relays keeps places at relays warm and knows who comes in through them.
type relays struct {
	j *Joiner
	// See the constants; before the first place.
	udpTime, streamTime, stockFirst time.Duration

	mu     sync.Mutex
	places map[identity.Address]*place // at rendezvous
	others map[string]*place           // by what they are for
	cross  relay.Family                // the relayed address that homes lacked; 0 if none
	ends   map[string]*relayEnd        // by our ufrag
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
		j: j, udpTime: udpTime, streamTime: streamTime, stockFirst: stockFirst,
		places: map[identity.Address]*place{},
		others: map[string]*place{},
		ends:   map[string]*relayEnd{},
		ways:   map[netip.AddrPort]*way{},
		known:  map[*way][]netip.AddrPort{},
	}
}

func (r *relays) close() error {
	r.mu.Lock()
	places := slices.AppendSeq(slices.Collect(maps.Values(r.places)), maps.Values(r.others))
	r.places, r.others = map[identity.Address]*place{}, map[string]*place{}
	r.mu.Unlock()
	var errs []error
	for _, p := range places {
		errs = append(errs, p.allocation.Close())
	}
	return errors.Join(errs...)
}

// KeepPlace takes a place at the relay that gave the ticket, unless there is
// one or there are enough. It returns once the place is there. Network is how
// the relay's device is reached, "udp" or "tcp"; where that does not work with
// the relay, TCP and then TLS are tried.
func (j *Joiner) KeepPlace(ctx context.Context, at identity.Address, ticket relay.Ticket, network string) error {
	r := j.relays
	r.mu.Lock()
	enough := r.places[at] != nil || len(r.places) >= maxAllocations
	r.mu.Unlock()
	var err error
	if enough {
		err = r.keepCrossing(ctx, ticket, network)
	} else {
		err = r.keepPlace(ctx, at, ticket, network)
	}
	if err != nil {
		return fmt.Errorf("take a place at relay %s: %w", at.Short(), err)
	}
	return nil
}

// LosePlaces gives back all places that are kept over UDP: the router has moved
// our flows to other ports, by which relays know us.
func (j *Joiner) LosePlaces() {
	r := j.relays
	r.mu.Lock()
	var lost []*place
	for _, places := range []iter.Seq[*place]{maps.Values(r.places), maps.Values(r.others)} {
		for p := range places {
			if p.allocation.Network() == "udp" {
				lost = append(lost, p)
			}
		}
	}
	maps.DeleteFunc(r.places, func(_ identity.Address, p *place) bool { return slices.Contains(lost, p) })
	maps.DeleteFunc(r.others, func(_ string, p *place) bool { return slices.Contains(lost, p) })
	r.mu.Unlock()
	for _, p := range lost {
		p.allocation.Close()
	}
}

func (r *relays) keepPlace(ctx context.Context, at identity.Address, ticket relay.Ticket, network string) error {
	family := relay.IPv6
	if relaysIn(ticket).four {
		family = relay.IPv4
	}
	p, err := r.take(relay.Options{Family: family}, func(opts relay.Options) (*relay.Allocation, error) {
		return r.allocate(ctx, ticket, network, opts)
	})
	if err != nil {
		return err
	}
	return r.put(p, func() bool {
		if r.places[at] != nil || len(r.places) >= maxAllocations {
			return false
		}
		r.places[at] = p
		return true
	})
}

// keepCrossing takes a place for homes of the other IP version, if one of them
// has met us in vain, there is no such place yet, and the relay has it.
func (r *relays) keepCrossing(ctx context.Context, ticket relay.Ticket, network string) error {
	r.mu.Lock()
	family := r.cross
	if r.others[crossing] != nil {
		family = 0
	}
	r.mu.Unlock()
	if family == 0 || !relaysIn(ticket).family(family) {
		return nil
	}
	p, err := r.take(relay.Options{Family: family}, func(opts relay.Options) (*relay.Allocation, error) {
		return r.allocate(ctx, ticket, network, opts)
	})
	if err != nil {
		return err
	}
	return r.put(p, func() bool { return r.putOther(crossing, p) })
}

// putOther keeps a place that is not at a rendezvous; mu is held.
func (r *relays) putOther(use string, p *place) bool {
	if r.others[use] != nil {
		return false
	}
	r.others[use] = p
	return true
}

// allocate opens an allocation over the first network that works.
func (r *relays) allocate(ctx context.Context, ticket relay.Ticket, first string, opts relay.Options) (*relay.Allocation, error) {
	var failures []error
	for _, opts.Network = range networks(ticket, first) {
		limit := r.streamTime
		if opts.Network == "udp" {
			limit = r.udpTime
		}
		limited, cancel := context.WithTimeout(ctx, limit)
		a, err := relay.Allocate(limited, ticket, opts)
		cancel()
		if err == nil {
			return a, nil
		}
		failures = append(failures, err)
		final := errors.Is(err, relay.ErrRefused) || errors.Is(err, relay.ErrFull) || errors.Is(err, relay.ErrFamily)
		if final || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// networks are how a ticket's relay can be asked, the best first. Where the
// relay's device was reached over TCP its UDP is known not to answer.
func networks(ticket relay.Ticket, first string) []string {
	var all []string
	for _, n := range []struct {
		name string
		at   []string
	}{{"udp", ticket.UDP}, {"tcp", ticket.TCP}, {"tls", ticket.TLS}} {
		if len(n.at) > 0 && (n.name != "udp" || first == "udp") {
			all = append(all, n.name)
		}
	}
	if len(all) == 0 {
		return []string{first} // an error then says what is missing
	}
	return all
}

// take opens an allocation whose packets come to the place.
func (r *relays) take(opts relay.Options, open func(relay.Options) (*relay.Allocation, error)) (*place, error) {
	p := &place{relays: r}
	ready := make(chan struct{})
	defer close(ready)
	opts.Logger = r.j.cfg.Logger
	opts.Handler = func(b []byte, from netip.AddrPort) {
		<-ready
		p.receive(b, from)
	}
	allocation, err := open(opts)
	if err != nil {
		return nil, err
	}
	p.allocation = allocation
	return p, nil
}

// put keeps a place unless keep, under mu, says that another was faster, and
// watches it.
func (r *relays) put(p *place, keep func() bool) error {
	r.mu.Lock()
	kept := r.j.ctx.Err() == nil && keep()
	r.mu.Unlock()
	if !kept {
		return p.allocation.Close()
	}
	r.j.start(func() { r.watch(p) })
	return nil
}

// watch forgets a place that the relay took back.
func (r *relays) watch(p *place) {
	select {
	case <-p.allocation.Closed():
	case <-r.j.ctx.Done():
		return
	}
	r.mu.Lock()
	if r.others[crossing] == p {
		r.cross = 0 // the relay found it idle: until somebody lacks it again
	}
	maps.DeleteFunc(r.places, func(_ identity.Address, q *place) bool { return q == p })
	maps.DeleteFunc(r.others, func(_ string, q *place) bool { return q == p })
	r.mu.Unlock()
	p.allocation.Close()
}

// offered are the places that go into an offer, which has room for few: the
// owner's own relay before others, and of both IP versions if there are. mu is
// held.
func (r *relays) offered() []*place {
	var all []*place
	add := func(p *place) {
		if p != nil {
			all = append(all, p)
		}
	}
	add(r.others[configured])
	for _, at := range slices.SortedFunc(maps.Keys(r.places), identity.Address.Compare) {
		add(r.places[at])
	}
	add(r.others[crossing])
	if len(all) > 1 {
		four := all[0].isFour()
		if i := slices.IndexFunc(all, func(p *place) bool { return p.isFour() != four }); i > 1 {
			all[1] = all[i]
		}
	}
	return all[:min(len(all), introduce.MaxRelays)]
}

func (p *place) isFour() bool { return p.allocation.RelayedAddr().Addr().Is4() }

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
