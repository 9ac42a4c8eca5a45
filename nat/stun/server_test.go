package stun

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun/memnet"

	"github.com/pion/stun/v2"
)

// collector is a socket that keeps what is sent.
type collector struct {
	out [][]byte
	to  []netip.AddrPort
}

func (c *collector) WriteSTUN(b []byte, to netip.AddrPort) error {
	c.out, c.to = append(c.out, b), append(c.to, to)
	return nil
}

func fourPlaces(v6 bool) (*responder, [4]*collector) {
	r := &responder{limit: newLimiter(1e6, 1<<20)}
	var out [4]*collector
	ips := [4]string{"44.128.0.1:3478", "44.128.0.1:3479", "44.128.0.2:3478", "44.128.0.2:3479"}
	if v6 {
		ips = [4]string{"[3fff::1]:3478", "[3fff::1]:3479", "[3fff::2]:3478", "[3fff::2]:3479"}
	}
	for i := range out {
		out[i] = new(collector)
		r.places[i].send = out[i]
		r.setPublic(i, netip.MustParseAddrPort(ips[i]))
	}
	return r, out
}

func (c *collector) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(serverAddr) }

func padded(attributes ...[]byte) []byte {
	b, _ := newRequest(attributes...)
	return b
}

// TestResponsePort asks to be answered at another port.
func TestResponsePort(t *testing.T) {
	refused := []byte{4, 20}
	for _, row := range []struct {
		name    string
		b       []byte
		to      string
		refused bool
	}{
		{"another port", padded(responsePort(4002)), "4002", false},
		{"the lowest port", padded(responsePort(1024)), "1024", false},
		{"below the lowest port", padded(responsePort(1023)), "4001", true},
		{"port 0", padded(responsePort(0)), "4001", true},
		{"in two bytes", padded(tlv(attrResponsePort, []byte{0x0F, 0xA2})), "4002", false},
		{"with another change", padded(responsePort(4002), changeRequest(changePort)), "4001", true},
		{"with padding", padded(responsePort(4002), tlv(attrPadding, make([]byte, 8))), "4001", true},
	} {
		for _, ip := range []string{"44.130.0.9:", "[3fff:9::9]:"} {
			r, places := fourPlaces(ip[0] == '[')
			from := netip.MustParseAddrPort(ip + "4001")
			r.handle(exact(row.b), from, 0)
			if len(places[0].out) != 1 {
				t.Fatalf("%s: %d answers", row.name, len(places[0].out))
			}
			out, to := places[0].out[0], places[0].to[0]
			if Check(out) != nil || len(out) > len(row.b) || to != netip.MustParseAddrPort(ip+row.to) {
				t.Errorf("%s: %d bytes to %v", row.name, len(out), to)
			}
			code, isError := find(out, attrErrorCode)
			if isError != row.refused || isError && !bytes.Equal(code[2:4], refused) {
				t.Errorf("%s: error % x", row.name, code)
			}
			if a, err := parseAnswer(out); err != nil || !row.refused && a.mapped != from {
				t.Errorf("%s: %+v, %v", row.name, a, err)
			}
		}
	}
}

func TestResponsePortIsRateLimited(t *testing.T) {
	r, places := fourPlaces(false)
	r.limit = newLimiter(1, 3)
	for i := range 10 {
		r.handle(padded(responsePort(uint16(4000+i))), netip.MustParseAddrPort("44.130.0.9:4001"), 0)
	}
	if len(places[0].out) != 3 || r.limited.Load() != 7 {
		t.Errorf("%d answers, %d limited", len(places[0].out), r.limited.Load())
	}
}

// TestAlternateElsewhereIsNotNamed pairs a server with another node's address.
func TestAlternateElsewhereIsNotNamed(t *testing.T) {
	n := new(memnet.Net)
	m := startMux(t, n.Host(serverAddr), Config{Serve: true, AltPort: n.Host(netip.AddrPortFrom(serverIP, 3479))})
	for _, row := range []struct{ alternate, want string }{
		{"44.128.0.1:3479", "44.128.0.1:3479"},
		{"0.0.0.0:0", ""},
		{"44.128.0.2:3479", ""},
		{"44.128.0.1:3480", "44.128.0.1:3480"},
	} {
		m.SetPublic(serverAddr, netip.MustParseAddrPort(row.alternate))
		got := m.server.otherAddress(0)
		if row.want == "" && got.IsValid() || row.want != "" && got != netip.MustParseAddrPort(row.want) {
			t.Errorf("%s: got %v", row.alternate, got)
		}
	}
}

// TestReflectionFactor sends every kind of message from an unproven address
// and compares bytes and packets in and out.
func TestReflectionFactor(t *testing.T) {
	request := func(change byte) []byte {
		b, _ := newRequest(changeRequest(change))
		return b
	}
	rows := []struct {
		name   string
		b      []byte
		answer bool
	}{
		{"our request", request(0), true},
		{"change port", request(changePort), true},
		{"change both", request(changeIP | changePort), true},
		{"a bare header", raw(bindingRequest), false},
		{"28 bytes", raw(bindingRequest, tlv(attrSoftware, []byte("1234"))), false},
		{"56 bytes", raw(bindingRequest, tlv(attrSoftware, make([]byte, 32))), true},
		{"change request only", raw(bindingRequest, tlv(attrChangeRequest, []byte{0, 0, 0, 6})), false},
		{"response port", padded(responsePort(4002)), true},
		{"response port 22", padded(responsePort(22)), true}, // refused
		{"response port only", raw(bindingRequest, responsePort(4002)), false},
		{"padding", raw(bindingRequest, tlv(attrPadding, make([]byte, 1200))), true}, // refused
		{"indication", raw(0x0011, tlv(attrSoftware, make([]byte, 200))), false},
		{"allocate", raw(0x0003, tlv(attrSoftware, make([]byte, 200))), false},
		{"response", raw(bindingSuccess, tlv(attrSoftware, make([]byte, 200))), false},
		{"the killer", killer, false},
	}
	worst := 0.0
	for _, v6 := range []bool{false, true} {
		from := netip.MustParseAddrPort("44.130.0.9:4001")
		if v6 {
			from = netip.MustParseAddrPort("[3fff:9::9]:4001")
		}
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				r, places := fourPlaces(v6)
				if Check(row.b) == nil {
					r.handle(row.b, from, 0)
				}
				packets, bytes := 0, 0
				for _, c := range places {
					for _, b := range c.out {
						packets++
						bytes += len(b)
					}
				}
				if packets > 1 || bytes > len(row.b) {
					t.Errorf("%d bytes in, %d packets of %d bytes out", len(row.b), packets, bytes)
				}
				if !v6 && (packets == 1) != row.answer {
					t.Errorf("%d answers", packets)
				}
				worst = max(worst, float64(bytes)/float64(len(row.b)))
			})
		}
	}
	t.Logf("largest reflection factor %.2f", worst)
}

func TestServerAnswersFromThePlaceAskedFor(t *testing.T) {
	from := netip.MustParseAddrPort("44.130.0.9:4001")
	for at := range 4 {
		for _, change := range []byte{0, changePort, changeIP, changeIP | changePort} {
			r, places := fourPlaces(false)
			m, id := newRequest(changeRequest(change))
			r.handle(m, from, at)
			want := at ^ int(change>>1)
			for i, c := range places {
				if (len(c.out) == 1) != (i == want) {
					t.Fatalf("asked at %d to change %d: place %d sent %d", at, change, i, len(c.out))
				}
			}
			b := places[want].out[0]
			if err := Check(b); err != nil || transactionID(b) != id {
				t.Fatalf("answer: %v", err)
			}
			a, err := parseAnswer(b)
			if err != nil || a.mapped != from || a.origin != r.places[want].address() || a.other != r.places[at^3].address() {
				t.Errorf("asked at %d to change %d: %+v, %v", at, change, a, err)
			}
		}
	}
}

func TestServerWithoutTheAddressRefuses(t *testing.T) {
	r, places := fourPlaces(false)
	r.places[2].send, r.places[3].send = nil, nil
	m, _ := newRequest(changeRequest(changeIP))
	r.handle(m, netip.MustParseAddrPort("44.130.0.9:4001"), 0)
	if len(places[0].out) != 1 {
		t.Fatalf("%d answers", len(places[0].out))
	}
	out := &stun.Message{Raw: places[0].out[0]}
	var code stun.ErrorCodeAttribute
	if Check(out.Raw) != nil || out.Decode() != nil || code.GetFrom(out) != nil || code.Code != stun.CodeUnknownAttribute {
		t.Errorf("got %v with code %d", out, code.Code)
	}
}

func TestLimiterIsPerNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(10, 20)
		take := func(addr string, n int) (got int) {
			for range n {
				if l.allow(netip.MustParseAddr(addr)) {
					got++
				}
			}
			return got
		}
		if got := take("44.130.0.1", 19) + take("44.130.0.2", 1); got != 20 {
			t.Errorf("burst %d, want 20", got)
		}
		if got := take("44.130.0.3", 5); got != 0 {
			t.Errorf("the same /24 got %d more", got)
		}
		if got := take("3fff:1::1", 20) + take("3fff:1:0:ff::1", 5); got != 20 {
			t.Errorf("one /56 got %d", got)
		}
		<-time.After(time.Second) // bubble time
		if got := take("44.130.0.4", 20); got != 10 {
			t.Errorf("after a second %d, want 10", got)
		}
	})
}

func TestLimiterHoldsUnderAFloodFromEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(10, 20)
		got := 0
		for i := range 1 << 16 {
			if l.allow(netip.AddrFrom4([4]byte{44, byte(i >> 8), byte(i), 1})) {
				got++
			}
		}
		if limit := limiterBuckets * 20; got > limit {
			t.Errorf("%d answers to 65536 networks, limit %d", got, limit)
		}
	})
}

func TestServerClosesBeforeAndAfterServe(t *testing.T) {
	n := new(memnet.Net)
	s, err := NewServer(ServerConfig{Primary: n.Host(serverAddr)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Serve(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := NewServer(ServerConfig{}); err == nil {
		t.Error("a server without a socket")
	}
}
