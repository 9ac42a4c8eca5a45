package dialback

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

var key = probe.Credentials{Ufrag: "somebody0", Pwd: "a password of twenty-two"}

func TestNetKnocksByUDPFromAFreshPort(t *testing.T) {
	door, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	order := Knock{At: door.LocalAddr().(*net.UDPAddr).AddrPort(), Network: UDP, Key: key, Times: 2}
	ports := map[uint16]int{}
	for range 2 {
		if got := (Net{}).Knock(t.Context(), order); got != Sent {
			t.Fatal(got)
		}
	}
	b := make([]byte, 2048)
	for range 4 {
		door.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := door.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		if stun.Check(b[:n]) != nil {
			t.Error("the gate refuses a knock")
		}
		if _, err := probe.Answer(b[:n], key); err != nil {
			t.Error(err)
		}
		ports[from.Port()]++
	}
	if len(ports) != 2 {
		t.Errorf("from ports %v", ports)
	}
	door.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, _, err := door.ReadFromUDPAddrPort(b); err == nil {
		t.Errorf("%d bytes more than were ordered", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := (Net{}).Knock(ctx, order); got == Answered {
		t.Error(got)
	}
}

// answerTCP answers one connection after its first frame.
func answerTCP(t *testing.T, answer func(question []byte) []byte) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		question, err := readFrame(conn)
		if err == nil {
			conn.Write(answer(question))
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func frame(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

func TestNetKnocksByTCP(t *testing.T) {
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	right := func(q []byte) []byte { a, _ := probe.Answer(q, key); return frame(a) }
	tests := []struct {
		name string
		at   netip.AddrPort
		want Outcome
	}{
		{"the device", answerTCP(t, right), Answered},
		{"somebody else", answerTCP(t, func([]byte) []byte { return frame([]byte("hello")) }), Wrong},
		{"a web server", answerTCP(t, func([]byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }), Silent},
		{"a largest frame", answerTCP(t, func([]byte) []byte { return frame(make([]byte, nat.MaxPacket)) }), Wrong},
		{"a frame too large", answerTCP(t, func([]byte) []byte { return frame(make([]byte, nat.MaxPacket+1)) }), Silent},
		{"an echo", answerTCP(t, frame), Wrong},
		{"nothing", answerTCP(t, func([]byte) []byte { return nil }), Silent},
		{"nobody", closed.Addr().(*net.TCPAddr).AddrPort(), Refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := (Net{}).Knock(t.Context(), Knock{At: tt.at, Network: TCP, Key: key, Times: 1})
			if emulated := got == Silent && tt.want == Refused && strings.HasPrefix(runtime.GOARCH, "mips"); emulated {
				return // qemu hands on the host's number of the error
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	for err, want := range map[error]Outcome{
		os.ErrDeadlineExceeded: Silent, syscall.EHOSTUNREACH: Silent, syscall.ECONNREFUSED: Refused,
		syscall.ENETUNREACH: Unable, syscall.EADDRNOTAVAIL: Unable, syscall.EPERM: Unable,
	} {
		if got := outcomeOf(fmt.Errorf("dial: %w", err)); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

func TestKnocksComeInAtASharedSocket(t *testing.T) {
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	mux, err := stun.NewMux(socket, stun.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer mux.Close()
	socket.HandleSTUN(mux.Handle)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			if _, _, err := socket.ReadFrom(make([]byte, 2048)); err != nil {
				return
			}
		}
	}()
	c := NewClient(liar{}, OverMux(mux))
	d := newDoors([]Place{{UDP, socket.Port()}})
	came := make(chan arrival, 1)
	forget, err := c.expect(d, came)
	if err != nil {
		t.Fatal(err)
	}
	Net{}.Knock(t.Context(), Knock{At: socket.LocalAddr().(*net.UDPAddr).AddrPort(), Network: UDP, Key: d.key(0), Times: 1})
	select {
	case a := <-came:
		if a.place != 0 || !a.from.Addr().IsLoopback() {
			t.Errorf("%+v", a)
		}
	case <-time.After(10 * time.Second):
		t.Error("no knock")
	}
	if _, err := c.expect(d, came); err == nil {
		t.Error("a user name is claimed twice")
	}
	forget()
	if mux.Counts().Answered != 0 {
		t.Error("a knock was answered: the next one proves less")
	}
	socket.Close()
	<-reading
}

type tcpCarrier struct{ at net.Addr }

func (tcpCarrier) WritePacket([]byte) error { return nil }
func (c tcpCarrier) RemoteAddr() net.Addr   { return c.at }

type relayCarrier struct{}

func (relayCarrier) WritePacket([]byte) error { return nil }

func TestObserved(t *testing.T) {
	at := netip.MustParseAddrPort("44.1.1.1:4001")
	tests := []struct {
		name string
		path nat.Path
		want netip.AddrPort
	}{
		{"by UDP", nat.Path{Kind: nat.KindDirect, Addr: at}, at},
		{"by TCP", nat.Path{Kind: nat.KindDirect, Carrier: tcpCarrier{net.TCPAddrFromAddrPort(at)}}, at},
		{"through a relay's address", nat.Path{Kind: nat.KindRelay, Addr: at}, netip.AddrPort{}},
		{"through our place at a relay", nat.Path{Kind: nat.KindRelay, Carrier: relayCarrier{}}, netip.AddrPort{}},
		{"by something else", nat.Path{Kind: nat.KindDirect, Carrier: relayCarrier{}}, netip.AddrPort{}},
		{"no path", nat.Path{}, netip.AddrPort{}},
	}
	for _, tt := range tests {
		if got, ok := observed(tt.path); got != tt.want || ok != tt.want.IsValid() {
			t.Errorf("%s: %v, %t", tt.name, got, ok)
		}
	}
}
