package join

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"porchlight/agent/introduce"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
)

// homeOf makes an offer of candidates "host ADDR" or "srflx ADDR" and relayed
// addresses.
func homeOf(candidates string, places ...string) introduce.Offer {
	var o introduce.Offer
	for _, text := range strings.FieldsFunc(candidates, func(r rune) bool { return r == ',' }) {
		kind, addr, _ := strings.Cut(text, " ")
		o.ICE.Candidates = append(o.ICE.Candidates, ice.Candidate{Kind: kind, Addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)})
	}
	for _, text := range places {
		o.Relay = append(o.Relay, netip.AddrPortFrom(netip.MustParseAddr(text), 1))
	}
	return o
}

const (
	four    = "host 192.168.1.2,srflx 44.1.1.1"
	six     = "host 3fff::1"
	dual    = four + "," + six
	fourAt  = "44.9.9.9"
	sixAt   = "3fff::9"
	uplinks = "host 192.168.1.2,host fd00::2,srflx 3fff::1" // IPv4 inside the home only
)

func TestSendsBy(t *testing.T) {
	for candidates, want := range map[string]families{
		"":                            {true, true}, // it did not say
		four:                          {true, false},
		six:                           {false, true},
		dual:                          {true, true},
		uplinks:                       {false, true},
		"host 192.168.1.2":            {true, false}, // its router has not been asked yet
		"host 127.0.0.1":              {true, false},
		"host 44.1.1.1,host fd00::2":  {true, false},
		"host ::ffff:44.1.1.1":        {true, false},
		"host fe80::1,host 10.0.0.1":  {true, true},
		"srflx 3fff::1,prflx 4.4.4.4": {true, true},
	} {
		if got := sendsBy(homeOf(candidates)); got != want {
			t.Errorf("%s: %+v, want %+v", candidates, got, want)
		}
		blocked := homeOf(candidates)
		blocked.NoUDP = true
		if got := sendsBy(blocked); got != (families{}) {
			t.Errorf("%s without udp: %+v", candidates, got)
		}
	}
}

// TestHomesOfDifferentIPVersionsAgreeWhoAsks: whoever can send plain UDP to the
// other's place does; where nobody can, the places send to one another.
func TestHomesOfDifferentIPVersionsAgreeWhoAsks(t *testing.T) {
	for _, c := range []struct {
		name           string
		caller, called introduce.Offer
		asks           string
		lacks          relay.Family // of the caller's places, if nobody asks
	}{
		{"four calls six", homeOf(four, fourAt), homeOf(six, fourAt), "caller", 0},
		{"six calls four", homeOf(six, fourAt), homeOf(four, fourAt), "called", 0},
		{"six calls dual", homeOf(six, fourAt), homeOf(dual, fourAt), "called", 0},
		{"dual calls six", homeOf(dual, fourAt), homeOf(six, sixAt), "caller", 0},
		{"six calls six, places are four", homeOf(six, fourAt), homeOf(six, fourAt), "caller", 0},
		{"only six has a place, of four", homeOf(six, fourAt), homeOf(four), "called", 0},
		{"only four has a place, of both", homeOf(four, fourAt, sixAt), homeOf(six), "called", 0},
		{"each has a place of its own", homeOf(four, fourAt), homeOf(six, sixAt), "", relay.IPv6},
		{"and the other way", homeOf(six, sixAt), homeOf(four, fourAt), "", relay.IPv4},
		{"only four has a place, of four", homeOf(four, fourAt), homeOf(six), "", relay.IPv6},
		{"nobody has a place", homeOf(four), homeOf(six), "", 0},
		{"four has both, six its own", homeOf(four, fourAt, sixAt), homeOf(six, sixAt), "called", 0},
	} {
		got := ""
		if asks(c.caller, c.called, true) {
			got += "caller"
		}
		if asks(c.called, c.caller, false) {
			got += "called"
		}
		if got != c.asks {
			t.Errorf("%s: %q asks, want %q", c.name, got, c.asks)
		}
		r := newRelays(&Joiner{})
		if r.lack(c.caller, c.called); c.asks == "" && r.cross != c.lacks {
			t.Errorf("%s: lacks %v, want %v", c.name, r.cross, c.lacks)
		}
	}
}

// only makes a device say that it has no other candidates than one of a family.
func (m *member) only(addr string) {
	m.situation.set(func(s *situation) {
		s.candidates = []ice.Candidate{{Kind: ice.Host, Addr: netip.MustParseAddrPort(addr)}}
	})
}

func TestHomesOfDifferentIPVersionsMeetAtARelay(t *testing.T) {
	for _, c := range []struct {
		name           string
		caller, called string
		local          string // how the caller's way begins
	}{
		{"six calls four", "[::1]:9", "127.0.0.1:9", "relay"},
		{"four calls six", "127.0.0.1:9", "[::1]:9", "srflx"},
		{"six calls six", "[::1]:9", "[::1]:10", "relay"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b, _ := three(t)
			a.only(c.caller)
			b.only(c.called)
			if err := a.echo(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if info := a.until(t, b, "relayed", isRelayed); !strings.HasPrefix(info.Local, c.local) {
				t.Errorf("%+v, want %s", info, c.local)
			}
		})
	}
}

// newDualRelay relays both IP versions on loopback.
func newDualRelay(t *testing.T) *relay.Server {
	t.Helper()
	var udp []net.PacketConn
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		conn, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		udp = append(udp, conn)
	}
	four, six := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	s, err := relay.NewServer(relay.Config{
		UDP: udp, RelayIP: four, ListenIP: four, RelayIP6: six, ListenIP6: six, AllowPeer: netip.Addr.IsLoopback,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestAPlaceForHomesOfTheOtherIPVersion is taken when one of them was met in
// vain, with the next ticket, and forgotten with the place.
func TestAPlaceForHomesOfTheOtherIPVersion(t *testing.T) {
	t.Parallel()
	server, m, r := newDualRelay(t), newMember(t, 1, false), newMember(t, 2, false).Address()
	relays := m.joiner.relays
	keep := func() []*place {
		t.Helper()
		ticket := server.Ticket(relay.Grant{Client: "a", Class: relay.Friend})
		if err := m.joiner.KeepPlace(t.Context(), r, ticket, "udp"); err != nil {
			t.Fatal(err)
		}
		relays.mu.Lock()
		defer relays.mu.Unlock()
		return relays.offered()
	}
	for range 2 {
		if all := keep(); len(all) != 1 || !all[0].isFour() {
			t.Fatalf("%d places", len(all))
		}
	}
	relays.lack(homeOf(four, fourAt), homeOf(six, sixAt))
	all := keep()
	if len(all) != 2 || !all[0].isFour() || all[1].isFour() {
		t.Fatalf("%d places", len(all))
	}
	if len(keep()) != 2 || server.Stats().Allocations != 2 {
		t.Errorf("%d allocations", server.Stats().Allocations)
	}
	all[1].allocation.Close()
	poll(t, "place forgotten", func() bool {
		relays.mu.Lock()
		defer relays.mu.Unlock()
		return relays.others[crossing] == nil && relays.cross == 0
	})
}

func TestARelayWithoutIPv4GivesAnIPv6Place(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	six := netip.IPv6Loopback()
	server, err := relay.NewServer(relay.Config{
		UDP: []net.PacketConn{conn}, RelayIP6: six, ListenIP6: six, AllowPeer: netip.Addr.IsLoopback,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	m, r := newMember(t, 1, false), newMember(t, 2, false).Address()
	if err := m.joiner.KeepPlace(t.Context(), r, server.Ticket(relay.Grant{Client: "a"}), "udp"); err != nil {
		t.Fatal(err)
	}
	m.joiner.relays.mu.Lock()
	defer m.joiner.relays.mu.Unlock()
	if all := m.joiner.relays.offered(); len(all) != 1 || all[0].isFour() {
		t.Errorf("%d places", len(all))
	}
}
