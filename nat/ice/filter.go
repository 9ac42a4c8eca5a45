package ice

import (
	"net/netip"
	"slices"
)

// Filter decides which addresses a peer may make us send checks to. The zero
// value allows public addresses only.
type Filter struct {
	// Loopback allows loopback addresses: for tests and for several agents
	// on one machine.
	Loopback bool
	// SameLAN says that the peer is known to be in our network, because its
	// beacon was heard there.
	SameLAN bool
	// Ours and Theirs are the public addresses of the two sides. With one
	// in common (IPv6: one /64) both are behind the same router, and private
	// addresses are allowed. Two homes that use 192.168.1.0/24 behind
	// different routers have none in common.
	Ours, Theirs []netip.Addr
	// OnLink are the networks of our interfaces. They count only while we
	// know no public address of ours: a network that is cut off is a LAN.
	OnLink []netip.Prefix
}

// FilterFor makes the filter for two descriptions from what they signal.
func FilterFor(ours, theirs []Candidate) Filter {
	return Filter{Ours: PublicAddrs(ours), Theirs: PublicAddrs(theirs)}
}

// PublicAddrs returns the public addresses among candidates, once each.
func PublicAddrs(candidates []Candidate) []netip.Addr {
	var out []netip.Addr
	for _, c := range candidates {
		addr := c.Addr.Addr().Unmap()
		if possible(c.Addr) && !addr.IsLoopback() && !private(addr) && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}

// Allow says whether checks may be sent to a.
func (f Filter) Allow(a netip.AddrPort) bool {
	addr := a.Addr().Unmap()
	switch {
	case !possible(a):
		return false
	case addr.IsLoopback():
		return f.Loopback
	case private(addr):
		return f.SameLAN || f.sameRouter() || f.cutOff(addr)
	}
	return true
}

func (f Filter) sameRouter() bool {
	for _, a := range f.Ours {
		for _, b := range f.Theirs {
			if a == b || !a.Is4() && !b.Is4() && network64(a) == network64(b) {
				return true
			}
		}
	}
	return false
}

func (f Filter) cutOff(addr netip.Addr) bool {
	return len(f.Ours) == 0 &&
		slices.ContainsFunc(f.OnLink, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func network64(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(64)
	return p
}

// never are networks no candidate can honestly be in: this host, link-local,
// reserved, and the IPv6 forms that wrap an IPv4 address and so would get
// round the rules for it.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved, broadcast
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// compatible is ::/96, IPv4-compatible IPv6; ::1 in it is loopback.
var compatible = netip.MustParsePrefix("::/96")

// carrier is the network between a carrier's NAT and the home's.
var carrier = netip.MustParsePrefix("100.64.0.0/10")

// possible says whether a can be a peer's address at all.
func possible(a netip.AddrPort) bool {
	addr := a.Addr().Unmap()
	if !a.IsValid() || a.Port() == 0 || addr.Zone() != "" {
		return false
	}
	if compatible.Contains(addr) && !addr.IsLoopback() {
		return false
	}
	return !slices.ContainsFunc(never, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func private(addr netip.Addr) bool { return addr.IsPrivate() || carrier.Contains(addr) }
