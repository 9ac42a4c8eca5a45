package stun

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	"github.com/pion/stun/v2"
)

// MinRequest is the least size in bytes of the Binding requests we send. The
// richest answer (header, three IPv6 addresses, FINGERPRINT) has 100 bytes,
// and our servers never answer with more bytes than they were asked with.
const MinRequest = 100

// TransactionID names one request and its answer (RFC 8489 §5).
type TransactionID = [stun.TransactionIDSize]byte

// Message types, method Binding (RFC 8489 §18.2).
const (
	bindingRequest = 0x0001
	bindingSuccess = 0x0101
	bindingError   = 0x0111
)

// CHANGE-REQUEST flags (RFC 5780 §7.2). Shifted by one they are also the
// index of an address among the four of a server: bit 0 another port, bit 1
// another IP.
const (
	changePort = 0x02
	changeIP   = 0x04
)

// ErrRefused means that the server answered with an error response.
var ErrRefused = errors.New("stun server refused")

// ErrNonsense means that the server's answer names no usable address.
var ErrNonsense = errors.New("stun server answered without a usable address")

func messageType(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

func transactionID(b []byte) (id TransactionID) {
	copy(id[:], b[8:headerSize])
	return id
}

// newRequest builds a Binding request of at least [MinRequest] bytes around
// the given attributes, each as [appendAttribute] makes it. The padding is a
// SOFTWARE attribute, which any server ignores; PADDING would be refused by
// servers that do not speak RFC 5780.
func newRequest(attributes ...[]byte) (request []byte, id TransactionID) {
	rand.Read(id[:])
	b := make([]byte, headerSize, MinRequest)
	binary.BigEndian.PutUint16(b, bindingRequest)
	binary.BigEndian.PutUint32(b[4:], magicCookie)
	copy(b[8:], id[:])
	for _, a := range attributes {
		b = append(b, a...)
	}
	text := []byte("porchlight")
	for len(b)+attrHeaderSize+len(text)+fingerprintSize < MinRequest || len(text)%4 != 0 {
		text = append(text, ' ')
	}
	b = appendAttribute(b, attrSoftware, text)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+fingerprintSize-headerSize))
	return appendAttribute(b, attrFingerprint, binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)^fingerprintXOR)), id
}

// fingerprintSize is the size of a FINGERPRINT attribute in bytes.
const fingerprintSize = attrHeaderSize + 4

// appendAttribute appends an attribute with its padding (RFC 8489 §14).
func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// changeRequest is a CHANGE-REQUEST attribute (RFC 5780 §7.2), nil for 0.
func changeRequest(flags byte) []byte {
	if flags == 0 {
		return nil
	}
	return appendAttribute(nil, attrChangeRequest, []byte{0, 0, 0, flags})
}

// responsePort is a RESPONSE-PORT attribute (RFC 5780 §7.5).
func responsePort(port uint16) []byte {
	return appendAttribute(nil, attrResponsePort, []byte{byte(port >> 8), byte(port), 0, 0})
}

// answer is what a Binding response said. Addresses that were absent are
// the zero AddrPort.
type answer struct {
	mapped, other, origin netip.AddrPort
	refused               error // wraps ErrRefused for an error response
}

// parseAnswer reads a Binding response that has passed [Check].
func parseAnswer(b []byte) (answer, error) {
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if err := m.Decode(); err != nil {
		return answer{}, fmt.Errorf("decode stun answer: %w", err)
	}
	if messageType(b) == bindingError {
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(m); err != nil {
			return answer{}, fmt.Errorf("decode stun error: %w", err)
		}
		return answer{refused: fmt.Errorf("%w: code %d", ErrRefused, code.Code)}, nil
	}
	var a answer
	var mapped stun.XORMappedAddress
	if mapped.GetFrom(m) == nil {
		a.mapped = addrPort(mapped.IP, mapped.Port)
	} else {
		a.mapped = plainAddress(m, stun.AttrMappedAddress)
	}
	a.other = plainAddress(m, stun.AttrOtherAddress)
	a.origin = plainAddress(m, stun.AttrResponseOrigin)
	if !usable(a.mapped) {
		return answer{}, ErrNonsense
	}
	return a, nil
}

func plainAddress(m *stun.Message, typ stun.AttrType) netip.AddrPort {
	var addr stun.MappedAddress
	if addr.GetFromAs(m, typ) != nil {
		return netip.AddrPort{}
	}
	return addrPort(addr.IP, addr.Port)
}

func addrPort(ip net.IP, port int) netip.AddrPort {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port))
}

// usable says whether an address can be somebody's UDP endpoint at all.
func usable(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsUnspecified() &&
		!a.Addr().IsMulticast() && a.Addr() != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// canonical removes what differs between two spellings of one source:
// IPv4 inside IPv6 and, beyond link-local addresses, the zone.
func canonical(a netip.AddrPort) netip.AddrPort {
	addr := a.Addr().Unmap()
	if !addr.IsLinkLocalUnicast() {
		addr = addr.WithZone("")
	}
	return netip.AddrPortFrom(addr, a.Port())
}
