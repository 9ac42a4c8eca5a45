package reach

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

var (
	own     = netip.MustParseAddrPort("192.168.1.2:4001")
	outside = netip.MustParseAddrPort("203.0.113.1:4001")
	other   = netip.MustParseAddrPort("203.0.113.1:4002")
	listens = netip.MustParseAddrPort("203.0.113.1:4001")
)

// keeperWith is a Keeper that is not started, with helpers.
func keeperWith(listen netip.AddrPort, helpers ...*helper) *Keeper {
	k := New(Config{Device: device(1), Listen: listen, Policy: Auto, Logger: slog.New(slog.DiscardHandler)})
	for i, h := range helpers {
		h.link = identity.Link{Address: device(byte(10 + i)).Address(), At: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.50:1")}}
		k.helpers[h.link.Address] = h
	}
	return k
}

func open() stun.Behaviour {
	return stun.Behaviour{Mapping: stun.None, Filtering: stun.EndpointIndependent}
}

func TestVerdict(t *testing.T) {
	udp := func(mapped netip.AddrPort, b stun.Behaviour) *helper {
		return &helper{registered: true, transport: "udp", mapped: mapped, behaviour: b}
	}
	tcp := func(silent int) *helper { return &helper{registered: true, transport: "tcp", silent: silent} }
	policy := func(p Policy) func(*Keeper) { return func(k *Keeper) { k.cfg.Policy = p } }
	late := func(k *Keeper) { k.began = time.Now().Add(-patience - time.Second) }
	tests := []struct {
		name    string
		listen  netip.AddrPort
		helpers []*helper
		change  func(*Keeper)
		want    api.Verdict
		mapping string
	}{
		{"no helper, at first", own, nil, nil, api.Checking, "unknown"},
		{"no helper, after a while", own, nil, late, api.NoHelper, "unknown"},
		{"a helper without registration", own, []*helper{{mapped: outside}}, late, api.NoHelper, "unknown"},
		{"registered, address not known yet", own, []*helper{udp(netip.AddrPort{}, stun.Behaviour{})}, nil, api.Checking, "unknown"},
		{"one view", own, []*helper{udp(outside, stun.Behaviour{})}, nil, api.NATEasy, "unknown"},
		{"two equal views", own, []*helper{udp(outside, stun.Behaviour{}), udp(outside, stun.Behaviour{})}, nil, api.NATEasy, "endpoint-independent"},
		{"two views that differ", own, []*helper{udp(outside, stun.Behaviour{}), udp(other, stun.Behaviour{})}, nil, api.NATHard, "address-and-port-dependent"},
		{"a helper proved it hard", own, []*helper{udp(outside, stun.Behaviour{Mapping: stun.AddressDependent})}, nil, api.NATHard, "address-dependent"},
		{"a bound is no proof", own, []*helper{udp(outside, stun.Behaviour{Mapping: stun.AddressDependent, MappingAtMost: true})}, nil, api.NATEasy, "unknown"},
		{"equal views do not undo the proof", own, []*helper{
			udp(outside, stun.Behaviour{Mapping: stun.AddressAndPortDependent}), udp(outside, stun.Behaviour{}),
		}, nil, api.NATHard, "address-and-port-dependent"},
		{"own address, open", listens, []*helper{udp(listens, open())}, nil, api.Public, "none"},
		{"own address, filtered", listens, []*helper{udp(listens, stun.Behaviour{Filtering: stun.AddressAndPortDependent})}, nil, api.NATEasy, "none"},
		{"own address, but private by wish", listens, []*helper{udp(listens, open())}, policy(Private), api.NATEasy, "none"},
		{"public by wish, nothing known", own, nil, policy(Public), api.Public, "unknown"},
		{"public by wish, behind a router", own, []*helper{udp(outside, stun.Behaviour{})}, policy(Public), api.Forwarded, "unknown"},
		{"UDP silent, in by TCP", own, []*helper{tcp(silentAfter)}, nil, api.UDPBlocked, "unknown"},
		{"in by TCP, UDP not yet tried", own, []*helper{tcp(silentAfter - 1)}, nil, api.Checking, "unknown"},
		{"one by TCP, one by UDP", own, []*helper{tcp(5), udp(outside, stun.Behaviour{})}, nil, api.NATEasy, "unknown"},
		{"one lost packet", own, []*helper{{registered: true, transport: "udp", mapped: outside, silent: 1}}, nil, api.NATEasy, "unknown"},
		{"both families", own, []*helper{
			udp(netip.MustParseAddrPort("[2001:db8::1]:4001"), stun.Behaviour{}), udp(outside, stun.Behaviour{}),
		}, nil, api.NATEasy, "unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := keeperWith(tt.listen, tt.helpers...)
			if tt.change != nil {
				tt.change(k)
			}
			got := k.look(k.hosts())
			if got.verdict != tt.want || got.nat.Mapping != tt.mapping {
				t.Errorf("%s with mapping %s, want %s with %s", got.verdict, got.nat.Mapping, tt.want, tt.mapping)
			}
			if none := k.look(nil); none.verdict != api.NoNetwork {
				t.Errorf("without addresses: %s", none.verdict)
			}
		})
	}
}

func TestJudgeKeepsTheOldVerdictInDoubt(t *testing.T) {
	h := &helper{registered: true, transport: "udp", mapped: outside}
	k := keeperWith(own, h)
	k.judge()
	if v := k.State().Verdict; v != api.NATEasy {
		t.Fatalf("verdict %s", v)
	}
	before := k.State().Public
	h.mapped = netip.AddrPort{} // another helper, say, that has not answered yet
	k.judge()
	if s := k.State(); s.Verdict != api.NATEasy || s.Public != before {
		t.Errorf("in doubt: %s at %v", s.Verdict, s.Public)
	}
	// What only says that nothing was found out is no verdict to be kept.
	h.registered = false
	k.judge()
	if v := k.State().Verdict; v != api.NoHelper {
		t.Errorf("without helpers: %s", v)
	}
	h.registered = true
	k.judge()
	if v := k.State().Verdict; v != api.Checking {
		t.Errorf("with a helper again: %s", v)
	}
}

// TestAVerdictDoesNotDependOnTheOrderOfAMap looks often at views that differ.
func TestAVerdictDoesNotDependOnTheOrderOfAMap(t *testing.T) {
	var helpers []*helper
	for i := range 8 {
		helpers = append(helpers, &helper{registered: true, mapped: netip.AddrPortFrom(outside.Addr(), uint16(1000+i))})
	}
	k := keeperWith(own, helpers...)
	first, candidates := k.look(k.hosts()), k.State().Candidates
	for range 50 {
		again := k.look(k.hosts())
		again.checked = first.checked
		if again != first || !slices.Equal(k.State().Candidates, candidates) {
			t.Fatalf("%+v and then %+v", first, again)
		}
	}
}

func TestStateListsEachCandidateOnce(t *testing.T) {
	k := keeperWith(own, &helper{mapped: outside}, &helper{mapped: outside}, &helper{mapped: own},
		&helper{mapped: other, silent: staleAfter - 1}, &helper{mapped: netip.MustParseAddrPort("203.0.113.9:1"), silent: staleAfter})
	var got []netip.AddrPort
	for _, c := range k.State().Candidates {
		got = append(got, c.Addr)
	}
	slices.SortFunc(got, netip.AddrPort.Compare)
	if want := []netip.AddrPort{own, outside, other}; !slices.Equal(got, want) {
		t.Errorf("candidates %v, want %v", got, want)
	}
}

func TestWithoutNetworkNobodyIsReachable(t *testing.T) {
	k := keeperWith(own)
	k.sight.verdict = api.Public
	if s := k.State(); !s.Reachable {
		t.Fatalf("%+v", s)
	}
	k.sight.verdict = api.NoNetwork
	if s := k.State(); s.Reachable {
		t.Errorf("%+v", s)
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
		{"all", open(), api.NAT{Mapping: "none", Filtering: "endpoint-independent"}},
	}
	for _, tt := range tests {
		if got := merge(unknown, tt.b); got != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	if got := merge(api.NAT{Mapping: "none", Filtering: "endpoint-independent"}, stun.Behaviour{}); got.Mapping != "none" || got.Filtering != "endpoint-independent" {
		t.Errorf("nothing found took something away: %+v", got)
	}
}

func TestLink(t *testing.T) {
	mapped := func(s string) *helper { return &helper{mapped: netip.MustParseAddrPort(s), registered: true} }
	k := keeperWith(listens,
		mapped("192.168.1.1:1"), mapped("100.64.0.1:1"), mapped("127.0.0.1:1"),
		mapped("203.0.113.2:1"), mapped("203.0.113.3:1"), mapped("203.0.113.4:1"), mapped("203.0.113.5:1"))
	k.sight.verdict = api.NATEasy
	if link := k.Link(); len(link.At) != 0 || len(link.Via) != identity.MaxHints {
		t.Errorf("not reachable: %v", link)
	}
	k.sight.verdict = api.Public
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

func TestClaimsAreAsManyAsWanted(t *testing.T) {
	var helpers []*helper
	for range wanted + 2 {
		helpers = append(helpers, &helper{})
	}
	k := keeperWith(own, helpers...)
	for i, h := range helpers {
		if ok := k.claim(h); ok != (i < wanted) {
			t.Errorf("claim %d: %t", i, ok)
		}
	}
	if !k.claim(helpers[0]) {
		t.Error("a claim is not its own rival")
	}
	helpers[0].claimed = false
	if !k.claim(helpers[wanted]) {
		t.Error("a freed place is not given")
	}
}

func TestTheUnwillingAreAskedLessAndLess(t *testing.T) {
	k, a, now := keeperWith(own), device(9).Address(), time.Now()
	var pauses []time.Duration
	for range 7 {
		k.rest(a, now)
		pauses = append(pauses, k.rests[a].until.Sub(now))
		now = k.rests[a].until
	}
	want := []time.Duration{1, 2, 4, 8, 16, 30, 30}
	for i := range want {
		if pauses[i] != want[i]*time.Second {
			t.Fatalf("pauses %v", pauses)
		}
	}
	for i := range 2 * maxRests {
		key := bytes.Repeat([]byte{9}, 32)
		key[0], key[1] = byte(i), byte(i>>8)
		k.rest(identity.NewAddress(key, identity.KindDevice), now)
	}
	if len(k.rests) > maxRests {
		t.Errorf("%d remembered", len(k.rests))
	}
	k.rest(a, now.Add(time.Hour))
	if len(k.rests) != 1 || k.rests[a].pause != retryFirst {
		t.Errorf("after an hour: %d remembered, pause %v", len(k.rests), k.rests[a].pause)
	}
}
