package hostile

import (
	"encoding/binary"
	"net/netip"
)

// GrantPCP is an honest answer to a PCP request, nil to anything else.
func GrantPCP(req []byte, external netip.Addr, epoch, lifetime uint32) []byte {
	if len(req) < 24 || req[0] != 2 {
		return nil
	}
	b := append([]byte(nil), req...)
	b[1] |= 0x80
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint32(b[4:], lifetime)
	binary.BigEndian.PutUint32(b[8:], epoch)
	clear(b[12:24])
	if len(b) >= 60 {
		a := external.As16()
		copy(b[44:60], a[:])
	}
	return b
}

// GrantNATPMP is an honest answer to a NAT-PMP request, nil to anything else.
func GrantNATPMP(req []byte, external netip.Addr, epoch, lifetime uint32) []byte {
	if len(req) < 2 || req[0] != 0 {
		return nil
	}
	b := []byte{0, req[1] | 0x80, 0, 0}
	b = binary.BigEndian.AppendUint32(b, epoch)
	if req[1] == 0 {
		a := external.As4()
		return append(b, a[:]...)
	}
	if len(req) < 12 {
		return nil
	}
	b = append(b, req[4:8]...)
	return binary.BigEndian.AppendUint32(b, lifetime)
}
