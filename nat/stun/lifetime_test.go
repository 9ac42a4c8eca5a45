package stun

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun/memnet"
)

func TestLifetimeIsFoundByBisection(t *testing.T) {
	const s = time.Second
	for _, row := range []struct {
		name               string
		lifetime, from, to time.Duration
		filtering          memnet.Rule
		want               time.Duration
		probes             int64 // sockets, two for each
	}{
		{"15 s", 15 * s, 0, 300 * s, memnet.ByAddressAndPort, 0, 3},
		{"30 s", 30 * s, 0, 300 * s, memnet.ByAddressAndPort, 28 * s, 3},
		{"59 s", 59 * s, 0, 300 * s, memnet.ByAddress, 58 * s, 2},
		{"just below 60 s", 58*s - 1, 0, 300 * s, memnet.ByAddressAndPort, 28 * s, 3},
		{"120 s", 120 * s, 0, 300 * s, memnet.ByAddressAndPort, 118 * s, 3},
		{"180 s", 180 * s, 0, 300 * s, memnet.Independent, 178 * s, 3},
		{"for ever", 0, 0, 300 * s, memnet.ByAddressAndPort, 298 * s, 2},
		{"one question", 0, 30 * s, 30 * s, memnet.ByAddressAndPort, 28 * s, 1},
		{"two questions", 30 * s, 30 * s, 60 * s, memnet.ByAddressAndPort, 28 * s, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, at := range []struct{ server, router, home string }{
				{"44.128.0.1", "44.129.0.1", "192.168.1.2"}, {"3fff:1::1", "3fff:2::1", "fd00::2"},
			} {
				synctest.Test(t, func(t *testing.T) {
					n := &memnet.Net{Latency: 20 * time.Millisecond}
					server := netip.MustParseAddr(at.server)
					startServerAt(t, n, 0, server, netip.Addr{})
					home := n.NAT(netip.MustParseAddr(at.router), memnet.Independent, row.filtering, memnet.Random)
					home.Lifetime = row.lifetime
					open, opened := counted(home, at.home)
					start := time.Now()
					got, err := Lifetime(t.Context(), open, netip.AddrPortFrom(server, 3478), row.from, row.to)
					if err != nil || got != row.want || opened() != 2*row.probes {
						t.Errorf("got %v, %v, %d sockets", got, err, opened())
					}
					if took := time.Since(start); took > 11*time.Minute {
						t.Errorf("took %v", took)
					}
				})
			}
		})
	}
}

// counted is opener with a count.
func counted(home *memnet.NAT, addr string) (Opener, func() int64) {
	var n int64
	inner, _ := opener(home, addr)
	return func() (pc net.PacketConn, err error) { n++; return inner() }, func() int64 { return n }
}

func TestLifetimeSurvivesLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, sent := &memnet.Net{Latency: 20 * time.Millisecond}, 0
		n.Drop = func([]byte, netip.AddrPort, netip.AddrPort) bool { sent++; return sent%3 == 0 }
		startServer(t, n, 0)
		home := n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
		home.Lifetime = 120 * time.Second
		open, _ := opener(home, "192.168.1.2")
		if got, err := Lifetime(t.Context(), open, serverAddr, 0, time.Hour); err != nil || got != 118*time.Second {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestLifetimeSaysWhyNot(t *testing.T) {
	refuses := func(t *testing.T, n *memnet.Net) { // answers as a server of RFC 8489 alone does
		c := n.Host(serverAddr)
		stop := reading(c, func(b []byte, from netip.AddrPort) {
			if out, err := Answer(b, from); err == nil {
				_ = c.WriteSTUN(out, from)
			}
		})
		t.Cleanup(stop)
	}
	overlooks := func(t *testing.T, n *memnet.Net) { // an old server answers as if nothing was asked
		c := n.Host(serverAddr)
		stop := reading(c, func(b []byte, from netip.AddrPort) {
			_ = c.WriteSTUN(answerNaming(t, transactionID(b), from.String()), from)
		})
		t.Cleanup(stop)
	}
	vanishes := func(t *testing.T, n *memnet.Net) {
		startServer(t, n, 0)
		start := time.Now()
		n.Drop = func([]byte, netip.AddrPort, netip.AddrPort) bool { return time.Since(start) > time.Minute }
	}
	for _, row := range []struct {
		name   string
		server func(*testing.T, *memnet.Net)
		want   error
	}{
		{"nobody there", func(*testing.T, *memnet.Net) {}, ErrNoAnswer},
		{"a server without RFC 5780", refuses, ErrNoResponsePort},
		{"a server that overlooks it", overlooks, ErrNoResponsePort},
		{"a server that goes meanwhile", vanishes, ErrNoAnswer},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := new(memnet.Net)
				row.server(t, n)
				open, _ := opener(n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve), "192.168.1.2")
				if got, err := Lifetime(t.Context(), open, serverAddr, 0, time.Hour); got != 0 || !errors.Is(err, row.want) {
					t.Errorf("got %v, %v", got, err)
				}
			})
		})
	}
}

func TestLifetimeNeedsOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		startServer(t, n, 0)
		one := n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
		two := n.NAT(netip.MustParseAddr("44.129.0.2"), memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
		opened := 0
		open := func() (net.PacketConn, error) {
			if opened++; opened%2 == 1 {
				return one.Host(privateAddr), nil
			}
			return two.Host(privateAddr), nil
		}
		if _, err := Lifetime(t.Context(), open, serverAddr, 0, time.Hour); !errors.Is(err, ErrSeveralAddresses) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLifetimeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		startServer(t, n, 0)
		open, _ := opener(n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve), "192.168.1.2")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := Lifetime(ctx, open, serverAddr, 0, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if _, err := Lifetime(t.Context(), open, serverAddr, time.Hour, 2*time.Hour); err == nil {
			t.Error("nothing to probe, and no error")
		}
		broken := errors.New("no more sockets")
		if _, err := Lifetime(t.Context(), func() (net.PacketConn, error) { return nil, broken }, serverAddr, 0, time.Hour); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestKeepalive(t *testing.T) {
	const s = time.Second
	answered := func(k *Keepalive, n int) {
		for range n {
			k.Answered()
		}
	}
	for _, row := range []struct {
		name string
		do   func(*Keepalive)
		want time.Duration
	}{
		{"nothing known", func(*Keepalive) {}, 20 * s},
		{"answers alone prove nothing", func(k *Keepalive) { answered(k, 1000) }, 20 * s},
		{"measured, not proven", func(k *Keepalive) { k.Learned(118 * s) }, 20 * s},
		{"two answers", func(k *Keepalive) { k.Learned(118 * s); answered(k, 2) }, 20 * s},
		{"three answers", func(k *Keepalive) { k.Learned(118 * s); answered(k, 3) }, 25 * s},
		{"many answers", func(k *Keepalive) { k.Learned(298 * s); answered(k, 1000) }, 55 * s},
		{"many answers at 118 s", func(k *Keepalive) { k.Learned(118 * s); answered(k, 1000) }, 53100 * time.Millisecond},
		{"many answers at 58 s", func(k *Keepalive) { k.Learned(58 * s); answered(k, 1000) }, 26100 * time.Millisecond},
		{"many answers at 28 s", func(k *Keepalive) { k.Learned(28 * s); answered(k, 1000) }, 20 * s},
		{"a short lifetime", func(k *Keepalive) { k.Learned(10 * s); answered(k, 1000) }, 7 * s},
		{"a very short one", func(k *Keepalive) { k.Learned(s); answered(k, 1000) }, 5 * s},
		{"a loss", func(k *Keepalive) { k.Learned(298 * s); answered(k, 1000); k.Lost() }, 20 * s},
		{"five answers after a loss", func(k *Keepalive) { k.Learned(298 * s); k.Lost(); answered(k, 5) }, 20 * s},
		{"six answers after a loss", func(k *Keepalive) { k.Learned(298 * s); k.Lost(); answered(k, 6) }, 25 * s},
		{"a loss in between", func(k *Keepalive) { k.Learned(298 * s); answered(k, 2); k.Lost(); answered(k, 2) }, 20 * s},
		{"many losses", func(k *Keepalive) {
			k.Learned(298 * s)
			for range 100 {
				k.Lost()
			}
			answered(k, maxKeepaliveProof)
		}, 25 * s},
		{"measured anew", func(k *Keepalive) {
			k.Learned(298 * s)
			answered(k, 1000)
			k.Lost()
			k.Learned(298 * s)
			answered(k, 3)
		}, 25 * s},
		{"forgotten", func(k *Keepalive) { k.Learned(298 * s); answered(k, 1000); k.Learned(0) }, 20 * s},
	} {
		t.Run(row.name, func(t *testing.T) {
			var k Keepalive
			row.do(&k)
			if got := k.Interval(); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}
