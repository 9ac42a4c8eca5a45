package netwatch

import (
	"cmp"
	"net/netip"
	"slices"
)

// Limits of a [Snapshot]. What comes after that many is left out.
const (
	MaxAddrs  = 1024
	MaxRoutes = 256
)

// Snapshot is how the machine is connected at one time. Two are equal when
// nothing has changed that could matter to a session.
type Snapshot struct {
	// Addrs are the global, private and unique local unicast addresses with
	// their networks, on interfaces that are up and have a carrier, in order.
	// IPv6 addresses that are not proven unique yet or that shall not be used
	// any more (RFC 4862 §5.5.4) are not among them.
	Addrs []netip.Prefix
	// Routes are the default routes over such interfaces, in order.
	Routes []Route
}

// Route is a default route.
type Route struct {
	// Gateway is the next router. It is unspecified (0.0.0.0, ::) on lines
	// without one, such as PPP; a link-local one has its interface as zone.
	Gateway netip.Addr
	// Interface is the name of the interface, such as "eth0".
	Interface string
	// Metric orders routes: the lowest is used.
	Metric uint32
}

// Gateways are the next routers in the order of [Snapshot.Routes], without
// lines that have none.
func (s Snapshot) Gateways() []netip.Addr {
	var gateways []netip.Addr
	for _, r := range s.Routes {
		if !r.Gateway.IsUnspecified() && !slices.Contains(gateways, r.Gateway) {
			gateways = append(gateways, r.Gateway)
		}
	}
	return gateways
}

// Equal says whether nothing has changed.
func (s Snapshot) Equal(o Snapshot) bool {
	return slices.Equal(s.Addrs, o.Addrs) && slices.Equal(s.Routes, o.Routes)
}

func (s Snapshot) clone() Snapshot {
	return Snapshot{slices.Clone(s.Addrs), slices.Clone(s.Routes)}
}

// add notes an address, unless it is of a kind that is not watched.
func (s *Snapshot) add(a netip.Prefix) {
	if len(s.Addrs) < MaxAddrs && watched(a.Addr()) {
		s.Addrs = append(s.Addrs, a)
	}
}

func watched(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

func (s *Snapshot) addRoute(r Route) {
	if r.Gateway.IsLinkLocalUnicast() && r.Gateway.Is6() {
		r.Gateway = r.Gateway.WithZone(r.Interface)
	}
	if len(s.Routes) < MaxRoutes {
		s.Routes = append(s.Routes, r)
	}
}

// order makes snapshots comparable: the kernel promises no order.
func (s *Snapshot) order() {
	slices.SortFunc(s.Addrs, netip.Prefix.Compare)
	s.Addrs = slices.Compact(s.Addrs)
	slices.SortFunc(s.Routes, func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.Metric, b.Metric), a.Gateway.Compare(b.Gateway), cmp.Compare(a.Interface, b.Interface))
	})
	s.Routes = slices.Compact(s.Routes)
}
