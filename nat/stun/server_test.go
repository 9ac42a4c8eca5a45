package stun

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun/memnet"

	"github.com/pion/stun/v2"
)

// collector is a socket that keeps what is sent.
type collector struct{ out [][]byte }

func (c *collector) WriteSTUN(b []byte, _ netip.AddrPort) error {
	c.out = append(c.out, b)
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

// TestReflectionFactor sends every kind of message from an unproven address
// and compares bytes and packets in and out.
func TestReflectionFactor(t *testing.T) {
	request := func(change byte) []byte {
		m, err := newRequest(change)
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
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
			m, err := newRequest(change)
			if err != nil {
				t.Fatal(err)
			}
			r.handle(m.Raw, from, at)
			want := at ^ int(change>>1)
			for i, c := range places {
				if (len(c.out) == 1) != (i == want) {
					t.Fatalf("asked at %d to change %d: place %d sent %d", at, change, i, len(c.out))
				}
			}
			b := places[want].out[0]
			if err := Check(b); err != nil || transactionID(b) != m.TransactionID {
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
	m, err := newRequest(changeIP)
	if err != nil {
		t.Fatal(err)
	}
	r.handle(m.Raw, netip.MustParseAddrPort("44.130.0.9:4001"), 0)
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
