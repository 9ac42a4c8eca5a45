package nat

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// raw is one control message with a body of any size.
func raw(level, typ int32, body ...byte) []byte {
	return appendMessage(nil, level, typ, len(body), func(b []byte) { copy(b, body) })
}

func native16(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }
func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func TestParseControl(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	mapped := v4.As16()
	for _, c := range []struct {
		name string
		oob  []byte
		want controlInfo
	}{
		{"nothing", nil, controlInfo{}},
		{"GRO size", raw(unix.IPPROTO_UDP, unix.UDP_GRO, native32(1200)...), controlInfo{segment: 1200}},
		{"GRO size of 16 bits", raw(unix.IPPROTO_UDP, unix.UDP_GRO, native16(1200)...), controlInfo{segment: 1200}},
		{"largest GRO size", raw(unix.IPPROTO_UDP, unix.UDP_GRO, native32(maxDatagram)...), controlInfo{segment: maxDatagram}},
		{"GRO size beyond it", raw(unix.IPPROTO_UDP, unix.UDP_GRO, native32(maxDatagram+1)...), controlInfo{}},
		{"GRO size of one byte", raw(unix.IPPROTO_UDP, unix.UDP_GRO, 7), controlInfo{}},
		{"GSO size", raw(unix.IPPROTO_UDP, unix.UDP_SEGMENT, native16(1452)...), controlInfo{segment: 1452}},
		{"other UDP message", raw(unix.IPPROTO_UDP, 1, native32(5)...), controlInfo{}},
		{"TOS", raw(unix.IPPROTO_IP, unix.IP_TOS, 0xff), controlInfo{ecn: 3, hasECN: true}},
		{"empty TOS", raw(unix.IPPROTO_IP, unix.IP_TOS), controlInfo{}},
		{"class", raw(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, native32(0xb9)...), controlInfo{ecn: 1, hasECN: true}},
		{"short class", raw(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 1), controlInfo{}},
		{"info v4", appendPacketInfo(nil, v4, 3, true), controlInfo{local: v4, ifIndex: 3}},
		{"info v4 for sending", appendPacketInfo(nil, v4, 3, false), controlInfo{local: v4, ifIndex: 3}},
		{"info v6", appendPacketInfo(nil, v6, 4, true), controlInfo{local: v6, ifIndex: 4}},
		{"info mapped", raw(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(mapped[:], native32(5)...)...), controlInfo{local: v4, ifIndex: 5}},
		{"short info", raw(unix.IPPROTO_IP, unix.IP_PKTINFO, 1, 2, 3), controlInfo{}},
		{"truncated header", raw(unix.IPPROTO_IP, unix.IP_TOS, 1)[:5], controlInfo{}},
		{"unknown before known", append(raw(99, 99, 1, 2), raw(unix.IPPROTO_IP, unix.IP_TOS, 2)...), controlInfo{ecn: 2, hasECN: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parseControl(c.oob); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSentControlMessagesSuitTheFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	for _, c := range []struct {
		name string
		info controlInfo
		v4   bool
		want controlInfo
		n    int
	}{
		{"all, IPv6", controlInfo{1200, 2, true, v6, 3}, false, controlInfo{1200, 2, true, v6, 3}, 3},
		{"other family's address", controlInfo{1200, 2, true, v6, 3}, true, controlInfo{segment: 1200, ecn: 2, hasECN: true}, 2},
		{"nothing", controlInfo{}, true, controlInfo{}, 0},
		{"IPv4 address", controlInfo{local: v4, ifIndex: 9}, true, controlInfo{local: v4, ifIndex: 9}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			oob := c.info.appendSent(nil, c.v4)
			if got := parseControl(oob); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if ms, err := unix.ParseSocketControlMessage(oob); err != nil || len(ms) != c.n {
				t.Errorf("%d messages, %v", len(ms), err)
			}
			if len(oob) > 128 {
				t.Errorf("%d bytes do not fit the pool's buffers", len(oob))
			}
		})
	}
}

// FuzzParseControl: whatever the bytes, parsing ends, and what was understood
// survives being handed on to quic-go, in as much room as quic-go has.
func FuzzParseControl(f *testing.F) {
	f.Add(raw(unix.IPPROTO_UDP, unix.UDP_GRO, native32(1200)...))
	f.Add(controlInfo{1200, 2, true, netip.MustParseAddr("192.0.2.7"), 3}.appendReceived(nil))
	f.Add(controlInfo{1200, 2, true, netip.MustParseAddr("2001:db8::7"), 3}.appendSent(nil, false))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		oob := append(make([]byte, 0, len(data)+8), data...) // aligned
		info := parseControl(oob)
		if info.segment < 0 || info.segment > maxDatagram || info.ecn > 3 {
			t.Fatalf("%+v", info)
		}
		out := info.appendReceived(nil)
		if len(out) > 128 {
			t.Fatalf("%d bytes for quic-go", len(out))
		}
		again := parseControl(out)
		info.segment = 0
		if again != info {
			t.Fatalf("%+v became %+v", info, again)
		}
	})
}

// FuzzSegments: cutting a received datagram and splitting one to be sent give
// all bytes once, in pieces of the size asked for.
func FuzzSegments(f *testing.F) {
	f.Add([]byte("@11@22@3"), uint16(3))
	f.Add([]byte("@"), uint16(0))
	f.Add([]byte{}, uint16(9))
	f.Fuzz(func(t *testing.T, data []byte, segment uint16) {
		d := datagrams{data: data, segment: int(segment)}
		var cut, split []byte
		for len(d.data) > 0 {
			b := d.cut()
			if len(b) == 0 || segment > 0 && len(b) > int(segment) {
				t.Fatalf("piece of %d bytes", len(b))
			}
			cut = append(cut, b...)
		}
		for b := range segments(data, int(segment)) {
			split = append(split, b...)
		}
		if string(cut) != string(data) || string(split) != string(data) {
			t.Fatal("bytes were lost")
		}
	})
}
