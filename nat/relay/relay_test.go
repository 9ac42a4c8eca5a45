package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testClock is real time plus what a test adds.
type testClock struct{ ahead atomic.Int64 }

func (c *testClock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *testClock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// frozen is a clock that stands, so that no bucket refills.
func frozen() func() time.Time {
	now := time.Now()
	return func() time.Time { return now }
}

// startServer serves on loopback, towards loopback, with limits wide open
// unless cfg says otherwise.
func startServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.UDP, cfg.TCP = append([]net.PacketConn{pc}, cfg.UDP...), append([]net.Listener{l}, cfg.TCP...)
	if !cfg.RelayIP.IsValid() {
		cfg.RelayIP, cfg.ListenIP = loopback, loopback
	}
	if cfg.RelayIP != loopback {
		local, _ := addrPort(pc.LocalAddr())
		cfg.AdvertiseUDP = []netip.AddrPort{local}
	}
	if cfg.Limits.PerPrefix == 0 {
		cfg.Limits.PerPrefix = 1000
	}
	if cfg.Limits.ConnectionsPerPrefix == 0 {
		cfg.Limits.ConnectionsPerPrefix = 1000
	}
	if cfg.Limits.UnprovenPerSecond == 0 {
		cfg.Limits.UnprovenPerSecond, cfg.Limits.UnprovenBurst = 10000, 10000
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	eventually(t, "a nonce for tickets", func() bool { return s.nonceFor(loopback) != "" })
	return s
}

func anyPeer(netip.Addr) bool { return true }

// patience is for loaded machines; only failures take so long.
const patience = 20 * time.Second

// eventually polls a condition that other goroutines make true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("no %s within %v", what, patience)
		}
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// inbox collects what a handler gets.
type inbox struct {
	mu    sync.Mutex
	bytes int64
	count int
	last  []byte
	from  netip.AddrPort
}

func (i *inbox) handle(b []byte, from netip.AddrPort) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bytes += int64(len(b))
	i.count++
	i.last = append(i.last[:0], b...)
	i.from = from
}

func (i *inbox) total() (int64, int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.bytes, i.count
}

func (i *inbox) got(b []byte, from netip.AddrPort) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return bytes.Equal(i.last, b) && i.from == from
}

func allocate(t testing.TB, s *Server, g Grant, network string, in *inbox) *Allocation {
	t.Helper()
	a, err := tryAllocate(t, s.Ticket(g), network, in)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryAllocate(t testing.TB, ticket Ticket, network string, in *inbox) (*Allocation, error) {
	t.Helper()
	opts := Options{Network: network}
	if in != nil {
		opts.Handler = in.handle
	}
	a, err := Allocate(within(t, patience), ticket, opts)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

func refusals(s *Server, r reason) int64 { return s.Stats().Refused[reasonNames[r]] }

func TestAPlainUDPPeerIsReachedOverUDPAndTCP(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			s := startServer(t, Config{AllowPeer: anyPeer})
			peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			peerAddr := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			in := &inbox{}
			a := allocate(t, s, Grant{Client: "a"}, network, in)
			if err := a.WriteTo([]byte("early"), peerAddr); !errors.Is(err, ErrNotPermitted) {
				t.Fatalf("write before Permit: %v", err)
			}
			if err := a.Permit(within(t, patience), peerAddr.Addr()); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2000)
			for _, size := range []int{0, 1, 2, 3, 1280, MaxPayload} {
				out := bytes.Repeat([]byte{byte(size)}, size)
				if err := a.WriteTo(out, peerAddr); err != nil {
					t.Fatal(err)
				}
				peer.SetReadDeadline(time.Now().Add(patience))
				n, from, err := peer.ReadFromUDPAddrPort(buf)
				if err != nil || from != a.RelayedAddr() || !bytes.Equal(buf[:n], out) {
					t.Fatalf("%d bytes: got %d from %v, err %v", size, n, from, err)
				}
				if _, err := peer.WriteToUDPAddrPort(out, from); err != nil {
					t.Fatal(err)
				}
				_, before := in.total()
				eventually(t, "echo", func() bool { _, c := in.total(); return c > before || in.got(out, peerAddr) })
			}
			if err := a.WriteTo(make([]byte, MaxPayload+1), peerAddr); !errors.Is(err, ErrTooLarge) {
				t.Fatalf("one byte too many: %v", err)
			}
			eventually(t, "bound channel", func() bool {
				a.peerMu.RLock()
				defer a.peerMu.RUnlock()
				return a.channels[peerAddr].bound.Load()
			})
		})
	}
}

// Two homes without UDP meet with an allocation each on the same relay, which
// must not need AllowPeer for it.
func TestTwoAllocationsOfOneServerReachEachOtherAndCountersAddUp(t *testing.T) {
	const total, size = 10 << 20, 1280
	big := ClassLimits{BytesPerSecond: 1 << 40, BurstBytes: 1 << 30}
	for _, networks := range [][2]string{{"udp", "udp"}, {"tcp", "tcp"}} {
		t.Run(networks[0], func(t *testing.T) {
			s := startServer(t, Config{Limits: Limits{Stranger: big}})
			a := allocate(t, s, Grant{Client: "a"}, networks[0], nil)
			in := &inbox{}
			window := make(chan struct{}, 32) // keeps the kernel's buffers from dropping
			b, err := Allocate(within(t, patience), s.Ticket(Grant{Client: "b"}), Options{
				Network: networks[1],
				Handler: func(b []byte, from netip.AddrPort) { in.handle(b, from); <-window },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			ctx := within(t, patience)
			if err := errors.Join(a.Permit(ctx, b.RelayedAddr().Addr()), b.Permit(ctx, a.RelayedAddr().Addr())); err != nil {
				t.Fatal(err)
			}
			msg := bytes.Repeat([]byte("x"), size)
			for range total / size {
				select {
				case window <- struct{}{}:
				case <-ctx.Done():
					t.Fatalf("packets lost: %+v", s.Stats())
				}
				if err := a.WriteTo(msg, b.RelayedAddr()); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "last packet", func() bool { got, _ := in.total(); return got == total })
			if !in.got(msg, a.RelayedAddr()) {
				t.Errorf("last packet from %v, want from %v", in.from, a.RelayedAddr())
			}
			// A packet is counted once it was sent, and may arrive before.
			eventually(t, "counters add up to all bytes and packets", func() bool {
				st := s.Stats()
				return st.BytesToPeers == total && st.BytesToClients == total && st.PacketsToPeers == total/size
			})
		})
	}
}

func TestTheRelaysOwnAddressIsRefusedExceptAtLiveRelayedPorts(t *testing.T) {
	s := startServer(t, Config{})
	service, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	a := allocate(t, s, Grant{Client: "a"}, "udp", nil)
	in := &inbox{}
	b := allocate(t, s, Grant{Client: "b"}, "udp", in)
	ctx := within(t, patience)
	if err := errors.Join(a.Permit(ctx, loopback), b.Permit(ctx, loopback)); err != nil {
		t.Fatal(err)
	}
	target := service.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := a.WriteTo([]byte("in"), target); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal", func() bool { return refusals(s, peerAddress) == 1 })
	if err := a.WriteTo([]byte("across"), b.RelayedAddr()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "packet across", func() bool { return in.got([]byte("across"), a.RelayedAddr()) })
	b.Close()
	if err := a.WriteTo([]byte("after"), b.RelayedAddr()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal of an ended port", func() bool { return refusals(s, peerAddress) == 2 })
	service.SetReadDeadline(time.Now())
	if n, _, err := service.ReadFrom(make([]byte, 10)); err == nil {
		t.Errorf("a local service got %d bytes through the relay", n)
	}
}

func TestLimitsOnAllocations(t *testing.T) {
	for _, c := range []struct {
		name    string
		limits  Limits
		clients []string
		why     reason
	}{
		{"in all", Limits{Allocations: 3}, []string{"a", "b", "c", "d"}, allFull},
		{"per client", Limits{}, []string{"a", "a", "a"}, perClient},
		{"per prefix", Limits{PerPrefix: 4}, []string{"a", "b", "c", "d", "e"}, perPrefix},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t, Config{Limits: c.limits})
			for i, client := range c.clients {
				_, err := tryAllocate(t, s.Ticket(Grant{Client: client}), "udp", nil)
				if last := i == len(c.clients)-1; last != errors.Is(err, ErrFull) {
					t.Errorf("allocation %d: %v", i+1, err)
				}
			}
			if st := s.Stats(); st.Allocations != len(c.clients)-1 || st.Refused[reasonNames[c.why]] != 1 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

func TestASilentAllocationMakesRoomForItsClient(t *testing.T) {
	clock := &testClock{}
	s := startServer(t, Config{Now: clock.now})
	allocate(t, s, Grant{Client: "a"}, "udp", nil)
	allocate(t, s, Grant{Client: "a"}, "udp", nil)
	clock.advance(silence)
	allocate(t, s, Grant{Client: "a"}, "udp", nil)
	if st := s.Stats(); st.Allocations != 2 || refusals(s, replaced) != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestIdleAndUnrefreshedAllocationsAreClosed(t *testing.T) {
	for _, c := range []struct {
		name  string
		class Class
		after time.Duration
		why   reason
	}{
		{"a stranger's without payload", Stranger, 10*time.Minute - expiryMargin - time.Second, reasonCount},
		{"a stranger's idle", Stranger, 10 * time.Minute, idle},
		{"a friend's kept warm", Friend, 23 * time.Hour, reasonCount},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := &testClock{}
			s := startServer(t, Config{Now: clock.now})
			a := allocate(t, s, Grant{Client: "a", Class: c.class}, "udp", nil)
			clock.advance(c.after)
			if _, err := a.refresh(within(t, patience), defaultLifetime); err != nil {
				t.Fatal(err)
			}
			s.sweep()
			if c.why == reasonCount {
				if st := s.Stats(); st.Allocations != 1 {
					t.Errorf("closed early: %+v", st)
				}
				return
			}
			if refusals(s, c.why) != 1 || s.Stats().Allocations != 0 {
				t.Errorf("stats %+v", s.Stats())
			}
			if _, err := a.refresh(within(t, patience), defaultLifetime); !errors.Is(err, ErrRefused) {
				t.Errorf("refresh of a closed allocation: %v", err)
			}
		})
	}
	t.Run("unrefreshed", func(t *testing.T) {
		clock := &testClock{}
		s := startServer(t, Config{Now: clock.now})
		allocate(t, s, Grant{Client: "a", Class: Friend}, "udp", nil)
		clock.advance(defaultLifetime*time.Second - expiryMargin)
		s.sweep()
		if refusals(s, lapsed) != 1 || s.Stats().Allocations != 0 {
			t.Errorf("stats %+v", s.Stats())
		}
	})
}

func TestOverQuotaIsCutAndOverRateIsDropped(t *testing.T) {
	const day, size = 100_000, 1000
	clock := &testClock{}
	s := startServer(t, Config{Now: clock.now, AllowPeer: anyPeer, Limits: Limits{
		Stranger: ClassLimits{BytesPerSecond: 1, BurstBytes: 10 * size, BytesPerDay: day},
		Friend:   ClassLimits{BytesPerSecond: 1 << 30, BurstBytes: 1 << 30, BytesPerDay: day},
	}})
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	to := sink.LocalAddr().(*net.UDPAddr).AddrPort()
	flood := func(a *Allocation, packets int) {
		if err := a.Permit(within(t, patience), loopback); err != nil {
			t.Fatal(err)
		}
		for range packets {
			before := s.Stats()
			if err := a.WriteTo(make([]byte, size), to); err != nil {
				t.Fatal(err)
			}
			eventually(t, "packet at the relay", func() bool {
				now := s.Stats()
				return now.BytesToPeers+now.Refused["rate"] > before.BytesToPeers+before.Refused["rate"]
			})
		}
	}
	flood(allocate(t, s, Grant{Client: "stranger"}, "udp", nil), 15)
	eventually(t, "drops over the rate", func() bool { return refusals(s, overRateDrop) == 5 })
	if got := s.Stats().BytesToPeers; got != 10*size {
		t.Errorf("%d bytes passed within a burst of %d", got, 10*size)
	}

	a := allocate(t, s, Grant{Client: "friend", Class: Friend}, "udp", nil)
	flood(a, day/size)
	eventually(t, "the whole quota", func() bool { return s.Stats().BytesToPeers == day+10*size })
	if refusals(s, quota) != 0 {
		t.Fatal("cut before the quota was used up")
	}
	a.WriteTo([]byte{1}, to)
	eventually(t, "cut", func() bool { return refusals(s, quota) == 1 })
	if _, err := tryAllocate(t, s.Ticket(Grant{Client: "friend", Class: Friend}), "udp", nil); !errors.Is(err, ErrFull) {
		t.Errorf("allocation over quota: %v", err)
	}
	clock.advance(accountPeriod)
	allocate(t, s, Grant{Client: "friend", Class: Friend}, "udp", nil)
}

func TestTheTicketsPeerIsTheOnlyOne(t *testing.T) {
	s := startServer(t, Config{AllowPeer: anyPeer})
	a := allocate(t, s, Grant{Client: "a", Peer: netip.MustParseAddr("44.128.0.9")}, "udp", nil)
	ctx := within(t, patience)
	if err := a.Permit(ctx, netip.MustParseAddr("44.128.0.9")); err != nil {
		t.Error(err)
	}
	if err := a.Permit(ctx, netip.MustParseAddr("44.128.0.10")); !errors.Is(err, ErrPeerRefused) {
		t.Errorf("another peer: %v", err)
	}
	none := allocate(t, s, Grant{Client: "b", Peer: netip.MustParseAddr("2a00:1450::1")}, "udp", nil)
	if err := none.Permit(ctx, netip.MustParseAddr("44.128.0.9")); !errors.Is(err, ErrPeerRefused) {
		t.Errorf("peer that cannot be reached became any peer: %v", err)
	}
}

// The server's public address need not be one of this machine's, nor need the
// router lead it back here.
func TestAllocationsMeetBehindOneToOneNAT(t *testing.T) {
	s := startServer(t, Config{RelayIP: netip.MustParseAddr("44.128.0.1")})
	in := &inbox{}
	a, b := allocate(t, s, Grant{Client: "a"}, "udp", nil), allocate(t, s, Grant{Client: "b"}, "udp", in)
	ctx := within(t, patience)
	if err := errors.Join(a.Permit(ctx, b.RelayedAddr().Addr()), b.Permit(ctx, a.RelayedAddr().Addr())); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteTo([]byte("across"), b.RelayedAddr()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "packet across", func() bool { return in.got([]byte("across"), a.RelayedAddr()) })
}

func TestPeersPerAllocationAreLimited(t *testing.T) {
	s := startServer(t, Config{AllowPeer: anyPeer, Limits: Limits{Peers: 2}})
	a := allocate(t, s, Grant{Client: "a"}, "udp", nil)
	for i, want := range []error{nil, nil, ErrPeerRefused} {
		err := a.Permit(within(t, patience), netip.AddrFrom4([4]byte{44, 128, 0, byte(i)}))
		if !errors.Is(err, want) {
			t.Errorf("peer %d: %v", i+1, err)
		}
	}
	full := allocate(t, s, Grant{Client: "b"}, "udp", nil)
	for i := range MaxPeers {
		full.permits[netip.AddrFrom4([4]byte{44, 128, 1, byte(i)})] = time.Now()
	}
	if err := full.Permit(within(t, patience), loopback); !errors.Is(err, ErrTooMany) {
		t.Errorf("peer %d on the client: %v", MaxPeers+1, err)
	}
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
