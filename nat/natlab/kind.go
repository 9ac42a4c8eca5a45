package natlab

import "fmt"

// Kind is the kind of router that a home's device is behind. Mapping and filtering
// are meant as in RFC 4787: "independent" of the remote endpoint, dependent on its
// address, or on its address and port.
type Kind string

const (
	// Public is no router: the device itself has a public address.
	Public Kind = "public"
	// FullCone maps and filters independently.
	FullCone Kind = "full-cone"
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
	// Symmetric maps each remote endpoint to another random port and filters by
	// remote address and port.
	Symmetric Kind = "symmetric"
	// SymmetricSequential is Symmetric with each new port one above the last.
	SymmetricSequential Kind = "symmetric-sequential"
	// CGNAT is a PortRestricted home behind a FullCone carrier (double NAT).
	CGNAT Kind = "cgnat"
	// UDPBlocked lets only TCP out.
	UDPBlocked Kind = "udp-blocked"
)

// Kinds returns all kinds, the easiest to reach first.
func Kinds() []Kind {
	return []Kind{Public, FullCone, AddressRestricted, PortRestricted, PortRestrictedReject, OpenInput,
		CGNAT, SymmetricSequential, Symmetric, UDPBlocked}
}

// Behaviour values of RFC 5780 as nat/stun spells them.
const (
	independent      = "endpoint-independent"
	byAddress        = "address-dependent"
	byAddressAndPort = "address-and-port-dependent"
)

// plan is how a kind is built and what it must measure as.
type plan struct {
	router    func(wan string) string // rules of the router, nil: no router
	carrier   func(wan string) string // rules of the carrier's router, nil: none
	mapping   string                  // empty: UDP must not work
	filtering string
	step      int // from one mapped port to the next, 0: not constant
}

var plans = map[Kind]plan{
	Public:               {nil, nil, "none", independent, 0},
	FullCone:             {fullCone, nil, independent, independent, 0},
	AddressRestricted:    {addressRestricted, nil, independent, byAddress, 0},
	PortRestricted:       {portRestricted, nil, independent, byAddressAndPort, 0},
	PortRestrictedReject: {portRestrictedReject, nil, independent, byAddressAndPort, 0},
	OpenInput:            {openInput, nil, independent, byAddressAndPort, 0},
	Symmetric:            {symmetric, nil, byAddressAndPort, byAddressAndPort, 0},
	SymmetricSequential:  {symmetricSequential, nil, byAddressAndPort, byAddressAndPort, 1},
	CGNAT:                {portRestricted, fullCone, independent, byAddressAndPort, 0},
	UDPBlocked:           {udpBlocked, nil, "", "", 0},
}

// planOf returns the plan of k.
func planOf(k Kind) (plan, error) {
	p, ok := plans[k]
	if !ok {
		return plan{}, fmt.Errorf("unknown kind of NAT %q: one of %v", k, Kinds())
	}
	return p, nil
}
