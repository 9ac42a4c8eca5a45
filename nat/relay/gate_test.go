package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/time/rate"
)

func build(t testing.TB, set ...stun.Setter) []byte {
	t.Helper()
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID}, set...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func request(method stun.Method) stun.Setter { return stun.NewType(method, stun.ClassRequest) }

// padding returns an ORIGIN that makes what it is added to n bytes longer.
func padding(n int) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrOrigin, Value: make([]byte, n-4)}
}

// Whatever somebody sends who has proved nothing, not more comes back, because
// the source may be somebody else's.
func TestReflectionFactorIsAtMostOne(t *testing.T) {
	s := startServer(t, Config{})
	conn, err := net.Dial("udp4", s.Ticket(Grant{}).UDP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const challengeSize = 120 // the 401 with realm and nonce
	stock := []stun.Setter{request(stun.MethodAllocate), transportUDP()}
	nonce := stun.NewNonce(s.nonceFor(loopback))
	worst := 0.0
	for _, c := range []struct {
		name string
		msg  []byte
		want int
	}{
		{"bare Allocate", build(t, request(stun.MethodAllocate)), 0},
		{"stock client's Allocate", build(t, append(stock, stun.Fingerprint)...), 0},
		{"Allocate one word short", build(t, append(stock, padding(challengeSize-4-28))...), 0},
		{"Allocate as long as its answer", build(t, append(stock, padding(challengeSize-28))...), challengeSize},
		{"longest Allocate", build(t, append(stock, padding(MaxMessage-28))...), challengeSize},
		{"Allocate one word above the limit", build(t, append(stock, padding(MaxMessage+4-28))...), 0},
		{"Refresh, padded", build(t, request(stun.MethodRefresh), padding(200)), challengeSize},
		{"Allocate with a forged signature", build(t, append(stock, stun.NewUsername("user"), stun.NewRealm(realm), nonce,
			stun.NewShortTermIntegrity("x"))...), 28},
		{"CreatePermission", build(t, request(stun.MethodCreatePermission), padding(200)), 0},
		{"ChannelBind", build(t, request(stun.MethodChannelBind), padding(200)), 0},
		{"bare Binding", build(t, request(stun.MethodBinding)), 0},
		{"Binding, padded", build(t, request(stun.MethodBinding), padding(20)), 40},
		{"Send indication", build(t, stun.NewType(stun.MethodSend, stun.ClassIndication), padding(200)), 0},
		{"response", build(t, stun.NewType(stun.MethodAllocate, stun.ClassSuccessResponse), padding(200)), 0},
		{"empty peer address", build(t, stun.NewType(stun.MethodSend, stun.ClassIndication),
			stun.RawAttribute{Type: stun.AttrXORPeerAddress}, padding(200)), 0},
		{"attribute over the end", append(build(t, request(stun.MethodAllocate))[:20], 0, 6, 0, 200), 0},
		{"ChannelData", append([]byte{0x40, 0, 0, 200}, make([]byte, 200)...), 0},
		{"ChannelData with a wrong length", []byte{0x40, 0, 0, 200}, 0},
		{"DTLS", append([]byte{22, 254, 253}, make([]byte, 200)...), 0},
		{"QUIC", append([]byte{0xC0}, make([]byte, 1200)...), 0},
		{"one byte", []byte{0}, 0},
	} {
		if _, err := conn.Write(c.msg); err != nil {
			t.Fatal(err)
		}
		// A padded Binding is answered in order behind it: no waiting.
		probe := build(t, request(stun.MethodBinding), padding(20))
		if _, err := conn.Write(probe); err != nil {
			t.Fatal(err)
		}
		got := 0
		for b := make([]byte, 2000); ; {
			conn.SetReadDeadline(time.Now().Add(patience))
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if n >= stunHeader && bytes.Equal(b[8:20], probe[8:20]) {
				break
			}
			got += n
		}
		factor := float64(got) / float64(len(c.msg))
		t.Logf("%-34s %4d bytes in, %3d out, factor %.2f", c.name, len(c.msg), got, factor)
		worst = max(worst, factor)
		if got != c.want {
			t.Errorf("%s: %d bytes back, want %d", c.name, got, c.want)
		}
	}
	t.Logf("worst factor %.2f; without the rule a bare Allocate would have %.1f", worst, challengeSize/20.0)
	if worst > 1 {
		t.Errorf("factor %.2f", worst)
	}
}

func TestUnprovenDatagramsAreLimitedPerNetwork(t *testing.T) {
	now := time.Now()
	b := newPrefixBuckets(10, 3)
	a, near, far := netip.MustParseAddr("44.128.0.1"), netip.MustParseAddr("44.128.0.200"), netip.MustParseAddr("44.128.1.1")
	for i, from := range []netip.Addr{a, near, a} {
		if !b.allow(from, now) {
			t.Errorf("datagram %d refused within the burst", i+1)
		}
	}
	if b.allow(near, now) {
		t.Error("datagram above the burst allowed")
	}
	other := newPrefixBuckets(10, 3) // another seed, so that no collision is stable
	if !b.allow(far, now) && !other.allow(far, now) {
		t.Error("another network refused")
	}
	if !b.allow(a, now.Add(100*time.Millisecond)) {
		t.Error("refused after a tenth of a second at 10/s")
	}
	for _, c := range []struct{ a, b string }{{"2a00:0:0:1::1", "2a00:0:0:ff::1"}, {"::ffff:44.128.0.1", "44.128.0.99"}} {
		if prefixOf(netip.MustParseAddr(c.a)) != prefixOf(netip.MustParseAddr(c.b)) {
			t.Errorf("%s and %s are not one network", c.a, c.b)
		}
	}

	s := startServer(t, Config{Now: frozen(), Limits: Limits{UnprovenPerSecond: 1, UnprovenBurst: 2}})
	conn, err := net.Dial("udp4", s.Ticket(Grant{}).UDP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 5 {
		conn.Write(build(t, request(stun.MethodAllocate)))
	}
	eventually(t, "refusals", func() bool { return refusals(s, unprovenRate) == 3 && refusals(s, shortRequest) == 2 })
}

// pion closes an allocation and adds a permission without a common lock; the
// gate keeps its timers away from requests, and requests within a rate.
func TestRequestsOnAnAllocationAreLimited(t *testing.T) {
	s := startServer(t, Config{Now: frozen(), Limits: Limits{ControlPerSecond: 1, ControlBurst: 4}})
	a := allocate(t, s, Grant{Client: "a"}, "udp", nil)
	for range 4 {
		if _, err := a.refresh(within(t, patience), defaultLifetime); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.refresh(within(t, 50*time.Millisecond), defaultLifetime); !errors.Is(err, ErrLost) {
		t.Errorf("request above the burst: %v", err)
	}
	if refusals(s, controlRate) == 0 {
		t.Error("not counted")
	}
}

func TestShortLifetimesAreRefused(t *testing.T) {
	s := startServer(t, Config{})
	a := allocate(t, s, Grant{Client: "a"}, "udp", nil)
	for _, c := range []struct {
		seconds uint32
		ok      bool
	}{{1, false}, {minLifetime - 1, false}, {minLifetime, true}, {maxLifetime, true}, {1 << 31, true}, {0, true}} {
		limit := patience
		if !c.ok { // met with silence
			limit = 50 * time.Millisecond
		}
		_, err := a.refresh(within(t, limit), c.seconds)
		if (err == nil) != c.ok {
			t.Errorf("lifetime %d s: %v", c.seconds, err)
		}
	}
	eventually(t, "end by lifetime 0", func() bool { return s.Stats().Allocations == 0 })
}

func TestUnsupportedAllocationsAreRefused(t *testing.T) {
	s := startServer(t, Config{})
	for name, c := range map[string]struct {
		extra stun.Setter
		want  error
		why   reason
	}{
		"even port":      {stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0x80}}, ErrFull, unsupported},
		"reservation":    {stun.RawAttribute{Type: stun.AttrReservationToken, Value: make([]byte, 8)}, ErrFull, unsupported},
		"tcp":            {stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{6, 0, 0, 0}}, ErrFull, unsupported},
		"ipv6":           {stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{2, 0, 0, 0}}, ErrFamily, noFamily},
		"unknown family": {stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{3, 0, 0, 0}}, ErrFamily, noFamily},
		"family zero":    {stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{0, 0, 0, 0}}, ErrFamily, noFamily},
	} {
		ticket := s.Ticket(Grant{Client: name})
		a, err := connect(within(t, patience), ticket, Options{Network: "udp", KeepAlive: time.Minute},
			door{addr: netip.MustParseAddrPort(ticket.UDP[0])})
		if err != nil {
			t.Fatal(err)
		}
		before := refusals(s, c.why)
		if err := a.handshake(within(t, patience), c.extra); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if n := refusals(s, c.why); n != before+1 {
			t.Errorf("%s: counted %d times as %s", name, n-before, reasonNames[c.why])
		}
		a.Close()
	}
	if n := s.Stats().Allocations; n != 0 {
		t.Errorf("%d allocations", n)
	}
}

// One who knows a client's address but not its ticket gets nowhere with a
// ticket of his own.
func TestAnotherTicketCannotTakeOverAnAllocation(t *testing.T) {
	s := startServer(t, Config{})
	a := allocate(t, s, Grant{Client: "a"}, "udp", nil)
	stranger := s.Ticket(Grant{Client: "b"})
	theirs := newCredentials(stranger, "")
	a.creds.mu.Lock()
	a.creds.username, a.creds.key = stranger.Username, theirs.key
	a.creds.mu.Unlock()
	if _, err := a.refresh(within(t, patience), 0); !errors.Is(err, ErrRefused) {
		t.Errorf("refresh with another ticket: %v", err)
	}
	if s.Stats().Allocations != 1 || refusals(s, wrongUser) != 1 {
		t.Errorf("stats %+v", s.Stats())
	}
}

func TestUnsolicitedPacketsDoNotReachTheClient(t *testing.T) {
	s := startServer(t, Config{AllowPeer: anyPeer})
	in := &inbox{}
	a := allocate(t, s, Grant{Client: "a"}, "udp", in)
	c, err := net.Dial("udp4", a.RelayedAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("unsolicited"))
	eventually(t, "refusal", func() bool { return refusals(s, unsolicited) == 1 })
	if err := a.Permit(within(t, patience), loopback); err != nil {
		t.Fatal(err)
	}
	c.Write(make([]byte, MaxPayload+1))
	eventually(t, "refusal by size", func() bool { return refusals(s, oversize) == 1 })
	c.Write(make([]byte, MaxPayload))
	eventually(t, "packet", func() bool { n, _ := in.total(); return n == MaxPayload })
	if st := s.Stats(); st.BytesToClients != MaxPayload {
		t.Errorf("charged %d bytes", st.BytesToClients)
	}
}

func dialTCP(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", s.Ticket(Grant{}).TCP[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func closedByServer(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	var ne net.Error
	return err != nil && !(errors.As(err, &ne) && ne.Timeout())
}

func TestTCPConnectionsAreLimited(t *testing.T) {
	for name, limits := range map[string]Limits{
		"in all":     {Connections: 2},
		"per prefix": {ConnectionsPerPrefix: 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, Config{Limits: limits})
			first, _ := dialTCP(t, s), dialTCP(t, s)
			eventually(t, "two connections", func() bool { return s.Stats().Connections == 2 })
			if !closedByServer(dialTCP(t, s)) || refusals(s, connections) != 1 {
				t.Errorf("third connection: %+v", s.Stats())
			}
			first.Close()
			eventually(t, "room", func() bool { return s.Stats().Connections == 1 })
			allocate(t, s, Grant{Client: "a"}, "tcp", nil)
		})
	}
}

func TestTCPConnectionsMustComeToThePoint(t *testing.T) {
	const setUp = 50 * time.Millisecond
	s := startServer(t, Config{Limits: Limits{SetUp: setUp}})
	if !closedByServer(dialTCP(t, s)) {
		t.Error("a mute connection stays open")
	}
	garbage := dialTCP(t, startServer(t, Config{}))
	garbage.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if !closedByServer(garbage) {
		t.Error("garbage accepted")
	}
	a := allocate(t, startServer(t, Config{Limits: Limits{SetUp: time.Second}}), Grant{Client: "a"}, "tcp", nil)
	select {
	case <-a.Closed():
		t.Errorf("closed in spite of an allocation: %v", a.Err())
	case <-time.After(1200 * time.Millisecond):
	}
}

func TestStreamFraming(t *testing.T) {
	channelData := func(n int) []byte {
		b := append([]byte{0x40, 0x01}, be16(uint16(n))...)
		return append(b, make([]byte, (n+3)&^3)...)
	}
	stunOf := func(n int) []byte {
		b := make([]byte, n)
		binary.BigEndian.PutUint16(b, typeBinding)
		binary.BigEndian.PutUint16(b[2:], uint16(n-stunHeader))
		binary.BigEndian.PutUint32(b[4:], cookie)
		return b
	}
	for _, c := range []struct {
		name string
		in   []byte
		want []int // sizes read, then an error
	}{
		{"two messages", append(stunOf(20), stunOf(40)...), []int{20, 40}},
		{"padding is not part of the message", append(channelData(1), channelData(4)...), []int{5, 8}},
		{"empty channel data", channelData(0), []int{4}},
		{"largest", channelData(MaxMessage - channelHeader), []int{MaxMessage}},
		{"one above", channelData(MaxMessage - channelHeader + 1), nil},
		{"length 65535", append([]byte{0, 1, 0xFF, 0xFF}, make([]byte, 100)...), nil},
		{"neither kind", append([]byte{0x80, 0, 0, 0}, make([]byte, 100)...), nil},
		{"cut off", stunOf(40)[:30], nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			theirs, ours := net.Pipe()
			go func() { // one byte at a time: frames do not respect segments
				defer theirs.Close()
				for i := range c.in {
					if _, err := theirs.Write(c.in[i : i+1]); err != nil {
						return
					}
				}
			}()
			defer ours.Close()
			s := newStreamConn(ours)
			var b [inboundBuffer]byte
			for i, want := range c.want {
				if n, _, err := s.ReadFrom(b[:]); n != want || err != nil {
					t.Fatalf("message %d: %d bytes, %v; want %d", i+1, n, err, want)
				}
			}
			if n, _, err := s.ReadFrom(b[:]); err == nil {
				t.Errorf("%d bytes more", n)
			}
		})
	}
}

func TestAStreamThatIsNotReadIsClosed(t *testing.T) {
	theirs, ours := net.Pipe()
	theirs.Close()
	s := newStreamConn(ours)
	if _, err := s.WriteTo(make([]byte, 8), nil); err == nil {
		t.Error("write succeeded")
	}
	if _, err := ours.Write([]byte{0}); err == nil {
		t.Error("still open")
	}
}

func TestAccounts(t *testing.T) {
	now := time.Now()
	a := newAccount(Stranger, ClassLimits{BytesPerSecond: 1000, BurstBytes: 2000, BytesPerDay: 5000}, now)
	for i, c := range []struct {
		n    int
		at   time.Duration
		want verdict
	}{
		{2000, 0, pass}, {1, 0, overRate}, {1000, time.Second, pass},
		{2000, 10 * time.Second, pass}, {1, 10 * time.Second, overQuota},
		{1, accountPeriod, pass},
	} {
		if got := a.charge(c.n, now.Add(c.at)); got != c.want {
			t.Errorf("step %d: %v, want %v", i+1, got, c.want)
		}
	}
	if a.limiter.Burst() != 2000 || a.limiter.Limit() != rate.Limit(1000) {
		t.Error("limiter does not follow the class")
	}
}

// Strangers with many keys fill the table of accounts, and lock out each other.
func TestManyStrangersDoNotLockAFriendOut(t *testing.T) {
	s := startServer(t, Config{})
	s.mu.Lock()
	for i := range maxAccounts {
		a := newAccount(Stranger, s.cfg.Limits.Stranger, s.now())
		a.bytes = int64(1 + i)
		s.accounts[clientTag(binary.BigEndian.AppendUint64(nil, uint64(i)))] = a
	}
	s.mu.Unlock()
	if _, err := tryAllocate(t, s.Ticket(Grant{Client: "stranger"}), "udp", nil); !errors.Is(err, ErrFull) || refusals(s, allFull) != 1 {
		t.Errorf("one stranger more: %v", err)
	}
	allocate(t, s, Grant{Client: "friend", Class: Friend}, "udp", nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.accounts[clientTag{}]; ok || len(s.accounts) != maxAccounts {
		t.Errorf("%d accounts, that with the fewest bytes among them: %v", len(s.accounts), ok)
	}
}

func TestConfigIsChecked(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	udp := []net.PacketConn{pc}
	for name, cfg := range map[string]Config{
		"no sockets":       {RelayIP: loopback},
		"no relay address": {UDP: udp},
		"ipv6 as ipv4":     {UDP: udp, RelayIP: netip.IPv6Loopback()},
		"ipv4 as ipv6":     {UDP: udp, RelayIP6: loopback},
		"mapped as ipv6":   {UDP: udp, RelayIP6: netip.MustParseAddr("::ffff:44.128.0.1")},
		"zoned ipv6":       {UDP: udp, RelayIP6: netip.MustParseAddr("fe80::1%eth0")},
		"ipv6 bound ipv4":  {UDP: udp, RelayIP6: netip.IPv6Loopback(), ListenIP6: loopback},
		"empty range":      {UDP: udp, RelayIP: loopback, MinPort: 2, MaxPort: 1},
		"half a range":     {UDP: udp, RelayIP: loopback, MaxPort: 1},
	} {
		if _, err := NewServer(cfg); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	free, err := listenRelayed(loopback, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	port := free.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if c, err := listenRelayed(loopback, port, port); err == nil {
		c.Close()
		t.Error("a taken range served")
	}
	free.Close()
	c, err := listenRelayed(loopback, port, port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Port(); got != port {
		t.Errorf("port %d outside the range", got)
	}
}

// The gate and pion's decoder behind it, on whatever the wire brings. Seeds:
// each message type with each attribute cut short.
func FuzzGate(f *testing.F) {
	for _, kind := range []uint16{typeAllocate, typeSend, typeData, typeChannelBind, typeAllocate | classSuccess} {
		for _, attr := range []uint16{attrPeerAddress, attrRelayed, attrMapped, attrLifetime, attrErrorCode, attrTransport, attrChannelNumber, attrNonce} {
			for _, n := range []int{0, 1, 3, 4, 8, 20} {
				b := make([]byte, stunHeader, stunHeader+4+n)
				binary.BigEndian.PutUint16(b, kind)
				binary.BigEndian.PutUint32(b[4:], cookie)
				b = append(append(b, be16(attr)...), be16(uint16(n))...)
				b = append(b, make([]byte, (n+3)&^3)...)
				binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stunHeader))
				f.Add(b)
			}
		}
	}
	f.Add([]byte{0x40, 0, 0, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b):len(b)]
		if number, data, err := parseChannelData(b); err == nil && (number < firstChannel || len(data)+channelHeader > len(b)) {
			t.Errorf("channel %#x, %d bytes of %d", number, len(data), len(b))
		}
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		d := stun.Message{Raw: append([]byte(nil), b...)}
		if err := d.Decode(); err != nil {
			t.Fatalf("the gate passes what pion refuses: %v", err)
		}
		for _, kind := range []uint16{attrPeerAddress, attrRelayed, attrMapped} {
			ap, ok := m.address(kind)
			var x stun.XORMappedAddress
			err := x.GetFromAs(&d, stun.AttrType(kind))
			if ok != (err == nil) {
				t.Fatalf("attribute %#x: we say %v, pion %v", kind, ap, err)
			}
			if theirs, _ := netip.AddrFromSlice(x.IP); ok && (theirs != ap.Addr() || x.Port != int(ap.Port())) {
				t.Fatalf("attribute %#x: we say %v, pion %v", kind, ap, x)
			}
		}
		m.errorCode()
		m.lifetime()
	})
}

func TestReasonsAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for r, name := range reasonNames {
		if name == "" || seen[name] || strings.ToLower(name) != name {
			t.Errorf("reason %d has the name %q", r, name)
		}
		seen[name] = true
	}
}
