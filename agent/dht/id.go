package dht

import (
	"encoding/hex"
	"hash/crc32"
	"math/bits"
	"net/netip"
)

// ID is the name of a node, or the place of a value among the nodes (BEP 5).
type ID [20]byte

// String returns 40 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// nearer says whether a is nearer to id than b.
func (id ID) nearer(a, b ID) bool {
	for i := range id {
		if x, y := a[i]^id[i], b[i]^id[i]; x != y {
			return x < y
		}
	}
	return false
}

// common returns how many leading bits two ids share, 160 if they are equal.
func (id ID) common(other ID) int {
	for i := range id {
		if x := id[i] ^ other[i]; x != 0 {
			return 8*i + bits.LeadingZeros8(x)
		}
	}
	return 8 * len(id)
}

// secureBits returns the 21 leading bits that BEP 42 wants in the id of a node
// at ip, for r = the low three bits of the id's last byte.
func secureBits(ip netip.Addr, r byte) uint32 {
	var masked []byte
	if ip.Is4() {
		a := ip.As4()
		masked = []byte{a[0] & 0x03, a[1] & 0x0f, a[2] & 0x3f, a[3]}
	} else {
		a := ip.As16()
		for i, m := range []byte{0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff} {
			masked = append(masked, a[i]&m)
		}
	}
	masked[0] |= r << 5
	return crc32.Checksum(masked, crc32.MakeTable(crc32.Castagnoli)) &^ 0x7ff
}

// Secure says whether a node at ip may have the id by BEP 42. In private and
// test networks every id may be anywhere.
func (id ID) Secure(ip netip.Addr) bool {
	if !public(ip) {
		return true
	}
	head := uint32(id[0])<<24 | uint32(id[1])<<16 | uint32(id[2])<<8
	return head&^0x7ff == secureBits(ip, id[19]&7)
}

// secured returns id with the bits that BEP 42 wants at ip.
func (id ID) secured(ip netip.Addr) ID {
	head := secureBits(ip, id[19]&7)
	id[0], id[1] = byte(head>>24), byte(head>>16)
	id[2] = byte(head>>8)&0xf8 | id[2]&7
	return id
}

func prefixes(all ...string) (p []netip.Prefix) {
	for _, s := range all {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// reserved are networks that are private in effect and that netip does not
// call so: those of carriers' NATs, of benchmarks and of documents.
var reserved = prefixes("100.64.0.0/10", "198.18.0.0/15", "192.0.2.0/24",
	"198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")

// public says whether ip belongs to the internet.
func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// reach is how far the packets to an address go. A node is believed when it
// names nodes that are at least as far away as itself.
type reach uint8

const (
	loopback reach = iota
	private
	worldwide
)

func reachOf(ip netip.Addr) reach {
	switch {
	case ip.IsLoopback():
		return loopback
	case public(ip):
		return worldwide
	}
	return private
}

// network returns the /24 or /56 that counts as one neighbourhood.
func network(ip netip.Addr) netip.Addr {
	n := 24
	if ip.Is6() {
		n = 56
	}
	p, err := ip.Prefix(n)
	if err != nil {
		return ip
	}
	return p.Addr()
}

// canonical returns the address with a v4-mapped IP as the IPv4 that it is,
// and without zone.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// family is 0 for IPv4 and 1 for IPv6.
func family(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 0
	}
	return 1
}

// usable says whether anybody could answer from a.
func usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() &&
		ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// appendAddr appends the compact form: 4 or 16 bytes and the port, big-endian.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	b = append(b, a.Addr().AsSlice()...)
	return append(b, byte(a.Port()>>8), byte(a.Port()))
}

// readAddr reads 6 or 18 bytes.
func readAddr(b []byte) (netip.AddrPort, bool) {
	if len(b) != 6 && len(b) != 18 {
		return netip.AddrPort{}, false
	}
	n := len(b) - 2
	ip, ok := netip.AddrFromSlice(b[:n])
	return canonical(netip.AddrPortFrom(ip, uint16(b[n])<<8|uint16(b[n+1]))), ok
}

// node is what an answer tells of a third: an id and an address.
type node struct {
	id   ID
	addr netip.AddrPort
}

// eachNode reads a compact list of nodes, at most MaxNodesPerAnswer of them.
func eachNode(list []byte, fam int, f func(node)) {
	size := 26 + 12*fam
	for n := 0; len(list) >= size && n < MaxNodesPerAnswer; n++ {
		a, ok := readAddr(list[20:size])
		if ok && usable(a) && family(a) == fam {
			f(node{ID(list[:20]), a})
		}
		list = list[size:]
	}
}
