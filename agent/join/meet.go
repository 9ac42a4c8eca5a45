package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/probe"
	"porchlight/nat/relay"
)

const (
	// maxPermits is how many addresses of one offer are let in at a place:
	// of the 64 that a relay allows in all.
	maxPermits = 4
	// askEvery is the pause between probes, and relayLimit the end of them.
	askEvery   = 100 * time.Millisecond
	relayLimit = iceLimit
)

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
	e.places = r.offered()
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
// half a minute. Plain UDP to a place of the other side is one hop less than
// the way by a place of one's own.
func asks(ours, theirs introduce.Offer, calling bool) bool {
	here := sendsBy(ours).meets(relayed(theirs))
	there := sendsBy(theirs).meets(relayed(ours))
	switch {
	case here != there:
		return here
	case here:
		return calling
	}
	return calling && relayed(ours).meets(relayed(theirs))
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
	if !asks(ours, theirs, calling) && !asks(theirs, ours, !calling) {
		e.r.lack(ours, theirs)
	}
	if e.w.asks(asks(ours, theirs, calling)) {
		stop, err := e.ask(limited, sendsBy(ours))
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
			same := addr.Is4() == p.isFour() // a place has one family
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
// blocked or goes by other IP versions only, from our own places.
func (e *relayEnd) ask(ctx context.Context, by families) (stop func(), err error) {
	plain := slices.DeleteFunc(slices.Clone(e.there), func(at netip.AddrPort) bool { return !by.has(at.Addr()) })
	endpoint, err := e.r.j.cfg.Mux.Register("probe-"+e.ours.Ufrag, func(b []byte, from netip.AddrPort) {
		e.answered(b, func() {
			e.use(route{
				path:   nat.Path{Kind: nat.KindRelay, Addr: from, Proven: true},
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
			for _, at := range plain {
				e.askOnce(func(b []byte) { endpoint.Send(b, at) })
			}
			if len(plain) == 0 {
				for _, at := range e.there {
					e.askOnce(func(b []byte) { e.sendByPlaces(b, at) })
				}
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

func (e *relayEnd) askOnce(send func([]byte)) {
	e.mu.Lock()
	question, id, err := probe.Ask(e.theirs, e.ours.Ufrag)
	if err == nil {
		e.asked[id] = true
	}
	e.mu.Unlock()
	if err == nil {
		send(question)
	}
}

// sendByPlaces sends from our places to another, as far as they are of its IP
// version and have let it in by now.
func (e *relayEnd) sendByPlaces(b []byte, to netip.AddrPort) {
	for _, p := range e.places {
		if p.isFour() == to.Addr().Is4() {
			p.allocation.WriteTo(b, to)
		}
	}
}
