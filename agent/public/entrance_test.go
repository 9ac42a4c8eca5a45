package public

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"porchlight/nat"
	"porchlight/nat/relay"
)

// freePort returns a port that is free for TCP.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// openWeb starts a host that has a second entrance, and waits until it helps.
func openWeb(t *testing.T, web uint16) *place {
	t.Helper()
	p := newPlace(t)
	p.cfg.WebPort = web
	p.reachable.Store(true)
	p.Start()
	poll(t, "relay open", func() bool { return p.Ticket(friend) != nil })
	return p
}

func TestOneAddressServesFramesAndTLS(t *testing.T) {
	for _, entrance := range []string{"own port", "web port"} {
		t.Run(entrance, func(t *testing.T) {
			web := uint16(0)
			if entrance == "web port" {
				web = freePort(t)
			}
			p := openWeb(t, web)
			want := p.socket.LocalAddr().String()
			if web != 0 {
				want = "127.0.0.1:" + strconv.Itoa(int(web))
			}
			ticket := *p.Ticket(friend)
			if len(ticket.TLS) != 1 || ticket.TLS[0] != want || ticket.Pin == "" {
				t.Fatalf("ticket names %v with pin %q, want %s", ticket.TLS, ticket.Pin, want)
			}
			echoThrough(t, ticket, "tls")
			conn, err := net.Dial("tcp", want)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(frame(packet))
			p.socket.SetReadDeadline(time.Now().Add(20 * time.Second))
			b := make([]byte, 2048)
			if n, _, err := p.socket.ReadFrom(b); err != nil || string(b[:n]) != string(packet) {
				t.Errorf("%q, %v", b[:n], err)
			}
		})
	}
}

// echoThrough sends a packet through the relay and gets another back.
func echoThrough(t *testing.T, ticket relay.Ticket, network string) {
	t.Helper()
	peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	peer.SetDeadline(time.Now().Add(20 * time.Second))
	received := make(chan string, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	allocation, err := relay.Allocate(ctx, ticket, relay.Options{
		Network: network,
		Handler: func(b []byte, _ netip.AddrPort) { received <- string(b) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer allocation.Close()
	to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := errors.Join(allocation.Permit(ctx, to.Addr()), allocation.WriteTo([]byte("out"), to)); err != nil {
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
}

func TestATakenWebPortLeavesTheOwnOne(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := openWeb(t, l.Addr().(*net.TCPAddr).AddrPort().Port())
	if at := p.Ticket(friend).TLS; len(at) != 1 || at[0] != p.socket.LocalAddr().String() {
		t.Errorf("ticket names %v", at)
	}
}

func TestTLSIsForTheRelayAlone(t *testing.T) {
	p := newPlace(t)
	p.Start()
	shake := func() error {
		conn := dialTCP(t, p)
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
	}
	if err := shake(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without a relay: %v", err)
	}
	p.reachable.Store(true)
	poll(t, "relay open", func() bool { return p.Ticket(friend) != nil })
	if err := shake(); err != nil {
		t.Errorf("with a relay: %v", err)
	}
	p.reachable.Store(false)
	poll(t, "relay closed", func() bool { return p.Ticket(friend) == nil })
	if err := shake(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the relay: %v", err)
	}
	if n := p.framed.Load(); n != 0 {
		t.Errorf("%d connections counted that are gone", n)
	}
}

// TestAMuteConnectionDoesNotHoldUpTheEnd: Close waits for whoever waits for a
// first byte.
func TestAMuteConnectionDoesNotHoldUpTheEnd(t *testing.T) {
	p := open(t)
	conn := dialTCP(t, p)
	poll(t, "connection accepted", func() bool { return p.framed.Load() == 1 })
	began := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestAHandoffIsLimitedAndEmptiesItself(t *testing.T) {
	f := &handoff{conns: make(chan net.Conn, maxHanded), done: make(chan struct{})}
	var far []net.Conn
	pipe := func() net.Conn {
		near, other := net.Pipe()
		far = append(far, other)
		return near
	}
	for i := range maxHanded {
		if !f.give(pipe()) {
			t.Fatalf("number %d refused", i)
		}
	}
	extra := pipe()
	if f.give(extra) {
		t.Error("one too many taken")
	}
	extra.Close()
	conn, err := f.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for range 2 {
		f.Close()
	}
	f.give(pipe()) // it comes too late, and is closed
	for i, c := range far {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("connection %d is left open: %v", i, err)
		}
	}
	if _, err := f.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestFramesAndTLSCannotBeTakenForEachOther: the first byte of a frame is half
// of its length.
func TestFramesAndTLSCannotBeTakenForEachOther(t *testing.T) {
	if shortest := int(tlsHandshake) << 8; shortest <= nat.MaxPacket {
		t.Errorf("a frame of %d bytes begins like TLS", shortest)
	}
	p := newPlace(t)
	p.Start()
	conn := dialTCP(t, p)
	io.WriteString(conn, strings.Repeat("\x16", 3)) // garbage that looks like it
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v", n, err)
	}
}
