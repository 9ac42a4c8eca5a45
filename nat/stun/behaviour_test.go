package stun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun/memnet"
)

var (
	serverIP    = netip.MustParseAddr("44.128.0.1")
	serverIP2   = netip.MustParseAddr("44.128.0.2")
	routerIP    = netip.MustParseAddr("44.129.0.1")
	serverAddr  = netip.AddrPortFrom(serverIP, 3478)
	privateAddr = netip.MustParseAddrPort("192.168.1.2:4001")
)

// startServer runs a server on the net with two IPs and two ports, or with
// what is left after leaving out the given number of alternates.
func startServer(t *testing.T, n *memnet.Net, ips int) *Server {
	t.Helper()
	return startServerAt(t, n, ips, serverIP, serverIP2)
}

func startServerAt(t *testing.T, n *memnet.Net, ips int, one, two netip.Addr) *Server {
	t.Helper()
	cfg := ServerConfig{Primary: n.Host(netip.AddrPortFrom(one, 3478))}
	if ips > 0 {
		cfg.AltPort = n.Host(netip.AddrPortFrom(one, 3479))
	}
	if ips > 1 {
		cfg.AltIP = n.Host(netip.AddrPortFrom(two, 3478))
		cfg.AltBoth = n.Host(netip.AddrPortFrom(two, 3479))
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestDiscoverNamesEachKindOfNAT(t *testing.T) {
	type want struct {
		mapping, filtering             Dependence
		mappingAtMost, filteringAtMost bool
		preserved                      bool
		delta                          int
		fresh                          Dependence // the mapping with fresh sockets, if they tell more
	}
	const (
		I  = memnet.Independent
		A  = memnet.ByAddress
		AP = memnet.ByAddressAndPort
	)
	rows := []struct {
		name               string
		mapping, filtering memnet.Rule
		ports              memnet.PortChoice
		ips                int
		want               want
	}{
		{"full cone", I, I, memnet.Preserve, 2,
			want{mapping: EndpointIndependent, filtering: EndpointIndependent, preserved: true}},
		{"address-restricted", I, A, memnet.Preserve, 2,
			want{mapping: EndpointIndependent, filtering: AddressDependent, preserved: true}},
		{"port-restricted", I, AP, memnet.Preserve, 2,
			want{mapping: EndpointIndependent, filtering: AddressAndPortDependent, preserved: true}},
		{"port-restricted without port preservation", I, AP, memnet.Sequential, 2,
			want{mapping: EndpointIndependent, filtering: AddressAndPortDependent}},
		{"mapping by address", A, AP, memnet.Sequential, 2,
			want{mapping: AddressDependent, filtering: AddressAndPortDependent}},
		{"sequential symmetric", AP, AP, memnet.Sequential, 2,
			want{mapping: AddressAndPortDependent, filtering: AddressAndPortDependent, delta: 1}},
		{"symmetric that lets its peers in by address", AP, A, memnet.Sequential, 2,
			want{mapping: AddressAndPortDependent, filtering: AddressDependent, delta: 1}},
		{"full cone, server with one IP", I, I, memnet.Preserve, 1,
			want{mapping: AddressDependent, mappingAtMost: true,
				filtering: AddressDependent, filteringAtMost: true, preserved: true}},
		{"port-restricted, server with one IP", I, AP, memnet.Preserve, 1,
			want{mapping: AddressDependent, mappingAtMost: true,
				filtering: AddressAndPortDependent, preserved: true}},
		{"symmetric, server with one IP", AP, AP, memnet.Sequential, 1,
			want{mapping: Unknown, filtering: AddressAndPortDependent, fresh: AddressAndPortDependent}},
		{"port-restricted, server with one address", I, AP, memnet.Preserve, 0,
			want{mapping: Unknown, filtering: Unknown, preserved: true}},
	}
	for _, row := range rows {
		for _, at := range []struct {
			name                  string
			server, other, router string
			home                  string
		}{
			{"IPv4", "44.128.0.1", "44.128.0.2", "44.129.0.1", "192.168.1.2"},
			{"IPv6", "3fff:1::1", "3fff:1::2", "3fff:2::1", "fd00::2"},
		} {
			for _, fresh := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, fresh sockets %v", row.name, at.name, fresh), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := &memnet.Net{Latency: 20 * time.Millisecond}
						server := netip.MustParseAddr(at.server)
						startServerAt(t, n, row.ips, server, netip.MustParseAddr(at.other))
						home := n.NAT(netip.MustParseAddr(at.router), row.mapping, row.filtering, row.ports)
						open, local := opener(home, at.home)
						discover, expect := DiscoverFresh, row.want
						if fresh {
							expect.mapping = cmp.Or(expect.fresh, expect.mapping)
						} else {
							discover = func(ctx context.Context, open Opener, server netip.AddrPort) (Behaviour, error) {
								pc, _ := open()
								return DiscoverOn(ctx, pc, server)
							}
						}
						b, err := discover(t.Context(), open, netip.AddrPortFrom(server, 3478))
						if err != nil {
							t.Fatal(err)
						}
						expect.fresh = ""
						got := want{b.Mapping, b.Filtering, b.MappingAtMost, b.FilteringAtMost, b.PortPreserved, b.PortDelta, ""}
						if got != expect {
							t.Errorf("got %+v, want %+v (ports %v)", got, expect, b.Ports)
						}
						if b.Mapped.Addr() != home.Public() || b.Local != local || b.RTT != 40*time.Millisecond {
							t.Errorf("mapped %v local %v round trip %v", b.Mapped, b.Local, b.RTT)
						}
					})
				})
			}
		}
	}
}

// opener opens sockets in a home, from port 4001 on, and names the first.
func opener(home *memnet.NAT, addr string) (Opener, netip.AddrPort) {
	first := netip.AddrPortFrom(netip.MustParseAddr(addr), 4001)
	var opened atomic.Int64
	return func() (net.PacketConn, error) {
		return home.Host(netip.AddrPortFrom(first.Addr(), first.Port()+uint16(opened.Add(1)-1))), nil
	}, first
}

// TestStraysDoNotMakeAMappingLookSymmetric asks behind routers without a filter
// of their own: the packet that tests the filter takes a port.
func TestStraysDoNotMakeAMappingLookSymmetric(t *testing.T) {
	third := netip.MustParseAddrPort("44.128.0.3:3478")
	for ips := 1; ips <= 2; ips++ {
		for _, fresh := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d addresses, fresh sockets %v", ips, fresh), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := new(memnet.Net)
					startServer(t, n, ips)
					startMux(t, n.Host(third), Config{Serve: true})
					home := n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
					home.OpenInput = true
					open, local := opener(home, "192.168.1.2")
					cfg := Config{}
					if fresh {
						cfg.Open = open
					}
					m := startMux(t, home.Host(local), cfg)
					alt := netip.AddrPortFrom(serverIP, 3479)
					for round := range 3 {
						b, err := m.Discover(t.Context(), serverAddr)
						right := b.Mapping == EndpointIndependent || b.Mapping == AddressDependent && b.MappingAtMost
						if unsure := b.Mapping == Unknown && !fresh && ips == 1; err != nil || !right && !unsure {
							t.Errorf("round %d: got %+v, %v", round, b, err)
						}
						if fresh && b.Filtering != AddressAndPortDependent {
							t.Errorf("round %d: filtering %v", round, b.Filtering)
						}
						<-time.After(2 * time.Minute)
					}
					b, err := m.Mapping(t.Context(), []netip.AddrPort{serverAddr, alt, third})
					if err != nil || b.Mapping != EndpointIndependent {
						t.Errorf("got %+v, %v", b, err)
					}
					if b, err = m.Mapping(t.Context(), []netip.AddrPort{serverAddr, alt}); err != nil || b.Mapping == AddressAndPortDependent {
						t.Errorf("got %+v, %v", b, err)
					}
				})
			})
		}
	}
}

func TestDiscoverWithoutTranslation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		startServer(t, n, 2)
		b, err := DiscoverOn(t.Context(), n.Host(netip.AddrPortFrom(routerIP, 4001)), serverAddr)
		if err != nil {
			t.Fatal(err)
		}
		if b.Mapping != None || b.Filtering != EndpointIndependent || !b.PortPreserved {
			t.Errorf("got %+v", b)
		}
	})
}

func TestDiscoverSeesTheFilterThroughLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		n := &memnet.Net{Latency: 20 * time.Millisecond}
		n.Drop = func(_ []byte, from, _ netip.AddrPort) bool {
			return sent.Add(1)%2 == 1 && from.Addr() == routerIP
		}
		startServer(t, n, 2)
		pc := n.NAT(routerIP, memnet.Independent, memnet.Independent, memnet.Preserve).Host(privateAddr)
		b, err := DiscoverOn(t.Context(), pc, serverAddr)
		if err != nil {
			t.Fatal(err)
		}
		if b.Mapping != EndpointIndependent || b.Filtering != EndpointIndependent {
			t.Errorf("got %+v", b)
		}
	})
}

func TestDiscoverSaysWhenNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := DiscoverOn(ctx, n.Host(netip.AddrPortFrom(routerIP, 4001)), serverAddr)
		if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFilteringIsUnknownWhenTheContextEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memnet.Net{Latency: 20 * time.Millisecond}
		startServer(t, n, 2)
		pc := n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve).Host(privateAddr)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		b, err := DiscoverOn(ctx, pc, serverAddr)
		if !errors.Is(err, context.DeadlineExceeded) || b.Filtering != Unknown {
			t.Errorf("filtering %v, error %v", b.Filtering, err)
		}
	})
}

func TestCompareMappings(t *testing.T) {
	at := netip.MustParseAddrPort
	rows := []struct {
		name   string
		seen   map[string]string
		want   Dependence
		atMost bool
	}{
		{"two hosts agree", map[string]string{"44.0.0.1:1": "44.9.9.9:5", "44.0.0.2:1": "44.9.9.9:5"}, EndpointIndependent, false},
		{"two hosts differ", map[string]string{"44.0.0.1:1": "44.9.9.9:5", "44.0.0.2:1": "44.9.9.9:6"}, AddressAndPortDependent, true},
		{"two ports agree", map[string]string{"44.0.0.1:1": "44.9.9.9:5", "44.0.0.1:2": "44.9.9.9:5"}, AddressDependent, true},
		{"two ports differ", map[string]string{"44.0.0.1:1": "44.9.9.9:5", "44.0.0.1:2": "44.9.9.9:6"}, AddressAndPortDependent, false},
		{"ports agree, hosts differ", map[string]string{"44.0.0.1:1": "44.9.9.9:5", "44.0.0.1:2": "44.9.9.9:5", "44.0.0.2:1": "44.9.9.9:6"}, AddressDependent, false},
		{"another public address", map[string]string{"44.0.0.1:1": "44.9.9.9:5", "44.0.0.2:1": "44.9.9.8:5"}, AddressAndPortDependent, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			seen := make(map[netip.AddrPort]netip.AddrPort)
			for s, m := range row.seen {
				seen[at(s)] = at(m)
			}
			if got, atMost := compareMappings(seen); got != row.want || atMost != row.atMost {
				t.Errorf("got %v, at most %v", got, atMost)
			}
		})
	}
}

func TestPortDelta(t *testing.T) {
	rows := []struct {
		ports []uint16
		want  int
	}{
		{nil, 0}, {[]uint16{5}, 0}, {[]uint16{5, 6}, 0}, {[]uint16{5, 6, 7}, 1},
		{[]uint16{5, 7, 9, 11}, 2}, {[]uint16{9, 8, 7}, -1}, {[]uint16{5, 6, 8}, 0}, {[]uint16{5, 5, 5}, 0},
	}
	for _, row := range rows {
		if got := portDelta(row.ports); got != row.want {
			t.Errorf("%v: got %d, want %d", row.ports, got, row.want)
		}
	}
}

func TestOtherAddressMustBeTheServersOwnKind(t *testing.T) {
	rows := []struct {
		server, other string
		want          bool
	}{
		{"44.0.0.1:3478", "44.0.0.2:3479", true},
		{"44.0.0.1:3478", "44.0.0.1:3479", true},
		{"44.0.0.1:3478", "44.0.0.2:3478", false},
		{"44.0.0.1:3478", "192.168.1.1:3479", false},
		{"44.0.0.1:3478", "127.0.0.1:3479", false},
		{"44.0.0.1:3478", "169.254.169.254:80", false},
		{"44.0.0.1:3478", "224.0.0.1:3479", false},
		{"44.0.0.1:3478", "255.255.255.255:3479", false},
		{"44.0.0.1:3478", "0.0.0.0:3479", false},
		{"44.0.0.1:3478", "44.0.0.2:0", false},
		{"44.0.0.1:3478", "[3fff::1]:3479", false},
		{"127.0.0.1:3478", "127.0.0.2:3479", true},
		{"[3fff::1]:3478", "[3fff::2]:3479", true},
	}
	for _, row := range rows {
		if got := otherUsable(netip.MustParseAddrPort(row.server), netip.MustParseAddrPort(row.other)); got != row.want {
			t.Errorf("%s names %s: got %v", row.server, row.other, got)
		}
	}
}
