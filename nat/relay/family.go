package relay

import (
	"net"
	"net/netip"
	"syscall"
)

// Family is an IP version, with the numbers of REQUESTED-ADDRESS-FAMILY
// (RFC 8656 §18.6).
type Family uint8

// The families a relayed address can be of. A request that names none means
// IPv4 (RFC 8656 §7.2).
const (
	IPv4 Family = 1
	IPv6 Family = 2
)

// String gives "ipv4" or "ipv6".
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// side is one IP version in which a server relays.
type side struct {
	public netip.Addr // what peers see; not valid: this version is not relayed
	listen netip.Addr // what relayed sockets bind
	loop   netip.Addr // where relayed sockets of this server reach one another
}

func newSide(public, listen netip.Addr) side {
	loop := listen
	switch listen {
	case netip.IPv4Unspecified():
		loop = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		loop = netip.IPv6Loopback()
	}
	return side{public: public, listen: listen, loop: loop}
}

// side returns what the server relays in a family.
func (s *Server) side(f Family) *side { return &s.sides[f-IPv4] }

// inside maps a public address of another relayed socket of this server to
// where it can be reached from here, also where the router does not hairpin.
func (s *Server) inside(to netip.AddrPort) (netip.AddrPort, bool) {
	sd := s.side(familyOf(to.Addr()))
	if to.Addr() != sd.public {
		return to, false
	}
	s.portMu.RLock()
	_, ok := s.ports[to]
	s.portMu.RUnlock()
	return netip.AddrPortFrom(sd.loop, to.Port()), ok
}

// outside is the reverse, for the source of a packet.
func (s *Server) outside(from netip.AddrPort) netip.AddrPort {
	sd := s.side(familyOf(from.Addr()))
	if from.Addr() != sd.loop {
		return from
	}
	public := netip.AddrPortFrom(sd.public, from.Port())
	s.portMu.RLock()
	defer s.portMu.RUnlock()
	if _, ok := s.ports[public]; ok {
		return public
	}
	return from
}

// takes reports whether a socket bound at local gets packets of a family. One
// bound at [::] may be for IPv6 alone, which only the kernel knows.
func takes(local netip.Addr, socket any, v4 bool) bool {
	if local.Is4() || !local.IsUnspecified() {
		return local.Is4() == v4
	}
	return !v4 || !v6Only(socket)
}

func v6Only(socket any) bool {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	only := 0
	if raw.Control(func(fd uintptr) {
		only, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY)
	}) != nil || err != nil {
		return false
	}
	return only != 0
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	switch a := a.(type) {
	case *net.UDPAddr:
		return unmap(a.AddrPort()), true
	case *net.TCPAddr:
		return unmap(a.AddrPort()), true
	}
	return netip.AddrPort{}, false
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
