package reach

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/portmap"
	"porchlight/nat/stun"
	"porchlight/nat/stun/memnet"
)

// home is a Keeper behind a router in memory, and its helpers outside.
type home struct {
	*Keeper
	t       *testing.T
	net     *memnet.Net
	router  *memnet.NAT
	opened  atomic.Int64 // sockets for tests
	sent    atomic.Int64 // datagrams that left the home
	lose    atomic.Bool  // all of them, from now on
	traffic atomic.Int64
}

var inside = netip.MustParseAddr("192.168.1.2")

// atHome runs a test with a Keeper that is registered at a number of helpers.
// What the router is like is to be set before anything is sent.
func atHome(t *testing.T, helpers int, is func(*memnet.NAT), f func(h *home)) {
	synctest.Test(t, func(t *testing.T) {
		h := &home{t: t, net: &memnet.Net{Latency: 20 * time.Millisecond}}
		h.net.Drop = func(_ []byte, from, _ netip.AddrPort) bool {
			if from.Addr() != outside.Addr() {
				return false
			}
			h.sent.Add(1)
			return h.lose.Load()
		}
		h.router = h.net.NAT(outside.Addr(), memnet.Independent, memnet.ByAddressAndPort, memnet.Random)
		is(h.router)
		var all []*helper
		for range helpers {
			all = append(all, seesBy4(outside, stun.Behaviour{}))
		}
		h.Keeper = keeperWith(own, all...)
		h.carried = h.traffic.Load
		h.open = func(int) stun.Opener {
			return func() (net.PacketConn, error) {
				return h.router.Host(netip.AddrPortFrom(inside, uint16(10000+h.opened.Add(1)))), nil
			}
		}
		close(h.ready)
		f(h)
	})
}

// serve has a helper answer STUN at its address.
func (h *home) serve(at netip.AddrPort) {
	h.t.Helper()
	s, err := stun.NewServer(stun.ServerConfig{Primary: h.net.Host(at)})
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	h.t.Cleanup(func() { s.Close(); <-done })
}

// serveAll has all helpers answer, and the Keeper run.
func (h *home) serveAll() {
	for _, helper := range h.helpers {
		h.serve(helper.at())
	}
	h.Start()
	h.t.Cleanup(func() { h.Close() })
}

// bound gives the Keeper its socket, and has all helpers asked.
func (h *home) bound() {
	conn := h.router.Host(own)
	mux, err := stun.NewMux(conn, stun.Config{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.cfg.Mux = mux
	for _, helper := range h.helpers {
		h.mu.Lock()
		helper.views[0] = view{discovered: true}
		h.mu.Unlock()
		h.running.Go(func() { h.keepBound(h.ctx, helper) })
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				mux.Handle(b[:n], from.(*net.UDPAddr).AddrPort())
			}
		}
	})
	h.t.Cleanup(func() { h.Close(); mux.Close(); conn.Close(); reading.Wait() })
}

// known is what was found out.
func (h *home) known() habits {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.habits
}

// after lets time pass.
func (h *home) after(d time.Duration) habits {
	<-time.After(d)
	synctest.Wait()
	return h.known()
}

func TestARouterIsStudiedOnceAndInPeace(t *testing.T) {
	for _, row := range []struct {
		name     string
		lifetime time.Duration
		hairpin  bool
		want     habits
	}{
		{"as Linux does it", 2 * time.Minute, false, habits{"no", 118 * time.Second}},
		{"a short one", 30 * time.Second, true, habits{"yes", 28 * time.Second}},
		{"too short to be measured", 15 * time.Second, false, habits{"no", 0}},
		{"for ever", 0, false, habits{"no", 118 * time.Second}},
	} {
		t.Run(row.name, func(t *testing.T) {
			atHome(t, 3, func(r *memnet.NAT) { r.Lifetime, r.Hairpin = row.lifetime, row.hairpin }, func(h *home) {
				h.serveAll()
				if p := h.after(studyAfter - time.Second); p.hairpin != "unknown" || h.opened.Load() != 0 {
					t.Errorf("%+v, %d sockets at once", p, h.opened.Load())
				}
				if p := h.after(5 * time.Second); p.hairpin != row.want.hairpin || p.lifetime != 0 {
					t.Errorf("%+v soon after", p)
				}
				if p := h.after(quietFor*studyEvery + lifetimeTo + 2*time.Minute); p != row.want {
					t.Errorf("%+v", p)
				}
				sockets, sent := h.opened.Load(), h.sent.Load()
				if sockets > 6 || sent > 40 {
					t.Errorf("%d sockets, %d datagrams", sockets, sent)
				}
				t.Logf("%d sockets, %d datagrams", sockets, sent)
				if h.after(lifetimeEvery - 10*time.Minute); h.opened.Load() != sockets || h.sent.Load() != sent {
					t.Errorf("%d more sockets on the same day", h.opened.Load()-sockets)
				}
				if h.after(20 * time.Minute); h.opened.Load() == sockets {
					t.Error("not measured on the next day")
				}
			})
		})
	}
}

func TestAnotherNetworkIsStudiedAnew(t *testing.T) {
	atHome(t, 1, func(r *memnet.NAT) { r.Lifetime = 2 * time.Minute }, func(h *home) {
		h.serveAll()
		known := habits{"no", 118 * time.Second}
		if p := h.after(10 * time.Minute); p != known {
			t.Fatalf("%+v", p)
		}
		h.Moved()
		if p := h.known(); p != (habits{"unknown", 0}) {
			t.Errorf("%+v in another network", p)
		}
		// Moving on in the midst of a test leaves no trace of it.
		h.after(quietFor*studyEvery + time.Minute)
		h.Moved()
		if p := h.after(time.Second); p != (habits{"unknown", 0}) {
			t.Errorf("%+v is of the network before", p)
		}
		if p := h.after(10 * time.Minute); p != known {
			t.Errorf("%+v", p)
		}
	})
}

func TestNothingIsMeasuredInVain(t *testing.T) {
	nothing := habits{"unknown", 0}
	linux := func(r *memnet.NAT) { r.Lifetime = 2 * time.Minute }
	t.Run("UDP is blocked", func(t *testing.T) {
		atHome(t, 2, linux, func(h *home) {
			for _, helper := range h.helpers {
				helper.views[0] = view{asked: true, silent: bindTries}
			}
			h.serveAll()
			if p := h.after(24 * time.Hour); p != nothing || h.sent.Load() != 0 {
				t.Errorf("%+v, %d datagrams", p, h.sent.Load())
			}
		})
	})
	t.Run("ports pass", func(t *testing.T) {
		atHome(t, 2, linux, func(h *home) {
			for _, helper := range h.helpers {
				rotate(helper)
			}
			h.serveAll()
			if h.after(24 * time.Hour); h.sent.Load() != 0 {
				t.Errorf("%d datagrams", h.sent.Load())
			}
		})
	})
	t.Run("there is much to do", func(t *testing.T) {
		atHome(t, 2, linux, func(h *home) {
			h.serveAll()
			for range 60 {
				h.traffic.Add(quietBytes + 1)
				if p := h.after(studyEvery); p.lifetime != 0 {
					t.Fatalf("%+v", p)
				}
			}
			h.traffic.Store(0) // a session ended
			if p := h.after(10 * time.Minute); p.lifetime != 118*time.Second {
				t.Errorf("%+v in the quiet after it", p)
			}
		})
	})
}

// rotate has a helper see ports that pass.
func rotate(h *helper) {
	for port := range uint16(4) {
		h.views[0].rotation.Observe(h.at(), netip.AddrPortFrom(outside.Addr(), 4001+port))
	}
}

func TestAnotherHelperIsAskedWhereOneCannotMeasure(t *testing.T) {
	atHome(t, 2, func(r *memnet.NAT) { r.Lifetime = 2 * time.Minute }, func(h *home) {
		h.mu.Lock()
		deaf := h.sorted()[0]
		h.mu.Unlock()
		for _, helper := range h.helpers {
			if helper != deaf {
				h.serve(helper.at())
			}
		}
		h.Start()
		defer h.Close()
		if p := h.after(3 * lifetimeAgain); p != (habits{"no", 118 * time.Second}) {
			t.Errorf("%+v", p)
		}
	})
}

func TestBindingsBecomeRareOnlyWhereThatIsSafe(t *testing.T) {
	for _, row := range []struct {
		name     string
		lifetime time.Duration // as measured
		most     time.Duration
	}{
		{"not measured", 0, stun.DefaultKeepalive},
		{"28 s", 28 * time.Second, stun.DefaultKeepalive},
		{"118 s", 118 * time.Second, 118 * time.Second * 45 / 100},
	} {
		t.Run(row.name, func(t *testing.T) {
			atHome(t, 1, func(r *memnet.NAT) { r.Lifetime = 2 * time.Minute }, func(h *home) {
				var only *helper
				for _, only = range h.helpers {
					h.serve(only.at())
				}
				only.alive.Learned(row.lifetime)
				h.bound()
				h.after(time.Hour)
				before := h.sent.Load()
				h.after(time.Hour)
				if n := h.sent.Load() - before; n < int64(time.Hour/row.most)-1 || n > int64(time.Hour/row.most)+1 {
					t.Errorf("%d datagrams an hour", n)
				}
				h.lose.Store(true)
				h.after(row.most)
				h.lose.Store(false)
				if h.after(bindAgain); only.alive.Interval() != stun.DefaultKeepalive {
					t.Errorf("%v after a loss", only.alive.Interval())
				}
			})
		})
	}
}

func TestNextBinding(t *testing.T) {
	const long = 50 * time.Second
	answered := view{asked: true, mapped: outside}
	for _, row := range []struct {
		name   string
		v4, v6 view
		waited bool
		want   time.Duration
	}{
		{"answered at last", answered, view{}, true, long},
		{"answered before it was due", answered, view{}, false, long - 5*time.Second},
		{"one lost", view{asked: true, mapped: outside, silent: 1}, view{}, true, bindAgain},
		{"given up", view{asked: true, mapped: outside, silent: bindTries}, view{}, true, stun.DefaultKeepalive},
		{"IPv6 lost", answered, view{asked: true, mapped: outside6, silent: bindTries}, true, stun.DefaultKeepalive},
		{"IPv6 never answered", answered, view{asked: true, silent: bindTries}, true, long},
		{"another port", view{asked: true, mapped: outside, changed: true}, view{}, true, bindAgain},
		{"nothing is asked", view{}, view{}, true, long - 5*time.Second},
	} {
		h := seesBy4(outside, stun.Behaviour{})
		k := keeperWith(own, h)
		h.alive.Learned(118 * time.Second)
		for h.alive.Interval() < long-5*time.Second {
			h.alive.Answered()
		}
		h.alive.Answered()
		h.alive.Answered() // with the next one it grows
		h.views = [2]view{row.v4, row.v6}
		if got, full := k.nextBinding(h, row.waited); got != row.want || full != (got != bindAgain) {
			t.Errorf("%s: %v, %v, want %v", row.name, got, full, row.want)
		}
	}
}

func TestPortsThatPassAreNamedAndNotOffered(t *testing.T) {
	atHome(t, 2, func(r *memnet.NAT) { r.Rotate = 5 * time.Second }, func(h *home) {
		for _, helper := range h.helpers {
			h.serve(helper.at())
		}
		h.bound()
		h.after(time.Second)
		if n := len(h.State().Candidates); n < 2 {
			t.Errorf("%d candidates at first", n)
		}
		h.after(45 * time.Second)
		s := h.State()
		if !s.Rotates || s.Verdict != api.NATHard || s.NAT.Mapping != "unknown" || len(s.Candidates) != 1 {
			t.Errorf("%+v", s)
		}
		// It stays so, and nobody is troubled by every new port.
		h.mu.Lock()
		h.proofs[door{"udp", 0, own.Port(), false, false}] = proof{tested: time.Now()}
		h.mu.Unlock()
		before := h.sent.Load()
		for range 100 {
			h.after(10 * time.Second)
			if s := h.State(); !s.Rotates || s.Verdict != api.NATHard || len(s.Candidates) != 1 {
				t.Fatalf("%+v", s)
			}
		}
		if n := h.sent.Load() - before; n > 2*51 {
			t.Errorf("%d bindings in 1000 s", n)
		}
		if h.proofs[door{"udp", 0, own.Port(), false, false}].tested.IsZero() {
			t.Error("doors are tested at every new port")
		}
		for _, d := range h.doors(0, portmap.State{}) {
			if d.port != own.Port() {
				t.Errorf("a door that passes: %+v", d)
			}
		}
	})
}

func TestSilenceAfterANewPortIsAskedForRarely(t *testing.T) {
	atHome(t, 1, func(r *memnet.NAT) { r.Rotate = 30 * time.Second }, func(h *home) {
		var only *helper
		for _, only = range h.helpers {
			h.serve(only.at())
		}
		h.bound()
		h.after(49 * time.Second)
		if !only.views[0].changed {
			t.Fatal("no new port")
		}
		h.lose.Store(true)
		before := h.sent.Load()
		h.after(10 * time.Minute)
		if n := h.sent.Load() - before; n > 32*6 { // six sendings a binding
			t.Errorf("%d datagrams in ten minutes", n)
		}
	})
}

func TestOneNewPortIsNoRotation(t *testing.T) {
	h := seesBy4(outside, stun.Behaviour{})
	k := keeperWith(own, h)
	h.views[0].rotation.Observe(h.at(), outside)
	h.views[0].rotation.Observe(h.at(), other)
	if k.judge(); k.State().Rotates {
		t.Error("after one change")
	}
	rotate(h)
	if k.judge(); !k.State().Rotates {
		t.Error("not noticed")
	}
	h.rebind()
	if k.judge(); k.State().Rotates {
		t.Error("in another network still")
	}
}
