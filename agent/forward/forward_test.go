package forward_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"porchlight/agent/forward"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

// TestEachDirectionEndsByItself: the target answers after the caller's end,
// and the caller goes on after the target's.
func TestEachDirectionEndsByItself(t *testing.T) {
	w := newWorld(t)
	const size = 3 << 20
	sent := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	got := make(chan []byte, 1)
	w.expose("tcp", "reads-first", w.tcp(func(conn *net.TCPConn) {
		b, _ := io.ReadAll(conn)
		conn.Write(b)
	}))
	w.expose("tcp", "ends-first", w.tcp(func(conn *net.TCPConn) {
		conn.Write(sent)
		conn.CloseWrite()
		b, _ := io.ReadAll(conn)
		got <- b
	}))

	conn := connect(t, "tcp", w.forward("tcp", "reads-first")).(*net.TCPConn)
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if b, err := io.ReadAll(conn); err != nil || !bytes.Equal(b, sent) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}

	conn = connect(t, "tcp", w.forward("tcp", "ends-first")).(*net.TCPConn)
	if b, err := io.ReadAll(conn); err != nil || !bytes.Equal(b, sent) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	conn.Write(sent)
	conn.CloseWrite()
	if b := <-got; !bytes.Equal(b, sent) {
		t.Errorf("the target read %d bytes after its own end", len(b))
	}
	eventually(t, "all ended", func() bool { n, _ := w.server.Open(); return n == 0 })
}

func TestWhatIsCutShortIsSeenToBe(t *testing.T) {
	w := newWorld(t)
	cut := func(conn *net.TCPConn) {
		conn.Write([]byte("half of it"))
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
	}
	w.expose("tcp", "cut", w.tcp(cut))
	at := w.forward("tcp", "cut")

	conn := connect(t, "tcp", at)
	io.ReadFull(conn, make([]byte, 10))
	conn.Write([]byte("x"))
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target aborted, the caller reads %v", err)
	}
	conn = connect(t, "tcp", at)
	io.ReadFull(conn, make([]byte, 10))
	w.out.Current(w.home.Address()).Close()
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the session was lost, the caller reads %v", err)
	}
	// New ones work at once.
	conn = connect(t, "tcp", at)
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		t.Errorf("after a lost session: %v", err)
	}
	// And the caller's abort reaches the target.
	saw := make(chan error, 1)
	w.expose("tcp", "sees", w.tcp(func(conn *net.TCPConn) {
		_, err := io.ReadAll(conn)
		saw <- err
	}))
	conn = connect(t, "tcp", w.forward("tcp", "sees"))
	conn.Write([]byte("half"))
	eventually(t, "it is carried", func() bool { n, _ := w.server.Open(); return n > 0 })
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the caller aborted, the target reads %v", err)
	}
}

func TestWhatIsAskedForAndMayNotBe(t *testing.T) {
	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	for _, e := range []struct {
		to   string
		name string
	}{{"me", "private"}, {"somebody else", "22"}} {
		exposed, err := forward.NewExposed(e.name, "tcp", "9", []string{e.to})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.table.Add(exposed); err != nil {
			t.Fatal(err)
		}
	}
	var same string
	for _, q := range []struct{ network, name string }{
		{"tcp", "private"}, {"tcp", "nothing"}, {"tcp", "22"}, {"udp", "echo"},
	} {
		_, err := w.dial(q.network, q.name)
		if !errors.Is(err, forward.ErrNotOffered) {
			t.Fatalf("%s %s: %v", q.network, q.name, err)
		}
		// The same words for what is not there and what is for others.
		words := strings.NewReplacer(q.network+" "+q.name, "IT", q.name, "NAME", " --udp", "").Replace(err.Error())
		if same != "" && words != same {
			t.Errorf("%q differs from %q", words, same)
		}
		same = words
	}
	if err := forward.Check(t.Context(), w.out, w.home.Address(), "tcp", "private"); !errors.Is(err, forward.ErrNotOffered) {
		t.Errorf("Check of what is for others = %v", err)
	}
	if err := forward.Check(t.Context(), w.out, w.home.Address(), "tcp", "echo"); err != nil {
		t.Errorf("Check = %v", err)
	}
	if _, err := w.forwarder.Listen(t.Context(), w.home.Address(), "tcp", "private", "0"); !errors.Is(err, forward.ErrNotOffered) {
		t.Errorf("Listen = %v", err)
	}
	if n, flows := w.server.Open(); n != 0 || flows != 0 {
		t.Errorf("%d and %d are open", n, flows)
	}
}

func TestATargetThatIsNotThere(t *testing.T) {
	w := newWorld(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	w.expose("tcp", "gone", gone.Addr())
	if _, err := w.dial("tcp", "gone"); !errors.Is(err, forward.ErrRefused) {
		t.Errorf("Dial = %v", err)
	}
	// Who comes by a local port is told by an abort, at once or a little later.
	conn, err := net.Dial("tcp", w.forward("tcp", "gone").String())
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial and read = %v", err)
	}
}

func TestATargetThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.server.SetLimits(time.Minute, 200*time.Millisecond)
	w.expose("tcp", "silent", silent(t))
	if _, err := w.dial("tcp", "silent"); !errors.Is(err, forward.ErrSilent) {
		t.Errorf("Dial = %v", err)
	}
}

// silent is a TCP port whose queue of connections is full: the kernel drops
// what asks for another (listen(2)).
func silent(t *testing.T) net.Addr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(
		syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		syscall.Listen(fd, 0),
	); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	for range 8 {
		conn, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill up")
	return nil
}

// failing is a Dialer whose every n-th call fails.
type failing struct {
	forward.Dialer
	calls, every int
}

var errNth = errors.New("this one fails")

func (f *failing) Dial(ctx context.Context, to identity.Address, service string) (net.Conn, error) {
	if f.calls++; f.calls%f.every == 0 {
		return nil, errNth
	}
	return f.Dialer.Dial(ctx, to, service)
}

func TestEveryThirdCallFails(t *testing.T) {
	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	d := &failing{Dialer: w.out, every: 3}
	for i := 1; i <= 9; i++ {
		conn, err := forward.Dial(t.Context(), d, w.home.Address(), "tcp", "echo")
		if i%3 == 0 {
			if !errors.Is(err, errNth) {
				t.Errorf("call %d: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		conn.Write([]byte("x"))
		conn.(*overlay.Conn).CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "x" || err != nil {
			t.Errorf("call %d: %q, %v", i, b, err)
		}
		conn.Close()
	}
}

func TestWhoMayNoLongerIsCutOff(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(w *world) error
	}{
		{"grant revoked", func(w *world) error { w.allowed.Store(false); return nil }},
		{"service removed", func(w *world) error {
			return errors.Join(w.table.Remove("tcp", "echo"), w.table.Remove("udp", "echo"))
		}},
		{"target changed", func(w *world) error {
			err := errors.Join(w.table.Remove("tcp", "echo"), w.table.Remove("udp", "echo"))
			w.expose("tcp", "echo", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
			w.expose("udp", "echo", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
			return err
		}},
		{"server closed", func(w *world) error { return w.server.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.expose("tcp", "echo", w.tcp(echoTCP))
			w.expose("udp", "echo", w.udp().LocalAddr())
			for _, network := range []string{"tcp", "udp"} {
				conn := w.mustDial(network, "echo")
				checkBack(t, conn)
				defer func() {
					if _, err := conn.Read(make([]byte, 1)); err == nil {
						t.Errorf("%s goes on", network)
					}
				}()
			}
			if n, flows := w.server.Open(); n != 1 || flows != 1 {
				t.Errorf("%d and %d are open", n, flows)
			}
			began := time.Now()
			if err := tt.end(w); err != nil {
				t.Fatal(err)
			}
			eventually(t, "both ended", func() bool { n, flows := w.server.Open(); return n+flows == 0 })
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("that took %v", took)
			}
		})
	}
}

// checkBack sends something and wants it back.
func checkBack(t testing.TB, conn net.Conn) {
	t.Helper()
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	conn.Write([]byte("hello"))
	if n, err := io.ReadAtLeast(conn, b, 5); string(b[:n]) != "hello" || err != nil {
		t.Fatalf("%q came back, %v", b[:n], err)
	}
	conn.SetReadDeadline(time.Time{})
}

func TestCallersAreLimited(t *testing.T) {
	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	w.expose("udp", "echo", w.udp().LocalAddr())
	flows := make([]net.Conn, 0, forward.MaxOfCaller)
	for range forward.MaxOfCaller {
		w.mustDial("tcp", "echo")
		flows = append(flows, w.mustDial("udp", "echo"))
	}
	for _, network := range []string{"tcp", "udp"} {
		if _, err := w.dial(network, "echo"); !errors.Is(err, forward.ErrBusy) {
			t.Errorf("one %s above the limit: %v", network, err)
		}
	}
	// Of flows, the one that has been quiet the longest makes room.
	w.server.Age(6 * time.Second)
	for _, conn := range flows[1:] {
		checkBack(t, conn)
	}
	checkBack(t, w.mustDial("udp", "echo"))
	if _, err := flows[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the quietest flow reads %v", err)
	}
	if _, err := w.dial("tcp", "echo"); !errors.Is(err, forward.ErrBusy) {
		t.Errorf("a connection made room: %v", err)
	}
	if n, udp := w.server.Open(); n != forward.MaxOfCaller || udp != forward.MaxOfCaller {
		t.Errorf("%d and %d are open", n, udp)
	}
	// Everything else still gets through.
	if _, err := w.out.Dial(t.Context(), w.home.Address(), "other"); err != nil {
		t.Error(err)
	}
}

func TestAllCallersTogetherAreLimited(t *testing.T) {
	w := newWorld(t)
	tcp, udp := exposed(t, "t", "tcp", "9"), exposed(t, "u", "udp", "9")
	open := 0
	for i := range forward.MaxOpen/forward.MaxOfCaller + 1 {
		caller := identity.FromSeed(bytes.Repeat([]byte{byte(10 + i)}, 32)).Address()
		for range forward.MaxOfCaller {
			for _, e := range []forward.Exposed{tcp, udp} {
				if w.server.Begin(caller, e) {
					open++
				}
			}
		}
	}
	if open != forward.MaxOpen {
		t.Errorf("%d are open, want %d", open, forward.MaxOpen)
	}
}

func TestListenersEndWithTheirContext(t *testing.T) {
	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	w.expose("udp", "echo", w.udp().LocalAddr())
	for _, network := range []string{"tcp", "udp"} {
		ctx, cancel := context.WithCancel(t.Context())
		at, err := w.forwarder.Listen(ctx, w.home.Address(), network, "echo", "0")
		if err != nil {
			t.Fatal(err)
		}
		conn := connect(t, network, at)
		checkBack(t, conn)
		_, err = w.forwarder.Listen(ctx, w.home.Address(), network, "echo", at.String())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "choose another port") {
			t.Errorf("a port that is taken: %v", err)
		}
		cancel()
		eventually(t, "the port is free", func() bool {
			again, err := w.forwarder.Listen(t.Context(), w.home.Address(), network, "echo", at.String())
			return err == nil && again == at
		})
		eventually(t, "what it carried has ended", func() bool {
			n, flows := w.server.Open()
			return n+flows == 0
		})
	}
	w.forwarder.Close()
	if _, err := w.forwarder.Listen(t.Context(), w.home.Address(), "tcp", "echo", "0"); !errors.Is(err, forward.ErrClosed) {
		t.Errorf("Listen after Close = %v", err)
	}
}

func TestListenersAreLimited(t *testing.T) {
	w := newWorld(t)
	w.expose("tcp", "echo", w.tcp(echoTCP))
	for range forward.MaxListeners {
		w.forward("tcp", "echo")
	}
	if _, err := w.forwarder.Listen(t.Context(), w.home.Address(), "tcp", "echo", "0"); !errors.Is(err, forward.ErrListeners) {
		t.Errorf("one above the limit: %v", err)
	}
}

func TestADeviceThatCannotBeFound(t *testing.T) {
	w := newWorld(t)
	stranger := identity.FromSeed(bytes.Repeat([]byte{9}, 32)).Address()
	if _, err := w.forwarder.Listen(t.Context(), stranger, "tcp", "22", "0"); err == nil {
		t.Error("listens for a device that cannot be found")
	}
	// A caller that gives up is let go.
	w.expose("tcp", "silent", silent(t))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := forward.Dial(ctx, w.out, w.home.Address(), "tcp", "silent"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v", err)
	}
}

// TestAskOnAnyConnection is what the command does over the control socket.
func TestAskOnAnyConnection(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer []byte
		want   error
	}{
		{"yes", []byte{0}, nil},
		{"not offered", []byte{1}, forward.ErrNotOffered},
		{"nothing listens", []byte{2}, forward.ErrRefused},
		{"silent", []byte{3}, forward.ErrSilent},
		{"busy", []byte{4}, forward.ErrBusy},
		{"hung up", nil, forward.ErrNoAnswer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				forward.ReadQuestion(there)
				there.Write(tt.answer)
			}()
			if err := forward.Ask(here, "tcp", "22"); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Ask = %v, want %v", err, tt.want)
			}
			here.Close()
		})
	}
	here, there := net.Pipe()
	go func() { forward.ReadQuestion(there); there.Write([]byte{99}); there.Close() }()
	if err := forward.Ask(here, "tcp", "22"); err == nil {
		t.Error("an unknown answer was taken for a yes")
	}
	if err := forward.Ask(here, "sctp", "22"); !errors.Is(err, forward.ErrNetwork) {
		t.Errorf("unknown network: %v", err)
	}
	if err := forward.Ask(here, "tcp", "../22"); !errors.Is(err, forward.ErrName) {
		t.Errorf("hostile name: %v", err)
	}
}
