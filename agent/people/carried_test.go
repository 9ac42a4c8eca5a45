package people

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/nat/relay"
)

// exchangeOf is where devices find each other's service: sessions to all that
// are there.
type exchangeOf struct {
	mu       sync.Mutex
	services map[identity.Address]http.Handler
}

// sessionsOf is what one device sees of it.
type sessionsOf struct {
	*exchangeOf
	own identity.Address
}

func (s sessionsOf) Current(a identity.Address) *overlay.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services[a] == nil {
		return nil
	}
	return &overlay.Session{}
}

func (s sessionsOf) Client(string) *http.Client { return &http.Client{Transport: s} }

// RoundTrip asks the service of the device that the host of the URL names.
func (s sessionsOf) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := identity.ParseAddress(r.URL.Host)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	service := s.services[to]
	s.mu.Unlock()
	if service == nil {
		return nil, errors.New("nobody is there")
	}
	if err := pass(r.Context(), latency); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	service.ServeHTTP(w, r.Clone(overlay.WithCaller(r.Context(), s.own)))
	return w.Result(), nil
}

// carriedBy tells by way of one rendezvous.
type carriedBy struct {
	*introduce.Client
	via identity.Address
}

func (c carriedBy) Tell(ctx context.Context, to identity.Address, body []byte, watch bool) ([]byte, error) {
	var w *introduce.Watch
	if watch {
		w = &introduce.Watch{Back: []identity.Via{{Address: c.via, At: netip.MustParseAddrPort("203.0.113.1:4001")}}}
	}
	return c.Client.Tell(ctx, c.via, to, body, w)
}

// neighbour is a device with all that its notes need.
type neighbour struct {
	*member
	*introduce.Server
	client *introduce.Client
}

// move gives a member a service, and a place at a rendezvous.
func (x *exchangeOf) move(t *testing.T, m *member, seed byte, via identity.Address) *neighbour {
	t.Helper()
	device := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	s := sessionsOf{x, device.Address()}
	n := &neighbour{member: m, client: introduce.NewClient(device, s)}
	cfg := introduce.Config{
		Device: device, Sessions: s,
		Willing: func() bool { return true },
		Ticket:  func(identity.Address) *relay.Ticket { return nil },
		Logger:  slog.New(slog.DiscardHandler),
	}
	if m != nil {
		cfg.WelcomeNote, cfg.Told, cfg.Left = m.Receive, m.Handle, m.Left
		m.cfg.Teller = carriedBy{n.client, via}
	}
	n.Server = introduce.NewServer(cfg)
	n.Server.Start()
	t.Cleanup(func() { n.Server.Close() })
	x.mu.Lock()
	x.services[device.Address()] = n.Server
	x.mu.Unlock()
	return n
}

// registered renews a registration until the test ends or the device is off.
func (n *neighbour) registered(t *testing.T, at identity.Address) (off func()) {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			n.client.Register(ctx, at, n.Epoch())
			pass(ctx, introduce.DefaultPeriod)
		}
	}()
	return cancel
}

func TestNotesTravelByPackageIntroduce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := func(n byte) identity.Address { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)).Address() }
		one, two, rendezvous := seed(1), seed(2), seed(3)
		x := &exchangeOf{services: map[identity.Address]http.Handler{}}
		w := newWorld()
		a, b := w.newMember(t, 1), w.newMember(t, 2)
		a.address, b.address = one, two
		x.move(t, nil, 3, identity.Address{})
		na, nb := x.move(t, a, 1, rendezvous), x.move(t, b, 2, rendezvous)
		na.registered(t, rendezvous)
		off := nb.registered(t, rendezvous)
		after(time.Second)

		// A request, with as much to say as there may be.
		ra, rb := a.asking(t), b.asking(t)
		ra.cfg.Teller, rb.cfg.Teller = a.cfg.Teller, b.cfg.Teller
		a.Announce()
		b.Announce()
		a.add(two, two)
		if err := ra.Ask(link(two), strings.Repeat("é", MaxNote)); err != nil {
			t.Fatal(err)
		}
		until(t, time.Second, "the request is there", func() bool { return len(rb.List()) == 1 })
		after(time.Second)
		b.add(one, one)
		if _, _, err := rb.Accept(one); err != nil {
			t.Fatal(err)
		}
		until(t, time.Second, "both see each other", func() bool {
			return a.State(two).Online && b.State(one).Online && ra.Standing(two) == contacts.Mutual
		})

		// Hidden, absent and never heard of are one error, word for word.
		after(time.Minute)
		b.mu.Lock()
		b.peers[0].Hidden = true
		b.mu.Unlock()
		b.Refresh()
		until(t, time.Second, "hidden", func() bool { return !a.State(two).Online })
		body := a.word(t, true)
		ask := func() error {
			_, err := a.cfg.Teller.Tell(t.Context(), two, body, true)
			return err
		}
		hidden := ask()
		b.mu.Lock()
		b.peers[0].Hidden = false
		b.mu.Unlock()
		b.Refresh()
		until(t, time.Second, "seen again", func() bool { return a.State(two).Online })

		// A power cut: the rendezvous tells who watches.
		after(time.Minute)
		off()
		x.mu.Lock()
		delete(x.services, two)
		x.mu.Unlock()
		took := until(t, 5*time.Second, "the power cut is seen", func() bool { return !a.State(two).Online })
		t.Logf("a power cut was seen %v after the session was gone", took)
		if absent := ask(); !errors.Is(hidden, introduce.ErrNotHere) || hidden.Error() != absent.Error() {
			t.Errorf("hidden: %v\nabsent: %v", hidden, absent)
		}
		b.locked(func() { b.order = nil }) // it takes no leave
	})
}
