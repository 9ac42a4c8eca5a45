package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Limits of what the gate lets through. A datagram beyond any of them is
// refused whole; nothing is truncated.
const (
	// MaxMessage is the largest message in bytes. STUN over UDP fits one
	// Ethernet frame; the rest is room for TURN data indications.
	MaxMessage = 2048
	// MaxAttributes is the largest number of attributes in one message.
	// The richest message we know of, a TURN error, has nine.
	MaxAttributes = 24

	headerSize     = 20
	attrHeaderSize = 4
	maxUsername    = 513 // bytes, RFC 8489 §14.3 (509) rounded up to RFC 5389
	maxText        = 763 // bytes, REALM, NONCE, SOFTWARE: RFC 8489 §14.9–14.14
	magicCookie    = 0x2112A442
	fingerprintXOR = 0x5354554e
)

// The reasons of the gate. Errors returned by [Check] wrap one of them.
var (
	// ErrHeader means that the datagram does not begin with a STUN header
	// whose length is the length of the datagram.
	ErrHeader = errors.New("not a stun message")
	// ErrAttribute means that an attribute runs out of the message, has a
	// length its type forbids, or stands at a forbidden place.
	ErrAttribute = errors.New("malformed stun attribute")
	// ErrLimit means that the message is larger than we accept.
	ErrLimit = errors.New("stun message over limit")
	// ErrFingerprint means that a FINGERPRINT is there and wrong.
	ErrFingerprint = errors.New("wrong stun fingerprint")
)

// Attribute types the gate and the multiplexer look at themselves.
const (
	attrMappedAddress    = 0x0001
	attrChangeRequest    = 0x0003
	attrSourceAddress    = 0x0004
	attrChangedAddress   = 0x0005
	attrUsername         = 0x0006
	attrIntegrity        = 0x0008
	attrErrorCode        = 0x0009
	attrUnknown          = 0x000A
	attrChannelNumber    = 0x000C
	attrLifetime         = 0x000D
	attrXORPeerAddress   = 0x0012
	attrRealm            = 0x0014
	attrNonce            = 0x0015
	attrXORRelayed       = 0x0016
	attrAddressFamily    = 0x0017
	attrEvenPort         = 0x0018
	attrTransport        = 0x0019
	attrDontFragment     = 0x001A
	attrIntegritySHA256  = 0x001C
	attrUserhash         = 0x001E
	attrXORMappedAddress = 0x0020
	attrReservation      = 0x0022
	attrPriority         = 0x0024
	attrUseCandidate     = 0x0025
	attrPadding          = 0x0026
	attrResponsePort     = 0x0027
	attrConnectionID     = 0x002A
	attrSoftware         = 0x8022
	attrAlternateServer  = 0x8023
	attrCacheTimeout     = 0x8027
	attrFingerprint      = 0x8028
	attrControlled       = 0x8029
	attrControlling      = 0x802A
	attrResponseOrigin   = 0x802B
	attrOtherAddress     = 0x802C

	// attrOldXORMapped is XOR-MAPPED-ADDRESS in drafts before RFC 5389. The
	// decoders take it for that, so the gate has to.
	attrOldXORMapped = 0x8020
)

// Check is the gate: it returns nil only for a datagram that every decoder
// behind it can read without leaving the buffer. It verifies the header
// (RFC 8489 §5), walks all attributes, compares the length of each known
// attribute with its type, and verifies FINGERPRINT where present. It does
// not authenticate and does not allocate on success.
//
// The decoders need it: pion/stun v0.6.1 and v2.0.0 slice the value of an
// XOR-MAPPED-ADDRESS before they look at its length, so one reply of 24
// bytes ends the process.
func Check(b []byte) error {
	if err := checkHeader(b); err != nil {
		return err
	}
	var order attributeOrder
	count := 0
	for off := headerSize; off < len(b); count++ {
		if count == MaxAttributes {
			return fmt.Errorf("%w: more than %d attributes", ErrLimit, MaxAttributes)
		}
		typ, value, next, err := attributeAt(b, off)
		if err != nil {
			return err
		}
		if err := order.admit(typ); err != nil {
			return err
		}
		if !lengthFits(typ, value) {
			return fmt.Errorf("%w: type 0x%04x with %d bytes", ErrAttribute, typ, len(value))
		}
		if typ == attrFingerprint && !fingerprintFits(b[:off], value) {
			return ErrFingerprint
		}
		off = next
	}
	return nil
}

func checkHeader(b []byte) error {
	switch {
	case len(b) < headerSize:
		return fmt.Errorf("%w: %d bytes", ErrHeader, len(b))
	case len(b) > MaxMessage:
		return fmt.Errorf("%w: %d bytes", ErrLimit, len(b))
	case b[0]&0xC0 != 0:
		return fmt.Errorf("%w: first bits set", ErrHeader)
	case binary.BigEndian.Uint32(b[4:8]) != magicCookie:
		return fmt.Errorf("%w: no magic cookie", ErrHeader)
	}
	length := int(binary.BigEndian.Uint16(b[2:4]))
	if length%4 != 0 || length != len(b)-headerSize {
		return fmt.Errorf("%w: length %d in a datagram of %d", ErrHeader, length, len(b))
	}
	return nil
}

// attributeAt reads the attribute at off, by the name decoders give it. next is where the following one
// begins, padding included (RFC 8489 §14).
func attributeAt(b []byte, off int) (typ uint16, value []byte, next int, err error) {
	if len(b)-off < attrHeaderSize {
		return 0, nil, 0, fmt.Errorf("%w: header cut at %d", ErrAttribute, off)
	}
	if typ = binary.BigEndian.Uint16(b[off:]); typ == attrOldXORMapped {
		typ = attrXORMappedAddress
	}
	length := int(binary.BigEndian.Uint16(b[off+2:]))
	start := off + attrHeaderSize
	next = start + (length+3)&^3
	if next > len(b) {
		return 0, nil, 0, fmt.Errorf("%w: type 0x%04x runs out", ErrAttribute, typ)
	}
	return typ, b[start : start+length : start+length], next, nil
}

// attributeOrder refuses what may not follow the protecting attributes.
// RFC 8489 §14.5 tells receivers to ignore such attributes; decoders behind
// us do not, so an attacker could add what looks authenticated.
type attributeOrder struct{ integrity, sha256, fingerprint bool }

func (o *attributeOrder) admit(typ uint16) error {
	protecting := typ == attrIntegrity || typ == attrIntegritySHA256 || typ == attrFingerprint
	switch {
	case o.fingerprint,
		(o.integrity || o.sha256) && !protecting,
		typ == attrIntegrity && (o.integrity || o.sha256),
		typ == attrIntegritySHA256 && o.sha256:
		return fmt.Errorf("%w: type 0x%04x after the protected part", ErrAttribute, typ)
	}
	o.integrity = o.integrity || typ == attrIntegrity
	o.sha256 = o.sha256 || typ == attrIntegritySHA256
	o.fingerprint = typ == attrFingerprint
	return nil
}

// lengthFits compares a value with what its type allows. Unknown types may
// have any length: nobody behind the gate reads them.
func lengthFits(typ uint16, v []byte) bool {
	switch typ {
	case attrMappedAddress, attrSourceAddress, attrChangedAddress, attrXORPeerAddress,
		attrXORRelayed, attrXORMappedAddress, attrAlternateServer,
		attrResponseOrigin, attrOtherAddress:
		return addressFits(v)
	case attrUseCandidate, attrDontFragment:
		return len(v) == 0
	case attrEvenPort:
		return len(v) == 1
	case attrChangeRequest, attrChannelNumber, attrLifetime, attrAddressFamily,
		attrTransport, attrPriority, attrConnectionID, attrCacheTimeout, attrFingerprint:
		return len(v) == 4
	case attrResponsePort: // 2 bytes of port, 2 reserved; senders differ
		return len(v) == 2 || len(v) == 4
	case attrReservation, attrControlled, attrControlling:
		return len(v) == 8
	case attrIntegrity:
		return len(v) == 20
	case attrIntegritySHA256:
		return len(v) >= 16 && len(v) <= 32 && len(v)%4 == 0
	case attrUserhash:
		return len(v) == 32
	case attrUsername:
		return len(v) >= 1 && len(v) <= maxUsername
	case attrRealm, attrNonce, attrSoftware:
		return len(v) <= maxText
	case attrErrorCode:
		return errorCodeFits(v)
	case attrUnknown:
		return len(v)%2 == 0
	}
	return true
}

func addressFits(v []byte) bool {
	if len(v) < 4 || v[0] != 0 {
		return false
	}
	return v[1] == 1 && len(v) == 8 || v[1] == 2 && len(v) == 20
}

func errorCodeFits(v []byte) bool {
	if len(v) < 4 || len(v) > 4+maxText {
		return false
	}
	class, number := v[2]&7, v[3]
	return class >= 3 && class <= 6 && number <= 99
}

// fingerprintFits verifies FINGERPRINT (RFC 8489 §14.7) over what precedes
// it. It is the last attribute, so the length in the header covers it.
func fingerprintFits(before, value []byte) bool {
	return binary.BigEndian.Uint32(value) == crc32.ChecksumIEEE(before)^fingerprintXOR
}

// find returns the value of the first attribute of a type in a message that
// has passed [Check].
func find(b []byte, want uint16) ([]byte, bool) {
	for off := headerSize; off < len(b); {
		typ, value, next, err := attributeAt(b, off)
		if err != nil {
			return nil, false
		}
		if typ == want {
			return value, true
		}
		off = next
	}
	return nil, false
}
