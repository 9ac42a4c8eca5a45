package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	pionv1 "github.com/pion/stun"
	"github.com/pion/stun/v2"
)

// killer is a Binding success response with an XOR-MAPPED-ADDRESS of length
// zero: 24 bytes that end a process whose decoder trusts the length.
var killer = raw(bindingSuccess, tlv(attrXORMappedAddress, nil))

// oldKiller is the same with the attribute's type of early drafts.
var oldKiller = raw(bindingSuccess, tlv(attrOldXORMapped, nil))

func raw(typ uint16, attrs ...[]byte) []byte {
	b := make([]byte, headerSize)
	binary.BigEndian.PutUint16(b, typ)
	binary.BigEndian.PutUint32(b[4:], magicCookie)
	copy(b[8:], "transaction!")
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-headerSize))
	return b
}

func tlv(typ uint16, value []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, (4-len(value)%4)%4)...)
}

// exact returns a copy without spare capacity, so that a read beyond the end
// cannot hit bytes that happen to be there.
func exact(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c[:len(c):len(c)]
}

// decodeEverything lets both generations of the codec read all they can.
func decodeEverything(b []byte) {
	two := &stun.Message{Raw: exact(b)}
	if two.Decode() == nil {
		for _, typ := range []stun.AttrType{
			stun.AttrXORPeerAddress, stun.AttrXORRelayedAddress, stun.AttrSourceAddress, stun.AttrChangedAddress,
		} {
			_ = new(stun.XORMappedAddress).GetFromAs(two, typ)
			_ = new(stun.MappedAddress).GetFromAs(two, typ)
		}
		for _, g := range []stun.Getter{
			new(stun.XORMappedAddress), new(stun.MappedAddress), new(stun.OtherAddress), new(stun.ResponseOrigin),
			new(stun.ErrorCodeAttribute), new(stun.UnknownAttributes), new(stun.Username), new(stun.Realm),
			new(stun.Nonce), new(stun.Software), new(stun.AlternateServer),
		} {
			_ = g.GetFrom(two)
		}
		_ = stun.Fingerprint.Check(two)
		_ = stun.NewShortTermIntegrity("password").Check(two)
	}
	one := &pionv1.Message{Raw: exact(b)}
	if one.Decode() == nil {
		_ = new(pionv1.XORMappedAddress).GetFrom(one)
		_ = new(pionv1.MappedAddress).GetFrom(one)
		_ = new(pionv1.ErrorCodeAttribute).GetFrom(one)
		_ = pionv1.Fingerprint.Check(one)
		_ = pionv1.NewShortTermIntegrity("password").Check(one)
	}
}

func TestGate(t *testing.T) {
	v4, v6 := append([]byte{0, 1}, make([]byte, 6)...), append([]byte{0, 2}, make([]byte, 18)...)
	many := func(n int) []byte {
		attrs := make([][]byte, n)
		for i := range attrs {
			attrs[i] = tlv(0xC001, nil)
		}
		return raw(bindingRequest, attrs...)
	}
	sized := func(n int) []byte { return raw(bindingRequest, tlv(0xC001, make([]byte, n-headerSize-attrHeaderSize))) }
	altered := func(at int, to byte) []byte {
		b := raw(bindingRequest)
		b[at] = to
		return b
	}
	fingerprinted, _ := newRequest()
	wrongPrint := exact(fingerprinted)
	wrongPrint[len(wrongPrint)-1] ^= 1
	integrity := tlv(attrIntegrity, make([]byte, 20))

	rows := []struct {
		name string
		b    []byte
		want error
	}{
		{"the 24-byte killer", killer, ErrAttribute},
		{"the killer by its old name", oldKiller, ErrAttribute},
		{"an IPv4 address by its old name", raw(bindingSuccess, tlv(attrOldXORMapped, v4)), nil},
		{"empty datagram", nil, ErrHeader},
		{"19 bytes", raw(bindingRequest)[:19], ErrHeader},
		{"bare header", raw(bindingRequest), nil},
		{"first bits set", altered(0, 0x40), ErrHeader},
		{"no magic cookie", altered(4, 0), ErrHeader},
		{"length not a multiple of four", append(altered(3, 2), 0, 0), ErrHeader},
		{"length beyond the datagram", altered(3, 4), ErrHeader},
		{"bytes behind the message", append(raw(bindingRequest), 0, 0, 0, 0), ErrHeader},
		{"one attribute below the limit", many(MaxAttributes - 1), nil},
		{"attributes at the limit", many(MaxAttributes), nil},
		{"one attribute above the limit", many(MaxAttributes + 1), ErrLimit},
		{"four bytes below the size limit", sized(MaxMessage - 4), nil},
		{"at the size limit", sized(MaxMessage), nil},
		{"above the size limit", sized(MaxMessage + 4), ErrLimit},
		{"IPv4 address", raw(bindingSuccess, tlv(attrXORMappedAddress, v4)), nil},
		{"IPv6 address", raw(bindingSuccess, tlv(attrXORMappedAddress, v6)), nil},
		{"IPv6 family with an IPv4 length", raw(bindingSuccess, tlv(attrXORMappedAddress, append([]byte{0, 2}, v4[2:]...))), ErrAttribute},
		{"IPv4 family with an IPv6 length", raw(bindingSuccess, tlv(attrOtherAddress, append([]byte{0, 1}, v6[2:]...))), ErrAttribute},
		{"no family", raw(bindingSuccess, tlv(attrMappedAddress, make([]byte, 8))), ErrAttribute},
		{"attribute header cut", raw(bindingRequest, tlv(0xC001, nil), []byte{0xC0, 1, 0, 4}), ErrAttribute},
		{"padding missing", raw(bindingRequest, []byte{0xC0, 1, 0, 5, 1, 2, 3, 4}), ErrAttribute},
		{"attribute length 65535", raw(bindingRequest, []byte{0xC0, 1, 0xFF, 0xFF}), ErrAttribute},
		{"username of 513", raw(bindingRequest, tlv(attrUsername, make([]byte, 513))), nil},
		{"username of 514", raw(bindingRequest, tlv(attrUsername, make([]byte, 514))), ErrAttribute},
		{"empty username", raw(bindingRequest, tlv(attrUsername, nil)), ErrAttribute},
		{"software of 763", raw(bindingRequest, tlv(attrSoftware, make([]byte, 763))), nil},
		{"software of 764", raw(bindingRequest, tlv(attrSoftware, make([]byte, 764))), ErrAttribute},
		{"error code 420", raw(bindingError, tlv(attrErrorCode, []byte{0, 0, 4, 20})), nil},
		{"error code 200", raw(bindingError, tlv(attrErrorCode, []byte{0, 0, 2, 0})), ErrAttribute},
		{"error number 100", raw(bindingError, tlv(attrErrorCode, []byte{0, 0, 4, 100})), ErrAttribute},
		{"error code without code", raw(bindingError, tlv(attrErrorCode, []byte{0, 0, 4})), ErrAttribute},
		{"right fingerprint", fingerprinted, nil},
		{"wrong fingerprint", wrongPrint, ErrFingerprint},
		{"attribute after integrity", raw(bindingRequest, integrity, tlv(attrPriority, make([]byte, 4))), ErrAttribute},
		{"integrity twice", raw(bindingRequest, integrity, integrity), ErrAttribute},
		{"SHA-256 integrity after integrity", raw(bindingRequest, integrity, tlv(attrIntegritySHA256, make([]byte, 32))), nil},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			b := exact(row.b)
			if err := Check(b); !errors.Is(err, row.want) {
				t.Fatalf("got %v, want %v", err, row.want)
			}
			if row.want == nil {
				decodeEverything(b)
			}
		})
	}
}

// gated are the types the gate knows, and two it does not.
var gated = []uint16{
	attrMappedAddress, attrChangeRequest, attrSourceAddress, attrChangedAddress, attrUsername, attrIntegrity,
	attrErrorCode, attrUnknown, attrChannelNumber, attrLifetime, attrXORPeerAddress, 0x0013, attrRealm, attrNonce,
	attrXORRelayed, attrAddressFamily, attrEvenPort, attrTransport, attrDontFragment, attrIntegritySHA256,
	attrUserhash, attrXORMappedAddress, attrReservation, attrPriority, attrUseCandidate, attrPadding, attrResponsePort,
	attrConnectionID, attrSoftware, attrAlternateServer, attrCacheTimeout, attrFingerprint, attrControlled,
	attrControlling, attrResponseOrigin, attrOtherAddress, attrOldXORMapped, 0xC001,
}

// TestNothingBehindTheGatePanics tries each attribute with each short length,
// each family byte, cut at each byte, without spare capacity.
func TestNothingBehindTheGatePanics(t *testing.T) {
	tried, passed, worst := 0, 0, ""
	try := func(b []byte) {
		defer func() {
			if r := recover(); r != nil {
				worst = fmt.Sprintf("% x: %v", b, r)
			}
		}()
		tried++
		b = exact(b)
		if Check(b) == nil {
			passed++
			decodeEverything(b)
		}
	}
	for _, typ := range gated {
		for length := 0; length <= 64; length++ {
			for family := byte(0); family <= 3; family++ {
				value := make([]byte, length)
				if length > 1 {
					value[1] = family
				}
				for _, class := range []uint16{bindingRequest, bindingSuccess, bindingError} {
					try(raw(class, tlv(typ, value)))
				}
			}
			whole := raw(bindingSuccess, tlv(typ, make([]byte, length)))
			for cut := range whole {
				try(whole[:cut])
				short := exact(whole[:cut])
				if cut >= headerSize { // a header that agrees with the cut
					binary.BigEndian.PutUint16(short[2:], uint16(cut-headerSize))
					try(short)
				}
			}
		}
	}
	if worst != "" {
		t.Fatalf("a decoder panicked behind the gate: %s", worst)
	}
	if passed == 0 || passed == tried {
		t.Fatalf("%d of %d passed: the table tests nothing", passed, tried)
	}
	t.Logf("%d messages, %d passed, 0 panics", tried, passed)
}

// TestTheKillerKillsWithoutTheGate keeps the reason for the gate alive: when
// the codec is repaired this test says that the caveat can go.
func TestTheKillerKillsWithoutTheGate(t *testing.T) {
	for _, b := range [][]byte{killer, oldKiller} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("the codec survives % x: update the comment of Check", b)
				}
			}()
			m := &stun.Message{Raw: exact(b)}
			if err := m.Decode(); err != nil {
				t.Fatal(err)
			}
			_ = new(stun.XORMappedAddress).GetFrom(m)
		}()
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	m, _ := newRequest(changeRequest(changeIP))
	if n := testing.AllocsPerRun(100, func() { _ = Check(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(killer)
	f.Add(oldKiller)
	request, _ := newRequest(changeRequest(changeIP | changePort))
	f.Add(request)
	for _, v := range rfc5769 {
		f.Add(v.raw)
	}
	for _, typ := range gated {
		f.Add(raw(bindingSuccess, tlv(typ, make([]byte, 8))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = exact(b)
		if err := Check(b); err != nil {
			for _, known := range []error{ErrHeader, ErrAttribute, ErrLimit, ErrFingerprint} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Fatalf("unnamed reason: %v", err)
		}
		decodeEverything(b)
		if isResponse(b) {
			_, _ = parseAnswer(b)
		}
		roundTrip(t, b)
	})
}

// roundTrip encodes what was decoded; the attributes must survive.
func roundTrip(t *testing.T, b []byte) {
	t.Helper()
	m := &stun.Message{Raw: exact(b)}
	if err := m.Decode(); err != nil {
		t.Fatalf("passed the gate but: %v", err)
	}
	again := &stun.Message{Type: m.Type, TransactionID: m.TransactionID}
	again.WriteHeader()
	for _, a := range m.Attributes {
		again.Add(a.Type, a.Value)
	}
	if err := again.Decode(); err != nil || !again.Equal(m) {
		t.Fatalf("attributes changed in a round trip: %v", err)
	}
}

func TestParseAnswerRefusesNonsense(t *testing.T) {
	build := func(ip string, port int) []byte {
		m, err := stun.Build(stun.TransactionID, stun.BindingSuccess,
			&stun.XORMappedAddress{IP: net.ParseIP(ip), Port: port}, stun.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
	}
	for _, row := range []struct {
		name string
		b    []byte
		want error
	}{
		{"an address", build("44.129.0.1", 4001), nil},
		{"an IPv6 address", build("3fff::1", 4001), nil},
		{"port 0", build("44.129.0.1", 0), ErrNonsense},
		{"unspecified", build("0.0.0.0", 4001), ErrNonsense},
		{"multicast", build("224.0.0.251", 5353), ErrNonsense},
		{"broadcast", build("255.255.255.255", 5353), ErrNonsense},
		{"nothing", raw(bindingSuccess), ErrNonsense},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := parseAnswer(row.b); !errors.Is(err, row.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRequestsAreLargeEnoughForTheRichestAnswer(t *testing.T) {
	for _, change := range []byte{0, changePort, changeIP, changeIP | changePort} {
		m, _ := newRequest(changeRequest(change))
		if len(m) < MinRequest || Check(m) != nil {
			t.Errorf("change %d: %d bytes, gate: %v", change, len(m), Check(m))
		}
		if s, ok := find(m, attrSoftware); !ok || strings.TrimSpace(string(s)) != "porchlight" {
			t.Errorf("software %q", s)
		}
	}
}
