package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// eventually polls a condition that another goroutine will make true.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}

// quicPacket looks like a short-header packet and holds text.
func quicPacket(text string) []byte { return append([]byte{0x40}, text...) }

// batchOf is what quic-go passes to ReadBatch.
func batchOf(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 1452)}
		ms[i].OOB = make([]byte, 128)
	}
	return ms
}

// readOne reads one packet for QUIC within the time of a test.
func readOne(t *testing.T, s *Socket) (string, netip.AddrPort) {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(testTime)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, MaxPacket)
	n, from, err := s.ReadFrom(b)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(b[1:n]), addrPortOf(from)
}

func write(t *testing.T, s *Socket, b []byte, to net.Addr) {
	t.Helper()
	if n, err := s.WriteTo(b, to); err != nil || n != len(b) {
		t.Fatalf("write to %v: %d, %v", to, n, err)
	}
}

func udp(a netip.AddrPort) *net.UDPAddr { return net.UDPAddrFromAddrPort(a) }

func TestListenAddresses(t *testing.T) {
	for _, c := range []struct {
		addr, network, want, fails string
	}{
		{addr: "", network: "udp", want: ":0"},
		{addr: ":4500", network: "udp", want: ":4500"},
		{addr: "[::]:4500", network: "udp", want: ":4500"},
		{addr: "0.0.0.0:4500", network: "udp4", want: "0.0.0.0:4500"},
		{addr: "[::ffff:127.0.0.1]:1", network: "udp4", want: "127.0.0.1:1"},
		{addr: "[::1]:1", network: "udp6", want: "[::1]:1"},
		{addr: "home.example:1", fails: "give an IP address"},
		{addr: "1.2.3.4", fails: "missing port"},
	} {
		t.Run(c.addr, func(t *testing.T) {
			network, addr, err := listenAddr(c.addr)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("error is %v", err)
				}
				return
			}
			if network != c.network || addr != c.want || err != nil {
				t.Fatalf("%s %s, %v", network, addr, err)
			}
		})
	}
}

func TestListenSaysThatThePortIsTaken(t *testing.T) {
	s := listenTest(t, "127.0.0.1:0")
	if _, err := Listen(testContext(t), Config{Addr: s.LocalAddr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("error is %v", err)
	}
}

func TestFirstByteDecides(t *testing.T) {
	for b := range 256 {
		want := protoUnknown
		switch {
		case b <= 3:
			want = protoSTUN
		case b >= 64 && b <= 127, b >= 192:
			want = protoQUIC
		}
		if got := classify([]byte{byte(b)}); got != want {
			t.Errorf("first byte %d: %d, want %d", b, got, want)
		}
	}
	if classify(nil) != protoUnknown {
		t.Error("an empty datagram has a meaning")
	}
}

func TestSTUNGoesToItsHandlerAndUnknownIsDropped(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	var got []string
	s.HandleSTUN(func(b []byte, from netip.AddrPort) {
		if from != loopback4(remote) {
			t.Errorf("stun from %v", from)
		}
		got = append(got, string(b))
	})
	for _, b := range []string{"\x00binding", "\x01answer"} {
		if err := remote.WriteSTUN([]byte(b), loopback4(s)); err != nil {
			t.Fatal(err)
		}
	}
	for _, first := range []byte{4, 63, 128, 191, 'd' & 0x3f} {
		write(t, remote, []byte{first, 1, 2}, udp(loopback4(s)))
	}
	write(t, remote, quicPacket("hello"), udp(loopback4(s)))
	if text, from := readOne(t, s); text != "hello" || from != loopback4(remote) {
		t.Fatalf("%q from %v", text, from)
	}
	if strings.Join(got, "|") != "\x00binding|\x01answer" {
		t.Errorf("handler got %q", got)
	}
	if st := s.Stats(); st.STUNIn != 2 || st.DroppedUnknown != 5 || st.Packets != 1 {
		t.Errorf("%+v", st)
	}
	s.HandleSTUN(nil)
	if err := remote.WriteSTUN([]byte{1}, loopback4(s)); err != nil {
		t.Fatal(err)
	}
	write(t, remote, quicPacket("again"), udp(loopback4(s)))
	readOne(t, s)
	if st := s.Stats(); st.DroppedSTUN != 1 {
		t.Errorf("without handler: %+v", st)
	}
}

func TestWriteSTUNRefusesOtherThings(t *testing.T) {
	s := listenTest(t, "127.0.0.1:0")
	if err := s.WriteSTUN(quicPacket("x"), loopback4(s)); !errors.Is(err, ErrNotSTUN) {
		t.Errorf("QUIC: %v", err)
	}
	if err := s.WriteSTUN(nil, loopback4(s)); !errors.Is(err, ErrNotSTUN) {
		t.Errorf("nothing: %v", err)
	}
	if err := s.WriteSTUN([]byte{1}, aliasAddr(7)); err == nil {
		t.Error("a made-up address was written to")
	}
}

// receivedTTL reads one datagram from conn and returns its time to live.
func receivedTTL(t *testing.T, conn *net.UDPConn) int {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(testTime)); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, readOOB)
	_, n, _, _, err := conn.ReadMsgUDPAddrPort(make([]byte, 100), oob)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(ms) != 1 || len(ms[0].Data) < 4 {
		t.Fatalf("control messages %v, %v", ms, err)
	}
	return int(binary.NativeEndian.Uint32(ms[0].Data))
}

// listenTTL is a socket that is told the time to live of what it receives.
func listenTTL(t *testing.T, host string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp", udp(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVTTL
	if host == "::1" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return conn, addrPortOf(conn.LocalAddr())
}

func TestTimeToLiveIsThatOfOneDatagram(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	for name, c := range map[string]struct{ local, remote string }{
		"IPv4":             {"127.0.0.1:0", "127.0.0.1"},
		"IPv6":             {"[::1]:0", "::1"},
		"dual stack, IPv4": {"", "127.0.0.1"},
		"dual stack, IPv6": {"", "::1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := listenTest(t, c.local)
			conn, to := listenTTL(t, c.remote)
			for _, ttl := range []int{1, 3, 255} {
				if err := s.WriteSTUNTTL([]byte("\x00opener"), to, ttl); err != nil {
					t.Fatal(err)
				}
				if got := receivedTTL(t, conn); got != ttl {
					t.Errorf("%d arrived as %d", ttl, got)
				}
			}
			if err := s.WriteSTUN([]byte("\x00check"), to); err != nil {
				t.Fatal(err)
			}
			if got := receivedTTL(t, conn); got < 30 || got == 255 {
				t.Errorf("the next datagram has %d", got)
			}
			if st := s.Stats(); st.STUNOut != 4 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestTimeToLiveOutOfRangeIsRefused(t *testing.T) {
	s := listenTest(t, "127.0.0.1:0")
	for _, ttl := range []int{-1, 0, 256} {
		if err := s.WriteSTUNTTL([]byte{0}, loopback4(s), ttl); !errors.Is(err, ErrTTL) {
			t.Errorf("%d: %v", ttl, err)
		}
	}
	if err := s.WriteSTUNTTL(quicPacket("x"), loopback4(s), 3); !errors.Is(err, ErrNotSTUN) {
		t.Errorf("QUIC: %v", err)
	}
}

// sendJoined sends packets of one size in one datagram of a plain socket.
func sendJoined(t *testing.T, to netip.AddrPort, segment int, packets ...[]byte) {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, udp(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	oob := controlInfo{segment: segment, ecn: 2, hasECN: true}.appendSent(nil, to.Addr().Is4())
	if _, _, err := conn.WriteMsgUDP(bytes.Join(packets, nil), oob, nil); err != nil {
		t.Fatal(err)
	}
}

// receiveECN switches on what quic-go would.
func receiveECN(t *testing.T, s *Socket) {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v4 error
	if err := raw.Control(func(fd uintptr) {
		v4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil || v4 != nil {
		t.Fatal(err, v4)
	}
}

func TestJoinedDatagramIsHandedOutInPiecesWithItsControlMessages(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	s := listenTest(t, "")
	receiveECN(t, s)
	var stun []string
	s.HandleSTUN(func(b []byte, _ netip.AddrPort) { stun = append(stun, string(b)) })
	sendJoined(t, loopback4(s), 3, []byte("@00"), []byte("\x0011"), []byte("@22"), []byte("\xb033"), []byte("@44"), []byte("@5"))
	var got []string
	for len(got) < 4 {
		ms := batchOf(2) // fewer than there are pieces
		n, err := s.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			info := parseControl(m.OOB[:m.NN])
			if info.ecn != 2 || info.local != netip.MustParseAddr("127.0.0.1") || info.segment != 0 {
				t.Errorf("control messages say %+v", info)
			}
			got = append(got, string(m.Buffers[0][:m.N]))
		}
	}
	if text := strings.Join(got, ""); text != "@00@22@44@5" || strings.Join(stun, "") != "\x0011" {
		t.Errorf("QUIC got %q, STUN %q", text, stun)
	}
	if st := s.Stats(); s.rx.gro() && (st.Reads != 1 || st.GROReads != 1) || st.DroppedUnknown != 1 {
		t.Errorf("%+v", st)
	}
}

func TestPacketLargerThanTheReadersBufferIsDropped(t *testing.T) {
	s := listenTest(t, "127.0.0.1:0")
	for _, size := range []int{1451, 1452, 1453} {
		write(t, s, append([]byte{0x40}, make([]byte, size-1)...), s.LocalAddr())
	}
	ms := batchOf(8)
	var sizes []int
	for len(sizes) < 2 {
		n, err := s.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			sizes = append(sizes, m.N)
		}
	}
	write(t, s, quicPacket("end"), s.LocalAddr())
	if text, _ := readOne(t, s); text != "end" || sizes[0] != 1451 || sizes[1] != 1452 || s.Stats().TooLarge != 1 {
		t.Errorf("sizes %v, then %q; %+v", sizes, text, s.Stats())
	}
}

// batchFunc is a kernel of the test's own making.
type batchFunc func(ms []ipv4.Message) (int, error)

func (f batchFunc) ReadBatch(ms []ipv4.Message, _ int) (int, error) { return f(ms) }

func TestReadErrorsOfSingleDatagramsAreSkipped(t *testing.T) {
	for _, c := range []struct {
		failures int
		ok       bool
	}{{0, true}, {1, true}, {maxReadErrors - 1, true}, {maxReadErrors, false}} {
		s := listenTest(t, "")
		left := c.failures
		s.batch = batchFunc(func(ms []ipv4.Message) (int, error) {
			if left--; left >= 0 {
				return 0, os.NewSyscallError("recvmmsg", syscall.ECONNREFUSED)
			}
			ms[0].N, ms[0].NN = copy(ms[0].Buffers[0], quicPacket("x")), 0
			ms[0].Addr = udp(netip.MustParseAddrPort("127.0.0.1:9"))
			return 1, nil
		})
		_, err := s.ReadBatch(batchOf(8), 0)
		if c.ok && err != nil || !c.ok && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%d failures: %v", c.failures, err)
		}
		if got := s.Stats().ReadErrors; got != int64(c.failures) {
			t.Errorf("%d failures counted as %d", c.failures, got)
		}
	}
}

func TestReadDeadlineEndsReads(t *testing.T) {
	s := listenTest(t, "")
	if err := s.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, _, err := s.ReadFrom(make([]byte, 10))
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("error is %v", err)
		}
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := s.ReadBatch(batchOf(8), 0)
		failed <- err
	}()
	eventually(t, "the reader blocks", s.waiting.Load)
	if err := s.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error of a blocked read is %v", err)
	}
}

func TestCloseEndsReadsAndIsIdempotent(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	failed := make(chan error)
	go func() {
		_, err := s.ReadBatch(batchOf(8), 0)
		failed <- err
	}()
	eventually(t, "the reader blocks", s.waiting.Load)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("error of a blocked read is %v", err)
	}
	if _, _, err := s.ReadFrom(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error of a later read is %v", err)
	}
	if _, err := s.WriteTo(quicPacket(""), udp(loopback4(s))); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error of a later write is %v", err)
	}
	if err := p.Inject(quicPacket("")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error of Inject is %v", err)
	}
	if err := s.NewPeer().SetPath(Path{Kind: KindDirect, Addr: loopback4(s)}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error of a late peer is %v", err)
	}
}

func TestWhatOneDestinationRefusesDoesNotFailTheWrite(t *testing.T) {
	s := listenTest(t, "127.0.0.1:0")
	for i, to := range []string{
		"192.0.2.1:9",     // the kernel: EINVAL, nothing leads there from loopback
		"[2001:db8::1]:9", // package net: an IPv4 socket
	} {
		nowhere := netip.MustParseAddrPort(to)
		write(t, s, quicPacket("plain"), udp(nowhere))
		p := s.NewPeer()
		if err := p.SetPath(Path{Kind: KindDirect, Addr: nowhere}); err != nil {
			t.Fatal(err)
		}
		write(t, s, quicPacket("by peer"), p.Addr())
		if st := s.Stats(); st.WriteErrors != int64(2*i+2) || p.Stats().WriteErrors != 1 {
			t.Errorf("%s: %+v", to, st)
		}
	}
	if _, err := s.WriteTo(nil, &net.TCPAddr{}); err == nil {
		t.Error("a TCP address was accepted")
	}
}
