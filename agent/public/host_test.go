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
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pion "github.com/pion/stun/v2"
	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/reach"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/probe"
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
	asked     atomic.Int64
	larger    atomic.Bool // answers are larger than questions
}

// knock is what somebody waits for here.
var knock = probe.Credentials{Ufrag: "knock", Pwd: "a password of twenty-two"}

func (p *place) knocked(b []byte, _ netip.AddrPort) []byte {
	answer, _ := probe.Answer(b, knock)
	return answer
}

func (p *place) answer(b []byte) []byte {
	if p.larger.Load() {
		return append(bytes.Clone(b), 0)
	}
	return bytes.Clone(b)
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
			is := p.reachable.Load()
			return reach.State{Reachable: is, Open: is, Public: netip.MustParseAddrPort("127.0.0.1:1")}
		},
		Knocks:      p.knocked,
		Asked:       func([]byte, *nat.Framed) { p.asked.Add(1) },
		RespondSTUN: func(b []byte, _ netip.AddrPort) []byte { return p.answer(b) },
		Friend:      func(a identity.Address) bool { return a == friend },
		Loopback:    true,
		Logger:      slog.New(slog.DiscardHandler),
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

func (p *place) closedPort() bool {
	conn, err := net.Dial("tcp", p.socket.LocalAddr().String())
	if err == nil {
		conn.Close()
	}
	return err != nil
}

func TestTheRelayOpensAndClosesWithReachability(t *testing.T) {
	p := newPlace(t)
	if !p.closedPort() {
		t.Error("open before the start")
	}
	p.Start()
	if p.closedPort() || p.Ticket(friend) != nil || p.RelayedBytes() != 0 {
		t.Error("the way in over TCP is to be open, and the relay not")
	}
	for range 2 {
		p.reachable.Store(true)
		poll(t, "relay open", func() bool { return p.Ticket(friend) != nil })
		at := p.Ticket(friend).TCP[0]
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		p.reachable.Store(false)
		poll(t, "relay closed", func() bool { return p.Ticket(friend) == nil })
		poll(t, "port closed", func() bool {
			conn, err := net.Dial("tcp", at)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		if p.closedPort() {
			t.Error("the way in over TCP closed too")
		}
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if !p.closedPort() {
		t.Error("open after Close")
	}
}

func TestAMappedDeviceHasNoRelay(t *testing.T) {
	p := newPlace(t)
	looked := make(chan struct{}, 8)
	p.cfg.State = func() reach.State {
		select {
		case looked <- struct{}{}:
		default:
		}
		return reach.State{Reachable: true, Public: netip.MustParseAddrPort("127.0.0.1:1")}
	}
	p.Start()
	for range 3 {
		<-looked
	}
	if p.Ticket(friend) != nil {
		t.Error("a relay whose ports nobody reaches")
	}
}

func TestAPrivateDeviceOpensNothing(t *testing.T) {
	p := newPlace(t)
	p.cfg.Private = true
	p.reachable.Store(true)
	p.Start()
	if !p.closedPort() || p.Ticket(friend) != nil {
		t.Error("open")
	}
}

func TestSTUNInFrames(t *testing.T) {
	p := newPlace(t)
	p.Start()
	conn := dialTCP(t, p)
	receive := func() []byte {
		t.Helper()
		var head [2]byte
		_, err := io.ReadFull(conn, head[:])
		b := make([]byte, binary.BigEndian.Uint16(head[:]))
		if err == nil {
			_, err = io.ReadFull(conn, b)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	awaited, id, _ := probe.Ask(knock, "x")
	conn.Write(frame(awaited))
	if got, err := probe.Answered(receive(), knock); err != nil || got != id {
		t.Errorf("a knock that is waited for: %v", err)
	}
	other, _, _ := probe.Ask(probe.Credentials{Ufrag: "call", Pwd: "another of twenty-two chars"}, "x")
	conn.Write(frame(other))
	poll(t, "question handed on", func() bool { return p.asked.Load() == 1 })

	plain, err := pion.Build(pion.TransactionID, pion.BindingRequest, pion.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	broken := append(bytes.Clone(plain.Raw), 0)
	for i := range maxAnswers - 1 {
		conn.Write(frame(broken))
		conn.Write(frame(plain.Raw))
		if got := receive(); !bytes.Equal(got, plain.Raw) {
			t.Fatalf("answer %d: %q", i, got)
		}
	}
	p.larger.Store(true)
	conn.Write(frame(plain.Raw)) // the last that is looked at: its answer would be larger
	conn.Write(frame(other))     // comes after it
	poll(t, "question handed on", func() bool { return p.asked.Load() == 2 })
	p.larger.Store(false)
	conn.Write(frame(plain.Raw))
	conn.Write(frame(awaited))
	if got, err := probe.Answered(receive(), knock); err != nil || got != id {
		t.Errorf("more is answered than is allowed: %v", err)
	}
	if p.asked.Load() != 2 {
		t.Error("a plain request was handed on")
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

func TestAddresses(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	hosts := []ice.Candidate{
		{Kind: ice.Host, Addr: at("192.168.1.2:1")}, {Kind: ice.Host, Addr: at("44.1.1.1:1")},
		{Kind: ice.Host, Addr: at("[fd00::1]:1")}, {Kind: ice.Host, Addr: at("[3fff::1]:1")},
		{Kind: ice.Srflx, Addr: at("44.9.9.9:1")},
	}
	open, none := reach.State{Reachable: true, Open: true}, relayAddresses{}
	tests := []struct {
		name     string
		state    reach.State
		loopback bool
		v4, v6   string
		open     relayAddresses
	}{
		{"not open", reach.State{Reachable: true, Public: at("44.2.2.2:1"), Candidates: hosts}, false, "", "", none},
		{"not reachable", reach.State{Open: true, Public: at("44.2.2.2:1"), Candidates: hosts}, false, "", "", none},
		{"as helpers see it", reach.State{Reachable: true, Open: true, Public: at("44.2.2.2:1"), Public6: at("[3fff::2]:1"), Candidates: hosts}, false, "44.2.2.2", "3fff::2", none},
		{"by IPv6 alone", reach.State{Reachable: true, Open: true, Public: at("[3fff::2]:1"), Public6: at("[3fff::2]:1")}, false, "", "3fff::2", none},
		{"as interfaces have it", reach.State{Reachable: true, Open: true, Candidates: hosts}, false, "44.1.1.1", "3fff::1", none},
		{"nothing public", reach.State{Reachable: true, Open: true, Candidates: hosts[:1]}, false, "", "", none},
		{"nothing at all", open, false, "", "", none},
		{"loopback", reach.State{Reachable: true, Open: true, Public: at("127.0.0.1:1"), Public6: at("[::1]:1")}, true, "127.0.0.1", "::1", none},
		{"what it has is kept", reach.State{Reachable: true, Open: true, Public: at("44.2.2.2:1"), Public6: at("[3fff::2]:1"), Candidates: hosts},
			false, "44.1.1.1", "3fff::1", relayAddresses{at("44.1.1.1:1").Addr(), at("[3fff::1]:1").Addr()}},
		{"what it had is not", reach.State{Reachable: true, Open: true, Public: at("44.2.2.2:1"), Candidates: hosts},
			false, "44.2.2.2", "3fff::1", relayAddresses{at("44.8.8.8:1").Addr(), at("[3fff::8]:1").Addr()}},
		{"no loopback", reach.State{Reachable: true, Open: true, Public: at("127.0.0.1:1"), Public6: at("[::1]:1")}, false, "", "", none},
	}
	for _, tt := range tests {
		h := New(Config{Loopback: tt.loopback})
		text := func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		if got := h.addresses(tt.state, tt.open); text(got.v4) != tt.v4 || text(got.v6) != tt.v6 || got.any() != (tt.v4+tt.v6 != "") {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestTheRelayFollowsTheAddress(t *testing.T) {
	p := newPlace(t)
	var at atomic.Pointer[netip.AddrPort]
	first, second := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.2:1")
	at.Store(&first)
	p.cfg.State = func() reach.State { return reach.State{Reachable: true, Open: true, Public: *at.Load()} }
	p.Start()
	leads := func(to netip.AddrPort) func() bool {
		return func() bool {
			ticket := p.Ticket(friend)
			return ticket != nil && strings.HasPrefix(ticket.UDP[0], to.Addr().String()+":")
		}
	}
	poll(t, "relay at the first address", leads(first))
	at.Store(&second)
	poll(t, "relay at the second address", leads(second))
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
