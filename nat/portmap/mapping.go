package portmap

import (
	"net/netip"
	"time"
)

// Method is a protocol by which a router is asked for a port.
type Method string

// The methods, best first.
const (
	PCP    Method = "pcp"       // RFC 6887
	NATPMP Method = "nat-pmp"   // RFC 6886
	IGD2   Method = "upnp-igd2" // UPnP WANIPConnection:2
	IGD1   Method = "upnp-igd1" // UPnP WANIPConnection:1, WANPPPConnection:1
)

// Mapping is one port that a router keeps open for this device: a translation
// for IPv4, a pinhole in the firewall for IPv6.
type Mapping struct {
	Method Method
	// Transport is "udp" or "tcp".
	Transport string
	// Internal is the address and port of this device that it leads to.
	Internal netip.AddrPort
	// External is where the router says that it takes packets. It may be
	// wrong, private, or a carrier's: compare it with what STUN sees.
	External netip.AddrPort
	// Gateway is the router.
	Gateway netip.Addr
	// Lifetime is what the router granted; 0 is a permanent mapping.
	Lifetime time.Duration
	// Expires is when the lease ends unless it is renewed, on the monotonic
	// clock; the zero time for permanent ones.
	Expires time.Time
}

// Outcome is what one method came to.
type Outcome string

// The outcomes.
const (
	Pending Outcome = "pending" // not yet known
	Silent  Outcome = "silent"  // no answer: not offered, or switched off
	Refused Outcome = "refused" // understood, and not allowed
	Broken  Outcome = "broken"  // answered with nonsense
	Granted Outcome = "granted"
	// Offered is a method that would work and was left alone, because a better
	// one has granted everything.
	Offered Outcome = "offered"
)

// State is what is known about the routers at one moment.
type State struct {
	// Gateway is the IPv4 default router, invalid if there is none.
	Gateway netip.Addr
	// Router is the make and model as UPnP tells it; "" if unknown.
	Router string
	// Mappings are the ports kept open, the best first, at most one for each
	// transport and address family.
	Mappings []Mapping
	// Outcomes tell how each method ended for IPv4.
	Outcomes map[Method]Outcome
	// Settled says that every method has answered or timed out at least once
	// since the network last changed.
	Settled bool
}
