package public

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/reach"
	"porchlight/nat"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ syscall.Conn = &countedConn{}

var friend, stranger = device(1), device(2)

func device(seed byte) identity.Address {
	return identity.FromSeed(bytes.Repeat([]byte{seed}, 32)).Address()
}

// place is a Host on loopback whose reachability the test decides.
type place struct {
	*Host
	socket    *nat.Socket
	reachable atomic.Bool
}

func newPlace(t *testing.T) *place {
	t.Helper()
	socket := newSocket(t)
	mux, err := stun.NewMux(socket, stun.Config{Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{socket: socket}
	p.Host = New(Config{
		Socket: socket,
		Mux:    mux,
		State: func() reach.State {
			return reach.State{Reachable: p.reachable.Load(), Public: netip.MustParseAddrPort("127.0.0.1:1")}
		},
		Friend:   func(a identity.Address) bool { return a == friend },
		Loopback: true,
		Logger:   slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), mux.Close(), socket.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// newSocket opens a socket at a port that is free for TCP too.
func newSocket(t *testing.T) *nat.Socket {
	t.Helper()
	for range 20 {
		socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		probe, err := net.Listen("tcp", socket.LocalAddr().String())
		if err == nil {
			probe.Close()
			return socket
		}
		socket.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil
}

// poll waits for a condition.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// open starts the host and waits until it helps.
func open(t *testing.T) *place {
	t.Helper()
	p := newPlace(t)
	p.reachable.Store(true)
	p.Start()
	poll(t, "relay open", func() bool { return p.Ticket(friend) != nil })
	return p
}

func TestNothingOpensBeforeTheDeviceIsReachable(t *testing.T) {
	p := newPlace(t)
	p.Start()
	closedPort := func() bool {
		conn, err := net.Dial("tcp", p.socket.LocalAddr().String())
		if err == nil {
			conn.Close()
		}
		return err != nil
	}
	if !closedPort() || p.Ticket(friend) != nil || p.RelayedBytes() != 0 {
		t.Error("open although nobody can reach the device")
	}
	p.reachable.Store(true)
	poll(t, "relay open", func() bool { return p.Ticket(friend) != nil })
	if closedPort() {
		t.Error("closed although the device is reachable")
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if !closedPort() {
		t.Error("open after Close")
	}
}

func TestCloseWhileNotReachable(t *testing.T) {
	p := newPlace(t)
	p.Start()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseWithoutStart(t *testing.T) {
	if err := newPlace(t).Close(); err != nil {
		t.Error(err)
	}
}

// packet is what the socket takes for QUIC (RFC 9443).
var packet = []byte("\x40 a packet for QUIC")

func frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func dialTCP(t *testing.T, p *place) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.socket.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func TestPacketsComeAndGoOverTCP(t *testing.T) {
	p := open(t)
	conn := dialTCP(t, p)
	if _, err := conn.Write(frame(packet)); err != nil {
		t.Fatal(err)
	}
	p.socket.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 2048)
	n, from, err := p.socket.ReadFrom(b)
	if err != nil || !bytes.Equal(b[:n], packet) {
		t.Fatalf("%q, %v", b[:n], err)
	}
	answer := []byte("\x41 and its answer")
	if _, err := p.socket.WriteTo(answer, from); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2+len(answer))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, frame(answer)) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	p := open(t)
	var conns []net.Conn
	received := 0
	receive := func() {
		t.Helper()
		p.socket.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, _, err := p.socket.ReadFrom(make([]byte, 2048)); err != nil {
			t.Fatalf("after %d connections: %v", received, err)
		}
		received++
	}
	for range maxFramed {
		conn := dialTCP(t, p)
		conns = append(conns, conn)
		conn.Write(frame(packet))
		receive()
	}
	if n, err := dialTCP(t, p).Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one above the limit: %d, %v", n, err)
	}
	// One that ends makes room for another.
	conns[0].Close()
	poll(t, "room for another", func() bool { return p.framed.Load() < maxFramed })
	dialTCP(t, p).Write(frame(packet))
	receive()
}

func TestTheRelayCarriesAndCounts(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			p := open(t)
			peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			peer.SetDeadline(time.Now().Add(20 * time.Second))
			received := make(chan string, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			allocation, err := relay.Allocate(ctx, *p.Ticket(friend), relay.Options{
				Network: network,
				Handler: func(b []byte, _ netip.AddrPort) { received <- string(b) },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer allocation.Close()
			to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			if err := allocation.Permit(ctx, to.Addr()); err != nil {
				t.Fatal(err)
			}
			if err := allocation.WriteTo([]byte("out"), to); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 16)
			n, from, err := peer.ReadFrom(b)
			if err != nil || string(b[:n]) != "out" {
				t.Fatalf("%q, %v", b[:n], err)
			}
			if _, err := peer.WriteTo([]byte("back"), from); err != nil {
				t.Fatal(err)
			}
			if got := <-received; got != "back" {
				t.Errorf("%q", got)
			}
			poll(t, "all counted", func() bool { return p.RelayedBytes() >= int64(len("out")+len("back")) })
		})
	}
}

func TestTicketsNameTheirHolder(t *testing.T) {
	p := open(t)
	a, b := p.Ticket(friend), p.Ticket(stranger)
	if a == nil || b == nil || a.Username == b.Username || a.Password == b.Password || len(a.UDP) == 0 || len(a.TCP) == 0 {
		t.Errorf("%+v %+v", a, b)
	}
}

func TestTakenPortsLeaveTheRestWorking(t *testing.T) {
	p := newPlace(t)
	for _, port := range []uint16{p.socket.Port(), p.socket.Port() + 1} {
		taken, err := net.Listen("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
		if err == nil { // else somebody has it already
			defer taken.Close()
		}
	}
	p.reachable.Store(true)
	p.Start()
	poll(t, "relay open", func() bool { return p.Ticket(friend) != nil })
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"[::]:4001":      ":4001", // both families
		"0.0.0.0:4001":   "0.0.0.0:4001",
		"127.0.0.1:4001": "127.0.0.1:4001",
		"[::1]:4001":     "[::1]:4001",
	} {
		if got := hostPort(netip.MustParseAddrPort(in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
