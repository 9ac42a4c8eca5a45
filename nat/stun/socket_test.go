//go:build !mips

// These tests use real sockets, which user-mode emulation of big-endian MIPS
// does not offer.

package stun

import (
	"net"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

// wire is the shared socket as a Mux sees it.
type wire struct{ net.PacketConn }

func (w wire) WriteSTUN(b []byte, to netip.AddrPort) error {
	_, err := w.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

func listen(t *testing.T, addr string) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

func TestBindOverLoopback(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, row := range []struct{ name, server, client string }{
		{"IPv4", "127.0.0.1:0", "127.0.0.1:0"},
		{"IPv6 literal", "[::1]:0", "[::1]:0"},
		{"IPv4 from a wildcard socket", "127.0.0.1:0", "[::]:0"},
		{"IPv6 literal from a wildcard socket", "[::1]:0", "[::]:0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			spc := listen(t, row.server)
			s, err := NewServer(ServerConfig{Primary: spc})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve() }()

			pc := listen(t, row.client)
			m, err := NewMux(wire{pc}, Config{})
			if err != nil {
				t.Fatal(err)
			}
			read, stop := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(read)
				readLoop(pc, stop, m.Handle)
			}()

			server := netip.MustParseAddrPort(spc.LocalAddr().String())
			mapped, rtt, err := m.Bind(t.Context(), server)
			if err != nil || rtt <= 0 {
				t.Fatalf("round trip %v, %v", rtt, err)
			}
			port := uint16(pc.LocalAddr().(*net.UDPAddr).Port)
			if mapped != netip.AddrPortFrom(server.Addr(), port) {
				t.Errorf("mapped %v", mapped)
			}
			b, err := m.Discover(t.Context(), server)
			if err != nil || b.Mapping != None || b.Local != mapped {
				t.Errorf("got %+v, %v", b, err)
			}
			close(stop)
			_ = pc.Close()
			<-read
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDiscoverOverLoopbackWithFourAddresses(t *testing.T) {
	defer goleak.VerifyNone(t)
	primary, both := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.2:0")
	port := func(pc net.PacketConn) string {
		_, p, err := net.SplitHostPort(pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s, err := NewServer(ServerConfig{
		Primary: primary, AltBoth: both,
		AltPort: listen(t, "127.0.0.1:"+port(both)), AltIP: listen(t, "127.0.0.2:"+port(primary)),
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	pc := listen(t, "127.0.0.1:0")
	b, err := DiscoverOn(t.Context(), pc, netip.MustParseAddrPort(primary.LocalAddr().String()))
	if err != nil || b.Mapping != None || b.Filtering != EndpointIndependent || !b.PortPreserved {
		t.Errorf("got %+v, %v", b, err)
	}
	_ = pc.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestFreshSocketsOverLoopback(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		pc := listen(t, addr)
		s, err := NewServer(ServerConfig{Primary: pc, AltPort: listen(t, addr)})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve() }()
		server := netip.MustParseAddrPort(pc.LocalAddr().String())
		if b, err := DiscoverFresh(t.Context(), OpenUDP, server); err != nil || b.Mapping != None || !b.PortPreserved || b.Filtering == Unknown {
			t.Errorf("got %+v, %v", b, err)
		}
		if turned, err := Hairpin(t.Context(), OpenUDP, server); err != nil || !turned {
			t.Errorf("hairpin %v, %v", turned, err)
		}
		if p, err := PortSamples(t.Context(), OpenUDP, []netip.AddrPort{server}, 4); err != nil || !p.Preserved || p.Delta != 0 {
			t.Errorf("got %+v, %v", p, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}
