package portmap

import (
	"errors"
	"fmt"
	"net/netip"
)

// errAddress is what a router's nonsense for an external address ends with.
var errAddress = errors.New("router tells an impossible external address")

// inside are the networks besides the private ones that are no one's way in:
// carrier NAT, protocol assignments, benchmarks, documentation, reserved.
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:db8::/32"),
}

// isPublic reports whether a can be an address on the internet.
func isPublic(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range inside {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// checkExternal refuses what cannot be an address of a router, whatever
// network it is in, and the other family.
func checkExternal(a netip.Addr, v6 bool) error {
	if !a.IsGlobalUnicast() || a.Is4() == v6 || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return fmt.Errorf("%s: %w", a, errAddress)
	}
	return nil
}
