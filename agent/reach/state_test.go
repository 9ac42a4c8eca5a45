package reach

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/nat/ice"
	"porchlight/nat/portmap"
	"porchlight/nat/stun"
)

func TestAVerdictDoesNotDependOnTheOrderOfAMap(t *testing.T) {
	var helpers []*helper
	for i := range 8 {
		helpers = append(helpers, seesBy4(netip.AddrPortFrom(outside.Addr(), uint16(1000+i)), stun.Behaviour{}))
	}
	k := keeperWith(own, helpers...)
	now := time.Now()
	first, candidates := k.look(portmap.State{}, now), k.State().Candidates
	for range 50 {
		if again := k.look(portmap.State{}, now); again != first || !slices.Equal(k.State().Candidates, candidates) {
			t.Fatalf("%+v and then %+v", first, again)
		}
	}
}

func TestCandidatesAreListedOnceAndStaleOnesNot(t *testing.T) {
	stale := seesBy4(netip.MustParseAddrPort("44.128.0.9:1"), stun.Behaviour{})
	stale.views[0].silent = staleAfter
	doubtful := seesBy4(other, stun.Behaviour{})
	doubtful.views[0].silent = staleAfter - 1
	k := keeperWith(own, seesBy4(outside, stun.Behaviour{}), seesBy4(outside, stun.Behaviour{}), seesBy4(own, stun.Behaviour{}), doubtful, stale)
	k.cfg.Mapper = &router{state: granted("44.128.0.1:7001")}
	want := []string{"host 192.168.1.2:4001", "mapped 44.128.0.1:7001", "srflx 44.128.0.1:4001", "srflx 44.128.0.1:4002"}
	check := func(want []string) {
		t.Helper()
		var got []string
		for _, c := range k.Candidates() {
			got = append(got, c.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("candidates %v, want %v", got, want)
		}
	}
	check(want)
	k.lied = true
	check(slices.Delete(slices.Clone(want), 1, 2))
	k.lied = false
	for _, useless := range []string{"192.168.0.2:4001", "100.64.0.1:4001", "127.0.0.1:4001", "44.9.9.9:4001"} {
		k.cfg.Mapper = &router{state: granted(useless)}
		check(slices.Delete(slices.Clone(want), 1, 2))
	}
}

func TestTCPCandidates(t *testing.T) {
	mapping := portmap.State{Mappings: []portmap.Mapping{{Transport: "tcp", External: netip.MustParseAddrPort("44.128.0.1:7002")}}}
	elsewhere := portmap.State{Mappings: []portmap.Mapping{{Transport: "tcp", External: netip.MustParseAddrPort("44.9.9.9:7002")}}}
	private := portmap.State{Mappings: []portmap.Mapping{{Transport: "tcp", External: netip.MustParseAddrPort("192.168.0.2:7002")}}}
	tests := []struct {
		name   string
		router portmap.State
		policy Policy
		proofs map[door]proof
		want   []string
	}{
		{"nothing", portmap.State{}, Auto, nil, nil},
		{"a mapping nobody tried", mapping, Auto, nil, []string{"44.128.0.1:7002"}},
		{"a mapping that leads nowhere", mapping, Auto, map[door]proof{{"tcp", 0, 7002, true, true}: {missed: surely}}, nil},
		{"a mapping behind a second router", private, Auto, nil, nil},
		{"a mapping at an address that nobody sees", elsewhere, Auto, nil, nil},
		{"a knock came in", portmap.State{}, Auto, map[door]proof{{"tcp", 0, 4001, false, false}: {kind: api.Stranger, ip: outside.Addr()}}, []string{"44.128.0.1:4001"}},
		{"a knock of somebody known", portmap.State{}, Auto, map[door]proof{{"tcp", 0, 4001, false, false}: {kind: api.SameAddress, ip: outside.Addr()}}, nil},
		{"by UDP only", portmap.State{}, Auto, map[door]proof{{"udp", 0, 4001, false, false}: {kind: api.Stranger, ip: outside.Addr()}}, nil},
		{"by the owner's word", portmap.State{}, Public, nil, []string{"44.128.0.1:4001"}},
		{"nobody is let in", mapping, Private, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := keeperWith(own, seesBy4(outside, stun.Behaviour{}))
			k.cfg.Mapper, k.cfg.Policy = &router{state: tt.router}, tt.policy
			for d, p := range tt.proofs {
				k.proofs[d] = p
			}
			k.judge()
			var got []string
			for _, a := range k.TCPCandidates() {
				got = append(got, a.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestReachableIsPerTransport(t *testing.T) {
	k := keeperWith(own, seesBy4(outside, stun.Behaviour{}))
	k.judge()
	if s := k.State(); s.Reachable || s.UDP || s.TCP || s.Open || s.Verdict != api.NATEasy {
		t.Errorf("closed: %+v", s)
	}
	k.proofs[door{"tcp", 0, 4001, false, false}] = proof{kind: api.Stranger}
	k.judge()
	if s := k.State(); !s.Reachable || s.UDP || !s.TCP || s.Open || s.Verdict != api.Forwarded {
		t.Errorf("by TCP: %+v", s)
	}
	k.proofs[door{"udp", 0, 4001, false, false}] = proof{kind: api.Stranger}
	k.judge()
	if s := k.State(); !s.Reachable || !s.UDP || s.NAT.Filtering != "endpoint-independent" {
		t.Errorf("by both: %+v", s)
	}
	k.cfg.Policy = Private
	if s := k.State(); s.Reachable {
		t.Error("a device that wants to help nobody is reachable")
	}
	k = keeperWith(listens, seesBy4(listens, stun.Behaviour{}))
	k.proofs[door{"udp", 0, 4001, false, false}] = proof{kind: api.Stranger}
	k.judge()
	if s := k.State(); s.Verdict != api.Public || !s.Open || s.TCP {
		t.Errorf("public: %+v", s)
	}
	k = keeperWith(own, seesBy4(outside, stun.Behaviour{}))
	k.cfg.Policy = Public
	k.judge()
	if s := k.State(); s.Verdict != api.Forwarded || !s.Open || !s.UDP || !s.TCP || !s.Reachable {
		t.Errorf("by the owner's word: %+v", s)
	}
}

func TestLink(t *testing.T) {
	var helpers []*helper
	for _, a := range []string{"192.168.1.1:1", "100.64.0.1:1", "127.0.0.1:1", "44.128.0.2:1", "44.128.0.3:1", "44.128.0.4:1", "44.128.0.5:1"} {
		helpers = append(helpers, seesBy4(netip.MustParseAddrPort(a), stun.Behaviour{}))
	}
	k := keeperWith(listens, helpers...)
	k.judge()
	if link := k.Link(); len(link.At) != 0 || len(link.Via) != identity.MaxHints {
		t.Errorf("not reachable: %v", link)
	}
	k.cfg.Policy = Public
	k.judge()
	link := k.Link()
	if len(link.At) != identity.MaxHints || link.At[0] != listens {
		t.Errorf("%d at: %v", len(link.At), link.At)
	}
	for _, a := range link.At {
		if !(ice.Filter{}).Allow(a) {
			t.Errorf("the link tells the world %v", a)
		}
	}
	for _, v := range link.Via {
		if !v.At.IsValid() {
			t.Errorf("via %v is nowhere", v)
		}
	}
	if !slices.IsSortedFunc(link.Via, func(x, y identity.Via) int { return x.Address.Compare(y.Address) }) {
		t.Error("the link changes without reason")
	}
	for _, h := range k.helpers {
		h.registered = false
	}
	if link := k.Link(); len(link.Via) != 0 {
		t.Errorf("via devices that would not introduce: %v", link.Via)
	}
}

func TestALinkTellsOpenDoorsOnly(t *testing.T) {
	h := seesBy4(outside, stun.Behaviour{})
	h.views[1] = view{asked: true, mapped: outside6}
	k := keeperWith(own, h)
	k.cfg.Mapper = &router{state: granted("44.128.0.1:7001")}
	k.proofs[door{"udp", 0, 7001, true, true}] = proof{kind: api.Stranger}
	k.judge()
	want := []netip.AddrPort{netip.MustParseAddrPort("44.128.0.1:7001")}
	if got := k.Link().At; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestNetcheckTellsAllThereIs(t *testing.T) {
	b := stun.Behaviour{Mapping: stun.AddressAndPortDependent, Filtering: stun.AddressAndPortDependent, PortPreserved: true, Ports: []uint16{7, 9, 11}, PortDelta: 2}
	k := keeperWith(own, seesBy4(outside, b))
	k.cfg.Overlay = newParty(t, 1).Overlay
	s := granted("44.128.0.1:7001")
	s.Router, s.Mappings[0].Expires = "Maker Model 1", time.Now().Add(time.Hour)
	k.cfg.Mapper = &router{state: s}
	now := time.Now()
	k.proofs[door{"udp", 0, 7001, true, true}] = proof{kind: api.Stranger, came: now, tested: now, ip: outside.Addr()}
	k.habits = habits{"no", 118 * time.Second}
	k.judge()
	n := k.Netcheck()
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"verdict":"mapped"`, `"doubt":false`, `"udp":true`, `"public":"44.128.0.1:4001"`, `"public_ipv6":""`,
		`"transport":"udp","family":"ipv4","at":"44.128.0.1:7001","mapped":true,"reachable":true,"proof":"stranger"`,
		`"transport":"tcp","family":"ipv4","at":"44.128.0.1:4001","mapped":false,"reachable":false,"proof":""`,
		`"preserved":true,"delta":2,"rotates":false,"seen":[7,9,11],"hairpin":"no","lifetime_s":118`,
		`"address":"192.168.1.1","name":"Maker Model 1","settled":true,"outcomes":{"pcp":"granted","upnp-igd1":"silent"}`,
		`"method":"pcp","transport":"udp","internal":"192.168.1.2:4001","external":"44.128.0.1:7001","left_s":35`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	empty, _ := json.Marshal(keeperWith(own).Netcheck())
	if strings.Contains(string(empty), "null") {
		t.Errorf("null in %s", empty)
	}
}
