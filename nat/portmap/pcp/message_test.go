package pcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var grantedV4 = []byte{
	2, 0x81, 0, 0, 0, 0, 0x1c, 0x20, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 0, 0, 0, 0xa2, 0xa9, 0xa2, 0xaa,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 44, 128, 0, 1,
}

func TestMapRequestHasTheFormOfRFC6887(t *testing.T) {
	got := MapRequest{
		Client:    netip.MustParseAddr("192.168.1.50"),
		Nonce:     Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		Protocol:  UDP,
		Internal:  41641,
		Suggested: netip.AddrPortFrom(netip.IPv4Unspecified(), 41642),
		Lifetime:  2 * time.Hour,
	}.Append(nil)
	want := []byte{
		2, 1, 0, 0, 0, 0, 0x1c, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 50,
		1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 0, 0, 0, 0xa2, 0xa9, 0xa2, 0xaa,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0,
	}
	if !bytes.Equal(got, want) {
		t.Errorf("request\n%x, want\n%x", got, want)
	}
}

func TestParseResponse(t *testing.T) {
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(grantedV4)) }
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"granted", grantedV4, true},
		{"empty", nil, false},
		{"one byte short of a header", grantedV4[:23], false},
		{"announce, header alone", change(func(b []byte) []byte { b[1] = 0x80; return b[:24] }), true},
		{"map, header alone", grantedV4[:24], false},
		{"map error, header alone", change(func(b []byte) []byte { b[3] = 1; return b[:24] }), true},
		{"map, four bytes short", grantedV4[:56], false},
		{"no multiple of four", append(bytes.Clone(grantedV4), 0), false},
		{"request", change(func(b []byte) []byte { b[1] = 1; return b }), false},
		{"version 1", change(func(b []byte) []byte { b[0] = 1; return b }), false},
		{"opcode 3", change(func(b []byte) []byte { b[1] = 0x83; return b }), false},
		{"option that fits", append(bytes.Clone(grantedV4), 1, 0, 0, 4, 0, 0, 0, 0), true},
		{"option with padding", append(bytes.Clone(grantedV4), 1, 0, 0, 1, 0, 0, 0, 0), true},
		{"option one byte too long", append(bytes.Clone(grantedV4), 1, 0, 0, 5, 0, 0, 0, 0), false},
		{"option of 65535 bytes", append(bytes.Clone(grantedV4), 1, 0, 0xff, 0xff), false},
		{"largest", append(bytes.Clone(grantedV4), make([]byte, MaxMessage-mapSize)...), true},
		{"four bytes above the largest", append(bytes.Clone(grantedV4), make([]byte, MaxMessage-mapSize+4)...), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseResponse(c.b[:len(c.b):len(c.b)])
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v, want ok %v", err, c.ok)
			}
		})
	}
	r, _ := ParseResponse(grantedV4)
	if !r.Map || !r.Whole || r.Lifetime != 2*time.Hour || r.Epoch != 9 || r.Protocol != UDP || r.Internal != 41641 ||
		r.External != netip.MustParseAddrPort("44.128.0.1:41642") || r.Nonce[11] != 12 {
		t.Errorf("parsed %+v", r)
	}
}

func TestParseNATPMPLengths(t *testing.T) {
	for _, c := range []struct {
		opcode, result byte
		ok             []int
	}{{0, 0, []int{12}}, {1, 0, []int{16}}, {2, 0, []int{16}}, {0, 3, []int{8, 9, 10, 11, 12}}, {1, 2, []int{8, 9, 10, 11, 12, 13, 14, 15, 16}}, {3, 0, nil}} {
		for n := range 24 {
			b := make([]byte, n)
			if n > 3 {
				b[1], b[3] = c.opcode|0x80, c.result
			}
			want := false
			for _, ok := range c.ok {
				want = want || ok == n
			}
			if _, err := ParseNATPMP(b); (err == nil) != want {
				t.Errorf("opcode %d, result %d, %d bytes: error %v, want ok %v", c.opcode, c.result, n, err, want)
			}
		}
	}
}

func TestEveryResultCodeHasWords(t *testing.T) {
	seen := make(map[string]bool)
	for r := range Result(15) {
		if s := r.Error(); seen[s] {
			t.Errorf("result %d: %q again", r, s)
		} else {
			seen[s] = true
		}
	}
	if NATPMPResult(6).Error() != "router answers: unknown nat-pmp result 6" {
		t.Error(NATPMPResult(6))
	}
}

func TestEpoch(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		name        string
		after       time.Duration
		from, to    uint32
		pcp, natpmp bool
	}{
		{"in step", time.Minute, 100, 160, false, false},
		{"same second", 0, 100, 100, false, false},
		{"one second back", 0, 100, 99, false, false},
		{"three seconds back", 0, 100, 97, true, true},
		{"restart", time.Minute, 100, 3, true, true},
		{"restart that took as long as it ran", 100 * time.Second, 90, 95, true, true},
		{"two seconds slow", 10 * time.Second, 100, 108, false, false},
		{"slow by 1/16", 1600 * time.Second, 100, 1602, false, false},
		{"slow by 1/10", 1600 * time.Second, 100, 1540, true, false},
		{"slow by 1/7", 1600 * time.Second, 100, 1470, true, true},
		{"fast by 1/10", 1600 * time.Second, 100, 1860, true, false},
		{"wrapped to the end", 0, 0, 1<<32 - 1, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p, n Epoch
			p.ObservePCP(start, c.from)
			n.ObserveNATPMP(start, c.from)
			p.ObservePCP(start.Add(c.after), c.to)
			n.ObserveNATPMP(start.Add(c.after), c.to)
			if got := p.Lost(); got != c.pcp {
				t.Errorf("pcp: lost %v, want %v", got, c.pcp)
			}
			if got := n.Lost(); got != c.natpmp {
				t.Errorf("nat-pmp: lost %v, want %v", got, c.natpmp)
			}
			if p.Lost() || n.Lost() {
				t.Error("told twice")
			}
		})
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add(grantedV4)
	f.Add(append(bytes.Clone(grantedV4), 1, 0, 0, 4, 0, 0, 0, 0))
	f.Add([]byte{2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)[:len(b):len(b)]
		r, err := ParseResponse(b)
		if err != nil {
			return
		}
		if len(b) > MaxMessage || len(b)%4 != 0 || b[0] != version {
			t.Fatalf("accepted %x", b)
		}
		if r.Whole && (binary.BigEndian.Uint16(b[40:]) != r.Internal || !r.External.Addr().IsValid()) {
			t.Fatalf("%x parsed as %+v", b, r)
		}
	})
}

func FuzzParseNATPMP(f *testing.F) {
	f.Add([]byte{0, 0x80, 0, 0, 0, 0, 0, 3, 44, 128, 0, 1})
	f.Add([]byte{0, 0x81, 0, 0, 0, 0, 0, 3, 0xa2, 0xa9, 0xa2, 0xaa, 0, 0, 0x1c, 0x20})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseNATPMP(bytes.Clone(b)[:len(b):len(b)])
		if err == nil && r.Result == 0 && r.Opcode == 0 != r.External.IsValid() {
			t.Fatalf("%x parsed as %+v", b, r)
		}
	})
}
