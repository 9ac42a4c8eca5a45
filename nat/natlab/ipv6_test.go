package natlab

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func listen6(t testing.TB, h *Host, port uint16) *net.UDPConn {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), "udp6", netip.AddrPortFrom(h.Addr6(), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

func TestFirewalledIPv6HomesPunchThrough(t *testing.T) {
	for _, tc := range []struct{ one, other Kind }{
		{IPv6Firewall, IPv6Firewall}, {IPv6Only, IPv6Firewall}, {IPv6Only, StatefulFirewall},
	} {
		t.Run(string(tc.one+" "+tc.other), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			alice, bob := mustHome(t, l, "alice", tc.one), mustHome(t, l, "bob", tc.other)
			a, b := listen6(t, alice, 5000), listen6(t, bob, 5000)
			sendTo(t, a, bob.Public6(), 5000, "opener")
			if got, _ := receive(t, b, silence); got != "" {
				t.Fatalf("bob's firewall let %q in", got)
			}
			start := time.Now()
			sendTo(t, b, alice.Public6(), 5000, "hello")
			got, from := receive(t, a, patience)
			if want := netip.AddrPortFrom(bob.Public6(), 5000); got != "hello" || from != want {
				t.Fatalf("got %q from %v, want it from %v", got, from, want)
			}
			sendTo(t, a, bob.Public6(), 5000, "hello yourself")
			if got := receiveBut(t, b, "opener"); got != "hello yourself" || time.Since(start) < 40*time.Millisecond {
				t.Fatalf("got %q after %v", got, time.Since(start))
			}
		})
	}
}

func TestAddressFamiliesOfKinds(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	host := mustHost(t, l, "host")
	lan := netip.MustParsePrefix("3fff::/20")
	for _, tc := range []struct {
		kind   Kind
		v4, v6 bool
	}{
		{Public, true, true}, {StatefulFirewall, true, true}, {IPv6Firewall, true, true},
		{IPv6Only, false, true}, {PortRestricted, true, false}, {CGNAT, true, false},
	} {
		h := mustHome(t, l, string(tc.kind), tc.kind)
		if h.Addr().IsValid() != tc.v4 || h.Public().IsValid() != tc.v4 || h.Addr6().IsValid() != tc.v6 {
			t.Errorf("%s: %v, %v, %v", tc.kind, h.Addr(), h.Public(), h.Addr6())
		}
		if tc.v6 && (!lan.Contains(h.Addr6()) || h.Public6() != h.Addr6()) {
			t.Errorf("%s: %v seen as %v", tc.kind, h.Addr6(), h.Public6())
		}
		for _, f := range []struct {
			network string
			to      netip.Addr
			want    bool
		}{{"tcp4", host.Public(), tc.v4}, {"tcp6", host.Public6(), tc.v6}} {
			ln, err := host.Listen(context.Background(), f.network, netip.AddrPortFrom(f.to, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			// Without an address of the family it fails at once.
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			c, err := h.Dial(ctx, f.network, netip.AddrPortFrom(f.to, 80).String())
			cancel()
			if (err == nil) != f.want {
				t.Errorf("%s from %s: %v", f.network, tc.kind, err)
			}
			if err == nil {
				c.Close()
			}
			ln.Close()
		}
	}
	if s := l.Stats(); s.Spoofed+s.NoRoute > 0 {
		t.Errorf("stray packets: %+v", s)
	}
}

func TestLowHopLimitOpensOnlyTheOwnFirewall(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	alice, bob := mustHome(t, l, "alice", IPv6Only), mustHome(t, l, "bob", IPv6Only)
	a, b := listen6(t, alice, 5000), listen6(t, bob, 5000)
	raw, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 3) })
	if err != nil {
		t.Fatal(err)
	}
	sendTo(t, a, bob.Public6(), 5000, "opener")
	waitFor(t, "the opener to die", func() bool { return l.Stats().TTL == 1 })
	sendTo(t, b, alice.Public6(), 5000, "in")
	if got, _ := receive(t, a, patience); got != "in" {
		t.Errorf("got %q", got)
	}
}
