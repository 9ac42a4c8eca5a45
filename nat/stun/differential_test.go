package stun

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/pion/stun/v2"
)

// agree compares our reading of a message with that of the codec. What the
// codec refuses, the gate has to refuse; what passes both has to mean the same.
func agree(t *testing.T, b []byte) (passed bool) {
	t.Helper()
	err := Check(exact(b))
	m := &stun.Message{Raw: exact(b)}
	if decoded := m.Decode(); decoded != nil {
		if err == nil {
			t.Fatalf("% x: passes the gate, but: %v", b, decoded)
		}
		return false
	}
	if err != nil {
		return false // the gate is stricter
	}
	if m.TransactionID != transactionID(b) || m.Type.Value() != messageType(b) {
		t.Errorf("% x: header read as %v, %#x", b, m.TransactionID, messageType(b))
	}
	off := headerSize
	for _, a := range m.Attributes {
		typ, value, next, err := attributeAt(b, off)
		if err != nil || typ != uint16(a.Type) || !bytes.Equal(value, a.Value) {
			t.Fatalf("% x: attribute %v read as %#x with % x, %v", b, a, typ, value, err)
		}
		first, _ := m.Get(a.Type)
		if found, ok := find(b, typ); !ok || !bytes.Equal(found, first) {
			t.Errorf("% x: found % x for %v, the codec % x", b, found, a.Type, first)
		}
		off = next
	}
	if off != len(b) {
		t.Errorf("% x: the codec read %d bytes", b, off)
	}
	if m.Contains(stun.AttrFingerprint) && stun.Fingerprint.Check(m) != nil {
		t.Errorf("% x: the codec finds the fingerprint wrong", b)
	}
	agreeOnAddresses(t, b, m)
	return true
}

func agreeOnAddresses(t *testing.T, b []byte, m *stun.Message) {
	t.Helper()
	if messageType(b) != bindingSuccess {
		return
	}
	want := netip.AddrPort{}
	var xor stun.XORMappedAddress
	var plain stun.MappedAddress
	if xor.GetFrom(m) == nil {
		want = addrPort(xor.IP, xor.Port)
	} else if plain.GetFrom(m) == nil {
		want = addrPort(plain.IP, plain.Port)
	}
	a, err := parseAnswer(b)
	if usable(want) != (err == nil) || err == nil && a.mapped != want {
		t.Errorf("% x: address %v, %v, the codec %v", b, a.mapped, err, want)
	}
	var other stun.OtherAddress
	if err == nil && other.GetFrom(m) == nil && a.other != addrPort(other.IP, other.Port) {
		t.Errorf("% x: other address %v, the codec %v", b, a.other, other)
	}
	var origin stun.ResponseOrigin
	if err == nil && origin.GetFrom(m) == nil && a.origin != addrPort(origin.IP, origin.Port) {
		t.Errorf("% x: origin %v, the codec %v", b, a.origin, origin)
	}
}

// TestGateAndCodecAgree tries each attribute with each length from 0 to 64, each
// address family, alone and in front of an address, whole and cut.
func TestGateAndCodecAgree(t *testing.T) {
	tried, passed := 0, 0
	try := func(b []byte) {
		tried++
		if agree(t, b) {
			passed++
		}
	}
	for _, typ := range gated {
		for length := 0; length <= 64; length++ {
			for family := byte(0); family <= 2; family++ {
				value := bytes.Repeat([]byte{0x2A}, length)
				copy(value, []byte{0, family})
				address := tlv(attrXORMappedAddress, []byte{0, 1, 9, 9, 9, 9, 9, 9})
				try(raw(bindingRequest, tlv(typ, value)))
				try(raw(bindingSuccess, tlv(typ, value)))
				try(raw(bindingSuccess, tlv(typ, value), address))
				try(raw(bindingSuccess, address, tlv(typ, value)))
			}
			whole := raw(bindingSuccess, tlv(typ, make([]byte, length)))
			for cut := range whole {
				try(whole[:cut])
			}
		}
	}
	if passed == 0 || passed == tried {
		t.Fatalf("%d of %d passed: the table tests nothing", passed, tried)
	}
	t.Logf("%d messages, %d passed the gate, all of them read alike", tried, passed)
}

// TestOurBuilderAndTheCodecAgree builds requests from all parts we use.
func TestOurBuilderAndTheCodecAgree(t *testing.T) {
	for _, attrs := range [][][]byte{
		{}, {changeRequest(changeIP)}, {changeRequest(changeIP | changePort)}, {responsePort(4002)},
		{appendAttribute(nil, attrPadding, make([]byte, 1))}, {appendAttribute(nil, attrPadding, make([]byte, 1500))},
		{changeRequest(changePort), responsePort(65535), tlv(attrUsername, []byte("a:b"))},
	} {
		b, id := newRequest(attrs...)
		if !agree(t, b) || transactionID(b) != id || len(b) < MinRequest {
			t.Errorf("% x: %v", b, Check(b))
		}
	}
}

func FuzzAgainstCodec(f *testing.F) {
	f.Add(killer)
	for _, v := range rfc5769 {
		f.Add(v.raw)
	}
	request, _ := newRequest(changeRequest(changeIP), responsePort(4002))
	f.Add(request)
	for _, typ := range gated {
		f.Add(raw(bindingSuccess, tlv(typ, []byte{0, 1, 2, 3, 4, 5, 6, 7})))
	}
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

// FuzzMux hands anything to a Mux with server, client and endpoint: it answers
// with at most one packet, not larger than what came, to where it came from.
func FuzzMux(f *testing.F) {
	f.Add(killer, false)
	f.Add(bindingCheckBytes("one:peer"), true)
	for _, attrs := range [][][]byte{nil, {changeRequest(changePort)}, {responsePort(4002)}, {responsePort(22)}, {tlv(attrPadding, make([]byte, 99))}} {
		b, _ := newRequest(attrs...)
		f.Add(b, false)
		f.Add(b, true)
	}
	from := map[bool]netip.AddrPort{
		false: netip.MustParseAddrPort("44.130.0.9:4001"), true: netip.MustParseAddrPort("[3fff:9::9]:4001"),
	}
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		out := new(collector)
		m, err := NewMux(out, Config{Serve: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if _, err := m.Register("one", func(b []byte, _ netip.AddrPort) {
			if Check(b) != nil {
				t.Error("an endpoint got what the gate refuses")
			}
		}); err != nil {
			t.Fatal(err)
		}
		m.Handle(exact(b), from[v6])
		if len(out.out) > 1 {
			t.Fatalf("%d answers", len(out.out))
		}
		for i, a := range out.out {
			if len(a) > len(b) || Check(a) != nil || out.to[i].Addr() != from[v6].Addr() || out.to[i].Port() < minResponsePort {
				t.Errorf("% x to %v", a, out.to[i])
			}
		}
	})
}

func bindingCheckBytes(username string) []byte {
	b, _ := newRequest(tlv(attrUsername, []byte(username)))
	return b
}
