package stun

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/pion/stun/v2"
)

// rfc5769 are the four test vectors of RFC 5769 §2.
var rfc5769 = []struct {
	name     string
	raw      []byte
	key      stun.MessageIntegrity
	software string
	mapped   string
}{
	{
		name: "2.1 sample request",
		raw: []byte("\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
			"\x80\x22\x00\x10STUN test client" +
			"\x00\x24\x00\x04\x6e\x00\x01\xff" +
			"\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36" +
			"\x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20" +
			"\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2" +
			"\x80\x28\x00\x04\xe5\x7a\x3b\xcf"),
		key: stun.NewShortTermIntegrity("VOkJxbRl1RmTxUk/WvJxBt"), software: "STUN test client",
	},
	{
		name: "2.2 sample IPv4 response",
		raw: []byte("\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
			"\x80\x22\x00\x0btest vector\x20" +
			"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43" +
			"\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7" +
			"\x80\x28\x00\x04\xc0\x7d\x4c\x96"),
		key: stun.NewShortTermIntegrity("VOkJxbRl1RmTxUk/WvJxBt"), software: "test vector", mapped: "192.0.2.1:32853",
	},
	{
		name: "2.3 sample IPv6 response",
		raw: []byte("\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
			"\x80\x22\x00\x0btest vector\x20" +
			"\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9" +
			"\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41" +
			"\x80\x28\x00\x04\xc8\xfb\x0b\x4c"),
		key: stun.NewShortTermIntegrity("VOkJxbRl1RmTxUk/WvJxBt"), software: "test vector",
		mapped: "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
	},
	{
		name: "2.4 sample request with long-term authentication",
		raw: []byte("\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e" +
			"\x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00" +
			"\x00\x15\x00\x1c\x66\x2f\x2f\x34\x39\x39\x6b\x39\x35\x34\x64\x36\x4f\x4c\x33\x34\x6f\x4c\x39\x46\x53\x54\x76\x79\x36\x34\x73\x41" +
			"\x00\x14\x00\x0bexample.org\x00" +
			"\x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66"),
		key: stun.NewLongTermIntegrity("\u30DE\u30C8\u30EA\u30C3\u30AF\u30B9", "example.org", "TheMatrIX"),
	},
}

func TestRFC5769VectorsAreRead(t *testing.T) {
	for _, v := range rfc5769 {
		t.Run(v.name, func(t *testing.T) {
			if err := Check(exact(v.raw)); err != nil {
				t.Fatal(err)
			}
			m := &stun.Message{Raw: exact(v.raw)}
			if err := m.Decode(); err != nil {
				t.Fatal(err)
			}
			if err := v.key.Check(m); err != nil {
				t.Error(err)
			}
			if s, _ := find(v.raw, attrSoftware); string(s) != v.software {
				t.Errorf("software %q", s)
			}
			if v.mapped == "" {
				return
			}
			a, err := parseAnswer(v.raw)
			if err != nil || a.mapped != netip.MustParseAddrPort(v.mapped) {
				t.Errorf("mapped %v, %v", a.mapped, err)
			}
		})
	}
}

// TestRFC5769VectorsAreWritten builds the messages from their parts. Our
// padding is zero where the RFC used spaces, and both checksums cover the
// padding; so the vectors' padding is put in before the message is closed.
func TestRFC5769VectorsAreWritten(t *testing.T) {
	for _, v := range rfc5769 {
		t.Run(v.name, func(t *testing.T) {
			in := &stun.Message{Raw: exact(v.raw)}
			if err := in.Decode(); err != nil {
				t.Fatal(err)
			}
			out := &stun.Message{Type: in.Type, TransactionID: in.TransactionID}
			out.WriteHeader()
			for _, a := range in.Attributes {
				if err := writeAttribute(out, in, a, v.key); err != nil {
					t.Fatal(err)
				}
				copyPadding(out.Raw, v.raw)
			}
			if !bytes.Equal(out.Raw, v.raw) {
				t.Errorf("got  % x\nwant % x", out.Raw, v.raw)
			}
		})
	}
}

// writeAttribute adds an attribute by its meaning, not by its bytes, where
// the codec computes it.
func writeAttribute(out, in *stun.Message, a stun.RawAttribute, key stun.MessageIntegrity) error {
	switch a.Type {
	case stun.AttrMessageIntegrity:
		return key.AddTo(out)
	case stun.AttrFingerprint:
		return stun.Fingerprint.AddTo(out)
	case stun.AttrXORMappedAddress:
		var mapped stun.XORMappedAddress
		if err := mapped.GetFrom(in); err != nil {
			return err
		}
		return mapped.AddTo(out)
	}
	out.Add(a.Type, a.Value)
	return nil
}

// copyPadding sets the padding of the last attribute of out to want's.
func copyPadding(out, want []byte) {
	for off := headerSize; off < len(out); {
		_, value, next, err := attributeAt(out, off)
		if err != nil {
			return
		}
		end := off + attrHeaderSize + len(value)
		copy(out[end:next], want[end:next])
		off = next
	}
}
