package reach

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// places finds devices where their links say, and takes no place at relays.
type places struct {
	socket *nat.Socket
	taken  atomic.Int64
	lost   atomic.Int64
	mu     sync.Mutex
	at     map[identity.Address]netip.AddrPort
}

func (p *places) Remember(l identity.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[l.Address] = l.At[0]
}

func (p *places) KeepPlace(context.Context, identity.Address, relay.Ticket, string) error {
	p.taken.Add(1)
	return errors.New("no relay here")
}

func (p *places) LosePlaces() { p.lost.Add(1) }

func (p *places) Find(ctx context.Context, to identity.Address) (*nat.Peer, error) {
	p.mu.Lock()
	at, ok := p.at[to]
	p.mu.Unlock()
	if !ok || at.Port() == 9 { // a device that is off
		<-ctx.Done()
		return nil, ctx.Err()
	}
	peer := p.socket.NewPeer()
	return peer, peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: at})
}

func (p *places) Adopt(_ identity.Address, remote net.Addr) *nat.Peer {
	return p.socket.Adopt(remote.(*net.UDPAddr).AddrPort())
}
func (p *places) Ended(_ identity.Address, peer *nat.Peer) { peer.Close() }
func (p *places) Wrong(_ identity.Address, peer *nat.Peer) { peer.Close() }

// party is a device on loopback: the one that is kept, or a rendezvous.
type party struct {
	*overlay.Overlay
	device        *identity.Device
	socket        *nat.Socket
	mux           *stun.Mux
	places        *places
	link          identity.Link
	willing       atomic.Bool
	registrations atomic.Int64
	close         func()
}

func newParty(t *testing.T, seed byte) *party {
	t.Helper()
	return newPartyAt(t, seed, "127.0.0.1:0")
}

func newPartyAt(t *testing.T, seed byte, at string) *party {
	t.Helper()
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: at})
	if err != nil {
		t.Fatal(err)
	}
	p := &party{device: device(seed), socket: socket, places: &places{socket: socket, at: map[identity.Address]netip.AddrPort{}}}
	p.willing.Store(true)
	if p.mux, err = stun.NewMux(socket, stun.Config{Serve: true}); err != nil {
		t.Fatal(err)
	}
	socket.HandleSTUN(p.mux.Handle)
	log := slog.New(slog.DiscardHandler)
	p.Overlay = overlay.New(overlay.Config{Device: p.device, Socket: socket, Logger: log})
	p.Use(p.places)
	server := introduce.NewServer(introduce.Config{
		Device: p.device, Sessions: p.Overlay, Logger: log,
		Willing: p.willing.Load,
		Ticket:  func(identity.Address) *relay.Ticket { return &relay.Ticket{} },
	})
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			p.registrations.Add(1)
		}
		server.ServeHTTP(w, r)
	})
	if err := p.Serve(introduce.Service, count); err != nil {
		t.Fatal(err)
	}
	p.link = identity.Link{Address: p.Address(), At: []netip.AddrPort{socket.LocalAddr().(*net.UDPAddr).AddrPort()}}
	p.close = sync.OnceFunc(func() {
		p.Overlay.Close()
		p.mux.Close()
		socket.Close()
	})
	t.Cleanup(p.close)
	return p
}

func newKeeper(t *testing.T, p *party, links func() []identity.Link) *Keeper {
	t.Helper()
	k := New(Config{
		Device: p.device, Overlay: p.Overlay, Mux: p.mux, Client: introduce.NewClient(p.device, p.Overlay),
		Links: links, Listen: p.link.At[0], Policy: Auto, Loopback: true, Logger: slog.New(slog.DiscardHandler),
	})
	k.Use(p.places, sealed.NewNonce)
	t.Cleanup(func() { k.Close() })
	return k
}

// poll waits for a condition that nothing announces, and looks meanwhile
// whether another is kept.
func poll(t *testing.T, what string, ok func() bool, always func()) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(12 * time.Second)
	for !ok() {
		always()
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no %s after 12 s", what)
		}
	}
}

func TestThreeRegistrationsAreKeptAndReplaced(t *testing.T) {
	t.Parallel()
	p := newParty(t, 1)
	var helpers []*party
	links := []identity.Link{p.link, {Address: device(99).Address()}} // itself, and one that is nowhere
	for seed := byte(10); seed < 15; seed++ {
		h := newParty(t, seed)
		helpers = append(helpers, h)
		links = append(links, h.link)
	}
	k := newKeeper(t, p, func() []identity.Link { return links })
	never := func() {
		if n := len(k.Rendezvous()); n > wanted {
			t.Fatalf("%d registrations, wanted %d", n, wanted)
		}
	}
	k.Start()
	<-k.Ready()
	poll(t, "three registrations", func() bool { return len(k.Rendezvous()) == wanted }, never)
	poll(t, "public address", func() bool { return k.State().Public == p.link.At[0] }, never)
	if s := k.State(); s.NAT.Mapping != string(stun.None) || len(s.Candidates) != 1 || s.Candidates[0].Kind != ice.Host {
		t.Errorf("%+v", s)
	}
	poll(t, "ticket tried", func() bool { return p.places.taken.Load() >= wanted }, never)
	asked := 0
	for _, h := range helpers {
		asked += min(1, int(h.registrations.Load()))
	}
	if asked != wanted {
		t.Errorf("registered at %d rendezvous, wanted %d", asked, wanted)
	}
	dead := k.Rendezvous()[0]
	for _, h := range helpers {
		if h.Address() == dead {
			h.close()
		}
	}
	replaced := func() bool {
		now := k.Rendezvous()
		for _, a := range now {
			if a == dead {
				return false
			}
		}
		return len(now) == wanted
	}
	poll(t, "replacement", replaced, never)
	online := 0
	for _, h := range k.Helpers() {
		if h.Online {
			online++
			if h.Transport != "udp" || h.RTTMS <= 0 {
				t.Errorf("%+v", h)
			}
		}
	}
	if online != wanted || len(k.Link().Via) != wanted {
		t.Errorf("%d online, %d in the link", online, len(k.Link().Via))
	}
}

func TestAnUnwillingRendezvousIsAskedAgainLater(t *testing.T) {
	t.Parallel()
	p, h := newParty(t, 1), newParty(t, 2)
	h.willing.Store(false)
	k := newKeeper(t, p, func() []identity.Link { return []identity.Link{h.link} })
	k.Start()
	poll(t, "first question", func() bool { return h.registrations.Load() > 0 }, func() {})
	select {
	case <-k.Ready():
		t.Fatal("registered at somebody unwilling")
	default:
	}
	h.willing.Store(true)
	poll(t, "registration", func() bool { return len(k.Rendezvous()) == 1 }, func() {})
}

func TestCloseWhileDiallingReturnsAtOnce(t *testing.T) {
	t.Parallel()
	p := newParty(t, 1)
	off := identity.Link{Address: device(2).Address(), At: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}
	k := newKeeper(t, p, func() []identity.Link { return []identity.Link{off} })
	k.Start()
	poll(t, "attempt", func() bool { return len(k.Helpers()) == 1 }, func() {})
	if v := k.State().Verdict; v != api.Checking {
		t.Errorf("verdict %s", v)
	}
	began := time.Now()
	k.Close()
	k.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	if n := len(k.Helpers()); n != 0 {
		t.Errorf("%d helpers left", n)
	}
}

func TestCloseWithoutStart(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, newParty(t, 1), func() []identity.Link { return nil })
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// off is a link to a device that never answers.
func off(seed byte) identity.Link {
	return identity.Link{Address: device(seed).Address(), At: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}
}

func TestFewAreCalledAtFirstAndMoreIfTheyFail(t *testing.T) {
	t.Parallel()
	p := newParty(t, 1)
	var links []identity.Link
	for seed := byte(50); seed < 50+2*maxTended; seed++ {
		links = append(links, off(seed))
	}
	k := newKeeper(t, p, func() []identity.Link { return links })
	began := time.Now()
	k.Start()
	calls := func() int { return len(k.Helpers()) }
	poll(t, "first calls", func() bool { return calls() == wanted }, func() {})
	poll(t, "more calls", func() bool { return calls() > wanted }, func() {
		if n := calls(); n > wanted && time.Since(began) < headStart {
			t.Fatalf("%d calls after %v", n, time.Since(began))
		}
	})
	if n := calls(); n > 2*wanted {
		t.Errorf("%d calls after %v", n, time.Since(began))
	}
}

func TestTheFirstRegistrationIsQuick(t *testing.T) {
	t.Parallel()
	p, h := newParty(t, 1), newParty(t, 2)
	k := newKeeper(t, p, func() []identity.Link { return []identity.Link{off(50), off(51), h.link} })
	began := time.Now()
	k.Start()
	<-k.Ready()
	took := time.Since(began)
	t.Logf("registered after %v", took)
	if took > time.Second {
		t.Errorf("registered after %v", took)
	}
}

func TestARestartedRendezvousIsUsedAgain(t *testing.T) {
	t.Parallel()
	p, h := newParty(t, 1), newParty(t, 2)
	k := newKeeper(t, p, func() []identity.Link { return []identity.Link{h.link} })
	k.renew = 500 * time.Millisecond
	k.Start()
	<-k.Ready()
	// As after a power cut: no word of farewell.
	h.socket.Close()
	h.close()
	again := newPartyAt(t, 2, h.link.At[0].String())
	began := time.Now()
	poll(t, "registration after the restart", func() bool { return again.registrations.Load() > 0 }, func() {})
	t.Logf("registered again after %v", time.Since(began))
	if took := time.Since(began); took > k.renew+4*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestRefreshReturnsWhenAllHaveAnswered(t *testing.T) {
	t.Parallel()
	p, h := newParty(t, 1), newParty(t, 2)
	k := newKeeper(t, p, func() []identity.Link { return []identity.Link{h.link} })
	k.Start()
	<-k.Ready()
	before := h.registrations.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	k.Refresh(ctx)
	if ctx.Err() != nil || h.registrations.Load() == before {
		t.Errorf("%v, %d registrations", ctx.Err(), h.registrations.Load()-before)
	}
	var all sync.WaitGroup
	before = h.registrations.Load()
	for range 20 {
		all.Go(func() { k.Refresh(ctx) })
	}
	all.Wait()
	if n := h.registrations.Load() - before; n == 0 || n > 10 {
		t.Errorf("%d registrations for 20 wishes at once", n)
	}
	if at := k.Servers(); len(at) != 1 || at[0] != h.link.At[0] {
		t.Errorf("servers %v", at)
	}
	if s := k.State(); !s.Public.IsValid() {
		t.Errorf("%+v", s)
	}
}
