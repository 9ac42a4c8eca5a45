package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"porchlight/nat/stun"
)

// Limits on single messages. pion/turn reads into 1600 bytes and drops what
// fills them, so everything here stays below.
const (
	// MaxMessage is the largest STUN message or ChannelData accepted, in bytes.
	MaxMessage = 1560
	// MaxPayload is the largest payload relayed, in bytes: a QUIC packet of
	// 1452 bytes fits together with a Send indication's 36.
	MaxPayload = 1452

	stunHeader    = 20
	channelHeader = 4
	cookie        = 0x2112A442
)

// Message types (method and class together), RFC 8656 §17 and RFC 8489 §18.
const (
	typeBinding          = 0x0001
	typeAllocate         = 0x0003
	typeRefresh          = 0x0004
	typeSend             = 0x0016
	typeData             = 0x0017
	typeCreatePermission = 0x0008
	typeChannelBind      = 0x0009
	classSuccess         = 0x0100
	classError           = 0x0110
)

// Attributes the package itself looks at, RFC 8656 §18.
const (
	attrIntegrity     = 0x0008
	attrErrorCode     = 0x0009
	attrChannelNumber = 0x000C
	attrLifetime      = 0x000D
	attrPeerAddress   = 0x0012
	attrData          = 0x0013
	attrRealm         = 0x0014
	attrNonce         = 0x0015
	attrRelayed       = 0x0016
	attrFamily        = 0x0017
	attrEvenPort      = 0x0018
	attrTransport     = 0x0019
	attrMapped        = 0x0020
	attrReservation   = 0x0022
)

var errMalformed = errors.New("malformed message")

// message is a STUN message whose framing and attribute lengths were checked.
type message struct {
	kind uint16
	raw  []byte
}

// parseMessage accepts exactly one STUN message filling b. [stun.Check] has
// then verified framing and the length of every TURN attribute: pion slices
// some of these before looking at how long they are.
func parseMessage(b []byte) (message, error) {
	if len(b) > MaxMessage {
		return message{}, fmt.Errorf("%w: %d bytes", errMalformed, len(b))
	}
	if err := stun.Check(b); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return message{kind: binary.BigEndian.Uint16(b), raw: b}, nil
}

// attribute returns the value of the first attribute of that kind, nil if none.
func (m message) attribute(kind uint16) []byte {
	for rest := m.raw[stunHeader:]; len(rest) >= 4; {
		n := int(binary.BigEndian.Uint16(rest[2:]))
		end := 4 + (n+3)&^3
		if end > len(rest) {
			return nil
		}
		if binary.BigEndian.Uint16(rest) == kind {
			return rest[4 : 4+n]
		}
		rest = rest[end:]
	}
	return nil
}

func (m message) has(kind uint16) bool { return m.attribute(kind) != nil }

func (m message) isResponse() bool { return m.kind&classSuccess != 0 }

// lifetime is the LIFETIME attribute in seconds; ok tells whether there is one.
func (m message) lifetime() (seconds uint32, ok bool) {
	v := m.attribute(attrLifetime)
	if len(v) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(v), true
}

// errorCode is the number in ERROR-CODE, 0 if there is none.
func (m message) errorCode() int {
	v := m.attribute(attrErrorCode)
	if len(v) < 4 {
		return 0
	}
	return int(v[2]&7)*100 + int(v[3])
}

// setErrorCode overwrites the number in ERROR-CODE, if there is one. Only for
// messages without MESSAGE-INTEGRITY and FINGERPRINT, as pion's errors are.
func (m message) setErrorCode(code uint16) {
	if v := m.attribute(attrErrorCode); len(v) >= 4 && !m.has(attrIntegrity) {
		v[2], v[3] = byte(code/100), byte(code%100)
	}
}

// address decodes an XOR-…-ADDRESS attribute (RFC 8489 §14.2).
func (m message) address(kind uint16) (netip.AddrPort, bool) {
	v := m.attribute(kind)
	if len(v) != 8 && len(v) != 20 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(v[2:]) ^ uint16(cookie>>16)
	var ip [16]byte
	for i := range v[4:] {
		ip[i] = v[4+i] ^ m.raw[4+i]
	}
	switch {
	case v[1] == 1 && len(v) == 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[:4])), port), true
	case v[1] == 2 && len(v) == 20:
		return netip.AddrPortFrom(netip.AddrFrom16(ip), port), true
	}
	return netip.AddrPort{}, false
}

// isChannelData reports by the first byte: 0x40–0x4F in RFC 8656 §12, up to
// 0x7F in RFC 5766, which clients in use still follow.
func isChannelData(b []byte) bool { return len(b) > 0 && b[0]&0xC0 == 0x40 }

// parseChannelData accepts one ChannelData message filling b, up to three
// bytes of padding included.
func parseChannelData(b []byte) (number uint16, data []byte, err error) {
	if !isChannelData(b) || len(b) < channelHeader || len(b) > MaxMessage {
		return 0, nil, fmt.Errorf("%w: channel data of %d bytes", errMalformed, len(b))
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if spare := len(b) - channelHeader - n; spare < 0 || spare > 3 {
		return 0, nil, fmt.Errorf("%w: channel data length %d in %d bytes", errMalformed, n, len(b))
	}
	return binary.BigEndian.Uint16(b), b[channelHeader : channelHeader+n], nil
}
