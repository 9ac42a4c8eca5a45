package reach

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/nat/portmap"
	"porchlight/nat/stun"
)

// router is a Mapper that the test decides.
type router struct {
	mu         sync.Mutex
	state      portmap.State
	changed    chan struct{}
	distrusted []portmap.Mapping
	refreshed  int
}

func (r *router) State() portmap.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *router) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

func (r *router) set(s portmap.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

func (r *router) Distrust(m portmap.Mapping) {
	r.mu.Lock()
	r.distrusted = append(r.distrusted, m)
	r.mu.Unlock()
	r.set(portmap.State{Settled: true})
}

func (r *router) Refresh() { r.mu.Lock(); r.refreshed++; r.mu.Unlock() }

// street is who knocks: strangers, as long as a door is open.
type street struct {
	mu    sync.Mutex
	open  map[dialback.Place]bool
	lose  int // how many tests from now on lose their packets
	deaf  bool
	known bool // only somebody known is there to knock
	asked []identity.Address
	met   []netip.Addr
	tests int
}

// known is an address that the device talks to.
var known = netip.MustParseAddr("44.2.2.2")

var errDeaf = errors.New("the helper does not answer")

func (s *street) Knock(_ context.Context, helper identity.Address, q dialback.Question) (dialback.Result, error) {
	places, met := q.Places, q.Met
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.met = append(s.asked, helper), met
	if s.deaf {
		return dialback.Result{}, errDeaf
	}
	s.tests++
	r := dialback.Result{By: dialback.Stranger, IP: outside.Addr(), From: make([]netip.AddrPort, len(places))}
	from := netip.MustParseAddrPort("44.9.9.9:50000")
	if s.known {
		from = netip.AddrPortFrom(known, 50000)
	}
	for i, p := range places {
		r.Outcomes = append(r.Outcomes, dialback.Sent)
		if s.open[p] && s.lose == 0 {
			r.From[i] = from
			q.Came(i, from)
		}
	}
	s.lose = max(s.lose-1, 0)
	return r, nil
}

func (s *street) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *street) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tests
}

// watched is a Keeper that runs in a bubble, with helpers that are registered.
type watched struct {
	*Keeper
	t      *testing.T
	street *street
	router *router
}

var udp4001, tcp4001 = dialback.Place{Network: "udp", Port: 4001}, dialback.Place{Network: "tcp", Port: 4001}

// watch runs a test with a Keeper whose doors are open or not.
func watch(t *testing.T, open map[dialback.Place]bool, f func(w *watched)) {
	synctest.Test(t, func(t *testing.T) {
		k := keeperWith(own, seesBy4(outside, stun.Behaviour{}), seesBy4(outside, stun.Behaviour{}), seesBy4(outside, stun.Behaviour{}))
		w := &watched{Keeper: k, t: t, street: &street{open: open}, router: &router{state: portmap.State{Settled: true}}}
		k.tested = false
		k.cfg.Knocks, k.cfg.Mapper = w.street, w.router
		k.cfg.Met = func() []netip.Addr { return []netip.Addr{known} }
		k.Start()
		defer k.Close()
		synctest.Wait()
		if v := k.State().Verdict; v != api.Checking {
			t.Errorf("before the first registration: %s", v)
		}
		k.set(func() { k.began = time.Now() })
		close(k.ready)
		synctest.Wait()
		f(w)
	})
}

// becomes waits until the verdict changes to the wanted one and returns how
// long that took. Every other verdict meanwhile is an error.
func (w *watched) becomes(want api.Verdict, limit time.Duration) time.Duration {
	w.t.Helper()
	began, before := time.Now(), w.State().Verdict
	synctest.Wait()
	for {
		switch v := w.State().Verdict; {
		case v == want:
			return time.Since(began)
		case v != before:
			w.t.Fatalf("%s after %v, want %s", v, time.Since(began), want)
		case time.Since(began) > limit:
			w.t.Fatalf("still %s after %v, want %s", v, limit, want)
		}
		<-time.After(500 * time.Millisecond)
		synctest.Wait()
	}
}

// stays watches that a verdict does not change.
func (w *watched) stays(want api.Verdict, during time.Duration) (doubted bool) {
	w.t.Helper()
	for began := time.Now(); time.Since(began) < during; {
		s := w.State()
		if s.Verdict != want {
			w.t.Fatalf("%s after %v, want %s all the time", s.Verdict, time.Since(began), want)
		}
		doubted = doubted || s.Doubt
		<-time.After(500 * time.Millisecond)
		synctest.Wait()
	}
	return doubted
}
