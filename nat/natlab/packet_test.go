package natlab

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// udp makes a datagram from port 40000 to 3478.
func udp(payload ...byte) []byte {
	h := binary.BigEndian.AppendUint16(nil, 40000)
	h = binary.BigEndian.AppendUint16(h, 3478)
	h = binary.BigEndian.AppendUint16(h, uint16(8+len(payload)))
	return append(append(h, 0, 0), payload...)
}

func tcp(flags byte) []byte {
	h := binary.BigEndian.AppendUint16(nil, 443)
	h = append(binary.BigEndian.AppendUint16(h, 50000), make([]byte, 16)...)
	h[12], h[13] = 0x50, flags
	return h
}

func stunMessage(typ uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = append(b, 0, 0, 0x21, 0x12, 0xa4, 0x42)
	return append(b, "transaction!"...)
}

func TestDescribe(t *testing.T) {
	packet := func(protocol byte, payload []byte) []byte {
		return ipv4(addrA, addrB, 64, protocol, payload)[vnetHeaderLen:]
	}
	packet6 := func(protocol byte, payload []byte) []byte {
		p := ipv6(addrA6, addrB6, 64)[vnetHeaderLen:]
		p[6] = protocol
		return append(p, payload...)
	}
	fragment := packet(17, udp())
	fragment[7] = 1
	options := packet(17, append(make([]byte, 4), udp()...))
	options[0] = 0x46
	short := packet(17, nil)
	short[0] = 0x4f
	for _, tc := range []struct {
		packet []byte
		want   string
	}{
		{nil, "not IP"},
		{[]byte{0x60}, "not IP"},
		{packet6(17, udp())[:ipv6HeaderLen-1], "not IP"},
		{packet6(17, udp(stunMessage(0x0001)...)), "STUN binding request 40000→3478"},
		{packet6(6, tcp(2)), "TCP SYN 443→50000"},
		{packet6(44, nil), "IP protocol 44"},
		{packet6(58, []byte{1, 4}), "ICMPv6 port unreachable"},
		{packet6(58, []byte{1, 0}), "ICMPv6 unreachable"},
		{packet6(58, []byte{2, 0}), "ICMPv6 packet too big"},
		{packet6(58, []byte{3, 0}), "ICMPv6 time exceeded"},
		{packet6(58, []byte{128, 0}), "ICMPv6 echo"},
		{packet6(58, []byte{129, 0}), "ICMPv6 echo reply"},
		{packet6(58, []byte{135, 0}), "ICMPv6 type 135"},
		{packet6(58, []byte{135}), "ICMPv6"},
		{short, "damaged IPv4"},
		{fragment, "later fragment"},
		{options, "UDP empty 40000→3478"},
		{packet(47, nil), "IP protocol 47"},
		{packet(1, []byte{3, 3}), "ICMP port unreachable"},
		{packet(1, []byte{3, 1}), "ICMP unreachable"},
		{packet(1, []byte{8, 0}), "ICMP echo"},
		{packet(1, []byte{0, 0}), "ICMP echo reply"},
		{packet(1, []byte{11, 0}), "ICMP time exceeded"},
		{packet(1, []byte{5, 0}), "ICMP type 5"},
		{packet(1, nil), "ICMP"},
		{packet(6, tcp(2)), "TCP SYN 443→50000"},
		{packet(6, tcp(18)), "TCP SYN ACK 443→50000"},
		{packet(6, tcp(16)), "TCP segment 443→50000"},
		{packet(6, tcp(17)), "TCP FIN 443→50000"},
		{packet(6, tcp(20)), "TCP RST 443→50000"},
		{packet(6, tcp(2)[:19]), "TCP"},
		{packet(17, udp()[:7]), "UDP"},
		{packet(17, udp()), "UDP empty 40000→3478"},
		{packet(17, udp(stunMessage(0x0001)...)), "STUN binding request 40000→3478"},
		{packet(17, udp(stunMessage(0x0011)...)), "STUN binding indication 40000→3478"},
		{packet(17, udp(stunMessage(0x0101)...)), "STUN binding success 40000→3478"},
		{packet(17, udp(stunMessage(0x0111)...)), "STUN binding error 40000→3478"},
		{packet(17, udp(stunMessage(0x0003)...)), "TURN allocate request 40000→3478"},
		{packet(17, udp(stunMessage(0x0016)...)), "TURN send indication 40000→3478"},
		{packet(17, udp(stunMessage(0x0017)...)), "TURN data indication 40000→3478"},
		{packet(17, udp(stunMessage(0x0108)...)), "TURN create permission success 40000→3478"},
		{packet(17, udp(stunMessage(0x0042)...)), "STUN request 40000→3478"},
		{packet(17, udp(stunMessage(1)[:19]...)), "UDP 40000→3478"},
		{packet(17, udp(0x40, 1, 0, 2, 9, 9)), "TURN channel data 40000→3478"},
		{packet(17, udp(0x40, 1, 0, 2, 9, 9, 0, 0)), "TURN channel data 40000→3478"},
		{packet(17, udp(0x40, 1, 0, 3, 9, 9)), "UDP 40000→3478"},
		{packet(17, udp(append([]byte{0x40, 1, 0, 3}, make([]byte, 16)...)...)), "UDP 40000→3478"},
		{packet(17, udp(append([]byte{0x40, 1, 0, 3}, make([]byte, 17)...)...)), "QUIC 1-RTT 40000→3478"},
		{packet(17, udp(0xc3, 0, 0, 0, 1)), "QUIC Initial 40000→3478"},
		{packet(17, udp(0xd3, 0, 0, 0, 1)), "QUIC 0-RTT 40000→3478"},
		{packet(17, udp(0xe3, 0, 0, 0, 1)), "QUIC Handshake 40000→3478"},
		{packet(17, udp(0xf3, 0, 0, 0, 1)), "QUIC Retry 40000→3478"},
		{packet(17, udp(0xc3, 0, 0, 0, 0)), "QUIC version negotiation 40000→3478"},
		{packet(17, udp([]byte("d1:ad2:id20:")...)), "DHT message 40000→3478"},
		{packet(17, udp(0x20)), "UDP 40000→3478"},
	} {
		if got := describe(tc.packet); got != tc.want {
			t.Errorf("% x: got %q, want %q", tc.packet, got, tc.want)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	for _, payload := range [][]byte{udp(stunMessage(1)...), udp(0xc3, 0, 0, 0, 1), udp(0x40, 0, 0, 0)} {
		f.Add(ipv4(addrA, addrB, 64, 17, payload)[vnetHeaderLen:])
	}
	f.Add(append(ipv6(addrA6, addrB6, 64)[vnetHeaderLen:], 128, 0))
	f.Add(ipv4(addrA, addrB, 64, 6, tcp(2))[vnetHeaderLen:])
	f.Add(ipv4(addrA, addrB, 64, 1, []byte{3, 3})[vnetHeaderLen:])
	f.Fuzz(func(t *testing.T, packet []byte) {
		got := describe(packet)
		if got == "" || !utf8.ValidString(got) || strings.ContainsAny(got, "\n;#") || len(got) > 60 {
			t.Errorf("% x is called %q", packet, got)
		}
	})
}

func TestPCAPBytes(t *testing.T) {
	c := newCapture()
	c.add(int64(1500*time.Millisecond), nil, nil, forwarded, bytes.Repeat([]byte{0x45}, snapLen+1))
	c.add(int64(2*time.Second)+7, nil, nil, forwarded, []byte{0x46})
	all, _ := c.snapshot()
	var b bytes.Buffer
	if err := writePCAP(&b, time.Unix(0x10, 0), all); err != nil {
		t.Fatal(err)
	}
	want := "4d3cb2a1" + "0200" + "0400" + "00000000" + "00000000" + "ffff0000" + "65000000" +
		"11000000" + "0065cd1d" + "80000000" + "81000000" + strings.Repeat("45", snapLen) +
		"12000000" + "07000000" + "01000000" + "01000000" + "46"
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCaptureKeepsFirstAndLast(t *testing.T) {
	for _, tc := range []struct{ packets, forgotten int }{
		{0, 0}, {captureFirst, 0}, {captureFirst + captureLast, 0},
		{captureFirst + captureLast + 1, 1}, {captureFirst + 3*captureLast + 5, 2*captureLast + 5},
	} {
		t.Run(fmt.Sprint(tc.packets), func(t *testing.T) {
			c := newCapture()
			for i := range tc.packets {
				c.add(int64(i), nil, nil, forwarded, nil)
			}
			all, forgotten := c.snapshot()
			if forgotten != tc.forgotten || len(all) != tc.packets-tc.forgotten {
				t.Fatalf("%d kept, %d forgotten", len(all), forgotten)
			}
			for i, s := range all {
				want := i
				if i >= captureFirst {
					want += forgotten
				}
				if s.at != int64(want) {
					t.Fatalf("place %d holds packet %d, want %d", i, s.at, want)
				}
			}
		})
	}
}

func TestDiagram(t *testing.T) {
	a := &link{name: "alice", index: 0, addrs: []netip.Addr{addrA}}
	b := &link{name: "end", index: 1, addrs: []netip.Addr{addrB, addrC}}
	c := newCapture()
	see := func(at time.Duration, src, dst *link, v verdict, payload []byte) {
		c.add(int64(at), src, dst, v, ipv4(addrA, addrB, 64, 17, payload)[vnetHeaderLen:])
	}
	see(0, a, b, forwarded, udp(stunMessage(1)...))
	see(time.Millisecond, b, a, forwarded, udp(stunMessage(0x101)...))
	see(2*time.Millisecond, a, b, forwarded, udp(0xc3, 0, 0, 0, 1))
	see(3*time.Millisecond, a, b, forwarded, udp(0xc3, 0, 0, 0, 1))
	see(4*time.Millisecond, a, b, lostRandom, udp(0xc3, 0, 0, 0, 1))
	see(5*time.Millisecond, a, nil, lostNoRoute, udp(0x20))
	see(2*time.Second, a, b, forwarded, udp(0xc3, 0, 0, 0, 1))
	all, _ := c.snapshot()
	var got bytes.Buffer
	if err := writeDiagram(&got, []*link{a, b}, all, 3); err != nil {
		t.Fatal(err)
	}
	const want = `sequenceDiagram
    participant P0 as alice 44.128.1.10
    participant P1 as end 44.128.2.10 44.128.3.10
    participant nobody
    P0->>P1: 0.000 s STUN binding request 40000→3478
    P1->>P0: 0.001 s STUN binding success 40000→3478
    P0->>P1: 0.002 s QUIC Initial 40000→3478 ×2
    P0-xP1: 0.004 s QUIC Initial 40000→3478 (lost)
    P0-xnobody: 0.005 s UDP 40000→3478 (no route)
    P0->>P1: 2.000 s QUIC Initial 40000→3478
    Note over nobody: 3 packets between the first and the last ones were not kept
`
	if got.String() != want {
		t.Errorf("got\n%s", got.String())
	}
}

func TestLongDiagramLosesItsMiddle(t *testing.T) {
	a := &link{name: "a"}
	for _, tc := range []struct{ steps, leftOut int }{{diagramLines, 0}, {diagramLines + 1, 1}, {diagramLines + 100, 100}} {
		c := newCapture()
		for i := range tc.steps {
			c.add(int64(i)*2*diagramGap, a, a, forwarded, nil)
		}
		all, _ := c.snapshot()
		var b bytes.Buffer
		if err := writeDiagram(&b, []*link{a}, all, 0); err != nil {
			t.Fatal(err)
		}
		note := fmt.Sprintf("%d lines left out", tc.leftOut)
		if n := strings.Count(b.String(), "->>"); n != diagramLines || strings.Contains(b.String(), note) != (tc.leftOut > 0) {
			t.Errorf("%d steps: %d lines, note %v", tc.steps, n, strings.Contains(b.String(), note))
		}
		if !strings.Contains(b.String(), fmt.Sprintf("%d.000 s", 2*(tc.steps-1))) {
			t.Errorf("%d steps: the last is missing", tc.steps)
		}
	}
}
