package nat

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// aliasPrefix is the /64 from which peers get their constant addresses. It
// is a unique local prefix (RFC 4193) with a random global id drawn once for
// this program. Addresses in it exist only between [Socket] and quic-go: they
// are never put on a wire, and datagrams that claim to come from it are
// dropped.
var aliasPrefix = netip.MustParsePrefix("fd5a:c3e1:9b07:e7d4::/64")

// aliasPort is the port of every constant address. Any value but 0 does: the
// address alone tells peers apart.
const aliasPort = 1

// aliasAddr returns the n-th constant address: n counts from 1 and is never
// used twice by one socket.
func aliasAddr(n uint64) netip.AddrPort {
	b := aliasPrefix.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], n)
	return netip.AddrPortFrom(netip.AddrFrom16(b), aliasPort)
}

// isAlias tells whether addr is one of the made-up addresses.
func isAlias(addr netip.Addr) bool { return aliasPrefix.Contains(addr) }

// unmap turns ::ffff:a.b.c.d into a.b.c.d, so that one remote address has one
// form, whatever family the socket has.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// addrPortOf returns the address of a UDP net.Addr, unmapped; the zero value
// for anything else.
func addrPortOf(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok && u != nil {
		return unmap(u.AddrPort())
	}
	return netip.AddrPort{}
}

// protocol is what the first byte of a datagram says it carries.
type protocol uint8

const (
	protoUnknown protocol = iota
	protoSTUN
	protoQUIC
)

// classify sorts a datagram by its first byte, RFC 9443 §2: 0–3 STUN, 64–127
// and 192–255 QUIC. 64–79 would be TURN channels too, which is why TURN has a
// socket of its own.
func classify(b []byte) protocol {
	switch {
	case len(b) == 0:
		return protoUnknown
	case b[0] <= 3:
		return protoSTUN
	case b[0]&0x40 != 0:
		return protoQUIC
	default:
		return protoUnknown
	}
}
