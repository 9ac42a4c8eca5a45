package stun

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/pion/stun/v2"
)

func TestRequestAnswerMapped(t *testing.T) {
	for _, row := range []struct{ from, want string }{
		{"44.130.0.9:4001", "44.130.0.9:4001"},
		{"[3fff:9::9]:4001", "[3fff:9::9]:4001"},
		{"[::ffff:44.130.0.9]:4001", "44.130.0.9:4001"},
		{"[3fff:9::9%eth0]:4001", "[3fff:9::9]:4001"},
	} {
		t.Run(row.from, func(t *testing.T) {
			request, id := Request()
			out, err := Answer(exact(request), netip.MustParseAddrPort(row.from))
			if err != nil || len(out) > len(request) || Check(out) != nil {
				t.Fatalf("%d bytes, %v", len(out), err)
			}
			if got, err := ParseMapped(exact(out), id); err != nil || got != netip.MustParseAddrPort(row.want) {
				t.Errorf("got %v, %v", got, err)
			}
			id[0]++
			if _, err := ParseMapped(out, id); !errors.Is(err, ErrNotAnswer) {
				t.Errorf("another id: %v", err)
			}
		})
	}
}

func TestAnswerRefusesWhatIsNotForIt(t *testing.T) {
	from := netip.MustParseAddrPort("44.130.0.9:4001")
	request := func(attrs ...[]byte) []byte {
		b, _ := newRequest(attrs...)
		return b
	}
	for _, row := range []struct {
		name string
		b    []byte
		from netip.AddrPort
		want error
	}{
		{"the killer", killer, from, ErrAttribute},
		{"no message", []byte{0, 1, 2}, from, ErrHeader},
		{"an answer", raw(bindingSuccess), from, ErrNotRequest},
		{"an indication", raw(0x0011), from, ErrNotRequest},
		{"an allocation", raw(0x0003), from, ErrNotRequest},
		{"a connectivity check", request(tlv(attrUsername, []byte("a:b"))), from, ErrNotRequest},
		{"no source", request(), netip.AddrPort{}, ErrNotRequest},
		{"source port 0", request(), netip.AddrPortFrom(from.Addr(), 0), ErrNotRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			if out, err := Answer(exact(row.b), row.from); out != nil || !errors.Is(err, row.want) {
				t.Errorf("%d bytes, %v", len(out), err)
			}
		})
	}
}

func TestAnswerSizes(t *testing.T) {
	for _, row := range []struct {
		from    string
		request []byte
		want    int
	}{
		{"44.130.0.9:1", raw(bindingRequest), 32},
		{"44.130.0.9:1", raw(bindingRequest, tlv(attrSoftware, make([]byte, 15))), 40},
		{"[3fff::9]:1", raw(bindingRequest), 44},
		{"[3fff::9]:1", raw(bindingRequest, tlv(attrSoftware, make([]byte, 28))), 52},
	} {
		out, err := Answer(row.request, netip.MustParseAddrPort(row.from))
		if err != nil || len(out) != row.want {
			t.Errorf("%s, request of %d: %d bytes, want %d, %v", row.from, len(row.request), len(out), row.want, err)
		}
	}
}

func TestAnswerSaysWhatItCannotDo(t *testing.T) {
	for _, attr := range [][]byte{changeRequest(changePort), tlv(attrResponsePort, []byte{0x10, 0, 0, 0})} {
		request, id := newRequest(attr)
		out, err := Answer(request, netip.MustParseAddrPort("44.130.0.9:4001"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseMapped(out, id); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
	}
}

func TestParseMappedRefusesNonsense(t *testing.T) {
	id := transactionID(killer)
	for _, row := range []struct {
		name string
		b    []byte
		want error
	}{
		{"the killer", killer, ErrAttribute},
		{"empty", nil, ErrHeader},
		{"a request", raw(bindingRequest), ErrNotAnswer},
		{"no address", raw(bindingSuccess), ErrNonsense},
		{"an error", raw(bindingError, tlv(attrErrorCode, []byte{0, 0, 4, 20})), ErrRefused},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, err := ParseMapped(exact(row.b), id); got.IsValid() || !errors.Is(err, row.want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// FuzzAnswer lets anything be answered; an answer passes the gate, names the
// request and is not larger than it, or than the least there is.
func FuzzAnswer(f *testing.F) {
	request, _ := newRequest(changeRequest(changeIP))
	plain, _ := newRequest()
	f.Add(request, []byte{44, 130, 0, 9}, uint16(4001))
	f.Add(plain, netip.MustParseAddr("3fff::9").AsSlice(), uint16(4001))
	f.Add(killer, []byte{44, 130, 0, 9}, uint16(0))
	f.Fuzz(func(t *testing.T, b, ip []byte, port uint16) {
		addr, _ := netip.AddrFromSlice(ip)
		out, err := Answer(exact(b), netip.AddrPortFrom(addr, port))
		if err != nil {
			return
		}
		if err := Check(out); err != nil {
			t.Fatalf("our own answer does not pass: %v", err)
		}
		if len(out) > max(len(b), 52) {
			t.Errorf("%d bytes for %d", len(out), len(b))
		}
		got, err := ParseMapped(out, transactionID(b))
		if err == nil && got != canonical(netip.AddrPortFrom(addr, port)) || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// FuzzParseMapped compares what we believe with what the codec reads.
func FuzzParseMapped(f *testing.F) {
	f.Add(killer)
	f.Add(raw(bindingError, tlv(attrErrorCode, []byte{0, 0, 4, 20})))
	for _, v := range rfc5769 {
		f.Add(v.raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var id TransactionID
		if len(b) >= headerSize {
			id = transactionID(b)
		}
		got, err := ParseMapped(exact(b), id)
		if err != nil {
			return
		}
		m := &stun.Message{Raw: exact(b)}
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		var xor stun.XORMappedAddress
		var plain stun.MappedAddress
		switch {
		case xor.GetFrom(m) == nil:
			if want := addrPort(xor.IP, xor.Port); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		case plain.GetFrom(m) == nil:
			if want := addrPort(plain.IP, plain.Port); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		default:
			t.Errorf("got %v out of nothing", got)
		}
	})
}
