package nat

import (
	"math/bits"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// switchSize is what is sent while paths change: less on small machines, which
// in tests are emulated ones, and under the race detector.
func switchSize() int {
	if bits.UintSize == 32 || raceDetector {
		return 12 << 20
	}
	return 96 << 20
}

func TestStreamsSurviveSwitchingBothEndsBetweenAddressesAndCarriers(t *testing.T) {
	s := newSession(t, "", "", directly)
	remote := s.clientConn.RemoteAddr().String()
	for _, way := range []string{"up", "down"} {
		from, to := s.clientConn, s.serverConn
		if way == "down" {
			from, to = to, from
		}
		steps := []func(){
			func() { s.byRelay(t) },
			func() { s.byAddr(t, loopback6) },
			func() { s.byRelay(t) },
			func() { s.byAddr(t, loopback4) },
			func() { s.byRelay(t) },
			func() { s.byAddr(t, loopback6) },
			func() { s.byAddr(t, loopback4) },
		}
		size, done := switchSize(), 0
		stall := transfer(t, from, to, size, func(got int) {
			if done < len(steps) && got > (done+1)*size/(len(steps)+1) {
				steps[done]()
				done++
			}
		})
		if done != len(steps) {
			t.Errorf("%s: %d of %d switches happened", way, done, len(steps))
		}
		t.Logf("%s: %d MiB, %d switches, longest stall %v", way, size>>20, done, stall)
	}
	if got := s.clientConn.RemoteAddr().String(); got != remote || !strings.HasPrefix(got, "[fd5a:c3e1:9b07:e7d4::1]:") {
		t.Errorf("remote address seen by the client: %s, at first %s", got, remote)
	}
	if got := addrPortOf(s.serverConn.RemoteAddr()); got != loopback4(s.client) {
		t.Errorf("remote address seen by the server: %v, at first %v", got, loopback4(s.client))
	}
	checkCounts(t, s)
}

// checkCounts sees that the costly ways of old were not taken.
func checkCounts(t *testing.T, s *session) {
	t.Helper()
	for name, side := range map[string]*Socket{"client": s.client, "server": s.server} {
		st := side.Stats()
		t.Logf("%s: %+v", name, st)
		if offload() && st.GSOWrites == 0 {
			t.Errorf("%s: no write used segmentation offload", name)
		}
		if offload() && side.rx.gro() && st.GROReads == 0 {
			t.Errorf("%s: no read was joined", name)
		}
		if st.CarrierIn == 0 || st.CarrierOut == 0 {
			t.Errorf("%s: carriers brought %d, took %d", name, st.CarrierIn, st.CarrierOut)
		}
		if st.DroppedUnknown != 0 || st.WriteErrors != 0 || st.TooLarge != 0 {
			t.Errorf("%s: drops: %+v", name, st)
		}
	}
	for name, p := range map[string]*Peer{"server": s.peerOfServer, "client": s.peerOfClient} {
		st := p.Stats()
		if st.Direct.RxPackets == 0 || st.Direct.TxPackets == 0 || st.Relay.RxPackets == 0 || st.Relay.TxPackets == 0 {
			t.Errorf("peer %s: a kind of path was not counted: %+v", name, st)
		}
	}
}

func TestSessionOverIPv4SocketToDualStackSocket(t *testing.T) {
	s := newSession(t, "127.0.0.1:0", "", directly)
	transfer(t, s.clientConn, s.serverConn, 1<<20, func(int) {})
	transfer(t, s.serverConn, s.clientConn, 1<<20, func(int) {})
	if got := s.serverConn.RemoteAddr().String(); !strings.HasPrefix(got, "127.0.0.1:") {
		t.Errorf("an IPv4 client is seen as %s", got)
	}
}

func TestSessionOverIPv6(t *testing.T) {
	s := newSession(t, "[::1]:0", "[::1]:0", func(s *session) Path {
		return Path{Kind: KindDirect, Addr: loopback6(s.server)}
	})
	transfer(t, s.clientConn, s.serverConn, 1<<20, func(int) {})
}

func TestSessionBeginsOnACarrierAndMovesToAnAddress(t *testing.T) {
	s := newSession(t, "", "", func(s *session) Path {
		back := s.server.NewPeer()
		toServer := Path{Kind: KindRelay, Carrier: carrierTo{back}}
		if err := back.SetPath(Path{Kind: KindRelay, Carrier: carrierTo{s.peerOfServer}}); err != nil {
			t.Fatal(err)
		}
		return toServer
	})
	if !isAlias(s.peerOfClient.alias.Addr()) {
		t.Fatalf("the server sees %v", s.peerOfClient.alias)
	}
	if s.server.PeerAt(s.serverConn.RemoteAddr()) != s.peerOfClient {
		t.Fatal("adopting a made-up address made another peer")
	}
	transfer(t, s.clientConn, s.serverConn, 1<<20, func(int) {})
	s.byAddr(t, loopback4)
	before := s.peerOfServer.Stats().Relay
	transfer(t, s.clientConn, s.serverConn, 1<<20, func(int) {})
	if after := s.peerOfServer.Stats(); after.Relay.TxPackets != before.TxPackets || after.Direct.TxBytes < 1<<20 {
		t.Errorf("traffic did not move: before %+v, after %+v", before, after)
	}
}

func TestEveryAddressFormIsOneAddress(t *testing.T) {
	s := newSession(t, "", "", func(s *session) Path {
		mapped := netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), s.server.Port())
		return Path{Kind: KindDirect, Addr: mapped}
	})
	if got := s.peerOfServer.Path().Addr; got != loopback4(s.server) {
		t.Errorf("path is %v", got)
	}
	mapped := netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), s.client.Port())
	if s.server.Adopt(mapped) != s.peerOfClient {
		t.Error("the mapped form was taken for another peer")
	}
	transfer(t, s.clientConn, s.serverConn, 1<<20, func(int) {})
}

func TestSessionWithoutReceiveOffload(t *testing.T) {
	s := newSessionOver(t, listenPlain(t), listenPlain(t), directly)
	transfer(t, s.clientConn, s.serverConn, 4<<20, func(int) {})
	if st := s.server.Stats(); st.GROReads != 0 || st.Reads < (4<<20)/PacketSize {
		t.Errorf("without offload: %+v", st)
	}
}

// listenPlain opens a socket on a kernel that knows no UDP_GRO.
func listenPlain(t *testing.T) *Socket {
	t.Helper()
	refuse := func(syscall.RawConn) error { return syscall.ENOPROTOOPT }
	s, err := listen(testContext(t), Config{}, refuse)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	boundReads(t, s)
	return s
}
