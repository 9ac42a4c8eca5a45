package nat

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
)

// openSide is a side socket on loopback and the address of it.
func openSide(t testing.TB, remote netip.AddrPort, cfg SideConfig) (*Side, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSide(conn, remote, cfg)
	t.Cleanup(func() { s.Close() })
	port := uint16(s.LocalAddr().(*net.UDPAddr).Port)
	return s, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// newSideSession is a session whose client sends and receives by a side socket
// from the beginning; the server uses its main socket.
func newSideSession(t *testing.T) (*session, *Side) {
	t.Helper()
	var side *Side
	client, server := listenTest(t, ""), listenTest(t, "")
	s := newSessionOver(t, client, server, func(s *session) Path {
		side, _ = openSide(t, loopback4(server), SideConfig{})
		if err := s.peerOfServer.UseSide(side, KindDirect); err != nil {
			t.Fatal(err)
		}
		return s.peerOfServer.Path()
	})
	return s, side
}

func TestSessionOverASideSocket(t *testing.T) {
	s, side := newSideSession(t)
	size := switchSize() / 4
	transfer(t, s.clientConn, s.serverConn, size, func(int) {})
	transfer(t, s.serverConn, s.clientConn, size, func(int) {})
	st, peer := s.client.Stats(), s.peerOfServer.Stats()
	t.Logf("client: %+v", st)
	if st.Writes != 0 || st.CarrierOut < int64(size/PacketSize) || st.CarrierIn < int64(size/PacketSize) {
		t.Errorf("the main socket was used: %+v", st)
	}
	if offload() && st.GROReads == 0 {
		t.Error("no read was joined")
	}
	if offload() && s.server.Stats().GROReads == 0 {
		t.Error("no batch was sent as one")
	}
	if peer.Direct.RxPackets == 0 || peer.Direct.TxBytes < int64(size) || st.CarrierRefused != 0 || side.Dropped() != 0 {
		t.Errorf("%+v; side dropped %d", peer, side.Dropped())
	}
}

// bySide switches the client to a side socket, and the server to its address.
func (s *session) bySide(t *testing.T, side *Side, addr netip.AddrPort) {
	t.Helper()
	if err := s.peerOfClient.Accept(addr); err != nil {
		t.Fatal(err)
	}
	if err := s.peerOfServer.UseSide(side, KindDirect); err != nil {
		t.Fatal(err)
	}
	if err := s.peerOfClient.SetPath(Path{Kind: KindDirect, Addr: addr}); err != nil {
		t.Fatal(err)
	}
}

func TestStreamsSurviveSwitchingBetweenMainAndSideSockets(t *testing.T) {
	s := newSession(t, "", "", directly)
	remote := s.clientConn.RemoteAddr().String()
	side, addr := openSide(t, loopback4(s.server), SideConfig{})
	for _, way := range []string{"up", "down"} {
		from, to := s.clientConn, s.serverConn
		if way == "down" {
			from, to = to, from
		}
		steps := []func(){
			func() { s.bySide(t, side, addr) },
			func() { s.byAddr(t, loopback4) },
			func() { s.bySide(t, side, addr) },
			func() { s.byRelay(t) },
			func() { s.bySide(t, side, addr) },
			func() { s.byAddr(t, loopback6) },
		}
		size, done := switchSize()/2, 0
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
	if got := s.clientConn.RemoteAddr().String(); got != remote {
		t.Errorf("remote address seen by the client: %s, at first %s", got, remote)
	}
	if got := addrPortOf(s.serverConn.RemoteAddr()); got != loopback4(s.client) {
		t.Errorf("remote address seen by the server: %v, at first %v", got, loopback4(s.client))
	}
}

func TestASideSocketHearsItsRemoteOnly(t *testing.T) {
	s, remote, stranger := listenTest(t, ""), listenTest(t, "127.0.0.1:0"), listenTest(t, "127.0.0.1:0")
	var heard atomic.Pointer[string]
	side, addr := openSide(t, loopback4(remote), SideConfig{HandleSTUN: func(b []byte, s *Side) {
		text := string(b)
		heard.Store(&text)
		if err := s.WriteSTUN([]byte("\x01answer")); err != nil {
			t.Error(err)
		}
	}})
	var answers atomic.Int64
	remote.HandleSTUN(func(b []byte, from netip.AddrPort) {
		if string(b) == "\x01answer" && from == addr {
			answers.Add(1)
		}
	})
	if err := remote.WriteSTUN([]byte("\x00check"), addr); err != nil {
		t.Fatal(err)
	}
	eventually(t, "STUN is heard before there is a peer", func() bool { return heard.Load() != nil })
	write(t, remote, quicPacket("early"), udp(addr))
	eventually(t, "QUIC without a peer is dropped", func() bool { return side.Dropped() == 1 })

	p := s.NewPeer()
	if err := p.UseSide(side, KindDirect); err != nil {
		t.Fatal(err)
	}
	write(t, stranger, quicPacket("foreign"), udp(addr))
	if err := stranger.WriteSTUN([]byte("\x00foreign"), addr); err != nil {
		t.Fatal(err)
	}
	write(t, remote, []byte{9, 9}, udp(addr))
	write(t, remote, quicPacket("hello"), udp(addr))
	if text, from := readOne(t, s); text != "hello" || from != p.alias {
		t.Errorf("%q from %v", text, from)
	}
	if n := side.Dropped(); n != 4 || *heard.Load() != "\x00check" {
		t.Errorf("%d dropped, heard %q", n, *heard.Load())
	}
	write(t, s, quicPacket("back"), p.Addr())
	if text, from := readOne(t, remote); text != "back" || from != addr {
		t.Errorf("%q from %v", text, from)
	}
	if answers.Load() != 1 {
		t.Errorf("%d answers", answers.Load())
	}
	if err := side.WriteSTUN(quicPacket("x")); !errors.Is(err, ErrNotSTUN) {
		t.Errorf("QUIC as STUN: %v", err)
	}
}

func TestJoinedDatagramsOfASideSocketAreCutAndSorted(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	sender, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	s := listenTest(t, "")
	stun := make(chan string, 1)
	side, addr := openSide(t, addrPortOf(sender.LocalAddr()), SideConfig{HandleSTUN: func(b []byte, _ *Side) { stun <- string(b) }})
	p := s.NewPeer()
	if err := p.UseSide(side, KindRelay); err != nil {
		t.Fatal(err)
	}
	oob := controlInfo{segment: 3, ecn: 3, hasECN: true}.appendSent(nil, true)
	if _, _, err := sender.WriteMsgUDPAddrPort([]byte("@00\x0011@22\xb033@44@5"), oob, addr); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for got.Len() < len("@00@22@44@5") {
		ms := batchOf(2)
		n, err := s.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			if info := parseControl(m.OOB[:m.NN]); info.ecn != 3 || info.local.IsValid() || addrPortOf(m.Addr) != p.alias {
				t.Errorf("control messages say %+v, from %v", info, m.Addr)
			}
			got.Write(m.Buffers[0][:m.N])
		}
	}
	if text := <-stun; got.String() != "@00@22@44@5" || text != "\x0011" || side.Dropped() != 1 {
		t.Errorf("QUIC got %q, STUN %q, %d dropped", got.String(), text, side.Dropped())
	}
	if st := s.Stats(); p.Stats().Relay.RxPackets != 4 || st.CarrierIn != 4 || st.GROReads != 1 {
		t.Errorf("%+v", st)
	}
}

func TestASideSocketSendsBatchesWithTheirMarks(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	receiveECN(t, remote)
	side, _ := openSide(t, loopback4(remote), SideConfig{})
	p := s.NewPeer()
	if err := p.UseSide(side, KindDirect); err != nil {
		t.Fatal(err)
	}
	oob := controlInfo{segment: 3, ecn: 2, hasECN: true}.appendSent(nil, false)
	for _, noGSO := range []bool{false, true} {
		side.noGSO.Store(noGSO)
		if _, _, err := s.WriteMsgUDP([]byte("@00@11@2"), oob, p.Addr()); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for got.Len() < len("@00@11@2") {
			ms := batchOf(4)
			n, err := remote.ReadBatch(ms, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms[:n] {
				if info := parseControl(m.OOB[:m.NN]); info.ecn != 2 {
					t.Errorf("without offload %v: %+v", noGSO, info)
				}
				got.Write(m.Buffers[0][:m.N])
			}
		}
		if got.String() != "@00@11@2" {
			t.Errorf("without offload %v: %q", noGSO, got.String())
		}
	}
	if st := p.Stats(); st.Direct.TxPackets != 6 || st.Direct.TxBytes != 16 || s.Stats().CarrierOut != 6 {
		t.Errorf("%+v", st)
	}
}

func TestWhatTheKernelWillNotSplitASideSocketSplits(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	remote := listenTest(t, "127.0.0.1:0")
	side, _ := openSide(t, loopback4(remote), SideConfig{})
	// More packets than one datagram may hold (UDP_MAX_SEGMENTS): EINVAL.
	if err := side.WriteSegments(bytes.Repeat([]byte("@x"), 200), 2, 0); err != nil {
		t.Fatal(err)
	}
	if !side.noGSO.Load() {
		t.Error("the kernel split 200 packets")
	}
	for range 200 {
		if text, _ := readOne(t, remote); text != "x" {
			t.Fatalf("got %q", text)
		}
	}
}

func TestRefusedBatchesAreCounted(t *testing.T) {
	s := listenTest(t, "")
	side, _ := openSide(t, loopback4(s), SideConfig{})
	p := s.NewPeer()
	if err := p.SetPath(Path{Kind: KindDirect, Carrier: side}); err != nil {
		t.Fatal(err)
	}
	side.Close()
	oob := controlInfo{segment: 3}.appendSent(nil, false)
	if offload() {
		if _, _, err := s.WriteMsgUDP([]byte("@00@11@2"), oob, p.Addr()); err != nil {
			t.Fatal(err)
		}
		if st := p.Stats(); st.CarrierRefused != 3 || st.Direct.TxPackets != 0 {
			t.Errorf("%+v", st)
		}
	}
	if err := side.WritePacket(quicPacket("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestASideSocketBelongsToOnePeer(t *testing.T) {
	s := listenTest(t, "")
	side, _ := openSide(t, loopback4(s), SideConfig{})
	p, q := s.NewPeer(), s.NewPeer()
	for range 2 {
		if err := p.UseSide(side, KindDirect); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.UseSide(side, KindDirect); !errors.Is(err, ErrSideTaken) {
		t.Errorf("a second peer: %v", err)
	}
	if p.Path().Carrier != Carrier(side) || q.Path() != (Path{}) || len(p.owned) != 1 {
		t.Errorf("paths %+v and %+v", p.Path(), q.Path())
	}
}

func TestPeersAndSocketsCloseTheirSideSockets(t *testing.T) {
	for name, end := range map[string]func(*Socket, *Peer, *Side){
		"side":   func(_ *Socket, _ *Peer, d *Side) { d.Close() },
		"peer":   func(_ *Socket, p *Peer, _ *Side) { p.Close() },
		"socket": func(s *Socket, _ *Peer, _ *Side) { s.Close() },
		"kernel": func(_ *Socket, _ *Peer, d *Side) { d.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := listenTest(t, "")
			side, _ := openSide(t, loopback4(s), SideConfig{})
			p := s.NewPeer()
			if err := p.UseSide(side, KindDirect); err != nil {
				t.Fatal(err)
			}
			end(s, p, side)
			<-side.ended
			eventually(t, "the peer has no path", func() bool { return p.Path() == (Path{}) })
			if err := p.UseSide(side, KindDirect); !errors.Is(err, net.ErrClosed) {
				t.Errorf("an ended side socket was taken: %v", err)
			}
			for range 2 {
				if err := side.Close(); err != nil && name != "kernel" {
					t.Error(err)
				}
			}
		})
	}
}

func TestAClosedPeerTakesNoSideSocket(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	p.Close()
	side, _ := openSide(t, loopback4(s), SideConfig{})
	if err := p.UseSide(side, KindDirect); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error is %v", err)
	}
	<-side.ended
	bad, _ := openSide(t, loopback4(s), SideConfig{})
	if err := s.NewPeer().UseSide(bad, KindNone); !errors.Is(err, ErrPath) {
		t.Errorf("without kind: %v", err)
	}
	<-bad.ended
}

func TestASideSocketEndsAfterManyFailedReads(t *testing.T) {
	for _, c := range []struct {
		failures int
		ends     bool
	}{{1, false}, {maxReadErrors - 1, false}, {maxReadErrors, true}} {
		conn, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		left, done := c.failures, make(chan struct{})
		s := &Side{conn: conn, free: make(chan *sideBatch, 1), closed: make(chan struct{})}
		s.batch = batchFunc(func([]ipv4.Message) (int, error) {
			if left--; left >= 0 {
				return 0, syscall.ECONNREFUSED
			}
			close(done)
			s.shut()
			return 0, net.ErrClosed
		})
		s.free <- &sideBatch{side: s}
		if err := s.read(); errors.Is(err, syscall.ECONNREFUSED) != c.ends {
			t.Errorf("%d failures: %v", c.failures, err)
		}
		s.shut()
	}
}

func TestABlockedReaderWakesForSideSockets(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	side, addr := openSide(t, loopback4(remote), SideConfig{})
	p := s.NewPeer()
	if err := p.UseSide(side, KindDirect); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		read := make(chan int, 1)
		go func() {
			n, _ := s.ReadBatch(batchOf(8), 0)
			read <- n
		}()
		eventually(t, "the reader blocks", s.waiting.Load)
		write(t, remote, quicPacket("x"), udp(addr))
		select {
		case n := <-read:
			if n != 1 {
				t.Fatalf("%d packets", n)
			}
		case <-time.After(testTime):
			t.Fatal("the reader slept on")
		}
	}
}

func TestClosingThePeerDropsItsWaitingPackets(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	side, addr := openSide(t, loopback4(remote), SideConfig{})
	p := s.NewPeer()
	if err := p.UseSide(side, KindDirect); err != nil {
		t.Fatal(err)
	}
	write(t, remote, quicPacket("lost"), udp(addr))
	eventually(t, "a batch waits", func() bool { return !s.sides.empty() })
	p.Close()
	write(t, remote, quicPacket("main"), udp(loopback4(s)))
	ms := batchOf(8)
	if n, err := s.ReadBatch(ms, 0); n != 1 || err != nil || string(ms[0].Buffers[0][1:ms[0].N]) != "main" {
		t.Errorf("got %d packets, %v", n, err)
	}
	if len(s.sides.items) != 0 || s.sides.cur != nil {
		t.Error("the batch is still held")
	}
}
