//go:build amd64 || arm64

// These tests build laboratories, which takes long under user-mode emulation
// and is impossible where that does not translate netlink. What they show does
// not depend on the processor.

package stun_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"porchlight/nat/natlab"
	"porchlight/nat/stun"
)

// labServer runs a server with one IP and two ports on a public host.
func labServer(t *testing.T, lab *natlab.Lab, name string) (primary, alternate netip.AddrPort) {
	t.Helper()
	h, err := lab.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	var pcs [2]net.PacketConn
	for i, port := range []uint16{3478, 3479} {
		if pcs[i], err = h.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(h.Public(), port).String()); err != nil {
			t.Fatal(err)
		}
	}
	s, err := stun.NewServer(stun.ServerConfig{Primary: pcs[0], AltPort: pcs[1], Rate: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return netip.AddrPortFrom(h.Public(), 3478), netip.AddrPortFrom(h.Public(), 3479)
}

func newLab(t *testing.T) *natlab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root: run the same command with sudo")
	}
	lab, err := natlab.New(context.Background(), natlab.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lab.Close() })
	return lab
}

// liveMux is a Mux over a socket of a home, as an agent has one.
func liveMux(t *testing.T, pc net.PacketConn, cfg stun.Config) (m *stun.Mux, stop func()) {
	m, err := stun.NewMux(udpConn{pc}, cfg)
	if err != nil {
		t.Error(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for buf := make([]byte, stun.MaxMessage); ; {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			m.Handle(buf[:n], from.(*net.UDPAddr).AddrPort())
		}
	}()
	return m, func() {
		_ = pc.Close()
		<-read
		_ = m.Close()
	}
}

type udpConn struct{ net.PacketConn }

func (c udpConn) WriteSTUN(b []byte, to netip.AddrPort) error {
	_, err := c.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

// TestOneAddressIsEnoughBehindRealRouters asks a server with a single IP from
// behind each kind of router, from a live socket, with and without fresh ones
// for the filter. Where strays of the first time could spoil the second, it asks
// twice.
func TestOneAddressIsEnoughBehindRealRouters(t *testing.T) {
	t.Parallel()
	lab := newLab(t)
	server, alternate := labServer(t, lab, "solo")
	elsewhere, _ := labServer(t, lab, "elsewhere")
	var homes sync.WaitGroup // they wait most of the time: more at once than processors
	for _, kind := range []natlab.Kind{
		natlab.Public, natlab.FullCone, natlab.AddressRestricted, natlab.PortRestricted, natlab.PortRestrictedReject,
		natlab.OpenInput, natlab.CGNAT, natlab.SymmetricSequential, natlab.Symmetric, natlab.UDPBlocked,
	} {
		homes.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			home, err := lab.Home(homeName(kind), kind)
			if err != nil {
				t.Error(err)
				return
			}
			open := func() (net.PacketConn, error) {
				return home.ListenPacket(ctx, "udp4", netip.AddrPortFrom(home.Addr(), 0).String())
			}
			if kind == natlab.UDPBlocked {
				short, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if b, err := stun.DiscoverFresh(short, open, server); err == nil {
					t.Errorf("%s: %+v", kind, b)
				}
				return
			}
			for _, fresh := range []stun.Opener{nil, open} {
				pc, err := open()
				if err != nil {
					t.Error(err)
					return
				}
				m, stop := liveMux(t, pc, stun.Config{Open: fresh})
				askFrom(t, ctx, m, kind, fresh != nil, server, alternate, elsewhere)
				stop()
			}
		})
	}
	homes.Wait()
}

func askFrom(t *testing.T, ctx context.Context, m *stun.Mux, kind natlab.Kind, fresh bool, server, alternate, elsewhere netip.AddrPort) {
	symmetric := kind == natlab.Symmetric || kind == natlab.SymmetricSequential
	rounds := 1
	if kind == natlab.OpenInput {
		rounds = 2
	}
	for round := range rounds {
		b, err := m.Discover(ctx, server)
		if err != nil || !fits(b, kind, symmetric, fresh) {
			t.Errorf("%s, fresh sockets %v, round %d: %+v, %v", kind, fresh, round, b, err)
		}
	}
	b, err := m.Mapping(ctx, []netip.AddrPort{server, alternate, elsewhere})
	switch {
	case err != nil:
		t.Errorf("%s: %v", kind, err)
	case symmetric && b.Mapping != stun.AddressAndPortDependent,
		!symmetric && b.Mapping != stun.EndpointIndependent && b.Mapping != stun.None:
		t.Errorf("%s, across servers: %+v", kind, b)
	}
}

// fits says whether a behaviour is true of a kind, as far as one address tells.
func fits(b stun.Behaviour, kind natlab.Kind, symmetric, fresh bool) bool {
	switch {
	case kind == natlab.Public:
		return b.Mapping == stun.None
	case symmetric && fresh:
		return b.Mapping == stun.AddressAndPortDependent
	case symmetric:
		return b.Mapping == stun.AddressAndPortDependent || b.Mapping == stun.Unknown
	case b.Mapping == stun.AddressDependent:
		return b.MappingAtMost
	}
	return kind == natlab.OpenInput && !fresh && b.Mapping == stun.Unknown
}

func TestPortSamplesBehindRealRouters(t *testing.T) {
	t.Parallel()
	lab := newLab(t)
	one, two := labServer(t, lab, "one")
	for _, row := range []struct {
		kind      natlab.Kind
		delta     int
		preserved bool
	}{{natlab.SymmetricSequential, 1, false}, {natlab.PortRestricted, 0, true}, {natlab.Symmetric, 0, false}} {
		t.Run(string(row.kind), func(t *testing.T) {
			t.Parallel()
			home, err := lab.Home(homeName(row.kind), row.kind)
			if err != nil {
				t.Fatal(err)
			}
			open := func() (net.PacketConn, error) {
				return home.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(home.Addr(), 0).String())
			}
			s, err := stun.PortSamples(t.Context(), open, []netip.AddrPort{one, two}, 8)
			if err != nil || len(s.Ports) != 8 || s.Delta != row.delta || s.Preserved != row.preserved {
				t.Errorf("got %+v, %v", s, err)
			}
			if row.kind == natlab.PortRestricted {
				if turned, err := stun.Hairpin(t.Context(), open, one); err != nil || turned {
					t.Errorf("hairpin %v, %v", turned, err)
				}
			}
		})
	}
}

func TestHairpinBehindARealRouter(t *testing.T) {
	t.Parallel()
	lab := newLab(t)
	server, _ := labServer(t, lab, "server")
	home, err := lab.Home("home", natlab.Hairpin)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (net.PacketConn, error) {
		return home.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(home.Addr(), 0).String())
	}
	if turned, err := stun.Hairpin(t.Context(), open, server); err != nil || !turned {
		t.Errorf("hairpin %v, %v", turned, err)
	}
}

// homeName makes a host name, which has 24 letters at most.
func homeName(k natlab.Kind) string { return strings.ReplaceAll(string(k), "restricted", "r") }
