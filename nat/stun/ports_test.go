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

func TestHairpin(t *testing.T) {
	for _, row := range []struct {
		name               string
		mapping, filtering memnet.Rule
		hairpin, want      bool
	}{
		{"full cone with hairpin", memnet.Independent, memnet.Independent, true, true},
		{"port-restricted with hairpin", memnet.Independent, memnet.ByAddressAndPort, true, true},
		{"symmetric with hairpin", memnet.ByAddressAndPort, memnet.ByAddressAndPort, true, false},
		{"full cone without", memnet.Independent, memnet.Independent, false, false},
	} {
		for _, at := range []struct{ server, router, home string }{
			{"44.128.0.1", "44.129.0.1", "192.168.1.2"}, {"3fff:1::1", "3fff:2::1", "fd00::2"},
		} {
			t.Run(row.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n, server := new(memnet.Net), netip.MustParseAddr(at.server)
					startServerAt(t, n, 0, server, netip.Addr{})
					home := n.NAT(netip.MustParseAddr(at.router), row.mapping, row.filtering, memnet.Sequential)
					home.Hairpin = row.hairpin
					open, _ := opener(home, at.home)
					if got, err := Hairpin(t.Context(), open, netip.AddrPortFrom(server, 3478)); err != nil || got != row.want {
						t.Errorf("got %v, %v", got, err)
					}
				})
			})
		}
	}
}

func TestHairpinWithoutNATAndWithoutServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, port := new(memnet.Net), uint16(4000)
		open := func() (net.PacketConn, error) {
			port++
			return n.Host(netip.AddrPortFrom(routerIP, port)), nil
		}
		if _, err := Hairpin(t.Context(), open, serverAddr); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("got %v", err)
		}
		startServer(t, n, 0)
		if got, err := Hairpin(t.Context(), open, serverAddr); err != nil || !got {
			t.Errorf("got %v, %v", got, err)
		}
		broken := errors.New("no more sockets")
		if _, err := Hairpin(t.Context(), func() (net.PacketConn, error) { return nil, broken }, serverAddr); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPortSamples(t *testing.T) {
	servers := []netip.AddrPort{serverAddr, netip.AddrPortFrom(serverIP2, 3478)}
	for _, row := range []struct {
		name    string
		mapping memnet.Rule
		ports   memnet.PortChoice
		n       int
		want    Samples
	}{
		{"sequential symmetric", memnet.ByAddressAndPort, memnet.Sequential, 6,
			Samples{Ports: []uint16{40001, 40002, 40003, 40004, 40005, 40006}, Delta: 1, Addresses: 1}},
		{"sequential by socket", memnet.Independent, memnet.Sequential, 2,
			Samples{Ports: []uint16{40001, 40002, 40003, 40004}, Delta: 1, PerSocket: true, Addresses: 1}},
		{"preserving", memnet.Independent, memnet.Preserve, 4,
			Samples{Ports: []uint16{4001, 4002, 4003, 4004}, Preserved: true, PerSocket: true, Addresses: 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := new(memnet.Net)
				startServer(t, n, 2)
				open, _ := opener(n.NAT(routerIP, row.mapping, memnet.ByAddressAndPort, row.ports), "192.168.1.2")
				got, err := PortSamples(t.Context(), open, servers, row.n)
				if err != nil || len(got.Ports) != len(row.want.Ports) {
					t.Fatalf("got %+v, %v", got, err)
				}
				for i := range got.Ports {
					if got.Ports[i] != row.want.Ports[i] {
						t.Fatalf("got %+v", got)
					}
				}
				if got.Delta != row.want.Delta || got.Preserved != row.want.Preserved || got.PerSocket != row.want.PerSocket || got.Addresses != 1 {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

func TestPortSamplesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		startServer(t, n, 0)
		home := n.NAT(routerIP, memnet.ByAddressAndPort, memnet.ByAddressAndPort, memnet.Random)
		open, opened := counted(home, "192.168.1.2")
		s, err := PortSamples(t.Context(), open, []netip.AddrPort{serverAddr}, 1000)
		if err != nil || len(s.Ports) != MaxPortSamples || opened() != MaxPortSamples || s.Delta != 0 {
			t.Errorf("%d sockets, got %+v, %v", opened(), s, err)
		}
		if _, err := PortSamples(t.Context(), open, nil, 4); !errors.Is(err, ErrTooFewServers) {
			t.Errorf("no servers: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		silent := netip.MustParseAddrPort("44.131.0.1:3478")
		if _, err := PortSamples(ctx, open, []netip.AddrPort{silent}, 4); !errors.Is(err, ErrTooFewServers) || !errors.Is(err, ErrNoAnswer) {
			t.Errorf("silence: %v", err)
		}
		if s, err := PortSamples(t.Context(), open, []netip.AddrPort{serverAddr, silent}, 4); err != nil || len(s.Ports) != 4 {
			t.Errorf("one silent: %+v, %v", s, err)
		}
	})
}

func TestLooseDelta(t *testing.T) {
	for _, row := range []struct {
		ports []uint16
		want  int
	}{
		{nil, 0}, {[]uint16{1, 2, 3}, 0}, {[]uint16{1, 2, 3, 4}, 1}, {[]uint16{1, 2, 4, 9}, 1}, {[]uint16{9, 7, 3, 1}, -2},
		{[]uint16{2, 4, 7, 9}, 0}, {[]uint16{5, 5, 6, 7}, 0}, {[]uint16{1, 2, 3, 2}, 0}, {[]uint16{1, 2, 11, 12}, 1},
		{[]uint16{1, 2, 12, 13}, 0}, {[]uint16{50000, 1200, 33333, 60001}, 0}, {[]uint16{65534, 65535, 1024, 1025}, 0},
	} {
		if got := looseDelta(row.ports); got != row.want {
			t.Errorf("%v: got %d, want %d", row.ports, got, row.want)
		}
	}
}

func TestRotationIsNoticed(t *testing.T) {
	const keepalive = 20 * time.Second
	for _, row := range []struct {
		name   string
		rotate time.Duration
		want   bool
	}{{"a usual NAT", 0, false}, {"one that rotates", 30 * time.Second, true}, {"one that restarted once", 150 * time.Second, false}} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := new(memnet.Net)
				startServer(t, n, 0)
				home := n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Sequential)
				home.Rotate = row.rotate
				m := startMux(t, home.Host(privateAddr), Config{})
				var r Rotation
				for range 10 {
					mapped, _, err := m.Bind(t.Context(), serverAddr)
					if err != nil {
						t.Fatal(err)
					}
					r.Observe(serverAddr, mapped)
					<-time.After(keepalive)
				}
				if r.Rotates() != row.want {
					t.Errorf("got %v", r.Rotates())
				}
			})
		})
	}
}

func TestRotationTellsServersAndAddressesApart(t *testing.T) {
	at := netip.MustParseAddrPort
	var r Rotation
	for i := range 20 { // a symmetric NAT: another port for each server, always the same
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 128, 0, byte(i)}), 3478)
		for range 3 {
			if r.Observe(server, netip.AddrPortFrom(routerIP, uint16(40000+i))) {
				t.Fatal("a symmetric NAT rotates")
			}
		}
	}
	if len(r.seen) != maxRotationServers {
		t.Errorf("%d servers remembered", len(r.seen))
	}
	r = Rotation{}
	for _, mapped := range []string{"44.129.0.1:1", "44.129.0.2:2", "44.129.0.3:3", "44.129.0.3:3", "44.129.0.3:4"} {
		if r.Observe(serverAddr, at(mapped)) {
			t.Errorf("%s: rotates", mapped)
		}
	}
	if !r.Observe(serverAddr, at("[::ffff:44.129.0.3]:5")) {
		t.Error("two changes are not noticed")
	}
	for range rotationWindow {
		r.Observe(serverAddr, at("44.129.0.3:5"))
	}
	if r.Rotates() {
		t.Error("old changes are never forgotten")
	}
}
