package relay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

var loopback6 = netip.IPv6Loopback()

// startDual serves both IP versions on loopback, by UDP, TCP and TLS. The
// address of IPv6 comes second in tickets.
func startDual(t testing.TB, cfg Config) *Server {
	t.Helper()
	pc, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.UDP = append(cfg.UDP, pc)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		secure, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		cfg.TLS = append(cfg.TLS, secure)
	}
	plain, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.TCP = append(cfg.TCP, plain)
	cfg.RelayIP6, cfg.ListenIP6 = loopback6, loopback6
	s := startServer(t, cfg)
	eventually(t, "a nonce of the ipv6 socket", func() bool { return s.nonceFor(loopback6) != "" })
	return s
}

// over keeps of a ticket only the addresses of one family.
func over(family Family, t Ticket) Ticket {
	i := int(family - IPv4)
	t.UDP, t.Nonces = t.UDP[i:i+1], t.Nonces[i:i+1]
	t.TCP, t.TLS = t.TCP[i:i+1], t.TLS[i:i+1]
	return t
}

// A home with IPv6 alone takes an IPv4 address at the relay, and the reverse;
// the other home then sends it plain UDP of its own kind.
func TestHomesOfDifferentIPVersionsMeetAtOneRelay(t *testing.T) {
	s := startDual(t, Config{AllowPeer: anyPeer})
	for _, way := range []Family{IPv4, IPv6} {
		for _, relayedAs := range []Family{IPv4, IPv6} {
			for _, network := range []string{"udp", "tcp", "tls"} {
				t.Run(fmt.Sprintf("%v by %s, relayed %v", way, network, relayedAs), func(t *testing.T) {
					meet(t, over(way, s.Ticket(Grant{Client: t.Name()})), network, way, relayedAs)
				})
			}
		}
	}
}

func meet(t *testing.T, ticket Ticket, network string, way, relayedAs Family) {
	in := &inbox{}
	a, err := Allocate(within(t, patience), ticket, Options{Network: network, Family: relayedAs, Handler: in.handle})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if familyOf(a.MappedAddr().Addr()) != way || familyOf(a.RelayedAddr().Addr()) != relayedAs {
		t.Fatalf("relayed %v, mapped %v", a.RelayedAddr(), a.MappedAddr())
	}
	if network == "udp" && a.RoundTrips() != 1 {
		t.Errorf("%d round trips in spite of the ticket's nonce", a.RoundTrips())
	}
	peer, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a.RelayedAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	from := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := a.Permit(within(t, patience), from.Addr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for i := range 4 { // by indication at first, by channel when bound
		msg := bytes.Repeat([]byte{byte(i)}, 1200)
		if _, err := peer.Write(msg); err != nil {
			t.Fatal(err)
		}
		eventually(t, "packet of the peer", func() bool { return in.got(msg, from) })
		if err := a.WriteTo(msg, from); err != nil {
			t.Fatal(err)
		}
		peer.SetReadDeadline(time.Now().Add(patience))
		if n, err := peer.Read(buf); err != nil || !bytes.Equal(buf[:n], msg) {
			t.Fatalf("packet %d: %d bytes, %v", i, n, err)
		}
		if i == 1 {
			eventually(t, "channel", func() bool { ch := a.channelByNumber(firstChannel); return ch != nil && ch.bound.Load() })
		}
	}
}

// Both homes have an allocation at one relay and different ways to it: they
// agree on one family for the relayed addresses.
func TestTwoAllocationsMeetInTheFamilyTheyAgreeOn(t *testing.T) {
	s := startDual(t, Config{})
	for _, family := range []Family{IPv4, IPv6} {
		in := &inbox{}
		a, err := Allocate(within(t, patience), over(IPv4, s.Ticket(Grant{Client: "a"})), Options{Network: "udp", Family: family})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := Allocate(within(t, patience), over(IPv6, s.Ticket(Grant{Client: "b"})),
			Options{Network: "tls", Family: family, Handler: in.handle})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ctx := within(t, patience)
		if err := errors.Join(a.Permit(ctx, b.RelayedAddr().Addr()), b.Permit(ctx, a.RelayedAddr().Addr())); err != nil {
			t.Fatal(err)
		}
		if err := a.WriteTo([]byte("across"), b.RelayedAddr()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "packet across", func() bool { return in.got([]byte("across"), a.RelayedAddr()) })
	}
}

func TestARelayOfOneFamilySaysSo(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{
		UDP: []net.PacketConn{pc}, RelayIP6: loopback6, ListenIP6: loopback6,
		AdvertiseUDP: []netip.AddrPort{pc.LocalAddr().(*net.UDPAddr).AddrPort()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Allocate(within(t, patience), s.Ticket(Grant{Client: "a"}), Options{Network: "udp"}); !errors.Is(err, ErrFamily) {
		t.Errorf("ipv4 from a relay without: %v", err)
	}
	a, err := Allocate(within(t, patience), s.Ticket(Grant{Client: "a"}), Options{Network: "udp", Family: IPv6})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if got := a.RelayedAddr().Addr(); got != loopback6 {
		t.Errorf("relayed at %v", got)
	}
}

// Quotas count the device, whatever family it asks for, and the network it
// comes from: /24 or /56.
func TestQuotasHoldForBothFamilies(t *testing.T) {
	limits := DefaultLimits()
	limits.PerPrefix = 4
	s := startDual(t, Config{Limits: limits})
	ask := func(client string, way, relayedAs Family) error {
		a, err := Allocate(within(t, patience), over(way, s.Ticket(Grant{Client: client})), Options{Network: "udp", Family: relayedAs})
		if err == nil {
			t.Cleanup(func() { a.Close() })
		}
		return err
	}
	if err := errors.Join(ask("a", IPv4, IPv4), ask("a", IPv6, IPv6)); err != nil {
		t.Fatal(err)
	}
	if err := ask("a", IPv6, IPv4); !errors.Is(err, ErrFull) || refusals(s, perClient) != 1 {
		t.Errorf("third of one device: %v, refused %v", err, s.Stats().Refused)
	}
	if err := errors.Join(ask("b", IPv6, IPv4), ask("c", IPv6, IPv6), ask("d", IPv6, IPv6)); err != nil {
		t.Fatal(err)
	}
	if err := ask("e", IPv6, IPv4); !errors.Is(err, ErrFull) || refusals(s, perPrefix) != 1 {
		t.Errorf("fifth of one /56: %v, refused %v", err, s.Stats().Refused)
	}
	if err := ask("e", IPv4, IPv6); err != nil {
		t.Errorf("another network: %v", err)
	}
}

// The figures of the design; whoever changes them changes this table.
func TestDefaultLimits(t *testing.T) {
	l := Limits{}.withDefaults()
	for _, c := range []struct {
		name      string
		got, want int64
	}{
		{"allocations", int64(l.Allocations), 32},
		{"allocations of one device", int64(l.PerClient), 2},
		{"allocations of one /24 or /56", int64(l.PerPrefix), 4},
		{"a stranger's bits a second", l.Stranger.BytesPerSecond * 8, 256_000},
		{"a stranger's bytes a day", l.Stranger.BytesPerDay, 1 << 30},
		{"a stranger's idle seconds", int64(l.Stranger.Idle / time.Second), 600},
		{"a friend's bits a second", l.Friend.BytesPerSecond * 8, 16_000_000},
		{"a friend's bytes a day", l.Friend.BytesPerDay, 64 << 30},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.name, c.got, c.want)
		}
	}
	if l.Friend.Idle >= 0 {
		t.Error("a friend's allocation ends by itself")
	}
}

func TestRelayedPortsStayInTheirRangeInBothFamilies(t *testing.T) {
	const low, high = 42100, 42163
	s := startDual(t, Config{MinPort: low, MaxPort: high})
	for _, family := range []Family{IPv4, IPv6} {
		a, _ := allocateFamily(t, s, family)
		if p := a.RelayedAddr().Port(); p < low || p > high {
			t.Errorf("%v: port %d", family, p)
		}
	}
}

// What stands in tickets is where a socket can really be asked.
func TestSocketsAreAdvertisedInTheFamiliesTheyTake(t *testing.T) {
	public4, public6 := netip.MustParseAddr("44.128.0.1"), netip.MustParseAddr("2a00:1450:4001::1")
	for _, c := range []struct {
		network, addr string
		want          []netip.Addr
	}{
		{"udp4", "0.0.0.0:0", []netip.Addr{public4}},
		{"udp6", "[::]:0", []netip.Addr{public6}},
		{"udp", ":0", []netip.Addr{public4, public6}},
		{"udp6", "[::1]:0", []netip.Addr{public6}},
	} {
		pc, err := net.ListenPacket(c.network, c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		cfg := Config{UDP: []net.PacketConn{pc}, RelayIP: public4, RelayIP6: public6}
		if err := cfg.complete(); err != nil {
			t.Fatal(err)
		}
		var got []netip.Addr
		for _, a := range cfg.AdvertiseUDP {
			got = append(got, a.Addr())
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s %s: advertised at %v, want %v", c.network, c.addr, got, c.want)
		}
	}
}

// A socket at [::] gets IPv4 too, with clients' addresses in the mapped form.
func TestOneSocketServesBothFamilies(t *testing.T) {
	pc, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{
		UDP: []net.PacketConn{pc}, TLS: []net.Listener{l}, AllowPeer: anyPeer,
		RelayIP: loopback, ListenIP: loopback, RelayIP6: loopback6, ListenIP6: loopback6,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "a nonce for tickets", func() bool { return s.nonceFor(loopback) != "" })
	for i, way := range []Family{IPv4, IPv6} {
		for _, network := range []string{"udp", "tls"} {
			ticket := s.Ticket(Grant{Client: way.String()})
			ticket.UDP, ticket.Nonces, ticket.TLS = ticket.UDP[i:i+1], ticket.Nonces[i:i+1], ticket.TLS[i:i+1]
			meet(t, ticket, network, way, IPv4)
		}
	}
}
