package netwatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Limits of what is read from the kernel. It keeps to them; whoever else could
// speak on the socket must not harm us.
const (
	// maxDatagram is the largest datagram in bytes. The kernel fills up to
	// 32 KiB (netlink_dump).
	maxDatagram = 64 << 10
	// maxAttributes is the largest number of attributes in one message. A link
	// has about sixty.
	maxAttributes = 256

	linkSize    = 16 // struct ifinfomsg
	addrSize    = 8  // struct ifaddrmsg
	routeSize   = 12 // struct rtmsg
	nexthopSize = 8  // struct rtnexthop
)

// errMalformed means that a message does not keep to linux/netlink.h.
var errMalformed = errors.New("malformed netlink message")

// native is the byte order of netlink: that of the machine.
var native = binary.NativeEndian

// message is one netlink message, struct nlmsghdr with what follows:
//
//	0 length  4 type  6 flags  8 sequence  12 port  16 body
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// nextMessage takes the first message off a datagram. Messages begin at
// multiples of four bytes.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return message{}, nil, fmt.Errorf("%w: header of %d bytes", errMalformed, len(b))
	}
	length := native.Uint32(b)
	if length < unix.NLMSG_HDRLEN || uint64(length) > uint64(len(b)) {
		return message{}, nil, fmt.Errorf("%w: length %d of %d", errMalformed, length, len(b))
	}
	m = message{
		typ: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:]),
		body: b[unix.NLMSG_HDRLEN:length:length],
	}
	return m, b[min(align(int(length)), len(b)):], nil
}

func align(n int) int { return (n + 3) &^ 3 }

// attribute is struct rtattr: length, type, value. The two topmost bits of the
// type are flags.
type attribute struct {
	typ   uint16
	value []byte
}

// attributes walks the attributes in b. The last pair has an error if b does
// not consist of attributes.
func attributes(b []byte) iter.Seq2[attribute, error] {
	return func(yield func(attribute, error) bool) {
		for n := 0; len(b) > 0; n++ {
			if n == maxAttributes {
				yield(attribute{}, fmt.Errorf("%w: more than %d attributes", errMalformed, maxAttributes))
				return
			}
			if len(b) < unix.SizeofRtAttr {
				yield(attribute{}, fmt.Errorf("%w: attribute header of %d bytes", errMalformed, len(b)))
				return
			}
			length := int(native.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				yield(attribute{}, fmt.Errorf("%w: attribute length %d of %d", errMalformed, length, len(b)))
				return
			}
			a := attribute{native.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:length:length]}
			if !yield(a, nil) {
				return
			}
			b = b[min(align(length), len(b)):]
		}
	}
}

// number reads a value of four bytes.
func (a attribute) number() (uint32, error) {
	if len(a.value) != 4 {
		return 0, fmt.Errorf("%w: number of %d bytes", errMalformed, len(a.value))
	}
	return native.Uint32(a.value), nil
}

// address reads an address of a family, in network byte order.
func (a attribute) address(family uint8) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(a.value)
	if !ok || addr.Is4() != (family == unix.AF_INET) {
		return netip.Addr{}, fmt.Errorf("%w: address of %d bytes, family %d", errMalformed, len(a.value), family)
	}
	return addr, nil
}

// link is an interface.
type link struct {
	index int32
	flags uint32
	name  string
}

// usable says whether packets can leave by it: it is switched on, has a
// carrier, and leads out of the machine.
func (l link) usable() bool {
	const want = unix.IFF_UP | unix.IFF_RUNNING
	return l.flags&want == want && l.flags&unix.IFF_LOOPBACK == 0
}

// parseLink reads RTM_NEWLINK and RTM_DELLINK.
func parseLink(b []byte) (link, error) {
	if len(b) < linkSize {
		return link{}, fmt.Errorf("%w: link of %d bytes", errMalformed, len(b))
	}
	l := link{index: int32(native.Uint32(b[4:])), flags: native.Uint32(b[8:])}
	for a, err := range attributes(b[linkSize:]) {
		if err != nil {
			return link{}, err
		}
		if a.typ == unix.IFLA_IFNAME {
			name, _, _ := bytes.Cut(a.value, []byte{0})
			if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
				return link{}, fmt.Errorf("%w: name of %d bytes", errMalformed, len(name))
			}
			l.name = string(name)
		}
	}
	return l, nil
}

// address is an address of an interface.
type address struct {
	prefix netip.Prefix
	index  int32
	flags  uint32
}

// usable says whether new packets may leave with it (RFC 4862 §2).
func (a address) usable() bool {
	return a.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0
}

// parseAddress reads RTM_NEWADDR and RTM_DELADDR. On a line with two ends
// IFA_ADDRESS is the other end, and IFA_LOCAL ours.
func parseAddress(b []byte) (address, error) {
	if len(b) < addrSize {
		return address{}, fmt.Errorf("%w: address of %d bytes", errMalformed, len(b))
	}
	family, bits := b[0], int(b[1])
	a := address{index: int32(native.Uint32(b[4:])), flags: uint32(b[2])}
	var own, local netip.Addr
	for attr, err := range attributes(b[addrSize:]) {
		if err != nil {
			return address{}, err
		}
		switch attr.typ {
		case unix.IFA_ADDRESS:
			own, err = attr.address(family)
		case unix.IFA_LOCAL:
			local, err = attr.address(family)
		case unix.IFA_FLAGS:
			a.flags, err = attr.number()
		}
		if err != nil {
			return address{}, err
		}
	}
	if local.IsValid() {
		own = local
	}
	a.prefix = netip.PrefixFrom(own, bits)
	if !a.prefix.IsValid() {
		return address{}, fmt.Errorf("%w: address %v/%d", errMalformed, own, bits)
	}
	return a, nil
}

// hop is one way that a default route leads.
type hop struct {
	gateway netip.Addr
	index   int32
}

// defaultRoute is a route to everywhere. Those of several hops are used in
// turn.
type defaultRoute struct {
	hops   []hop
	metric uint32
}

// parseRoute reads RTM_NEWROUTE and RTM_DELROUTE. ok is false for a route that
// is no default route, or one that leads nowhere. A default for some sources
// only counts: home routers have their IPv6 ones so.
func parseRoute(b []byte) (r defaultRoute, ok bool, err error) {
	if len(b) < routeSize {
		return defaultRoute{}, false, fmt.Errorf("%w: route of %d bytes", errMalformed, len(b))
	}
	family, bits, kind, flags := b[0], b[1], b[7], native.Uint32(b[8:])
	if family != unix.AF_INET && family != unix.AF_INET6 || bits != 0 || kind != unix.RTN_UNICAST || flags&unix.RTM_F_CLONED != 0 {
		return defaultRoute{}, false, nil
	}
	single, several, err := r.readHops(family, b[routeSize:])
	if err != nil {
		return defaultRoute{}, false, err
	}
	if r.hops = several; len(several) == 0 {
		r.hops = []hop{single}
	}
	return r, true, nil
}

// readHops reads the attributes of a route.
func (r *defaultRoute) readHops(family uint8, b []byte) (single hop, several []hop, err error) {
	single.gateway = unspecified(family)
	for a, err := range attributes(b) {
		if err != nil {
			return hop{}, nil, err
		}
		switch a.typ {
		case unix.RTA_OIF:
			var index uint32
			index, err = a.number()
			single.index = int32(index)
		case unix.RTA_PRIORITY:
			r.metric, err = a.number()
		case unix.RTA_MULTIPATH:
			several, err = parseHops(family, a.value)
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			single.gateway, err = a.gateway(family)
		}
		if err != nil {
			return hop{}, nil, err
		}
	}
	return single, several, nil
}

func unspecified(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// gateway reads RTA_GATEWAY, or RTA_VIA: a gateway of the other family, which
// it names itself in two bytes (struct rtvia).
func (a attribute) gateway(family uint8) (netip.Addr, error) {
	if a.typ == unix.RTA_GATEWAY {
		return a.address(family)
	}
	if len(a.value) < 2 {
		return netip.Addr{}, fmt.Errorf("%w: via of %d bytes", errMalformed, len(a.value))
	}
	return attribute{value: a.value[2:]}.address(uint8(native.Uint16(a.value)))
}

// parseHops reads RTA_MULTIPATH: a row of struct rtnexthop (length, flags,
// hops, interface), each with attributes of its own.
func parseHops(family uint8, b []byte) ([]hop, error) {
	var hops []hop
	for len(b) > 0 {
		if len(b) < nexthopSize {
			return nil, fmt.Errorf("%w: hop of %d bytes", errMalformed, len(b))
		}
		length := int(native.Uint16(b))
		if length < nexthopSize || length > len(b) || len(hops) == MaxRoutes {
			return nil, fmt.Errorf("%w: hop %d with length %d of %d", errMalformed, len(hops), length, len(b))
		}
		h := hop{gateway: unspecified(family), index: int32(native.Uint32(b[4:]))}
		for a, err := range attributes(b[nexthopSize:length]) {
			if err != nil {
				return nil, err
			}
			if a.typ == unix.RTA_GATEWAY || a.typ == unix.RTA_VIA {
				if h.gateway, err = a.gateway(family); err != nil {
					return nil, err
				}
			}
		}
		hops = append(hops, h)
		b = b[min(align(length), len(b)):]
	}
	return hops, nil
}
