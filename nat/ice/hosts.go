package ice

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// MaxHosts is how many addresses of interfaces are signalled at most. It
// leaves room for mapped ones below [MaxCandidates].
const MaxHosts = 10

// HostCandidates returns the addresses of the interfaces that are up, with
// the given port: IPv4 first, link-local and multicast ones never. Loopback
// is included if asked for or if there is nothing else.
func HostCandidates(port uint16, loopback bool) ([]Candidate, error) {
	addrs, err := interfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	return hostCandidates(addrs, port, loopback), nil
}

func hostCandidates(addrs []netip.Addr, port uint16, loopback bool) []Candidate {
	var hosts, loops []Candidate
	for _, addr := range addrs {
		c := Candidate{Kind: Host, Addr: netip.AddrPortFrom(addr, port)}
		switch {
		case !possible(c.Addr) || slices.Contains(hosts, c) || slices.Contains(loops, c):
		case addr.IsLoopback():
			loops = append(loops, c)
		default:
			hosts = append(hosts, c)
		}
	}
	slices.SortStableFunc(hosts, func(a, b Candidate) int { return cmp.Compare(rank(b), rank(a)) })
	hosts = hosts[:min(len(hosts), MaxHosts)]
	if loopback || len(hosts) == 0 {
		hosts = append(hosts, loops...)
	}
	return hosts[:min(len(hosts), MaxHosts)]
}

// rank orders candidates: the LAN, then IPv6, which has no NAT in between,
// then mappings, then what STUN saw. It is the type preference of RFC 8445
// §5.1.2.1.
func rank(c Candidate) uint32 {
	switch {
	case c.Kind == Host && c.Addr.Addr().Is4():
		return 126
	case c.Kind == Host:
		return 120
	case c.Kind == Mapped:
		return 110
	}
	return 100
}

func interfaceAddrs() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // gone since it was listed
		}
		for _, a := range addrs {
			if prefix, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(prefix.IP); ok {
					out = append(out, addr.Unmap())
				}
			}
		}
	}
	return out, nil
}
