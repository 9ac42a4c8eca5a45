package natlab

import "fmt"

// Kind is the kind of router that a home's device is behind. Mapping and filtering
// are meant as in RFC 4787: "independent" of the remote endpoint, dependent on its
// address, or on its address and port.
type Kind string

const (
	// Public is no router: the device itself has a public address, and an IPv6 one.
	Public Kind = "public"
	// StatefulFirewall is a public address, and an IPv6 one, behind a firewall that
	// lets in only what was asked for. Nothing is translated.
	StatefulFirewall Kind = "stateful-firewall"
	// FullCone maps and filters independently.
	FullCone Kind = "full-cone"
	// Hairpin is FullCone that also turns packets back: devices of one home reach
	// each other by the public address (RFC 4787 REQ-9). No other kind does.
	Hairpin Kind = "hairpin"
	// AddressRestricted maps independently and filters by remote address.
	AddressRestricted Kind = "address-restricted"
	// PortRestricted maps independently, filters by remote address and port, and
	// drops what it does not want. It is the usual home router.
	PortRestricted Kind = "port-restricted"
	// PortRestrictedReject is PortRestricted that answers unwanted packets with
	// ICMP errors and TCP resets, OpenWrt's default.
	PortRestrictedReject Kind = "port-restricted-reject"
	// OpenInput is PortRestricted without a filter on the router's own input, as
	// routers made by hand are: an unwanted packet that arrives first takes the
	// port, and the device's own packet then leaves from another.
	OpenInput Kind = "open-input"
	// EIMNoPreserve is PortRestricted whose outer ports are never the inner ones:
	// it catches programs that guess the same port.
	EIMNoPreserve Kind = "eim-no-preserve"
	// ShortLifetime is PortRestricted that forgets every UDP flow 30 s after its
	// last packet, in use for long or not.
	ShortLifetime Kind = "short-lifetime"
	// UPnP is PortRestricted with miniupnpd: UPnP IGD, no NAT-PMP, no PCP.
	UPnP Kind = "upnp"
	// PCP is PortRestricted with miniupnpd: NAT-PMP and PCP, no UPnP.
	PCP Kind = "pcp"
	// CGNAT is a PortRestricted home behind a FullCone carrier (double NAT).
	CGNAT Kind = "cgnat"
	// UPnPCGNAT is a UPnP home behind a FullCone carrier. The router truthfully
	// tells that its outer address is 100.64.0.2.
	UPnPCGNAT Kind = "upnp-cgnat"
	// PortRotating is a PortRestricted home behind a carrier that maps
	// independently and moves every UDP flow to another port every RotatePeriod,
	// those in use too.
	PortRotating Kind = "port-rotating"
	// SymmetricSequential is Symmetric with each new port one above the last.
	SymmetricSequential Kind = "symmetric-sequential"
	// Symmetric maps each remote endpoint to another random port and filters by
	// remote address and port.
	Symmetric Kind = "symmetric"
	// UPnPSymmetric is Symmetric with miniupnpd: UPnP IGD only.
	UPnPSymmetric Kind = "upnp-symmetric"
	// CGNATSymmetric is a PortRestricted home behind a Symmetric carrier.
	CGNATSymmetric Kind = "cgnat-symmetric"
	// IPv6Firewall has native IPv6 behind a stateful firewall; its IPv4 is
	// Symmetric, so that a direct path between two of them proves IPv6.
	IPv6Firewall Kind = "ipv6-firewall"
	// IPv6Only has native IPv6 behind a stateful firewall and no IPv4.
	IPv6Only Kind = "ipv6-only"
	// UDPBlocked lets only TCP out.
	UDPBlocked Kind = "udp-blocked"
)

// Kinds returns all kinds, the easiest to reach first.
func Kinds() []Kind {
	return []Kind{Public, StatefulFirewall, FullCone, Hairpin, AddressRestricted,
		PortRestricted, PortRestrictedReject, OpenInput, EIMNoPreserve, ShortLifetime,
		UPnP, PCP, CGNAT, UPnPCGNAT, PortRotating,
		SymmetricSequential, Symmetric, UPnPSymmetric, CGNATSymmetric,
		IPv6Firewall, IPv6Only, UDPBlocked}
}

// PublishedKinds returns the 14 kinds whose 105 pairs other programs were measured
// on, in the order of those tables: public, full-cone, address-restricted,
// port-restricted, OpenWrt's, open input, symmetric sequential and random, CGNAT and
// symmetric CGNAT, UDP blocked, UPnP, PCP, IPv6 firewall.
func PublishedKinds() []Kind {
	return []Kind{Public, FullCone, AddressRestricted, PortRestricted, PortRestrictedReject,
		OpenInput, SymmetricSequential, Symmetric, CGNAT, CGNATSymmetric, UDPBlocked,
		UPnP, PCP, IPv6Firewall}
}

// Behaviour values of RFC 5780 as nat/stun spells them.
const (
	untranslated     = "none"
	independent      = "endpoint-independent"
	byAddress        = "address-dependent"
	byAddressAndPort = "address-and-port-dependent"
)

// rules makes the nftables rules of a router with the outer address wan.
type rules func(wan string) string

// plan is how a kind is built and what it must measure as.
type plan struct {
	router  rules  // nil: no router
	carrier rules  // nil: none
	rotated rotate // what the carrier's rules become every RotatePeriod
	gateway gateway

	ipv4       service
	ipv6       bool // native, one /64
	udpTimeout int  // seconds without a packet until the router forgets a flow; 0: the kernel's 30 and 120

	mapping   string // of IPv4; empty: UDP must not work
	filtering string
	step      int  // from one mapped port to the next, 0: not constant
	moved     bool // the mapped port is never the local one
	hairpin   bool // packets to the own public address come back
}

// service is how a home has IPv4.
type service uint8

const (
	translated service = iota
	routed             // public addresses on the LAN
	absent
)

// filtering6 is what IPv6 must measure as; its mapping is always untranslated.
func (p plan) filtering6() string {
	if p.router == nil {
		return independent
	}
	return byAddressAndPort
}

var plans = map[Kind]plan{
	Public:               {ipv4: routed, ipv6: true, mapping: untranslated, filtering: independent},
	StatefulFirewall:     {router: firewall, ipv4: routed, ipv6: true, mapping: untranslated, filtering: byAddressAndPort},
	FullCone:             {router: fullCone, mapping: independent, filtering: independent},
	Hairpin:              {router: hairpin, mapping: independent, filtering: independent, hairpin: true},
	AddressRestricted:    {router: addressRestricted, mapping: independent, filtering: byAddress},
	PortRestricted:       {router: portRestricted, mapping: independent, filtering: byAddressAndPort},
	PortRestrictedReject: {router: portRestrictedReject, mapping: independent, filtering: byAddressAndPort},
	OpenInput:            {router: openInput, mapping: independent, filtering: byAddressAndPort},
	EIMNoPreserve:        {router: permuted, mapping: independent, filtering: byAddressAndPort, moved: true},
	ShortLifetime:        {router: portRestricted, udpTimeout: 30, mapping: independent, filtering: byAddressAndPort},
	UPnP:                 {router: portRestricted, gateway: upnpIGD, mapping: independent, filtering: byAddressAndPort},
	PCP:                  {router: portRestricted, gateway: natPMP, mapping: independent, filtering: byAddressAndPort},
	CGNAT:                {router: portRestricted, carrier: fullCone, mapping: independent, filtering: byAddressAndPort},
	UPnPCGNAT:            {router: portRestricted, carrier: fullCone, gateway: upnpIGD, mapping: independent, filtering: byAddressAndPort},
	PortRotating:         {router: portRestricted, carrier: rotating, rotated: rotatedPorts, mapping: independent, filtering: byAddressAndPort, moved: true},
	Symmetric:            {router: symmetric, mapping: byAddressAndPort, filtering: byAddressAndPort},
	SymmetricSequential:  {router: symmetricSequential, mapping: byAddressAndPort, filtering: byAddressAndPort, step: 1},
	UPnPSymmetric:        {router: symmetric, gateway: upnpIGD, mapping: byAddressAndPort, filtering: byAddressAndPort},
	CGNATSymmetric:       {router: portRestricted, carrier: symmetric, mapping: byAddressAndPort, filtering: byAddressAndPort},
	IPv6Firewall:         {router: symmetricFirewall6, ipv6: true, mapping: byAddressAndPort, filtering: byAddressAndPort},
	IPv6Only:             {router: firewall, ipv4: absent, ipv6: true},
	UDPBlocked:           {router: udpBlocked},
}

// planOf returns the plan of k.
func planOf(k Kind) (plan, error) {
	p, ok := plans[k]
	if !ok {
		return plan{}, fmt.Errorf("unknown kind of NAT %q: one of %v", k, Kinds())
	}
	return p, nil
}
