package forward_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/forward"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(pipeEnv); socket != "" {
		if err := pipe(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// places is a Finder that knows where everybody is.
type places struct {
	socket *nat.Socket
	mu     sync.Mutex
	at     map[identity.Address]netip.AddrPort
}

func (p *places) put(a identity.Address, at netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[a] = at
}

func (p *places) Find(_ context.Context, to identity.Address) (*nat.Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[to]
	if !ok {
		return nil, errors.New("nowhere to be found")
	}
	peer := p.socket.NewPeer()
	return peer, peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: at})
}

func (p *places) Adopt(_ identity.Address, remote net.Addr) *nat.Peer {
	return p.socket.Adopt(remote.(*net.UDPAddr).AddrPort())
}

func (p *places) Ended(_ identity.Address, peer *nat.Peer) { peer.Close() }
func (p *places) Wrong(_ identity.Address, peer *nat.Peer) { peer.Close() }

// end is a device with an overlay.
type end struct {
	*overlay.Overlay
	places *places
	at     netip.AddrPort
}

func newEnd(t testing.TB, seed byte) *end {
	t.Helper()
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	e := &end{
		Overlay: overlay.New(overlay.Config{
			Device: identity.FromSeed(bytes.Repeat([]byte{seed}, 32)),
			Socket: socket,
			Logger: slog.New(slog.DiscardHandler),
		}),
		places: &places{socket: socket, at: map[identity.Address]netip.AddrPort{}},
		at:     socket.LocalAddr().(*net.UDPAddr).AddrPort(),
	}
	e.Use(e.places)
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		socket.Close()
	})
	return e
}

// memory is a Store that can be made to fail.
type memory struct {
	list []forward.Exposed
	fail error
}

func (m *memory) Load() ([]forward.Exposed, error) { return slices.Clone(m.list), m.fail }
func (m *memory) Save(list []forward.Exposed) error {
	if m.fail == nil {
		m.list = slices.Clone(list)
	}
	return m.fail
}

func anything(netip.AddrPort) error { return nil }

// world is a device that exposes services, and one that uses them.
type world struct {
	t         testing.TB
	home, out *end
	table     *forward.Table
	server    *forward.Server
	forwarder *forward.Forwarder
	allowed   atomic.Bool // whether "friends" are
	refused   atomic.Bool // whether all targets are the agent's own
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, home: newEnd(t, 1), out: newEnd(t, 2)}
	w.out.places.put(w.home.Address(), w.home.at)
	w.home.places.put(w.out.Address(), w.out.at)
	w.allowed.Store(true)
	var err error
	w.table, err = forward.Open(&memory{}, func(netip.AddrPort) error {
		if w.refused.Load() {
			return forward.ErrKept
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w.server = forward.NewServer(forward.Config{
		Table: w.table,
		Allows: func(a identity.Address, who []string) bool {
			return w.allowed.Load() && a == w.out.Address() && slices.Contains(who, "friends")
		},
		Logger: log,
	})
	w.forwarder = forward.NewForwarder(w.out, log)
	w.listen(w.home)
	t.Cleanup(func() {
		w.forwarder.Close()
		w.server.Close()
	})
	return w
}

// listen serves the streams of an overlay until it closes.
func (w *world) listen(e *end) {
	listener, err := e.Listen(forward.Service)
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { w.server.Handle(conn) })
		}
	})
	w.t.Cleanup(func() {
		listener.Close()
		w.server.Close()
		running.Wait()
	})
}

// expose offers a target to friends under a name.
func (w *world) expose(network, name string, target net.Addr) {
	w.t.Helper()
	e, err := forward.NewExposed(name, network, target.String(), []string{"friends"})
	if err == nil {
		err = w.table.Add(e)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// tcp runs a target that handles each connection.
func (w *world) tcp(handle func(*net.TCPConn)) net.Addr {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	w.t.Cleanup(func() {
		listener.Close()
		w.server.Close() // ends what a handler waits for
		running.Wait()
	})
	return listener.Addr()
}

// udp runs a target that sends every packet back to where it came from.
func (w *world) udp() *net.UDPConn {
	w.t.Helper()
	conn := listenUDP(w.t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	w.t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn
}

func listenUDP(t testing.TB) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// forward listens at any port that leads to a service.
func (w *world) forward(network, name string) netip.AddrPort {
	w.t.Helper()
	at, err := w.forwarder.Listen(w.t.Context(), w.home.Address(), network, name, "0")
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

func (w *world) dial(network, name string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return forward.Dial(ctx, w.out, w.home.Address(), network, name)
}

func (w *world) mustDial(network, name string) net.Conn {
	w.t.Helper()
	conn, err := w.dial(network, name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// connect dials a local port.
func connect(t testing.TB, network string, at netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// eventually waits until a condition holds, 10 s at most.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after 10 s still not: %s", what)
		}
	}
}

func echoTCP(conn *net.TCPConn) {
	io.Copy(conn, conn)
	conn.CloseWrite()
}

func portOf(a net.Addr) string {
	return strconv.Itoa(int(netip.MustParseAddrPort(a.String()).Port()))
}
