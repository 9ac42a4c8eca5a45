package relay

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
)

// refusedPrefixes are the destinations a relay never sends to: everything
// inside a home, a machine or a carrier, and what stands for many receivers.
// coturn was opened twice through forms missing here (CVE-2020-26262: 0.0.0.0
// and ::; CVE-2026-27624: ::ffff:127.0.0.1).
var refusedPrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this network, unspecified
	netip.MustParsePrefix("10.0.0.0/8"),     // private
	netip.MustParsePrefix("100.64.0.0/10"),  // carrier NAT
	netip.MustParsePrefix("127.0.0.0/8"),    // loopback
	netip.MustParsePrefix("169.254.0.0/16"), // link-local, cloud metadata
	netip.MustParsePrefix("172.16.0.0/12"),  // private
	netip.MustParsePrefix("192.0.0.0/24"),   // protocol assignments, DS-Lite
	netip.MustParsePrefix("192.88.99.0/24"), // 6to4 anycast
	netip.MustParsePrefix("192.168.0.0/16"), // private
	netip.MustParsePrefix("198.18.0.0/15"),  // benchmarking, used inside gateways
	netip.MustParsePrefix("224.0.0.0/4"),    // multicast
	netip.MustParsePrefix("240.0.0.0/4"),    // reserved, broadcast
	netip.MustParsePrefix("2001::/23"),      // Teredo and other special purposes
	netip.MustParsePrefix("2002::/16"),      // 6to4: carries any IPv4 address
}

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// publicPeer is the rule for all addresses except the relay's own. IPv4 in
// IPv6 (::ffff:0:0/96, 64:ff9b::/96, 2002::/16) is refused whatever it carries.
func publicPeer(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" || a.Is6() && !globalUnicast6.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(refusedPrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Ports below 1024 belong to services nobody offered to relays (SMTP, DNS,
// NTP, SNMP…); 443 is where peers listen to look ordinary.
func peerPortAllowed(port uint16) bool { return port >= 1024 || port == 443 }

// ownAddresses is what this device is at, and stands in: its addresses, the
// broadcast addresses of its networks, and the IPv6 networks around it; renewed
// while the server runs.
type ownAddresses struct {
	fixed []netip.Addr
	now   atomic.Pointer[surroundings]
}

type surroundings struct {
	addrs map[netip.Addr]struct{}
	nets6 []netip.Prefix
}

// home6 is the length of the IPv6 prefix that a home usually gets (RFC 6177).
// Devices in it have public addresses behind the home's firewall, and a relay
// in the home stands inside that.
const home6 = 56

// renew reads the interfaces again. If the kernel refuses, the addresses from
// the configuration remain.
func (o *ownAddresses) renew() {
	now := &surroundings{addrs: make(map[netip.Addr]struct{})}
	for _, a := range o.fixed {
		now.add(a)
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, _ := netip.AddrFromSlice(ipnet.IP)
		now.add(ip)
		if last, ok := broadcast(ipnet); ok {
			now.add(last)
		}
	}
	o.now.Store(now)
}

func (s *surroundings) add(a netip.Addr) {
	a = a.Unmap()
	s.addrs[a] = struct{}{}
	if !globalUnicast6.Contains(a) {
		return
	}
	home, _ := a.Prefix(home6)
	if !slices.Contains(s.nets6, home) {
		s.nets6 = append(s.nets6, home)
	}
}

func (o *ownAddresses) contains(a netip.Addr) bool {
	now := o.now.Load()
	if now == nil {
		return false
	}
	_, own := now.addrs[a]
	return own || slices.ContainsFunc(now.nets6, func(p netip.Prefix) bool { return p.Contains(a) })
}

// broadcast is the last address of an IPv4 network of at least four addresses.
func broadcast(n *net.IPNet) (netip.Addr, bool) {
	ip, mask := n.IP.To4(), n.Mask
	if ones, bits := mask.Size(); ip == nil || bits != 32 || ones > 30 {
		return netip.Addr{}, false
	}
	var last [4]byte
	for i := range last {
		last[i] = ip[i] | ^mask[len(mask)-4+i]
	}
	return netip.AddrFrom4(last), true
}

// peerRule decides about destinations for one server.
type peerRule struct {
	relays []netip.Addr // the public addresses of the server
	own    ownAddresses
	allow  func(netip.Addr) bool // may be nil
}

// newPeerRule is not copied: it reads the interfaces again later.
func newPeerRule(cfg Config) *peerRule {
	r := &peerRule{allow: cfg.AllowPeer}
	for _, a := range []netip.Addr{cfg.RelayIP, cfg.RelayIP6} {
		if a.IsValid() {
			r.relays = append(r.relays, a)
		}
	}
	r.own.fixed = append([]netip.Addr{cfg.ListenIP, cfg.ListenIP6}, r.relays...)
	r.own.renew()
	return r
}

// mayPermit answers a request for a permission, which names only an address.
// The relay's own addresses pass: which of its ports may be reached is decided
// at each packet.
func (r *peerRule) mayPermit(a netip.Addr) bool {
	return slices.Contains(r.relays, a) || r.maySend(a)
}

// maySend answers for a packet to an address that is not a relayed socket of
// this server. Whether the sending socket has the right family was asked before.
func (r *peerRule) maySend(a netip.Addr) bool {
	if r.allow != nil && !a.Is4In6() && r.allow(a) {
		return true
	}
	return publicPeer(a) && !r.own.contains(a)
}
