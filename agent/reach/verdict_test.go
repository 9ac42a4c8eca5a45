package reach

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/nat/ice"
	"porchlight/nat/portmap"
	"porchlight/nat/stun"
)

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

var (
	own      = netip.MustParseAddrPort("192.168.1.2:4001")
	outside  = netip.MustParseAddrPort("44.128.0.1:4001")
	other    = netip.MustParseAddrPort("44.128.0.1:4002")
	listens  = netip.MustParseAddrPort("44.128.0.1:4001")
	outside6 = netip.MustParseAddrPort("[3fff::1]:4001")
	gateway  = netip.MustParseAddr("192.168.1.1")
)

// keeperWith is a Keeper that is not started, with registered helpers.
func keeperWith(listen netip.AddrPort, helpers ...*helper) *Keeper {
	k := New(Config{
		Device: device(1), Listen: listen, Policy: Auto, Logger: slog.New(slog.DiscardHandler),
		Links: func() []identity.Link { return nil },
	})
	k.open = func(int) stun.Opener {
		return func() (net.PacketConn, error) { return nil, errors.New("no sockets in this test") }
	}
	for i, h := range helpers {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 128, byte(50 + i), 1}), 4001)
		h.link = identity.Link{Address: device(byte(10 + i)).Address(), At: []netip.AddrPort{at}}
		h.again = make(chan struct{}, 1)
		if h.transport == "" {
			h.transport, h.seenAt = "udp", at
		}
		k.helpers[h.link.Address] = h
	}
	k.tested = true
	return k
}

// seesBy4 is a registered helper that sees the socket at an address.
func seesBy4(mapped netip.AddrPort, b stun.Behaviour) *helper {
	h := &helper{registered: true}
	h.views[0] = view{asked: true, mapped: mapped, behaviour: b, discovered: b.Mapping != ""}
	return h
}

// granted is a router that mapped the UDP port.
func granted(external string) portmap.State {
	return portmap.State{
		Gateway: gateway, Settled: true,
		Outcomes: map[portmap.Method]portmap.Outcome{portmap.PCP: portmap.Granted, portmap.IGD1: portmap.Silent},
		Mappings: []portmap.Mapping{{
			Method: portmap.PCP, Transport: "udp", Internal: own, External: netip.MustParseAddrPort(external), Gateway: gateway,
		}},
	}
}

func outcomes(o ...portmap.Outcome) portmap.State {
	s := portmap.State{Gateway: gateway, Settled: true, Outcomes: map[portmap.Method]portmap.Outcome{}}
	for i, m := range []portmap.Method{portmap.PCP, portmap.NATPMP, portmap.IGD1}[:len(o)] {
		s.Outcomes[m] = o[i]
	}
	return s
}

// opened is a way with a knock that came in.
func opened(network string, at netip.AddrPort, mapped bool, kind api.Proof) way {
	return way{door{network, family(at.Addr()), at.Port(), mapped, mapped}, proof{kind: kind}, at}
}

func hosts(addrs ...netip.AddrPort) (all []ice.Candidate) {
	for _, a := range addrs {
		all = append(all, ice.Candidate{Kind: ice.Host, Addr: a})
	}
	return all
}

func TestVerdict(t *testing.T) {
	home := evidence{
		policy: Auto, hosts: hosts(own), registered: 1, tested: true,
		public: [2]netip.AddrPort{outside}, nat: api.NAT{Mapping: "endpoint-independent"},
	}
	with := func(change func(*evidence)) evidence {
		e := home
		change(&e)
		return e
	}
	ways := func(w ...way) evidence { return with(func(e *evidence) { e.ways = w }) }
	router := func(s portmap.State) evidence { return with(func(e *evidence) { e.router = s }) }
	alone := func(f finding) evidence { return with(func(e *evidence) { e.registered, e.outside = 0, f }) }
	public := func(w ...way) evidence { return with(func(e *evidence) { e.hosts, e.ways = hosts(listens), w }) }
	tests := []struct {
		name string
		e    evidence
		want api.Verdict
	}{
		{"no addresses", with(func(e *evidence) { e.hosts = nil }), api.NoNetwork},
		{"no helper at first", with(func(e *evidence) { e.registered, e.waiting = 0, true }), api.Checking},
		{"no helper", alone(unasked), api.NoHelper},
		{"no helper, but others answer", alone(answers), api.NoHelper},
		{"no helper, a portal answers", alone(portal), api.Captive},
		{"no helper, all is forbidden", alone(forbidden), api.Blocked},
		{"no helper, all is silent", alone(silence), api.NoInternet},
		{"no helper, all is silent, but the router is on the internet", with(func(e *evidence) {
			e.registered, e.outside, e.router = 0, silence, granted("44.128.0.1:4001")
		}), api.NoHelper},
		{"no helper, and the router has a private address", with(func(e *evidence) {
			e.registered, e.outside, e.router = 0, silence, granted("192.168.0.2:4001")
		}), api.NoInternet},

		{"not tested yet", with(func(e *evidence) { e.tested = false }), api.Checking},
		{"nobody saw the address yet", with(func(e *evidence) { e.public = [2]netip.AddrPort{} }), api.Checking},
		{"nothing but a filter", home, api.NATEasy},
		{"a port for each destination", with(func(e *evidence) { e.nat.Mapping = "address-and-port-dependent" }), api.NATHard},
		{"ports that pass", with(func(e *evidence) { e.nat.Mapping, e.rotates = "unknown", true }), api.NATHard},
		{"ports that pass, and a stranger came in by a mapping", with(func(e *evidence) {
			e.rotates, e.ways = true, []way{opened("udp", outside, true, api.Stranger)}
		}), api.Mapped},
		{"own address, filtered", public(), api.NATEasy},
		{"UDP is silent", with(func(e *evidence) { e.framed = 1 }), api.UDPBlocked},
		{"UDP is silent, and all is at 443", with(func(e *evidence) { e.framed, e.web = 1, true }), api.WebOnly},
		{"UDP is silent at one of two", with(func(e *evidence) { e.registered, e.framed = 2, 1 }), api.NATEasy},

		{"a stranger came in", ways(opened("udp", outside, false, api.Stranger)), api.Forwarded},
		{"somebody known came in", ways(opened("udp", outside, false, api.SameAddress)), api.NATEasy},
		{"a stranger came in by the mapping", ways(opened("udp", outside, true, api.Stranger)), api.Mapped},
		{"somebody known came in by the mapping", ways(opened("udp", outside, true, api.SameAddress)), api.Mapped},
		{"own address, a stranger came in", public(opened("udp", listens, false, api.Stranger)), api.Public},
		{"own address, somebody known came in", public(opened("udp", listens, false, api.SameAddress)), api.NATEasy},
		{"only by TCP", ways(opened("tcp", outside, true, api.Stranger)), api.Mapped},
		{"only by TCP, UDP is silent", with(func(e *evidence) {
			e.framed, e.public, e.ways = 1, [2]netip.AddrPort{}, []way{opened("tcp", outside, false, api.Stranger)}
		}), api.Forwarded},
		{"a stranger came in by IPv6", ways(opened("udp", outside6, true, api.Stranger)), api.IPv6Only},
		{"by both", ways(opened("udp", outside6, true, api.Stranger), opened("udp", outside, false, api.Stranger)), api.Forwarded},

		{"mapped behind a second router", router(granted("192.168.0.2:4001")), api.DoubleNAT},
		{"mapped behind a carrier", router(granted("100.64.3.4:4001")), api.CGNAT},
		{"the carrier's address is ours", with(func(e *evidence) {
			e.hosts = hosts(netip.MustParseAddrPort("100.64.3.4:4001"), netip.MustParseAddrPort("127.0.0.1:4001"))
		}), api.CGNAT},
		{"another network's address beside the home's", with(func(e *evidence) {
			e.hosts = hosts(own, netip.MustParseAddrPort("100.64.3.4:4001"))
		}), api.NATEasy},
		{"mapped, not proven", router(granted("44.128.0.1:4001")), api.NATEasy},
		{"mapped, and it leads nowhere", with(func(e *evidence) { e.router, e.lied = granted("44.128.0.1:4001"), true }), api.MapLies},
		{"it led nowhere, and is given up", with(func(e *evidence) { e.lied = true }), api.MapLies},
		{"refused", router(outcomes(portmap.Silent, portmap.Refused, portmap.Silent)), api.Refused},
		{"refused by one, granted by another", router(outcomes(portmap.Refused, portmap.Granted)), api.NATEasy},
		{"refused, others not asked yet", with(func(e *evidence) {
			e.router = outcomes(portmap.Refused, portmap.Pending)
			e.router.Settled = false
		}), api.NATEasy},
		{"no method answers", router(outcomes(portmap.Silent, portmap.Silent, portmap.Broken)), api.NATEasy},

		{"public by wish", with(func(e *evidence) { e.policy, e.registered, e.public = Public, 0, [2]netip.AddrPort{} }), api.Public},
		{"public by wish, behind a router", with(func(e *evidence) { e.policy = Public }), api.Forwarded},
		{"helps nobody, never tested", with(func(e *evidence) { e.policy, e.tested = Private, false }), api.NATEasy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.e.verdict(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestNAT(t *testing.T) {
	alternate := stun.Behaviour{Mapping: stun.AddressAndPortDependent, Filtering: stun.AddressAndPortDependent}
	tests := []struct {
		name    string
		helpers []*helper
		mapping string
	}{
		{"no helper", nil, "unknown"},
		{"one view", []*helper{seesBy4(outside, stun.Behaviour{})}, "unknown"},
		{"two equal views", []*helper{seesBy4(outside, stun.Behaviour{}), seesBy4(outside, stun.Behaviour{})}, "endpoint-independent"},
		{"two views that differ", []*helper{seesBy4(outside, stun.Behaviour{}), seesBy4(other, stun.Behaviour{})}, "address-and-port-dependent"},
		{"one helper's second port", []*helper{seesBy4(outside, alternate)}, "address-and-port-dependent"},
		{"a bound is no proof", []*helper{seesBy4(outside, stun.Behaviour{Mapping: stun.AddressDependent, MappingAtMost: true})}, "unknown"},
		// The conntrack trap: the router keeps a place for a stray packet.
		{"equal views outweigh a second port", []*helper{seesBy4(outside, alternate), seesBy4(outside, alternate)}, "endpoint-independent"},
		{"own address", []*helper{seesBy4(own, stun.Behaviour{})}, "none"},
		{"not registered", []*helper{{views: [2]view{{mapped: outside}}}}, "unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := keeperWith(own, tt.helpers...)
			if got := k.gather(portmap.State{}, time.Now()).nat; got.Mapping != tt.mapping {
				t.Errorf("%s, want %s", got.Mapping, tt.mapping)
			}
		})
	}
}

func TestTheTwoFamiliesAreNotCompared(t *testing.T) {
	h := seesBy4(outside, stun.Behaviour{})
	h.views[1] = view{asked: true, mapped: outside6}
	e := keeperWith(own, h).gather(portmap.State{}, time.Now())
	if e.public != [2]netip.AddrPort{outside, outside6} || e.nat.Mapping != "unknown" {
		t.Errorf("%v %v", e.public, e.nat)
	}
	h.views[0] = view{}
	e = keeperWith(outside6, h).gather(portmap.State{}, time.Now())
	if e.nat.Mapping != "none" {
		t.Errorf("IPv6 alone: %v", e.nat)
	}
}

func TestUDPIsBlockedOnlyIfNoFamilyAnswers(t *testing.T) {
	h := &helper{registered: true, transport: "tcp"}
	k := keeperWith(own, h)
	framed := func() int { return k.gather(portmap.State{}, time.Now()).framed }
	if framed() != 0 {
		t.Error("before anything was asked")
	}
	h.views[0] = view{asked: true, silent: silentAfter}
	if framed() != 1 {
		t.Error("silent")
	}
	h.views[1] = view{asked: true, mapped: outside6}
	if framed() != 0 {
		t.Error("IPv6 answers")
	}
	h.views[1], h.transport = view{}, "udp"
	if framed() != 0 {
		t.Error("the session itself goes by UDP")
	}
}

func TestSettle(t *testing.T) {
	now := time.Now()
	at := func(s time.Duration) time.Time { return now.Add(s * time.Second) }
	type step struct {
		after time.Duration // seconds
		see   api.Verdict
		want  api.Verdict
		doubt bool
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the first verdict is told at once", []step{{0, api.Checking, api.Checking, false}, {1, api.NATEasy, api.NATEasy, false}}},
		{"better news is told at once", []step{{0, api.NATEasy, api.NATEasy, false}, {0, api.Mapped, api.Mapped, false}}},
		{"as good news is told at once", []step{{0, api.Forwarded, api.Forwarded, false}, {0, api.Mapped, api.Mapped, false}}},
		{"worse news is doubted", []step{
			{0, api.Mapped, api.Mapped, false}, {1, api.NATEasy, api.Mapped, true}, {8, api.NATEasy, api.Mapped, true}, {9, api.NATEasy, api.NATEasy, false},
		}},
		{"worse news that passes is not told", []step{
			{0, api.Mapped, api.Mapped, false}, {1, api.NATEasy, api.Mapped, true}, {5, api.Mapped, api.Mapped, false},
			{6, api.NATEasy, api.Mapped, true}, {13, api.NATEasy, api.Mapped, true}, {14, api.NATEasy, api.NATEasy, false},
		}},
		{"what could not be found out is doubt", []step{
			{0, api.NATEasy, api.NATEasy, false}, {60, api.Checking, api.NATEasy, true}, {600, api.Checking, api.NATEasy, true},
		}},
		{"nobody to ask is no verdict to keep", []step{
			{0, api.NoHelper, api.NoHelper, false}, {1, api.Checking, api.Checking, false}, {2, api.NATEasy, api.NATEasy, false},
		}},
		{"the network goes and comes", []step{
			{0, api.Mapped, api.Mapped, false}, {1, api.NoNetwork, api.Mapped, true}, {3, api.Mapped, api.Mapped, false},
		}},
		{"one trouble after another", []step{{0, api.NoNetwork, api.NoNetwork, false}, {1, api.Captive, api.Captive, false}}},
		{"the worst of several", []step{
			{0, api.Mapped, api.Mapped, false}, {1, api.NATEasy, api.Mapped, true}, {5, api.NoHelper, api.Mapped, true},
			{12, api.NoHelper, api.Mapped, true}, {13, api.NoHelper, api.NoHelper, false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, p := sight{verdict: api.Checking}, pending{}
			for i, step := range tt.steps {
				s, p = s.settle(sight{verdict: step.see}, p, at(step.after))
				if s.verdict != step.want || s.doubt != step.doubt {
					t.Fatalf("step %d: %s, doubt %t; want %s, %t", i, s.verdict, s.doubt, step.want, step.doubt)
				}
			}
		})
	}
}

func TestProof(t *testing.T) {
	now, met := time.Now(), []netip.Addr{netip.MustParseAddr("44.2.2.2")}
	stranger, known := netip.MustParseAddrPort("44.3.3.3:1"), netip.MustParseAddrPort("44.2.2.2:1")
	none := netip.AddrPort{}
	tests := []struct {
		name  string
		knock []netip.AddrPort
		want  api.Proof
		next  time.Duration // after the last test, for a door without mapping
	}{
		{"a stranger", []netip.AddrPort{stranger}, api.Stranger, openEvery},
		{"somebody known", []netip.AddrPort{known}, api.SameAddress, openEvery},
		{"a known one takes nothing away", []netip.AddrPort{stranger, known}, api.Stranger, openEvery},
		{"a stranger after a known one", []netip.AddrPort{known, stranger}, api.Stranger, openEvery},
		{"never anybody", []netip.AddrPort{none}, api.Unproven, againAfter},
		{"never anybody, twice", []netip.AddrPort{none, none}, api.Unproven, closedEvery},
		{"one missed", []netip.AddrPort{stranger, none}, api.Stranger, againAfter},
		{"two missed", []netip.AddrPort{stranger, none, none}, api.Unproven, closedEvery},
		{"two missed, not in a row", []netip.AddrPort{stranger, none, stranger, none}, api.Stranger, againAfter},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p proof
			for _, from := range tt.knock {
				p = p.after(from, met, now)
			}
			if p.kind != tt.want || p.next(door{}).Sub(now) != tt.next {
				t.Errorf("%q, next after %v; want %q, %v", p.kind, p.next(door{}).Sub(now), tt.want, tt.next)
			}
		})
	}
	long := proof{}.after(stranger, met, now).after(known, met, now.Add(metFor+1))
	if long.kind != api.SameAddress {
		t.Error("a stranger's knock of long ago still counts")
	}
	if p := (proof{}).after(netip.MustParseAddrPort("[::ffff:44.2.2.2]:1"), met, now); p.kind != api.SameAddress {
		t.Error("another form of a known address is a stranger")
	}
}

func TestDoors(t *testing.T) {
	tcp := granted("44.128.0.1:7001")
	tcp.Mappings = append(tcp.Mappings, portmap.Mapping{Transport: "tcp", External: netip.MustParseAddrPort("44.128.0.1:7002")})
	shifted := netip.MustParseAddrPort("44.128.0.1:9999")
	tests := []struct {
		name   string
		seen   netip.AddrPort
		router portmap.State
		want   []door
	}{
		{"the port is kept", outside, portmap.State{}, []door{{"udp", 0, 4001, false, false}, {"tcp", 0, 4001, false, false}}},
		{"the port is not kept", shifted, portmap.State{}, []door{{"udp", 0, 9999, false, false}, {"tcp", 0, 4001, false, false}, {"udp", 0, 4001, false, false}}},
		{"nobody saw it", netip.AddrPort{}, portmap.State{}, []door{{"udp", 0, 4001, false, false}, {"tcp", 0, 4001, false, false}}},
		{"mapped", shifted, tcp, []door{{"udp", 0, 7001, true, true}, {"tcp", 0, 7002, true, true}}},
		{"mapped behind another router", shifted, granted("100.64.0.2:7001"), []door{{"udp", 0, 9999, false, false}, {"tcp", 0, 4001, false, false}, {"udp", 0, 4001, false, false}}},
		{"mapped at an address nobody sees", shifted, granted("44.9.9.9:7001"), []door{{"udp", 0, 7001, true, false}, {"tcp", 0, 4001, false, false}}},
		{"mapped by UDP only", shifted, granted("44.128.0.1:7001"), []door{{"udp", 0, 7001, true, true}, {"tcp", 0, 4001, false, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := keeperWith(own, seesBy4(tt.seen, stun.Behaviour{}))
			got := k.doors(0, tt.router)
			if len(got) != len(tt.want) || len(got) > dialback.MaxPlaces {
				t.Fatalf("%v, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("%v, want %v", got, tt.want)
				}
			}
			if six := k.doors(1, tt.router); six != nil {
				t.Errorf("without IPv6: %v", six)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	unknown := api.NAT{Mapping: "unknown", Filtering: "unknown"}
	tests := []struct {
		name string
		b    stun.Behaviour
		want api.NAT
	}{
		{"nothing found", stun.Behaviour{}, unknown},
		{"unknown", stun.Behaviour{Mapping: stun.Unknown, Filtering: stun.Unknown}, unknown},
		{"a bound of the mapping", stun.Behaviour{Mapping: stun.AddressDependent, MappingAtMost: true}, unknown},
		{"a bound of the filter", stun.Behaviour{Filtering: stun.AddressDependent, FilteringAtMost: true}, api.NAT{Mapping: "unknown", Filtering: "address-dependent"}},
		{"all", stun.Behaviour{Mapping: stun.None, Filtering: stun.EndpointIndependent}, api.NAT{Mapping: "none", Filtering: "endpoint-independent"}},
	}
	for _, tt := range tests {
		if got := merge(unknown, tt.b); got != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}
