package relay

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/pion/stun/v2"
)

// refusedPeers are the rows of the open-proxy test, each at a port that would
// be allowed.
var refusedPeers = []string{
	"127.0.0.1", "127.255.255.254", // loopback
	"0.0.0.0", "0.1.2.3", // unspecified, this network
	"::", "::1",
	"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:192.168.1.1", "::ffff:8.8.8.8", // v4-mapped
	"::127.0.0.1",                                               // v4-compatible
	"64:ff9b::7f00:1", "64:ff9b::c0a8:101", "64:ff9b:1::7f00:1", // NAT64
	"2002:7f00:1::", "2002:c0a8:101::1", // 6to4
	"2001:0:7f00:1::1", // Teredo
	"fe80::1", "fc00::1", "fd12:3456::1", "ff02::1", "ff0e::1",
	"169.254.0.1", "169.254.169.254", // link-local, metadata
	"10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.1.1", // private
	"100.64.0.1", "100.127.255.254", // carrier NAT
	"192.0.0.1", "192.88.99.1", "198.18.0.1", // special purposes
	"224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", // multicast, broadcast, reserved
}

// Each row is tried as a stranger would, from a relayed address of either
// family: CreatePermission, ChannelBind; and past those, at the socket itself.
func TestNoPeerInsideIsEverReached(t *testing.T) {
	s := startServer(t, Config{
		RelayIP: netip.MustParseAddr("44.128.0.1"), RelayIP6: netip.MustParseAddr("2a00:1450:4001::1"),
		Limits: Limits{ControlPerSecond: 1000, ControlBurst: 1000},
	})
	rows := append([]string{"2a00:1450:4001:ff::7"}, refusedPeers...) // a neighbour behind our firewall
	for _, family := range []Family{IPv4, IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			a, r := allocateFamily(t, s, family)
			for i, text := range rows {
				to := netip.AddrPortFrom(netip.MustParseAddr(text), 4000)
				if _, err := a.request(within(t, patience), typeCreatePermission, rawPeer(to)); err == nil {
					t.Errorf("%s: permission granted", text)
				}
				number := stun.RawAttribute{Type: stun.AttrChannelNumber, Value: append(be16(firstChannel+uint16(i)), 0, 0)}
				if _, err := a.request(within(t, patience), typeChannelBind, rawPeer(to), number); err == nil {
					t.Errorf("%s: channel bound", text)
				}
				if _, why, ok := r.route(to); ok || why != peerAddress {
					t.Errorf("%s: a packet would leave (%v)", text, reasonNames[why])
				}
			}
			if len(r.peers) != 0 || len(r.channels) != 0 {
				t.Errorf("state kept for refused peers: %v %v", r.peers, r.channels)
			}
			t.Logf("refused %d of %d addresses, asked from %v", len(rows), len(rows), a.RelayedAddr())
			peer := netip.MustParseAddr("44.128.0.9")
			if family == IPv6 {
				peer = netip.MustParseAddr("2a00:1450:4002::9")
			}
			for port, want := range map[uint16]bool{25: false, 53: false, 443: true, 1023: false, 1024: true, 65535: true} {
				if _, _, ok := r.route(netip.AddrPortFrom(peer, port)); ok != want {
					t.Errorf("port %d: allowed %v", port, ok)
				}
			}
		})
	}
}

// allocateFamily returns both ends of an allocation.
func allocateFamily(t *testing.T, s *Server, family Family) (*Allocation, *relayed) {
	t.Helper()
	a, err := Allocate(within(t, patience), s.Ticket(Grant{Client: family.String()}), Options{Network: "udp", Family: family})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	s.portMu.RLock()
	defer s.portMu.RUnlock()
	return a, s.ports[a.RelayedAddr()]
}

// The home LAN and the WAN address must be refused also when they are public.
func TestOwnAddressesAndBroadcastsAreRefused(t *testing.T) {
	rule := newPeerRule(Config{RelayIP: netip.MustParseAddr("44.128.0.1"), RelayIP6: netip.MustParseAddr("2a00:1450:4001::1")})
	for _, own := range rule.relays {
		if !rule.mayPermit(own) || rule.maySend(own) {
			t.Errorf("own public address %v: permission expected, packet not", own)
		}
	}
	for text, want := range map[string]bool{
		"2a00:1450:4001:ff:ffff:ffff:ffff:ffff": false, "2a00:1450:4001:100::": true, "44.128.0.2": true,
	} {
		if got := rule.maySend(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if rule.mayPermit(ip.Unmap()) {
			t.Errorf("own address %v permitted", ip)
		}
	}
	for _, c := range []struct{ network, want string }{
		{"44.128.0.7/24", "44.128.0.255"},
		{"44.128.0.7/30", "44.128.0.7"},
		{"44.128.0.7/31", ""},
		{"44.128.0.7/32", ""},
		{"2001:db8::1/64", ""},
	} {
		ip, n, err := net.ParseCIDR(c.network)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := broadcast(&net.IPNet{IP: ip, Mask: n.Mask})
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("broadcast of %s: %v %v, want %q", c.network, got, ok, c.want)
		}
	}
}

func TestPublicPeersAreAdmitted(t *testing.T) {
	for _, text := range []string{"44.128.0.9", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "169.253.0.1", "223.255.255.254"} {
		if !publicPeer(netip.MustParseAddr(text)) {
			t.Errorf("%s refused", text)
		}
	}
	if !publicPeer(netip.MustParseAddr("2a00:1450::1")) || publicPeer(netip.Addr{}) || publicPeer(netip.MustParseAddr("2a00::1%eth0")) {
		t.Error("ipv6, zero or zoned address judged wrongly")
	}
	// A relayed socket reaches its own IP version only, whoever is allowed.
	s := startServer(t, Config{AllowPeer: anyPeer, RelayIP6: netip.MustParseAddr("2a00:1450:4001::1")})
	for family, peer := range map[Family]string{IPv4: "2a00:1450::1", IPv6: "44.128.0.9"} {
		a, r := allocateFamily(t, s, family)
		to := netip.AddrPortFrom(netip.MustParseAddr(peer), 4000)
		if err := a.Permit(within(t, patience), to.Addr()); !errors.Is(err, ErrPeerRefused) {
			t.Errorf("%s from %v: %v", peer, family, err)
		}
		if _, err := a.request(within(t, patience), typeCreatePermission, peerSetter(to)); !errors.Is(err, ErrPeerRefused) {
			t.Errorf("%s from %v, past the client: %v", peer, family, err)
		}
		if _, _, ok := r.route(to); ok {
			t.Errorf("%s from %v: a packet would leave", peer, family)
		}
	}
}
