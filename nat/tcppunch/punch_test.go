package tcppunch

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

// prepare makes an end on loopback.
func prepare(t *testing.T) *Puncher {
	t.Helper()
	servers := []netip.AddrPort{startServer(t, "127.0.0.1"), startServer(t, "127.0.0.2")}
	p, err := Prepare(t.Context(), Config{Servers: servers, Filter: loopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// nobody describes an end that is not there: its port refuses.
func nobody(t *testing.T) Local {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return Local{Mapped: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}, Mapping: stun.None}
}

type punched struct {
	conn net.Conn
	err  error
}

func punch(ctx context.Context, p *Puncher, theirs Local, ours, them probe.Credentials, asking bool) chan punched {
	done := make(chan punched, 1)
	go func() {
		conn, err := p.Punch(ctx, theirs, ours, them, asking)
		done <- punched{conn, err}
	}()
	return done
}

func TestPunchAndSpeakInFrames(t *testing.T) {
	a, b := prepare(t), prepare(t)
	answering := punch(t.Context(), b, a.Local(), bob, alice, false)
	asking := punch(t.Context(), a, b.Local(), alice, bob, true)
	one, two := <-asking, <-answering
	if one.err != nil || two.err != nil {
		t.Fatal(one.err, two.err)
	}
	if one.conn.LocalAddr().String() != two.conn.RemoteAddr().String() || one.conn.RemoteAddr().String() != two.conn.LocalAddr().String() {
		t.Errorf("%s–%s and %s–%s", one.conn.LocalAddr(), one.conn.RemoteAddr(), two.conn.LocalAddr(), two.conn.RemoteAddr())
	}
	// The connection outlives what made it.
	a.Close()
	b.Close()
	heard := make(chan string, 1)
	near, far := nat.NewFramed(one.conn, nat.FrameConfig{}), nat.NewFramed(two.conn, nat.FrameConfig{})
	done := make(chan error, 1)
	go func() {
		done <- far.Run(func(b []byte) error {
			select {
			case heard <- string(b):
			default:
			}
			return nil
		})
	}()
	if err := near.WritePacket([]byte("Good evening")); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "Good evening" {
		t.Errorf("%q", got)
	}
	near.Close()
	far.Close()
	<-done
}

func TestPunchCanBeRepeated(t *testing.T) {
	a, b := prepare(t), prepare(t)
	for range 2 {
		answering := punch(t.Context(), b, a.Local(), bob, alice, false)
		asking := punch(t.Context(), a, b.Local(), alice, bob, true)
		for _, r := range []punched{<-asking, <-answering} {
			if r.err != nil {
				t.Fatal(r.err)
			}
			abort(r.conn.(*net.TCPConn))
		}
	}
}

func TestPunchEndsWithContextCloseAndAtOnceWhereHopeless(t *testing.T) {
	p := prepare(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := punch(ctx, p, nobody(t), alice, bob, true)
	for p.SYNs() == 0 { // until it has begun
		select {
		case r := <-first:
			t.Fatalf("%v", r.err)
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := p.Punch(t.Context(), nobody(t), alice, bob, true); !errors.Is(err, ErrBusy) {
		t.Errorf("second punch: %v", err)
	}
	cancel()
	if r := <-first; !errors.Is(r.err, context.Canceled) {
		t.Errorf("cancelled: %v", r.err)
	}
	random := Local{Mapped: addrs("44.1.2.3:4000"), Mapping: stun.AddressAndPortDependent}
	if _, err := p.Punch(t.Context(), random, alice, bob, true); !errors.Is(err, ErrHopeless) {
		t.Errorf("hopeless: %v", err)
	}
	if _, err := p.Punch(t.Context(), Local{}, alice, bob, true); !errors.Is(err, ErrLocal) {
		t.Errorf("nothing said: %v", err)
	}
	second := punch(t.Context(), p, nobody(t), alice, bob, true)
	for syns := p.SYNs(); p.SYNs() == syns; {
		select {
		case r := <-second:
			t.Fatalf("%v", r.err)
		case <-time.After(time.Millisecond):
		}
	}
	p.Close()
	if r := <-second; !errors.Is(r.err, net.ErrClosed) {
		t.Errorf("closed: %v", r.err)
	}
	if _, err := p.Punch(t.Context(), nobody(t), alice, bob, true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestAttemptsAreLimited(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	start := time.Now()
	_, err := p.Punch(t.Context(), nobody(t), alice, bob, true)
	if !errors.Is(err, ErrUnreached) {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took < PunchTime-lastWord || took > PunchTime {
		t.Errorf("took %s", took)
	}
	t.Logf("%d attempts in %s", p.SYNs(), time.Since(start))
	if n := p.SYNs(); n < MaxSYNs/2 || n > MaxSYNs {
		t.Errorf("%d attempts", n)
	}
}

// Four addresses share what one may have.
func TestAttemptsAreLimitedOverAllAddresses(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	l := nobody(t)
	for len(l.Mapped) < MaxMapped {
		l.Mapped = append(l.Mapped, nobody(t).Mapped[0])
	}
	if _, err := p.Punch(t.Context(), l, alice, bob, true); !errors.Is(err, ErrUnreached) {
		t.Errorf("%v", err)
	}
	if n := p.SYNs(); n != MaxSYNs {
		t.Errorf("%d attempts", n)
	}
}

func TestPunchGoesNowhereButWhereTheFilterAllows(t *testing.T) {
	p := prepare(t)
	p.cfg.Filter = ice.Filter{} // as it is outside of tests
	for _, to := range []string{"127.0.0.1:80", "192.168.1.1:80", "169.254.1.1:80", "224.0.0.1:80", "[::ffff:127.0.0.1]:80", "100.64.0.1:80"} {
		l := Local{Mapped: addrs(to), Mapping: stun.EndpointIndependent}
		if _, err := p.Punch(t.Context(), l, alice, bob, true); !errors.Is(err, ErrHopeless) {
			t.Errorf("%s: %v", to, err)
		}
	}
	if p.SYNs() != 0 {
		t.Errorf("%d SYNs", p.SYNs())
	}
}

// Strangers that come to the listening port hear nothing, are cut off, and do
// not keep the peer out.
func TestStrangersAtTheListeningPort(t *testing.T) {
	t.Parallel()
	a, b := prepare(t), prepare(t)
	answering := punch(t.Context(), b, a.Local(), bob, alice, false)
	connect := func() net.Conn {
		for {
			conn, err := net.Dial("tcp4", b.Local().Mapped[0].String())
			if err == nil {
				_ = conn.SetDeadline(time.Now().Add(2 * greetTime))
				return conn
			}
			select {
			case r := <-answering:
				t.Fatalf("%v while nobody listens: %v", r.err, err)
			case <-time.After(time.Millisecond):
			}
		}
	}
	silent, browser := connect(), connect()
	if _, err := io.WriteString(browser, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for name, conn := range map[string]net.Conn{"browser": browser, "silent": silent} {
		said, err := io.ReadAll(conn)
		if len(said) > 0 || errors.Is(err, context.DeadlineExceeded) || time.Since(start) > greetTime+time.Second {
			t.Errorf("%s hears %q, %v, after %s", name, said, err, time.Since(start))
		}
		conn.Close()
	}
	var many []net.Conn
	for range MaxStrangers {
		many = append(many, connect())
	}
	above := connect()
	if said, err := io.ReadAll(above); len(said) > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one too many hears %q, %v", said, err)
	}
	above.Close()
	asking := punch(t.Context(), a, b.Local(), alice, bob, true)
	for _, r := range []punched{<-asking, <-answering} {
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.conn.Close()
	}
	for _, c := range many {
		c.Close()
	}
}

func TestPaceAndPatience(t *testing.T) {
	for round := range 40 {
		low := pace
		if round < quickly {
			low = firstPace
		}
		if d := paceOf(round); d < low || d > low+low/5 {
			t.Errorf("round %d: pace %s", round, d)
		}
		for _, rtt := range []time.Duration{0, 80 * time.Millisecond, time.Second, 2 * maxRTT * time.Millisecond} {
			low := min(max(patience, rtt), maxPatience)
			if d := patienceOf(round, rtt); d < low || d > maxPatience+maxPatience/3 {
				t.Errorf("round %d, rtt %s: patience %s", round, rtt, d)
			}
		}
	}
}
