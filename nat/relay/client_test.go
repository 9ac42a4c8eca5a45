package relay

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAllocateTakesOneRoundTripWithTheTicketsNonceAndTwoWithout(t *testing.T) {
	s := startServer(t, Config{Limits: Limits{PerClient: 10}})
	for _, c := range []struct {
		name, network string
		nonce         func(string) string
		want          int
	}{
		{"fresh nonce, udp", "udp", func(n string) string { return n }, 1},
		{"no nonce, udp", "udp", func(string) string { return "" }, 2},
		{"stale nonce, udp", "udp", func(n string) string { return strings.Repeat("0", len(n)) }, 2},
		{"no nonce, tcp", "tcp", func(string) string { return "" }, 2},
		{"nonce of udp, tcp", "tcp", func(n string) string { return n }, 2},
	} {
		ticket := s.Ticket(Grant{Client: "a"})
		ticket.Nonces[0] = c.nonce(ticket.Nonces[0])
		a, err := tryAllocate(t, ticket, c.network, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		t.Logf("%s: %d round trips", c.name, a.RoundTrips())
		if a.RoundTrips() != c.want {
			t.Errorf("%s: %d round trips, want %d", c.name, a.RoundTrips(), c.want)
		}
		if !a.RelayedAddr().IsValid() || a.MappedAddr().Addr() != loopback {
			t.Errorf("%s: relayed %v, mapped %v", c.name, a.RelayedAddr(), a.MappedAddr())
		}
	}
}

func TestPermissionsAndChannelsAreRenewed(t *testing.T) {
	clock := &testClock{}
	s := startServer(t, Config{Now: clock.now, AllowPeer: anyPeer})
	peer := echoPeer(t)
	in := &inbox{}
	a := allocate(t, s, Grant{Client: "a"}, "udp", in)
	if err := a.Permit(within(t, patience), peer.Addr()); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteTo([]byte("first"), peer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "channel", func() bool { ch := a.channelByNumber(firstChannel); return ch != nil && ch.bound.Load() })
	eventually(t, "echo", func() bool { return in.got([]byte("first"), peer) })

	clock.advance(permissionTTL)
	if err := a.WriteTo([]byte("lapsed"), peer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal of the answer", func() bool { return refusals(s, unsolicited) == 1 })
	a.peerMu.Lock() // the client's clock catches up
	a.permits[peer.Addr()] = time.Now().Add(-permissionTTL)
	a.channels[peer].asked = time.Now().Add(-permissionTTL)
	a.peerMu.Unlock()
	a.renewPeers()
	if err := a.WriteTo([]byte("renewed"), peer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "echo", func() bool { return in.got([]byte("renewed"), peer) })
}

// Whoever writes must not wait for a stream nobody reads.
func TestWritesOverASlowStreamAreDropped(t *testing.T) {
	theirs, ours := net.Pipe() // takes nothing until it is read
	defer theirs.Close()
	l := newTCPLink(ours)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); l.drain(stop) }()
	l.offer([]byte{0, 0, 0, 0})
	eventually(t, "first packet taken out of the queue", func() bool { return len(l.queue) == 0 })
	for i := 1; i < 4*sendQueue; i++ {
		l.offer([]byte{byte(i), 0, 0, 0})
	}
	if n := len(l.queue); n != sendQueue {
		t.Errorf("%d packets wait, at most %d", n, sendQueue)
	}
	first := make([]byte, 4)
	if _, err := theirs.Read(first); err != nil || first[0] != 0 {
		t.Errorf("first packet %v, %v", first, err)
	}
	close(stop)
	ours.Close()
	<-done
}

func TestALostRelayIsNoticedByTheKeepAlive(t *testing.T) {
	s := startServer(t, Config{})
	for _, network := range []string{"udp", "tcp"} {
		a, err := Allocate(within(t, patience), s.Ticket(Grant{Client: network}),
			Options{Network: network, KeepAlive: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		s.mu.Lock()
		for r := range s.live {
			s.killLocked(r, idle)
		}
		s.mu.Unlock()
		select {
		case <-a.Closed():
		case <-time.After(patience):
			t.Fatalf("%s: not noticed", network)
		}
		if err := a.Err(); !errors.Is(err, ErrLost) {
			t.Errorf("%s: %v", network, err)
		}
		if err := a.WriteTo(nil, a.RelayedAddr()); !errors.Is(err, ErrLost) {
			t.Errorf("%s: write after the end: %v", network, err)
		}
	}
}

func TestCloseGivesTheAllocationBackAndIsIdempotent(t *testing.T) {
	s := startServer(t, Config{})
	for _, network := range []string{"udp", "tcp"} {
		a := allocate(t, s, Grant{Client: "a"}, network, nil)
		if err := errors.Join(a.Close(), a.Close()); err != nil || !errors.Is(a.Err(), net.ErrClosed) {
			t.Errorf("%s: close %v, err %v", network, err, a.Err())
		}
		eventually(t, "end at the server", func() bool { return s.Stats().Allocations == 0 })
	}
	eventually(t, "end of the connection", func() bool { return s.Stats().Connections == 0 })
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestAllocateEndsWithItsContextAndTriesTheNextAddress(t *testing.T) {
	mute, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	s := startServer(t, Config{})
	ticket := s.Ticket(Grant{Client: "a"})
	ticket.UDP = []string{mute.LocalAddr().String()}
	if _, err := Allocate(within(t, 50*time.Millisecond), ticket, Options{Network: "udp"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("mute relay: %v", err)
	}
	ticket = s.Ticket(Grant{Client: "a"})
	ticket.UDP = append([]string{mute.LocalAddr().String()}, ticket.UDP...)
	a, err := Allocate(within(t, time.Second), ticket, Options{Network: "udp"})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	for _, network := range []string{"", "dtls"} {
		if _, err := Allocate(t.Context(), ticket, Options{Network: network}); err == nil {
			t.Errorf("network %q accepted", network)
		}
	}
}
