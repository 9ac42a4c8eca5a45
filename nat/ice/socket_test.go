//go:build !mips

// These tests use real sockets, which user-mode emulation of big-endian MIPS
// does not offer.

package ice

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/nat/stun"
)

// wire is a plain UDP socket as the shared socket.
type wire struct{ *net.UDPConn }

func (w wire) WriteSTUN(b []byte, to netip.AddrPort) error {
	_, err := w.WriteToUDPAddrPort(b, to)
	return err
}

// realMux runs a Mux over a UDP socket; end stops it.
func realMux(t *testing.T, addr string) (mux *stun.Mux, port uint16, end func()) {
	t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	mux, err = stun.NewMux(wire{pc}, stun.Config{Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			mux.Handle(buf[:n], from)
		}
	}()
	return mux, uint16(pc.LocalAddr().(*net.UDPAddr).Port), func() {
		_ = pc.Close()
		<-done
		if err := mux.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConnectOverLoopback(t *testing.T) {
	for _, row := range []struct{ name, bind, signal string }{
		{"IPv4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "[::1]:0", "::1"},
		{"IPv4 on a wildcard socket", "[::]:0", "127.0.0.1"},
		{"IPv6 on a wildcard socket", "[::]:0", "::1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			loopback := Filter{Loopback: true}
			var agents [2]*Agent
			for i := range agents {
				mux, port, end := realMux(t, row.bind)
				defer end()
				local := []Candidate{{Host, netip.AddrPortFrom(netip.MustParseAddr(row.signal), port)}}
				a, err := New(Config{Mux: mux, Local: local, Accept: loopback.Allow})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := a.Close(); err != nil {
						t.Error(err)
					}
				}()
				agents[i] = a
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			one := connect(ctx, agents[0], agents[1].Local(), true, 0)
			two := connect(ctx, agents[1], agents[0].Local(), false, 0)
			o, w := <-one, <-two
			if o.err != nil || w.err != nil {
				t.Fatal(o.err, w.err)
			}
			if o.pair.Remote != agents[1].Local().Candidates[0] || w.pair.Remote != agents[0].Local().Candidates[0] {
				t.Errorf("%+v, %+v", o.pair, w.pair)
			}
			if o.pair.Local != agents[0].Local().Candidates[0] {
				t.Errorf("local %+v", o.pair.Local)
			}
			t.Logf("controlling %v, controlled %v, round trip %v", o.took, w.took, o.pair.RTT)
		})
	}
}

func TestHostCandidatesOfThisMachine(t *testing.T) {
	got, err := HostCandidates(4001, true)
	if err != nil || len(got) == 0 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, c := range got {
		if c.Kind != Host || c.Addr.Port() != 4001 || c.Addr.Addr().IsLinkLocalUnicast() {
			t.Errorf("candidate %v", c)
		}
	}
}
