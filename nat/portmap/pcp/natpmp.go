package pcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	pmpAddressSize = 12
	pmpMapSize     = 16
	pmpErrorSize   = 8
)

// NATPMPResult is the result code of a NAT-PMP answer (RFC 6886 §3.5).
type NATPMPResult uint16

var pmpNames = [...]string{
	"success", "version not supported", "not authorized", "network failure", "out of resources", "opcode not supported",
}

// Error says the code in words.
func (r NATPMPResult) Error() string {
	if int(r) < len(pmpNames) {
		return "router answers: " + pmpNames[r]
	}
	return fmt.Sprintf("router answers: unknown nat-pmp result %d", uint16(r))
}

// NATPMPResponse is an answer of version 0.
type NATPMPResponse struct {
	Result NATPMPResult
	// Opcode is 0 for the external address, 1 for UDP, 2 for TCP.
	Opcode uint8
	Epoch  uint32
	// External is valid in answers with opcode 0.
	External netip.Addr
	// Internal, Port and Lifetime are set in answers with opcode 1 and 2.
	Internal, Port uint16
	Lifetime       time.Duration
}

// ParseNATPMP reads one datagram (RFC 6886 §3.2, §3.3, §3.5). Each opcode has
// exactly one length; errors may be cut to eight bytes.
func ParseNATPMP(b []byte) (NATPMPResponse, error) {
	var r NATPMPResponse
	if len(b) < pmpErrorSize || b[0] != 0 || b[1]&responded == 0 {
		return r, fmt.Errorf("nat-pmp answer of %d bytes: %w", len(b), ErrMalformed)
	}
	r.Opcode = b[1] &^ responded
	r.Result = NATPMPResult(binary.BigEndian.Uint16(b[2:]))
	r.Epoch = binary.BigEndian.Uint32(b[4:])
	want := pmpMapSize
	if r.Opcode == 0 {
		want = pmpAddressSize
	}
	if r.Opcode > 2 || len(b) > want {
		return r, fmt.Errorf("nat-pmp answer with opcode %d, %d bytes: %w", r.Opcode, len(b), ErrMalformed)
	}
	if r.Result != 0 {
		return r, nil
	}
	if len(b) != want {
		return r, fmt.Errorf("nat-pmp answer of %d bytes: %w", len(b), ErrMalformed)
	}
	if r.Opcode == 0 {
		r.External = netip.AddrFrom4([4]byte(b[8:12]))
		return r, nil
	}
	r.Internal = binary.BigEndian.Uint16(b[8:])
	r.Port = binary.BigEndian.Uint16(b[10:])
	r.Lifetime = time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Second
	return r, nil
}

// appendPMPMap appends a mapping request (RFC 6886 §3.3).
func appendPMPMap(b []byte, op byte, internal, suggested uint16, lifetime time.Duration) []byte {
	b = append(b, 0, op, 0, 0)
	b = binary.BigEndian.AppendUint16(b, internal)
	b = binary.BigEndian.AppendUint16(b, suggested)
	return binary.BigEndian.AppendUint32(b, seconds(lifetime))
}

// pmpOpcode is the opcode for an IANA protocol number.
func pmpOpcode(protocol uint8) byte {
	if protocol == TCP {
		return 2
	}
	return 1
}
