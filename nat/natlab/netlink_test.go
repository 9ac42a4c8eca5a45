package natlab

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// linkEvents reads RTM_NEWLINK and RTM_DELLINK messages (rtnetlink(7)).
func linkEvents(b []byte) (events []linkEvent) {
	const ifinfomsgLen = 16
	for len(b) >= unix.SizeofNlMsghdr+ifinfomsgLen {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr+ifinfomsgLen || n > len(b) {
			break
		}
		kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr+8:])
		e := linkEvent{carrier: kind == unix.RTM_NEWLINK && flags&unix.IFF_LOWER_UP != 0}
		for a := b[unix.SizeofNlMsghdr+ifinfomsgLen : n]; len(a) >= 4; {
			size := int(binary.NativeEndian.Uint16(a))
			if size < 4 || size > len(a) {
				break
			}
			if binary.NativeEndian.Uint16(a[2:]) == unix.IFLA_IFNAME {
				e.dev = string(bytes.TrimRight(a[4:size], "\x00"))
			}
			a = a[min(len(a), (size+3)&^3):]
		}
		if kind == unix.RTM_NEWLINK || kind == unix.RTM_DELLINK {
			events = append(events, e)
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return events
}

// Only marked flows go when a mark is given, all when none is.
func TestFlushConntrackByMark(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	witness, device := mustHost(t, l, "witness"), mustHome(t, l, "home", PortRotating)
	device.home.rotation.stop()
	w, d := listenUDP(t, witness, 9), listenUDP(t, device, 5000)
	outside(t, d, witness, w)
	ln, err := witness.Listen(context.Background(), "tcp4", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := device.Dial(context.Background(), "tcp4", witness.Public().String()+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	flows := func() (tcp, udp bool) {
		err := inNamespace(device.home.carrier, func() error {
			b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
			tcp, udp = strings.Contains(string(b), "dport=80 "), strings.Contains(string(b), "dport=9 ")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return tcp, udp
	}
	for _, step := range []struct {
		flush    func() error
		tcp, udp bool
	}{
		{func() error { return nil }, true, true},
		{func() error { return flushConntrack(device.home.carrier, udpMark+1) }, true, true},
		{func() error { return flushConntrack(device.home.carrier, udpMark) }, true, false},
		{func() error { return flushConntrack(device.home.carrier, 0) }, false, false},
	} {
		if err := step.flush(); err != nil {
			t.Fatal(err)
		}
		if tcp, udp := flows(); tcp != step.tcp || udp != step.udp {
			t.Errorf("tcp %v, udp %v, want %v, %v", tcp, udp, step.tcp, step.udp)
		}
	}
}
