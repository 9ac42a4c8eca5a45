package introduce

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

// heard collects hints.
type heard struct {
	mu  sync.Mutex
	all []identity.Address
}

func (h *heard) left(of identity.Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, of)
}

func (h *heard) count(of identity.Address) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.all {
		if a == of {
			n++
		}
	}
	return n
}

// watching returns three of whom the first has had the rendezvous watch the
// third, and what the first hears.
func watching(t *testing.T, back ...identity.Via) (w *world, a, r, b *node, hints *heard) {
	t.Helper()
	w, hints = newWorld(), &heard{}
	a = newNode(w, 1, func(c *Config) { c.Left = hints.left })
	r, b = newNode(w, 2, nil), newNode(w, 3, telling)
	r.Server.Start()
	t.Cleanup(func() { r.Server.Close() })
	b.register(t, r)
	if _, err := a.Tell(t.Context(), r.address, b.address, nil, &Watch{Back: back}); err != nil {
		t.Fatal(err)
	}
	return w, a, r, b, hints
}

func key(n int) identity.Address {
	k := make([]byte, 32)
	binary.BigEndian.PutUint32(k, uint32(n+1))
	return identity.NewAddress(k, identity.KindDevice)
}

func TestAWatcherIsToldAtOnceOfWhoLeavesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, r, b, hints := watching(t)
		if err := b.Unregister(t.Context(), r.address); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if hints.count(b.address) != 1 {
			t.Errorf("told of %d", len(hints.all))
		}
		if r.watches != 0 {
			t.Errorf("%d watches are left", r.watches)
		}
	})
}

func TestAWatcherIsToldOfAPowerCut(t *testing.T) {
	tests := []struct {
		name         string
		every        time.Duration
		session      bool // whether it seems to live on
		after, limit time.Duration
	}{
		{"the session is gone", DefaultPeriod, false, 0, 3 * time.Second},
		{"no renewals", DefaultPeriod, true, 2 * DefaultPeriod, 3*DefaultPeriod + 3*time.Second},
		{"no renewals of a slow one", time.Minute, true, 2 * time.Minute, 3*time.Minute + 3*time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, r, b, hints := watching(t)
				if _, err := b.RegisterEvery(t.Context(), r.address, b.Epoch(), tt.every); err != nil {
					t.Fatal(err)
				}
				if !tt.session {
					w.put(b.address, nil)
				}
				<-time.After(tt.after)
				if hints.count(b.address) != 0 {
					t.Error("told too early")
				}
				<-time.After(tt.limit - tt.after)
				if hints.count(b.address) != 1 {
					t.Errorf("told %d times", hints.count(b.address))
				}
				if got := send(t, r, a.address, "GET", "/v1/epoch?of="+b.address.String(), nil); got.Code != 404 {
					t.Errorf("still registered: %d", got.Code)
				}
			})
		})
	}
}

func TestRenewalsKeepAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, r, b, hints := watching(t)
		for range 100 {
			<-time.After(DefaultPeriod)
			b.register(t, r)
		}
		if len(hints.all) != 0 {
			t.Errorf("%d hints while it renewed", len(hints.all))
		}
		b.Unregister(t.Context(), r.address)
		synctest.Wait()
		if hints.count(b.address) != 1 {
			t.Error("the watch was lost")
		}
	})
}

func TestAWatchEndsAfterTwoHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, r, b, hints := watching(t)
		for range watchFor/DefaultPeriod + 1 {
			<-time.After(DefaultPeriod)
			b.register(t, r)
		}
		b.Unregister(t.Context(), r.address)
		synctest.Wait()
		if len(hints.all) != 0 {
			t.Error("told though the watch had ended")
		}
	})
}

func TestTheRendezvousItselfHearsWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, hints := newWorld(), &heard{}
		r := newNode(w, 2, func(c *Config) { c.Left = hints.left })
		b := newNode(w, 3, nil)
		r.Server.Start()
		defer r.Server.Close()
		b.register(t, r)
		w.put(b.address, nil)
		<-time.After(2 * lookEvery)
		if hints.count(b.address) != 1 {
			t.Error("not told")
		}
	})
}

func TestAWatcherWithoutSessionIsToldByItsOwnRendezvous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, live := via(20, "203.0.113.20:1"), via(21, "203.0.113.21:1")
		w, a, r, b, hints := watching(t, dead, live)
		own := newNode(w, 21, nil) // the watcher's
		a.register(t, own)
		// No session leads from r to the watcher.
		r.Server.cfg.Sessions = without{r.Server.cfg.Sessions, a.address, own.address}
		var reached []identity.Via
		r.Server.cfg.Reach = func(_ context.Context, back identity.Via) error {
			reached = append(reached, back)
			if back == dead {
				return errors.New("nobody there")
			}
			return nil
		}
		b.Unregister(t.Context(), r.address)
		synctest.Wait()
		if hints.count(b.address) != 1 || !slices.Equal(reached, []identity.Via{dead, live}) {
			t.Errorf("told %d times, reached %v", hints.count(b.address), reached)
		}
		if n := w.count("POST", "/v1/left", own.address); n != 1 {
			t.Errorf("its rendezvous was asked %d times", n)
		}
	})
}

// without are sessions but for some.
type without struct {
	Sessions
	a, b identity.Address
}

func (s without) Current(a identity.Address) *overlay.Session {
	if a == s.a || a == s.b {
		return nil
	}
	return s.Sessions.Current(a)
}

func TestCallsOnBehalfOfAWatcherAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		calls := 0
		r := newNode(w, 2, func(c *Config) {
			c.Reach = func(context.Context, identity.Via) error { calls++; return errors.New("nobody") }
		})
		for n := range 100 {
			r.tellOne(hint{key(n), device(9).Address(), []identity.Via{via(20, "203.0.113.20:1")}})
		}
		if calls != dialsPerMinute {
			t.Errorf("%d calls, want %d", calls, dialsPerMinute)
		}
	})
}

func TestWhoMayWatch(t *testing.T) {
	a, b := device(1).Address(), "203.0.113.9:4001"
	good := "&back=" + a.String() + "@" + b
	tests := []struct {
		name, query string
		how         Reception
		want        int
	}{
		{"who is known", "&watch=1" + good + good, Known, 1},
		{"without a way back", "&watch=1", Known, 1},
		{"who does not ask", good, Known, 0},
		{"a stranger", "&watch=1" + good, Stranger, 0},
		{"who is hidden from", "&watch=1" + good, Unanswered, 0},
		{"too many ways back", "&watch=1" + strings.Repeat(good, MaxBack+1), Known, 0},
		{"no address", "&watch=1&back=x@" + b, Known, 0},
		{"no port", "&watch=1&back=" + a.String() + "@1.2.3.4", Known, 0},
		{"a name", "&watch=1&back=" + a.String() + "@example.org:1", Known, 0},
		{"nowhere", "&watch=1&back=" + a.String() + "@0.0.0.0:1", Known, 0},
		{"a group", "&watch=1&back=" + a.String() + "@224.0.0.1:1", Known, 0},
		{"an owner", "&watch=1&back=" + identity.NewAddress(a.Key(), identity.KindOwner).String() + "@" + b, Known, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, a, r, b := threeTelling(t)
			b.Server.cfg.WelcomeNote = func(identity.Address) Reception { return tt.how }
			n := note{b.Epoch(), [16]byte{1}, nil}
			send(t, r, a.address, "POST", "/v1/note?to="+b.address.String()+tt.query, sealedNote(t, a.device, b, purposeNote, n))
			if r.watches != tt.want {
				t.Errorf("%d watches, want %d", r.watches, tt.want)
			}
		})
	}
}

func TestAFloodOfWatchersIsBounded(t *testing.T) {
	_, _, r, b := threeTelling(t)
	until := time.Now().Add(time.Hour)
	for n := range maxWatchers + 10 {
		r.addWatch(b.address, key(n), watch{until: until})
		r.addWatch(b.address, key(n), watch{until: until}) // renewed
	}
	if r.watches != maxWatchers || len(r.registrations[b.address].watchers) != maxWatchers {
		t.Fatalf("%d watchers of one device", r.watches)
	}
	r.registrations[b.address].watchers[key(0)] = watch{until: time.Now()}
	r.addWatch(b.address, key(9999), watch{until: until})
	if _, ok := r.registrations[b.address].watchers[key(9999)]; !ok {
		t.Error("a watch that has ended makes no room")
	}
	// Many devices, each full: the next one's watch takes the place of one of theirs.
	for d := range maxWatches/maxWatchers - 1 {
		r.registrations[key(d)] = &registration{}
		for n := range maxWatchers {
			r.addWatch(key(d), key(n), watch{until: until})
		}
	}
	r.registrations[key(5000)] = &registration{}
	for n := range 10 {
		r.addWatch(key(5000), key(n), watch{until: until})
	}
	total := 0
	for _, reg := range r.registrations {
		total += len(reg.watchers)
	}
	if r.watches != maxWatches || total != maxWatches || len(r.registrations[key(5000)].watchers) != 10 {
		t.Errorf("%d watches counted, %d kept, %d of the latest device", r.watches, total, len(r.registrations[key(5000)].watchers))
	}
	r.addWatch(key(7777), key(1), watch{until: until})
	if r.watches != maxWatches {
		t.Error("a watch of who is not registered was kept")
	}
}

func TestManyHintsAtOnceAreBounded(t *testing.T) {
	_, _, r, _ := threeTelling(t)
	for n := range maxHints + 100 {
		r.put(hint{of: key(n), watcher: key(1)})
	}
	if len(r.hints.queue) != maxHints {
		t.Errorf("%d wait", len(r.hints.queue))
	}
}

func TestHintsAreTakenAndPassedOn(t *testing.T) {
	w, a, r, b := three(t)
	hints := &heard{}
	b.Server.cfg.Left = hints.left
	of := device(9).Address().String()
	other := newNode(w, 8, nil)
	tests := []struct {
		name   string
		at     *node
		target string
		want   int
	}{
		{"for the device itself", b, "?of=" + of, 204},
		{"the same, named", b, "?of=" + of + "&to=" + b.address.String(), 204},
		{"for who is registered", r, "?of=" + of + "&to=" + b.address.String(), 204},
		{"for who is not", r, "?of=" + of + "&to=" + other.address.String(), 404},
		{"for who wants none", a, "?of=" + of, 204},
		{"of nobody", b, "", 400},
		{"for no address", r, "?of=" + of + "&to=x", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := send(t, tt.at, other.address, "POST", "/v1/left"+tt.target, nil); got.Code != tt.want {
				t.Errorf("%d, want %d", got.Code, tt.want)
			}
		})
	}
	if n := hints.count(device(9).Address()); n != 3 {
		t.Errorf("%d hints arrived", n)
	}
	for i := range hintsPerMinute + 1 {
		got := send(t, a, key(3), "POST", "/v1/left?of="+of, nil)
		if ok := got.Code == 204; ok != (i < hintsPerMinute) {
			t.Fatalf("hint %d: %d", i+1, got.Code)
		}
	}
}

func TestCloseEndsAllAndMayBeRepeated(t *testing.T) {
	w := newWorld()
	r, b := newNode(w, 2, nil), newNode(w, 3, nil)
	r.Server.Start()
	b.register(t, r)
	for range 2 {
		if err := r.Server.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseBack(f *testing.F) {
	f.Add(device(1).Address().String()+"@203.0.113.1:4001", "")
	f.Add(device(1).Address().String()+"@[2001:db8::1]:4001", "@")
	f.Fuzz(func(t *testing.T, one, two string) {
		all, err := parseBack([]string{one, two})
		if err != nil {
			return
		}
		for _, v := range all {
			again, err := parseBack([]string{fmt.Sprint(v.Address, "@", v.At)})
			if err != nil || len(again) != 1 || again[0] != v || !usable(v.At) || v.At.Addr().Is4In6() {
				t.Fatalf("%v reads %v, %v", v, again, err)
			}
		}
	})
}
