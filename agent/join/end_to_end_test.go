package join

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/nat"
	"porchlight/nat/probe"
)

func TestAnOfferLeadsToADirectPathThatOutlivesTheRendezvous(t *testing.T) {
	t.Parallel()
	a, b, r := three(t)
	if err := a.echo(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	info := a.until(t, b, "direct", isDirect)
	b.until(t, a, "direct", isDirect)
	if info.Reason != "" || info.Hopeless || info.Local == "" || info.Remote == "" {
		t.Errorf("%+v", info)
	}
	r.close()
	if err := a.echo(t.Context(), b); err != nil {
		t.Errorf("without the rendezvous: %v", err)
	}
	if err := b.echo(t.Context(), a); err != nil {
		t.Errorf("without the rendezvous, the other way: %v", err)
	}
}

func TestARelayedPathBecomesDirectUnderARunningStream(t *testing.T) {
	t.Parallel()
	a, b, _ := three(t)
	a.situation.set(func(s *situation) { s.noUDP = true })
	if err := a.echo(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	a.until(t, b, "relayed", isRelayed)
	a.until(t, b, "explained, without hope", func(i Info) bool { return i.Reason == api.UDPBlockedHere && i.Hopeless })
	session := a.Current(b.Address())
	u := a.startUpload(t, b)
	a.situation.set(func(s *situation) { s.noUDP = false })
	if info := a.until(t, b, "direct", isDirect); info.Reason != "" || info.Hopeless {
		t.Errorf("%+v", info)
	}
	b.until(t, a, "direct", isDirect)
	before := session.Peer().Stats().Direct.TxPackets
	poll(t, "packets over the direct path", func() bool { return session.Peer().Stats().Direct.TxPackets > before+10 })
	u.end(t)
	if a.Current(b.Address()) != session {
		t.Error("the session is another")
	}
}

// poll waits for a condition that nothing announces.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no %s after 10 s", what)
		}
	}
}

// TestASilentDirectPathIsReplaced: both sides must let go of the dead path, or
// the called one would refuse the relayed path for the sake of it.
func TestASilentDirectPathIsReplaced(t *testing.T) {
	for _, by := range []string{"relay", "direct"} {
		t.Run("by "+by, func(t *testing.T) {
			t.Parallel()
			a, b, _ := three(t)
			a.joiner.silence, b.joiner.silence = 2*time.Second, 2*time.Second
			b.situation.set(func(s *situation) { s.noUDP = by == "relay" })
			wire := newWire(t, b.at)
			a.knows(b, wire.at)
			if err := a.echo(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			info := a.until(t, b, "direct", isDirect)
			if info.Remote != "host "+wire.at.String() {
				t.Fatalf("not over the wire: %+v", info)
			}
			u := a.startUpload(t, b)
			wire.cut()
			a.until(t, b, "lost", func(i Info) bool { return i.Path == "" })
			a.until(t, b, by, func(i Info) bool { return i.Path == by })
			// Something new on both sides, or retransmission is seconds away.
			if err := errors.Join(b.echo(t.Context(), a), a.echo(t.Context(), b)); err != nil {
				t.Error(err)
			}
			u.end(t)
		})
	}
}

func TestTwoThatCallEachOtherBothGetThrough(t *testing.T) {
	t.Parallel()
	a, b, _ := three(t)
	a.knows(b, b.at)
	b.knows(a, a.at)
	var both sync.WaitGroup
	errs := make([]error, 2)
	both.Go(func() { _, errs[0] = a.Session(t.Context(), b.Address()) })
	both.Go(func() { _, errs[1] = b.Session(t.Context(), a.Address()) })
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	// Ending one session must not take the path from the other.
	first := a.Current(b.Address())
	first.Close()
	<-first.Done()
	for range 3 {
		if err := errors.Join(a.echo(t.Context(), b), b.echo(t.Context(), a)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWrongHintIsPassedOverForAMinute(t *testing.T) {
	t.Parallel()
	a, b, r := three(t)
	a.knows(b, r.at) // somebody else took over the address
	if err := a.echo(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if at, _ := a.joiner.hintsFor(b.Address()); len(at) != 0 {
		t.Errorf("the wrong hint is still used: %v", at)
	}
	a.joiner.mu.Lock()
	a.joiner.wrong[r.at] = time.Now().Add(-wrongFor - time.Second)
	a.joiner.mu.Unlock()
	if at, _ := a.joiner.hintsFor(b.Address()); len(at) != 1 {
		t.Errorf("after a minute: %v", at)
	}
}

func TestAHintIsTriedOverTCPWhenUDPStaysSilent(t *testing.T) {
	t.Parallel()
	a, b := newMember(t, 1, false), newMember(t, 2, false)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	t.Cleanup(func() { l.Close(); accepting.Wait() })
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.socket.AcceptFramed(c, nat.KindDirect, nat.FrameConfig{})
		}
	})
	a.knows(b, l.Addr().(*net.TCPAddr).AddrPort())
	if err := a.echo(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if info := a.joiner.Info(b.Address()); info.Path != "direct" || info.Local != "tcp" {
		t.Errorf("%+v", info)
	}
}

// acceptsTCP has a device accept connections that say who they are.
func (m *member) acceptsTCP(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	t.Cleanup(func() { l.Close(); accepting.Wait() })
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.socket.AcceptFramed(c, nat.KindDirect, nat.FrameConfig{HandleSTUN: m.joiner.Asked})
		}
	})
	at := l.Addr().(*net.TCPAddr).AddrPort()
	m.situation.set(func(s *situation) { s.tcp = []netip.AddrPort{at} })
	return at
}

// TestWithoutUDPWhoAcceptsTCPIsReached is a home whose network blocks UDP, and
// one that is open for connections, whoever of the two calls.
func TestWithoutUDPWhoAcceptsTCPIsReached(t *testing.T) {
	for name, open := range map[string]struct{ caller, called bool }{
		"the called one accepts": {false, true},
		"the caller accepts":     {true, false},
		"both accept":            {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, _ := three(t)
			if open.caller {
				a.acceptsTCP(t)
			}
			if open.called {
				b.acceptsTCP(t)
			}
			a.situation.set(func(s *situation) { s.noUDP = true })
			if err := a.echo(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			session := a.Current(b.Address())
			u := a.startUpload(t, b)
			info := a.until(t, b, "direct", isDirect)
			b.until(t, a, "direct", isDirect)
			if info.Local != "tcp" || info.Reason != "" {
				t.Errorf("%+v", info)
			}
			poll(t, "packets over the connection", func() bool { return session.Peer().Stats().Direct.TxPackets > 10 })
			u.end(t)
			if a.Current(b.Address()) != session {
				t.Error("the session is another")
			}
		})
	}
}

// TestAStrangerOverTCPGetsNothing: whoever knows no exchange hears nothing, and
// takes over no path.
func TestAStrangerOverTCPGetsNothing(t *testing.T) {
	t.Parallel()
	a := newMember(t, 1, false)
	conn, err := net.Dial("tcp4", a.acceptsTCP(t).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question, _, err := probe.Ask(probe.Credentials{Ufrag: "whoever", Pwd: "a password of twenty-two"}, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	framed := append([]byte{0, byte(len(question))}, question...)
	if _, err := conn.Write(append(framed, 0xff, 0xff)); err != nil { // and a frame too large
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestNoWayIsAnError(t *testing.T) {
	t.Parallel()
	a, b, _ := three(t)
	nobody := identity.FromSeed(make([]byte, 32)).Address()
	if _, err := a.Session(t.Context(), nobody); err == nil {
		t.Error("reached nobody")
	}
	alone := newMember(t, 9, false)
	if _, err := alone.Session(t.Context(), b.Address()); err == nil {
		t.Error("reached somebody without hint or rendezvous")
	}
	a.joiner.mu.Lock()
	defer a.joiner.mu.Unlock()
	if a.joiner.ways[nobody] != nil || alone.joiner.ways[b.Address()] != nil {
		t.Error("the way is still looked after")
	}
}

func TestAfterCloseNothingBegins(t *testing.T) {
	t.Parallel()
	a, b, r := three(t)
	if err := a.echo(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	a.joiner.Close()
	a.joiner.Close()
	stranger := identity.FromSeed(make([]byte, 32)).Address()
	if _, err := a.joiner.Find(t.Context(), stranger); !errors.Is(err, errClosed) {
		t.Errorf("Find: %v", err)
	}
	if _, err := a.joiner.Find(t.Context(), b.Address()); err == nil {
		t.Log("a known way may still be used")
	}
	if _, err := a.joiner.Answer(t.Context(), stranger, offerOf(b)); !errors.Is(err, errClosed) {
		t.Errorf("Answer: %v", err)
	}
	if err := a.joiner.KeepPlace(t.Context(), b.Address(), *r.ticket(a.Address()), "udp"); err != nil {
		t.Errorf("KeepPlace: %v", err)
	}
	if peer := a.joiner.Adopt(stranger, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}); peer == nil {
		t.Error("Adopt gave no peer")
	}
}

func TestAnUnansweredAttemptLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	a, b := newMember(t, 1, false), newMember(t, 2, false)
	ctx, cancel := context.WithCancel(t.Context())
	hint := netip.MustParseAddrPort("127.0.0.1:9")
	a.knows(b, hint)
	found := make(chan error, 1)
	go func() {
		_, err := a.joiner.Find(ctx, b.Address())
		found <- err
	}()
	poll(t, "way", func() bool {
		a.joiner.mu.Lock()
		defer a.joiner.mu.Unlock()
		return a.joiner.ways[b.Address()] != nil
	})
	cancel()
	if err := <-found; err == nil {
		t.Error("found a device at a closed port")
	}
	a.joiner.mu.Lock()
	defer a.joiner.mu.Unlock()
	if len(a.joiner.ways) != 0 {
		t.Errorf("%d ways left", len(a.joiner.ways))
	}
}

func TestOffersAreAnsweredOnlySoManyAtOnce(t *testing.T) {
	t.Parallel()
	a, b := newMember(t, 1, false), newMember(t, 2, false)
	for i := range maxAttempts + 1 {
		_, err := a.joiner.Answer(t.Context(), b.Address(), offerOf(b))
		if ok := err == nil; ok != (i < maxAttempts) {
			t.Errorf("offer %d: %v", i+1, err)
		}
	}
	a.joiner.mu.Lock()
	w := a.joiner.ways[b.Address()]
	a.joiner.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.peers) != 1 {
		t.Errorf("%d peers wait for one caller", len(w.peers))
	}
}

func TestAPlaceIsKeptOncePerRelayAndAtNoMoreThanTwo(t *testing.T) {
	t.Parallel()
	a := newMember(t, 1, false)
	for seed := byte(10); seed < 13; seed++ {
		r := newMember(t, seed, true)
		for range 2 {
			if err := a.joiner.KeepPlace(t.Context(), r.Address(), *r.ticket(a.Address()), "udp"); err != nil {
				t.Fatal(err)
			}
		}
		a.joiner.relays.mu.Lock()
		n := len(a.joiner.relays.places)
		a.joiner.relays.mu.Unlock()
		if want := min(int(seed)-9, maxAllocations); n != want || r.relay.Stats().Allocations > 1 {
			t.Errorf("%d places, %d at this relay, want %d and 1", n, r.relay.Stats().Allocations, want)
		}
	}
}

func TestGarbageAtAPlaceIsDropped(t *testing.T) {
	t.Parallel()
	a, _, _ := three(t)
	a.joiner.relays.mu.Lock()
	var p *place
	for _, p = range a.joiner.relays.places {
	}
	a.joiner.relays.mu.Unlock()
	from := netip.MustParseAddrPort("203.0.113.1:1")
	for _, b := range [][]byte{nil, {}, {0}, {1, 1}, make([]byte, 20), make([]byte, 1500), {0x40}, {0xff, 1, 2}} {
		p.receive(b, from)
	}
	a.joiner.relays.mu.Lock()
	defer a.joiner.relays.mu.Unlock()
	if len(a.joiner.relays.ways) != 0 {
		t.Error("garbage opened a way")
	}
}

func TestAPeerCannotMakeUsProbeOurNetwork(t *testing.T) {
	j := &Joiner{cfg: Config{Logger: logger()}}
	e := &relayEnd{r: newRelays(j)}
	got := e.allowed([]netip.AddrPort{
		netip.MustParseAddrPort("192.168.1.1:80"),
		netip.MustParseAddrPort("127.0.0.1:80"),
		netip.MustParseAddrPort("[fe80::1]:80"),
		netip.MustParseAddrPort("100.64.0.1:80"),
		netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"),
		netip.MustParseAddrPort("44.128.0.1:80"),
	})
	if len(got) != 1 || got[0] != netip.MustParseAddrPort("44.128.0.1:80") {
		t.Errorf("would probe %v", got)
	}
}
