package join

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
)

func offerOf(m *member) introduce.Offer {
	return introduce.Offer{ICE: ice.Description{
		Ufrag: "abcdefgh", Pwd: "abcdefghijklmnopqrstuvwxyz",
		Candidates: []ice.Candidate{{Kind: ice.Host, Addr: m.at}},
	}}
}

func directTo(s string) route {
	return route{path: nat.Path{Kind: nat.KindDirect, Addr: netip.MustParseAddrPort(s)}, remote: s}
}

func relayedTo(s string) route {
	return route{path: nat.Path{Kind: nat.KindRelay, Addr: netip.MustParseAddrPort(s)}, remote: s}
}

func listen(t *testing.T) *nat.Socket {
	t.Helper()
	s, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestWayTakesTheBetterRoute(t *testing.T) {
	d1, d2 := directTo("203.0.113.1:1"), directTo("203.0.113.2:1")
	r1, r2 := relayedTo("203.0.113.3:1"), relayedTo("203.0.113.4:1")
	lost := route{}
	tests := []struct {
		name string
		do   []func(*way)
		want route
	}{
		{"nothing", nil, route{}},
		{"direct", ways(using(d1)), d1},
		{"relayed", ways(using(r1)), r1},
		{"direct after relayed", ways(using(r1), using(d1)), d1},
		{"relayed after direct", ways(using(d1), using(r1)), d1},
		{"another direct", ways(using(d1), using(d2)), d2},
		{"another relay", ways(using(r1), using(r2)), r1},
		{"lost", ways(using(d1), (*way).lose), lost},
		{"relayed after the direct one was lost", ways(using(d1), (*way).lose, using(r1)), r1},
		{"lost twice", ways(using(d1), (*way).lose, (*way).lose), lost},
		{"regained", ways(using(d1), (*way).lose, (*way).regain), d1},
		{"replaced, so not regained", ways(using(d1), (*way).lose, using(r1), (*way).regain), r1},
		{"never lost", ways((*way).regain), route{}},
		{"dropped for good", ways(using(d1), func(w *way) { w.drop(d1.path) }, (*way).regain), lost},
		{"another dropped", ways(using(d1), func(w *way) { w.drop(d2.path) }), d1},
		{"noted", ways(func(w *way) { w.note(d1) }), d1},
		{"noted when there is one", ways(using(r1), func(w *way) { w.note(d1) }), r1},
		{"doubted at once", ways(using(d1), func(w *way) { w.doubt(time.Now(), false) }), d1},
		{"doubted when quiet", ways(using(d1), func(w *way) { w.doubt(time.Now().Add(doubtAfter+time.Second), false) }), lost},
		{"lost over there, just heard", ways(using(d1), func(w *way) { w.doubt(time.Now(), true) }), d1},
		{"lost over there", ways(using(d1), func(w *way) { w.doubt(time.Now().Add(lostAfter+time.Second), true) }), lost},
		{"a quiet relay is not doubted", ways(using(r1), func(w *way) { w.doubt(time.Now().Add(time.Hour), true) }), r1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWay(identity.Address{})
			for _, do := range tt.do {
				do(w)
			}
			if w.route != tt.want {
				t.Errorf("route %+v, want %+v", w.route, tt.want)
			}
			checkReady(t, w)
		})
	}
}

func ways(do ...func(*way)) []func(*way) { return do }
func using(r route) func(*way)           { return func(w *way) { w.use(r) } }

// checkReady compares the channel that callers wait for with the route.
func checkReady(t *testing.T, w *way) {
	t.Helper()
	ready := false
	select {
	case <-w.found():
		ready = true
	default:
	}
	if ready != w.usable() {
		t.Errorf("ready %t, usable %t", ready, w.usable())
	}
	if i := w.info(); i.Path == "direct" && (i.Reason != "" || i.Hopeless) {
		t.Errorf("direct, and yet %+v", i)
	}
}

// TestWayLikeItsModel plays random changes on a way and on a model of it.
func TestWayLikeItsModel(t *testing.T) {
	socket := listen(t)
	routes := []route{directTo("203.0.113.1:1"), directTo("203.0.113.2:1"), relayedTo("203.0.113.3:1"), relayedTo("203.0.113.4:1")}
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		w := newWay(identity.Address{})
		held := map[*nat.Peer]int{}
		var model, lost route
		for range 60 {
			switch random.IntN(6) {
			case 0:
				p := socket.NewPeer()
				w.add(p)
				held[p]++
			case 1:
				for p := range held {
					w.add(p)
					held[p]++
					break
				}
			case 2, 3:
				for p := range held {
					held[p]--
					if held[p] == 0 {
						delete(held, p)
					}
					unused, empty := w.remove(p)
					if unused != (held[p] == 0) || empty != (len(held) == 0) {
						t.Fatalf("remove: unused %t, empty %t with %d held", unused, empty, len(held))
					}
					if unused {
						p.Close()
					}
					break
				}
				if len(held) == 0 && w.over() {
					w, model, lost = newWay(identity.Address{}), route{}, route{}
				}
			case 4:
				r := routes[random.IntN(len(routes))]
				if taken := w.use(r); taken != (r.path.Kind == nat.KindDirect || model.path.Kind == nat.KindNone || r == model) {
					t.Fatalf("use %v over %v: %t", r.remote, model.remote, taken)
				} else if taken {
					model, lost = r, route{}
				}
			case 5:
				if random.IntN(2) == 0 {
					if w.lose(); model != (route{}) {
						model, lost = route{}, model
					}
				} else if w.regain(); model == (route{}) {
					model, lost = lost, route{}
				}
			}
			if w.route != model || len(w.peers) != len(held) {
				t.Fatalf("seed %d: route %q, model %q; %d peers, model %d", seed, w.route.remote, model.remote, len(w.peers), len(held))
			}
			checkReady(t, w)
			for p := range held {
				if model != (route{}) && p.Path() != model.path {
					t.Fatalf("a peer is at %v, the way at %v", p.Path(), model.path)
				}
			}
		}
	}
}

func TestAnnouncementsAreOfChangesOnly(t *testing.T) {
	w := newWay(identity.Address{})
	announced := func(do func()) bool {
		before := w.info().Changed
		do()
		select {
		case <-before:
			return true
		default:
			return false
		}
	}
	d := directTo("203.0.113.1:1")
	if announced(func() { w.explain(api.Trying, false) }) {
		t.Error("the same reason")
	}
	if !announced(func() { w.explain(api.BothRandom, true) }) {
		t.Error("another reason")
	}
	if !announced(func() { w.use(d) }) || announced(func() { w.use(d) }) {
		t.Error("a route, once and again")
	}
	if announced(func() { w.explain(api.NoDirect, false) }) || w.info().Reason != "" {
		t.Error("a direct way needs no explanation")
	}
	if !announced(w.lose) || announced(w.lose) {
		t.Error("lost, once and again")
	}
}

func TestAPeerThatTwoSessionsShareIsClosedWithTheSecond(t *testing.T) {
	a, b := newMember(t, 1, false), newMember(t, 2, false)
	peer := a.joiner.Adopt(b.Address(), net.UDPAddrFromAddrPort(b.at))
	if again := a.joiner.Adopt(b.Address(), peer.Addr()); again != peer {
		t.Fatal("the path's address is not its peer's")
	}
	a.joiner.Ended(b.Address(), peer)
	if a.socket.PeerAt(peer.Addr()) != peer || a.joiner.Info(b.Address()).Path != "direct" {
		t.Error("the first end closed what the other session uses")
	}
	a.joiner.Ended(b.Address(), peer)
	if a.socket.PeerAt(peer.Addr()) != nil || a.joiner.Info(b.Address()).Path != "" {
		t.Error("the second end left something")
	}
	a.joiner.Ended(b.Address(), peer) // and once too often
}

func TestAdoptNeedsNoUDPAddress(t *testing.T) {
	a := newMember(t, 1, false)
	for _, remote := range []net.Addr{nil, (*net.UDPAddr)(nil), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}} {
		peer := a.joiner.Adopt(identity.Address{}, remote)
		if peer == nil {
			t.Fatalf("%v: no peer", remote)
		}
		a.joiner.Ended(identity.Address{}, peer)
	}
}

func TestTheFirstPacketOfARelayedCallIsNotTakenForDirect(t *testing.T) {
	a, b := newMember(t, 1, false), newMember(t, 2, false)
	place := netip.MustParseAddrPort("127.0.0.1:999")
	w := newWay(b.Address())
	e := a.joiner.relays.open(w, offerOf(a).ICE)
	e.mu.Lock()
	e.there = []netip.AddrPort{place}
	e.mu.Unlock()
	peer := a.joiner.Adopt(b.Address(), net.UDPAddrFromAddrPort(place))
	if info := a.joiner.Info(b.Address()); info.Path != "relay" || peer.Path().Kind != nat.KindRelay {
		t.Errorf("%+v", info)
	}
	e.close()
	a.joiner.Ended(b.Address(), peer)
}

func TestWatcherLook(t *testing.T) {
	type look struct {
		at             time.Duration
		sent, received int64
	}
	every := func(from, to int, sent, received func(int) int64) (all []look) {
		for i := from; i <= to; i++ {
			all = append(all, look{time.Duration(i) * time.Second, sent(i), received(i)})
		}
		return all
	}
	still := func(n int64) func(int) int64 { return func(int) int64 { return n } }
	grow := func(i int) int64 { return int64(i) }
	tests := []struct {
		name  string
		looks []look
		want  time.Duration // of the first verdict "silent"; 0: never
	}{
		{"idle for an hour", every(1, 3600, still(5), still(5)), 0},
		{"traffic both ways", every(1, 100, grow, grow), 0},
		{"only receiving", every(1, 100, still(1), grow), 0},
		{"dead", every(1, 100, grow, still(0)), 8 * time.Second},
		{"a last acknowledgement", append([]look{{time.Second, 1, 1}, {2 * time.Second, 2, 1}}, every(3, 100, still(2), still(1))...), 0},
		{"keepalives that are answered in the next look", every(1, 300,
			func(i int) int64 { return int64(i / 15) }, func(i int) int64 { return int64((i - 1) / 15) }), 0},
		{"two sends in a long time", append([]look{{time.Second, 1, 0}}, every(100, 200, still(2), still(0))...), 0},
		{"three sends, the last late", []look{{1 * time.Second, 1, 0}, {2 * time.Second, 2, 0}, {9 * time.Second, 3, 0}}, 9 * time.Second},
		{"three sends within six seconds", []look{{1 * time.Second, 1, 0}, {2 * time.Second, 2, 0}, {7 * time.Second, 3, 0}}, 0},
		{"one packet comes in between", append(every(1, 5, grow, still(0)), every(6, 11, grow, still(1))...), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := watcher{silence: 6 * time.Second}
			var got time.Duration
			start := time.Now()
			for _, l := range tt.looks {
				if o.look(l.sent, l.received, start.Add(l.at)) && got == 0 {
					got = l.at
				}
			}
			if got != tt.want {
				t.Errorf("silent after %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAnotherKindOfNetworkIsNoticedOnce(t *testing.T) {
	var o watcher
	at := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:1")}
	for i, look := range []struct {
		n    Network
		want bool
	}{
		{Network{Mapping: "unknown"}, false}, // the first look
		{Network{Mapping: "unknown"}, false},
		{Network{Mapping: "endpoint-independent"}, true},
		{Network{Mapping: "endpoint-independent"}, false},
		{Network{Mapping: "endpoint-independent", TCP: at}, true},
		{Network{Mapping: "endpoint-independent", TCP: append(at, at...)}, false},
		{Network{Mapping: "endpoint-independent", TCP: at, NoUDP: true}, true},
	} {
		if got := o.changed(look.n); got != look.want {
			t.Errorf("look %d: %t", i, got)
		}
	}
}

func TestWhatIsImprovable(t *testing.T) {
	framed := route{path: nat.Path{Kind: nat.KindDirect, Carrier: new(nat.Framed)}}
	for name, tt := range map[string]struct {
		route         route
		noUDP, theirs bool
		want          bool
	}{
		"nothing":                     {route{}, false, false, false},
		"relayed":                     {relayedTo("203.0.113.3:1"), false, false, true},
		"relayed, no UDP":             {relayedTo("203.0.113.3:1"), true, true, true},
		"direct":                      {directTo("203.0.113.1:1"), false, false, false},
		"direct over TCP":             {framed, false, false, true},
		"over TCP, no UDP here":       {framed, true, false, false},
		"over TCP, no UDP over there": {framed, false, true, false},
	} {
		w := newWay(identity.Address{})
		w.route, w.theirs.NoUDP = tt.route, tt.theirs
		if got := w.improvable(tt.noUDP); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAHushIsNoticedOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		sent, received func(i int64) int64 // during ten looks, and fifty more
		want           int
	}{
		"a flow that dries up":  {func(int64) int64 { return 0 }, func(i int64) int64 { return min(i, 9) * flowing }, 1},
		"a trickle that ends":   {func(int64) int64 { return 0 }, func(i int64) int64 { return min(i, 9) }, 0},
		"nobody answers":        {func(i int64) int64 { return i }, func(i int64) int64 { return min(i, 9) }, 1},
		"one packet unanswered": {func(i int64) int64 { return min(i, 10) }, func(i int64) int64 { return min(i, 9) }, 0},
		"both ways":             {func(i int64) int64 { return i }, func(i int64) int64 { return i }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := watcher{silence: silence}
			now, asked := time.Now(), 0
			for i := range int64(60) {
				now = now.Add(watchBusy)
				o.look(tt.sent(i), tt.received(i), now)
				if o.hushed(now) {
					asked++
				}
			}
			if asked != tt.want {
				t.Errorf("noticed %d times, want %d", asked, tt.want)
			}
		})
	}
}

func TestDueBacksOff(t *testing.T) {
	start := time.Now()
	o := watcher{retry: start.Add(retryAfter[0])}
	var got []time.Duration
	for at := time.Duration(0); at < 4*time.Minute; at += time.Second {
		if o.due(false, false, start.Add(at)) {
			t.Fatal("due without anything to better")
		}
		if o.due(true, false, start.Add(at)) {
			got = append(got, at)
		}
	}
	want := []time.Duration{2 * time.Second, 12 * time.Second, 72 * time.Second, 132 * time.Second, 192 * time.Second}
	if !slices.Equal(got, want) {
		t.Errorf("due at %v, want %v", got, want)
	}
	o = watcher{retry: start}
	if !o.due(true, true, start) || o.due(true, true, start.Add(retryHopeless-1)) || !o.due(true, true, start.Add(retryHopeless)) {
		t.Error("what is hopeless is tried again too soon, or never")
	}
}

func TestVerdict(t *testing.T) {
	easy := introduce.Offer{Mapping: "endpoint-independent"}
	hard := introduce.Offer{Mapping: "address-and-port-dependent"}
	half := introduce.Offer{Mapping: "address-dependent"}
	unknown := introduce.Offer{Mapping: "unknown"}
	blocked := introduce.Offer{NoUDP: true, Mapping: "address-dependent"}
	tests := []struct {
		name         string
		ours, theirs introduce.Offer
		reason       api.Reason
		hard         bool
	}{
		{"two easy ones", easy, easy, api.NoDirect, false},
		{"nothing known", unknown, introduce.Offer{}, api.NoDirect, false},
		{"we are hard", hard, easy, api.NoDirect, true},
		{"they are hard", easy, half, api.NoDirect, true},
		{"both are", hard, half, api.BothRandom, true},
		{"no UDP here", blocked, easy, api.UDPBlockedHere, true},
		{"no UDP there", hard, blocked, api.UDPBlockedThere, true},
		{"no UDP anywhere", blocked, blocked, api.UDPBlockedHere, true},
		{"no IP version in common", only("host 203.0.113.1:1"), only("host [2001:db8::1]:1"), api.NoCommonIP, false},
		{"one in common", only("host 203.0.113.1:1", "host [2001:db8::2]:1"), only("host [2001:db8::1]:1"), api.NoDirect, false},
		{"no address told", only(), only("host [2001:db8::1]:1"), api.NoDirect, false},
	}
	for _, tt := range tests {
		if reason := verdict(tt.ours, tt.theirs); reason != tt.reason {
			t.Errorf("%s: %s, want %s", tt.name, reason, tt.reason)
		}
		if got := needsHard(tt.ours, tt.theirs); got != tt.hard {
			t.Errorf("%s: needs a second exchange: %t", tt.name, got)
		}
	}
}

// only returns an offer with candidates and nothing else.
func only(candidates ...string) (o introduce.Offer) {
	for _, text := range candidates {
		c, err := ice.ParseCandidate(text)
		if err != nil {
			panic(err)
		}
		o.ICE.Candidates = append(o.ICE.Candidates, c)
	}
	return o
}

func TestAStrangersLinkDoesNotDisplaceWhatIsKnown(t *testing.T) {
	r := identity.FromSeed(make([]byte, 32)).Address()
	j := &Joiner{cfg: Config{Hints: noHints{}}, hints: map[identity.Address]identity.Link{}}
	own := netip.MustParseAddrPort("203.0.113.1:1")
	j.Remember(identity.Link{Address: r, At: []netip.AddrPort{own}, Via: []identity.Via{{Address: r, At: own}}})
	for i := range 20 {
		j.suggest(identity.Via{Address: r, At: netip.AddrPortFrom(own.Addr(), uint16(100+i))})
	}
	at, via := j.hintsFor(r)
	if len(at) != identity.MaxHints || at[0] != own || len(via) != 1 {
		t.Errorf("hints %v, via %v", at, via)
	}
	newer := netip.MustParseAddrPort("203.0.113.2:1")
	j.Remember(identity.Link{Address: r, At: []netip.AddrPort{newer}})
	if at, _ := j.hintsFor(r); at[0] != newer || at[1] != own || len(at) != identity.MaxHints {
		t.Errorf("hints %v", at)
	}
	j.suggest(identity.Via{Address: r})
	for i := range 2 * maxWays {
		key := make([]byte, 32)
		key[0], key[1] = byte(i), byte(i>>8)
		j.Remember(identity.Link{Address: identity.NewAddress(key, identity.KindDevice), At: []netip.AddrPort{own}})
	}
	if len(j.hints) != maxWays {
		t.Errorf("%d hints kept, want %d", len(j.hints), maxWays)
	}
}

func TestWrongHintsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &Joiner{wrong: map[netip.AddrPort]time.Time{}}
		addr := netip.MustParseAddr("203.0.113.1")
		for i := range 3 * maxWays {
			j.pass(netip.AddrPortFrom(addr, uint16(i+1)), time.Now())
			if len(j.wrong) > maxWays {
				t.Fatalf("%d wrong hints", len(j.wrong))
			}
		}
		time.Sleep(wrongFor + time.Second) // of the bubble's clock
		j.pass(netip.AddrPortFrom(addr, 1), time.Now())
		if len(j.wrong) != 1 {
			t.Errorf("%d wrong hints after a minute", len(j.wrong))
		}
	})
}

func TestRelaysKnowAFewAddressesOfEachWay(t *testing.T) {
	r := newRelays(&Joiner{})
	busy, other := newWay(identity.Address{}), newWay(identity.Address{})
	at := func(port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(port))
	}
	r.learn(other, at(1))
	for port := 10; port < 300; port++ {
		r.learn(busy, at(port))
		r.learn(busy, at(port))
	}
	if r.ways[at(1)] != other || len(r.ways) != maxRelayed+1 || r.ways[at(299)] != busy || r.ways[at(299-maxRelayed)] != nil {
		t.Errorf("%d addresses known", len(r.ways))
	}
	r.learn(other, at(299)) // changes hands
	r.forget(busy)
	if len(r.ways) != 2 || len(r.known) != 1 {
		t.Errorf("%d addresses of %d ways left", len(r.ways), len(r.known))
	}
	other.ended = true
	if r.learn(other, at(5)) {
		t.Error("an ended way learns")
	}
}

func TestAFullPlaceIsGivenBackUnlessItIsUsed(t *testing.T) {
	a, b, r := three(t)
	a.joiner.relays.mu.Lock()
	p := a.joiner.relays.places[r.Address()]
	a.joiner.relays.mu.Unlock()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}) }
	for i := range relay.MaxPeers {
		p.permit(t.Context(), addr(i))
	}
	peer := a.socket.NewPeer()
	w, err := a.joiner.join(b.Address(), peer)
	if err != nil {
		t.Fatal(err)
	}
	w.use(route{path: nat.Path{Kind: nat.KindRelay, Carrier: carrier{p, b.at}}})
	p.permit(t.Context(), addr(200))
	if p.allocation.Err() != nil {
		t.Error("a place in use was given back")
	}
	a.joiner.Ended(b.Address(), peer)
	p.permit(t.Context(), addr(201))
	if p.allocation.Err() == nil {
		t.Error("a full place is kept")
	}
	poll(t, "room for another place", func() bool {
		a.joiner.relays.mu.Lock()
		defer a.joiner.relays.mu.Unlock()
		return len(a.joiner.relays.places) == 0
	})
}

// TestOneSideChoosesTheRelay: with a way each, the router of a home that sends
// nowhere near its own place would shut it.
func TestOneSideChoosesTheRelay(t *testing.T) {
	place := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.9:1")}
	offer := func(noUDP, places bool) introduce.Offer {
		o := introduce.Offer{NoUDP: noUDP}
		if places {
			o.Relay = place
		}
		return o
	}
	tests := []struct {
		name             string
		caller, called   introduce.Offer
		byCaller, byCall bool
	}{
		{"both have places", offer(false, true), offer(false, true), true, false},
		{"only the called has", offer(false, false), offer(false, true), true, false},
		{"only the caller has", offer(false, true), offer(false, false), false, true},
		{"nobody has", offer(false, false), offer(false, false), false, false},
		{"the caller lacks UDP", offer(true, true), offer(false, true), false, true},
		{"the called lacks UDP", offer(false, true), offer(true, true), true, false},
		{"both lack UDP", offer(true, true), offer(true, true), true, false},
		{"the caller lacks UDP and a place", offer(true, false), offer(false, true), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := asks(tt.caller, tt.called, true); got != tt.byCaller {
				t.Errorf("caller asks: %t", got)
			}
			if got := asks(tt.called, tt.caller, false); got != tt.byCall {
				t.Errorf("called asks: %t", got)
			}
		})
	}
}

func TestTheOtherSideRepliesByTheRelayThatWasChosen(t *testing.T) {
	one, other := &place{}, &place{}
	at := netip.MustParseAddrPort("203.0.113.3:1")
	by := func(p *place) route {
		return route{path: nat.Path{Kind: nat.KindRelay, Carrier: carrier{p, at}}}
	}
	w := newWay(identity.Address{})
	w.use(by(one))
	if !w.repliesBy(one, at) || w.repliesBy(other, at) {
		t.Error("a way by one place replies by another")
	}
	w.replyBy(by(other))
	if w.route != by(other) {
		t.Errorf("route %+v", w.route)
	}
	w.asks(true)
	if !w.repliesBy(one, at) {
		t.Error("the side that chooses is led astray")
	}
	w.asks(false)
	w.use(directTo("203.0.113.1:1"))
	if !w.repliesBy(one, at) {
		t.Error("a late relayed packet displaces a direct path")
	}
}
