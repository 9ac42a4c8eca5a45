package forward_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"porchlight/agent/forward"
	"porchlight/agent/overlay"
)

// TestDatagramsOfAllSizesCrossBothWays: 1,000 of 0 to 9,000 bytes, none twice,
// none lost that is not counted.
func TestDatagramsOfAllSizesCrossBothWays(t *testing.T) {
	w := newWorld(t)
	w.expose("udp", "echo", w.udp().LocalAddr())
	conn := connect(t, "udp", w.forward("udp", "echo"))
	conn.(*net.UDPConn).SetReadBuffer(1 << 20)
	const count, ahead = 1000, 4
	seen := make([]bool, count)
	buffer := make([]byte, 1<<16)
	lost, waiting := 0, 0
	read := func() {
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := conn.Read(buffer)
		waiting--
		if errors.Is(err, os.ErrDeadlineExceeded) {
			lost++
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if n < 4 {
			return
		}
		i := int(binary.BigEndian.Uint32(buffer))
		if want := packet(i); i >= count || seen[i] || !bytes.Equal(buffer[:n], want) {
			t.Fatalf("datagram %d of %d bytes is not what was sent, or came twice", i, n)
		}
		seen[i] = true
	}
	for i := range count {
		if _, err := conn.Write(packet(i)); err != nil {
			t.Fatal(err)
		}
		if waiting++; waiting == ahead {
			read()
		}
	}
	for waiting > 0 {
		read()
	}
	if counted := w.server.Dropped() + w.forwarder.Dropped(); int64(lost) > counted {
		t.Errorf("%d lost, %d counted", lost, counted)
	}
	// One too large for any of it is lost, and counted.
	conn.Write(make([]byte, overlay.MaxPacket+1))
	eventually(t, "the drop is counted", func() bool { return w.forwarder.Dropped() > 0 })
	checkBack(t, conn)
}

// packet is the datagram of a number: its size, and what is in it, follow.
func packet(i int) []byte {
	size := i * 7919 % (overlay.MaxPacket + 1)
	b := bytes.Repeat([]byte{byte(i)}, size)
	if size >= 4 {
		binary.BigEndian.PutUint32(b, uint32(i))
	}
	return b
}

// TestSourcesHaveFlowsOfTheirOwn: the target sees as many as there are, and
// each gets what is its own.
func TestSourcesHaveFlowsOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	w.expose("udp", "echo", w.udp().LocalAddr())
	at := w.forward("udp", "echo")
	var sources []net.Conn
	for i := range 5 {
		conn := connect(t, "udp", at)
		sources = append(sources, conn)
		conn.Write([]byte{byte(i)})
	}
	for i, conn := range sources {
		b := make([]byte, 10)
		if n, err := conn.Read(b); n != 1 || b[0] != byte(i) || err != nil {
			t.Errorf("source %d read %v, %v", i, b[:n], err)
		}
	}
	if _, flows := w.server.Open(); flows != 5 {
		t.Errorf("%d flows", flows)
	}
}

func TestFlowsEndWhenIdle(t *testing.T) {
	for _, side := range []string{"server", "listener"} {
		t.Run(side, func(t *testing.T) {
			w := newWorld(t)
			if side == "server" {
				w.server.SetLimits(100*time.Millisecond, time.Second)
			} else {
				w.forwarder.SetIdle(100 * time.Millisecond)
			}
			w.expose("udp", "echo", w.udp().LocalAddr())
			conn := connect(t, "udp", w.forward("udp", "echo"))
			for round := range byte(3) {
				insist(t, conn, round)
				eventually(t, "the flow has ended", func() bool { _, n := w.server.Open(); return n == 0 })
			}
		})
	}
}

// insist sends a byte until it comes back: a packet that meets a flow at its
// very end is lost.
func insist(t *testing.T, conn net.Conn, b byte) {
	t.Helper()
	buffer := make([]byte, 10)
	eventually(t, "an echo", func() bool {
		conn.Write([]byte{b})
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, err := conn.Read(buffer)
			if err != nil || n == 1 && buffer[0] == b {
				return err == nil
			}
		}
	})
}

// TestAFlowOutlivesItsSession: it is opened again by itself, so that what the
// target sends comes without a word from the source.
func TestAFlowOutlivesItsSession(t *testing.T) {
	w := newWorld(t)
	target := listenUDP(t)
	w.expose("udp", "service", target.LocalAddr())
	conn := connect(t, "udp", w.forward("udp", "service"))
	buffer := make([]byte, 100)
	next := func(want string) netip.AddrPort {
		t.Helper()
		target.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			n, from, err := target.ReadFromUDPAddrPort(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if string(buffer[:n]) == want {
				return from
			}
		}
	}
	conn.Write([]byte("before"))
	first := next("before")
	old := w.out.Current(w.home.Address())
	old.Close()
	eventually(t, "it is open again", func() bool {
		s := w.out.Current(w.home.Address())
		_, flows := w.server.Open()
		return s != nil && s != old && flows == 1
	})
	conn.Write([]byte("after"))
	second := next("after")
	if first == second {
		t.Error("the target's socket outlived the session")
	}
	target.WriteToUDPAddrPort([]byte("back"), second)
	if n, err := conn.Read(buffer); string(buffer[:n]) != "back" || err != nil {
		t.Errorf("%q came back, %v", buffer[:n], err)
	}
}

// TestPacketsWaitForTheirDevice: while it is away the newest are kept.
func TestPacketsWaitForTheirDevice(t *testing.T) {
	w := newWorld(t)
	target := listenUDP(t)
	w.expose("udp", "service", target.LocalAddr())
	at := w.forward("udp", "service")
	w.out.Current(w.home.Address()).Close()
	w.out.places.put(w.home.Address(), netip.AddrPort{}) // nowhere
	conn := connect(t, "udp", at)
	const count = 200
	for i := range count {
		conn.Write([]byte{byte(i)})
	}
	w.out.places.put(w.home.Address(), w.home.at)
	target.SetReadDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 10)
	received := 1
	for n, err := target.Read(buffer); buffer[0] != count-1; n, err = target.Read(buffer) {
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		received++
	}
	if received < 10 || received > count/2 {
		t.Errorf("%d of %d packets were kept", received, count)
	}
}

// TestATargetThatComesLater: an ICMP answer ends nothing.
func TestATargetThatComesLater(t *testing.T) {
	w := newWorld(t)
	gone := listenUDP(t)
	at := gone.LocalAddr()
	gone.Close()
	w.expose("udp", "service", at)
	conn := connect(t, "udp", w.forward("udp", "service"))
	for range 3 {
		conn.Write([]byte("nobody"))
	}
	eventually(t, "a flow is open", func() bool { _, n := w.server.Open(); return n == 1 })
	target, err := net.ListenUDP("udp4", at.(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 10)
		n, _ := target.Read(b)
		got <- string(b[:n])
	}()
	eventually(t, "the target hears the source", func() bool {
		conn.Write([]byte("now"))
		select {
		case <-got:
			return true
		default:
			return false
		}
	})
	if _, n := w.server.Open(); n != 1 {
		t.Errorf("%d flows", n)
	}
}

// TestAFloodOfSourcesIsBounded: more of them than there may be flows take
// nothing from those that are.
func TestAFloodOfSourcesIsBounded(t *testing.T) {
	w := newWorld(t)
	w.expose("udp", "echo", w.udp().LocalAddr())
	at := w.forward("udp", "echo")
	first := connect(t, "udp", at)
	checkBack(t, first)
	eventually(t, "what is too many is counted", func() bool {
		for range 50 {
			conn, err := net.Dial("udp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			conn.Write([]byte("flood"))
			conn.Close()
		}
		return w.forwarder.Dropped() > 0
	})
	if _, flows := w.server.Open(); flows > forward.MaxOfCaller {
		t.Errorf("%d flows", flows)
	}
	insist(t, first, 42)
}

// TestDialledPacketsKeepTheirBorders is Dial without a listener.
func TestDialledPacketsKeepTheirBorders(t *testing.T) {
	w := newWorld(t)
	w.expose("udp", "echo", w.udp().LocalAddr())
	conn := w.mustDial("udp", "echo")
	for _, n := range []int{0, 1, 1100, 1200, overlay.MaxPacket} {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if got, err := conn.Read(make([]byte, overlay.MaxPacket)); got != n || err != nil {
			t.Errorf("%d bytes came back as %d, %v", n, got, err)
		}
	}
	// A second one ends with the first's stream, not before.
	other := w.mustDial("udp", "echo")
	conn.Close()
	checkBack(t, other)
	if err := w.table.Remove("udp", "echo"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read after the service's end = %v", err)
	}
}
