package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func TestWritesToAPeerWithoutPathVanishCounted(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	write(t, s, quicPacket("x"), p.Addr())
	if p.Stats().NoPath != 1 || s.Stats().NoPath != 1 {
		t.Errorf("%+v", s.Stats())
	}
	p.Close()
	write(t, s, quicPacket("x"), p.Addr())
	write(t, s, quicPacket("x"), udp(aliasAddr(99)))
	if s.Stats().NoPath != 3 {
		t.Errorf("after close: %+v", s.Stats())
	}
}

func TestConstantAddressesAreFresh(t *testing.T) {
	s := listenTest(t, "")
	a := s.NewPeer()
	a.Close()
	if b := s.NewPeer(); a.Addr().String() == b.Addr().String() {
		t.Errorf("%v was given out twice", b.Addr())
	}
}

func TestUnusablePathsAreRefused(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	good := netip.MustParseAddrPort("127.0.0.1:1")
	for name, path := range map[string]Path{
		"no kind":      {Addr: good},
		"unknown kind": {Kind: 9, Addr: good},
		"both":         {Kind: KindRelay, Addr: good, Carrier: carrierTo{p}},
		"neither":      {Kind: KindDirect},
		"no port":      {Kind: KindDirect, Addr: netip.MustParseAddrPort("127.0.0.1:0")},
		"unspecified":  {Kind: KindDirect, Addr: netip.MustParseAddrPort("[::]:1")},
		"made up":      {Kind: KindDirect, Addr: aliasAddr(1)},
	} {
		if err := p.SetPath(path); !errors.Is(err, ErrPath) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.Path() != (Path{}) || p.Path().Kind.String() != "none" {
		t.Errorf("path is %+v", p.Path())
	}
	if err := p.Accept(netip.AddrPort{}); !errors.Is(err, ErrPath) {
		t.Errorf("accept of nothing: %v", err)
	}
}

func TestEverySourceOfAPeerShowsItsConstantAddress(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	var remotes []*Socket
	for range 3 {
		remotes = append(remotes, listenTest(t, "127.0.0.1:0"))
	}
	if err := p.SetPath(Path{Kind: KindDirect, Addr: loopback4(remotes[0])}); err != nil {
		t.Fatal(err)
	}
	if err := p.Accept(loopback4(remotes[1])); err != nil {
		t.Fatal(err)
	}
	if got := p.Path().Addr; got != loopback4(remotes[0]) {
		t.Errorf("Accept moved the path to %v", got)
	}
	wants := []netip.AddrPort{p.alias, p.alias, loopback4(remotes[2])}
	for i, r := range remotes {
		write(t, r, quicPacket("x"), udp(loopback4(s)))
		if _, from := readOne(t, s); from != wants[i] {
			t.Errorf("source %d is shown as %v, want %v", i, from, wants[i])
		}
	}
	p.Close()
	write(t, remotes[0], quicPacket("x"), udp(loopback4(s)))
	if _, from := readOne(t, s); from != loopback4(remotes[0]) {
		t.Errorf("after Close it is shown as %v", from)
	}
}

func TestOldestSourcesAreForgottenButNotThePath(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	at := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	}
	if err := p.SetPath(Path{Kind: KindDirect, Addr: at(1)}); err != nil {
		t.Fatal(err)
	}
	for port := uint16(2); port <= maxSources+1; port++ {
		if err := p.Accept(at(port)); err != nil {
			t.Fatal(err)
		}
		if n := len(p.sources); n > maxSources {
			t.Fatalf("%d sources", n)
		}
	}
	for port := uint16(1); port <= maxSources+1; port++ {
		known := s.peers.source(at(port)) != nil
		if want := port != 2; known != want {
			t.Errorf("source %d known: %v", port, known)
		}
	}
	if n := len(s.peers.sources); n != maxSources {
		t.Errorf("the table has %d sources", n)
	}
}

func TestASourceChangesHandsToTheLastThatAskedForIt(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	a, b := s.NewPeer(), s.NewPeer()
	for _, p := range []*Peer{a, b} {
		if err := p.Accept(loopback4(remote)); err != nil {
			t.Fatal(err)
		}
	}
	a.Close() // must not take b's binding along
	write(t, remote, quicPacket("x"), udp(loopback4(s)))
	if _, from := readOne(t, s); from != b.alias {
		t.Errorf("shown as %v", from)
	}
}

func TestMadeUpSourceAddressesAreDropped(t *testing.T) {
	s := listenTest(t, "")
	m := batchOf(1)[0]
	m.Addr, m.N = s.NewPeer().Addr(), 5
	if s.begin(&s.rx.cur, &m) || s.Stats().DroppedUnknown != 1 {
		t.Error("a forged constant address got in")
	}
}

func TestRepliesLeaveFromTheAddressThatWasWrittenTo(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	receiveECN(t, s)
	p := s.NewPeer()
	if err := p.SetPath(Path{Kind: KindDirect, Addr: loopback4(remote)}); err != nil {
		t.Fatal(err)
	}
	second := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), s.Port())
	write(t, remote, quicPacket("to the second"), udp(second))
	readOne(t, s)
	write(t, s, quicPacket("reply"), p.Addr())
	if _, from := readOne(t, remote); from != second {
		t.Errorf("reply came from %v", from)
	}
	// The address goes away: the packet leaves all the same.
	b := s.peers.source(loopback4(remote))
	b.local.Store(&localAddr{addr: netip.MustParseAddr("192.0.2.1")})
	write(t, s, quicPacket("moved"), p.Addr())
	if text, from := readOne(t, remote); text != "moved" || from != loopback4(s) {
		t.Errorf("%q came from %v", text, from)
	}
	if b.local.Load() != nil || p.Stats().WriteErrors != 0 {
		t.Errorf("the lost address is still known; %+v", p.Stats())
	}
}

func TestForgottenLocalAddressesAreNotUsedAgain(t *testing.T) {
	s := listenTest(t, "")
	receiveECN(t, s)
	second := netip.MustParseAddr("127.0.0.2")
	// What quic-go remembers of an incoming session is where it came to.
	remembered := controlInfo{local: second}.appendSent(nil, true)
	for name, forget := range map[string]func(*Peer) error{
		"by the socket": func(*Peer) error { s.ForgetLocal(); return nil },
		"by the peer":   func(p *Peer) error { return p.SetPath(p.Path()) },
	} {
		remote := listenTest(t, "127.0.0.1:0")
		p := s.Adopt(loopback4(remote))
		from := func(when string, want netip.Addr) {
			t.Helper()
			if _, _, err := s.WriteMsgUDP(quicPacket("x"), remembered, p.Addr()); err != nil {
				t.Fatal(err)
			}
			if _, got := readOne(t, remote); got.Addr() != want {
				t.Errorf("%s: %s sent from %v, want %v", name, when, got, want)
			}
		}
		from("at first", second)
		write(t, remote, quicPacket("x"), udp(netip.AddrPortFrom(second, s.Port())))
		readOne(t, s)
		from("learned", second)
		if err := forget(p); err != nil {
			t.Fatal(err)
		}
		from("forgotten", loopback4(s).Addr())
		write(t, remote, quicPacket("x"), udp(netip.AddrPortFrom(second, s.Port())))
		readOne(t, s)
		from("learned anew", second)
	}
}

func TestECNIsWrittenInTheFamilyOfThePath(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	s := listenTest(t, "")
	for name, to := range map[string]func(*Socket) netip.AddrPort{"IPv4": loopback4, "IPv6": loopback6} {
		remote := listenTest(t, "")
		receiveECN(t, remote)
		p := s.NewPeer()
		if err := p.SetPath(Path{Kind: KindDirect, Addr: to(remote)}); err != nil {
			t.Fatal(err)
		}
		// quic-go looks at the constant address, which is IPv6.
		oob := controlInfo{ecn: 1, hasECN: true}.appendSent(nil, false)
		if _, _, err := s.WriteMsgUDP(quicPacket("x"), oob, p.Addr()); err != nil {
			t.Fatal(err)
		}
		ms := batchOf(1)
		if _, err := remote.ReadBatch(ms, 0); err != nil {
			t.Fatal(err)
		}
		if got := parseControl(ms[0].OOB[:ms[0].NN]); got.ecn != 1 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWhatTheKernelWillNotSplitIsSplitHere(t *testing.T) {
	if !offload() {
		t.Skip("control messages do not pass the emulator")
	}
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	_ = remote.SetReadBuffer(1 << 20)
	p := s.NewPeer()
	if err := p.SetPath(Path{Kind: KindDirect, Addr: loopback4(remote)}); err != nil {
		t.Fatal(err)
	}
	const packets = 150 // above UDP_MAX_SEGMENTS: EINVAL
	var all []byte
	for i := range packets {
		all = fmt.Appendf(all, "@%03d", i)
	}
	oob := controlInfo{segment: 4}.appendSent(nil, true)
	if n, _, err := s.WriteMsgUDP(all, oob, p.Addr()); err != nil || n != len(all) {
		t.Fatalf("%d, %v", n, err)
	}
	for i := range packets {
		if text, _ := readOne(t, remote); text != fmt.Sprintf("%03d", i) {
			t.Fatalf("packet %d is %q", i, text)
		}
	}
	if st := p.Stats(); st.Direct.TxPackets != packets || st.Direct.TxBytes != 4*packets {
		t.Errorf("%+v", st)
	}
}

// recorder is a carrier that keeps what it is given.
type recorder struct {
	packets [][]byte
	limit   int
}

func (r *recorder) WritePacket(b []byte) error {
	if r.limit > 0 && len(b) > r.limit {
		return ErrTooLarge
	}
	r.packets = append(r.packets, bytes.Clone(b))
	return nil
}

func TestCarriersGetSinglePackets(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int
		segment int
		want    []int
	}{
		{"no segments", 10, 0, []int{10}},
		{"one short", 2, 4, []int{2}},
		{"exactly one", 4, 4, []int{4}},
		{"last shorter", 9, 4, []int{4, 4, 1}},
		{"all equal", 8, 4, []int{4, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, r := listenTest(t, ""), &recorder{}
			p := s.NewPeer()
			if err := p.SetPath(Path{Kind: KindRelay, Carrier: r}); err != nil {
				t.Fatal(err)
			}
			b := []byte("@123456789")[:c.size]
			oob := controlInfo{segment: c.segment, ecn: 1, hasECN: true}.appendSent(nil, false)
			if n, _, err := s.WriteMsgUDP(b, oob, p.Addr()); n != c.size || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			var sizes []int
			for _, one := range r.packets {
				sizes = append(sizes, len(one))
			}
			if fmt.Sprint(sizes) != fmt.Sprint(c.want) || !bytes.Equal(bytes.Join(r.packets, nil), b) {
				t.Errorf("sizes %v, content %q", sizes, r.packets)
			}
		})
	}
}

func TestWhatACarrierRefusesIsALostPacket(t *testing.T) {
	s, r := listenTest(t, ""), &recorder{limit: PacketSize}
	p := s.NewPeer()
	if err := p.SetPath(Path{Kind: KindRelay, Carrier: r}); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{PacketSize - 1, PacketSize, PacketSize + 1} {
		write(t, s, make([]byte, size), p.Addr())
	}
	if len(r.packets) != 2 || p.Stats().CarrierRefused != 1 || p.Stats().Relay.TxPackets != 2 {
		t.Errorf("%d packets, %+v", len(r.packets), p.Stats())
	}
}

func TestInjectLimits(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	for _, size := range []int{MaxPacket - 1, MaxPacket, MaxPacket + 1} {
		if err := p.Inject(append([]byte{0x40}, make([]byte, size-1)...)); err != nil {
			t.Fatal(err)
		}
	}
	if st := p.Stats(); st.TooLarge != 1 || st.Relay.RxPackets != 2 {
		t.Errorf("%+v", st)
	}
	for range maxInboxPeer - 2 {
		_ = p.Inject(quicPacket("x"))
	}
	if st := p.Stats(); st.QueueFull != 0 {
		t.Errorf("at the limit: %+v", st)
	}
	_ = p.Inject(quicPacket("one too many"))
	if st := p.Stats(); st.QueueFull != 1 {
		t.Errorf("above the limit: %+v", st)
	}
	for range maxInbox/maxInboxPeer - 1 {
		other := s.NewPeer()
		for range maxInboxPeer {
			_ = other.Inject(quicPacket("x"))
		}
		if other.Stats().QueueFull != 0 {
			t.Errorf("one peer left no room for another: %+v", other.Stats())
		}
	}
	last := s.NewPeer()
	_ = last.Inject(quicPacket("x"))
	if last.Stats().QueueFull != 1 || s.Stats().QueueFull != 2 {
		t.Errorf("the whole queue has no limit: %+v", s.Stats())
	}
	_ = last.Inject([]byte{0x00, 0x01})
	if s.Stats().DroppedUnknown != 1 {
		t.Error("STUN by carrier got to QUIC")
	}
}

func TestPacketsOfAClosedPeerAreThrownAway(t *testing.T) {
	s := listenTest(t, "")
	a, b := s.NewPeer(), s.NewPeer()
	_ = a.Inject(quicPacket("a"))
	_ = b.Inject(quicPacket("b"))
	a.Close()
	if text, from := readOne(t, s); text != "b" || from != b.alias {
		t.Errorf("%q from %v", text, from)
	}
}

func TestInjectWakesABlockedReaderEachTime(t *testing.T) {
	s := listenTest(t, "")
	p := s.NewPeer()
	// A deadline of the owner stays in force beneath the waking.
	if err := s.SetReadDeadline(time.Now().Add(testTime)); err != nil {
		t.Fatal(err)
	}
	const times = 3000
	got := make(chan byte)
	go func() {
		ms := batchOf(8)
		for seen := 0; seen < times; {
			n, err := s.ReadBatch(ms, 0)
			if err != nil {
				t.Errorf("after %d packets: %v", seen, err)
				close(got)
				return
			}
			seen += n
			got <- ms[0].Buffers[0][1]
		}
	}()
	for i := range times {
		if err := p.Inject([]byte{0x40, byte(i)}); err != nil {
			t.Fatal(err)
		}
		if b, ok := <-got; !ok || b != byte(i) {
			t.Fatalf("packet %d is %d (%v)", i, b, ok)
		}
	}
}

func TestCarriersAndSocketDoNotStarveEachOther(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	p := s.NewPeer()
	for range maxInboxPeer {
		_ = p.Inject(quicPacket("carried"))
	}
	write(t, remote, quicPacket("direct"), udp(loopback4(s)))
	ms, seen := batchOf(8), false
	for range 2 {
		n, err := s.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			seen = seen || string(m.Buffers[0][1:m.N]) == "direct"
		}
	}
	if !seen {
		t.Error("16 packets of a carrier went before one of the socket")
	}
}

// TestPathsMayChangeFromAnywhere is for the race detector.
func TestPathsMayChangeFromAnywhere(t *testing.T) {
	s, remote := listenTest(t, ""), listenTest(t, "127.0.0.1:0")
	p := s.NewPeer()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 200 {
				switch (n + i) % 5 {
				case 0:
					_ = p.SetPath(Path{Kind: KindDirect, Addr: loopback4(remote)})
				case 1:
					_ = p.SetPath(Path{Kind: KindRelay, Carrier: carrierTo{p}})
				case 2:
					_ = p.SetPath(Path{})
				case 3:
					_ = p.Accept(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(n+1)))
				default:
					write(t, s, quicPacket("x"), p.Addr())
					_, _ = p.Stats(), s.Stats()
				}
			}
		})
	}
	wg.Wait()
	p.Close()
	if err := p.Accept(loopback4(remote)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}
