package portmap

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// What is read of the kernel's tables.
const (
	// MaxRouteTable is how much of a table is read, in bytes; a router with a
	// full table has its default route in the first lines.
	MaxRouteTable = 256 << 10
	// MaxRoutes is how many default routes of one family are used.
	MaxRoutes = 2
)

// Flags of routes and addresses (linux/route.h, linux/if_addr.h).
const (
	routeUp, routeGateway, routeReject                    = 1, 2, 0x200
	addrTemporary, addrDadFailed, addrOld, addrUnfinished = 0x01, 0x08, 0x20, 0x40
)

// Route is one way out of this device's network.
type Route struct {
	// Gateway is the router; link-local with zone for most of IPv6.
	Gateway netip.Addr
	// Local is this device's address towards it and the length of its subnet.
	Local netip.Prefix
	// Interface is the network device that has both.
	Interface string

	metric uint64
}

// KernelRoutes reads the default routes from /proc/net, best first, IPv4
// before IPv6. It returns none, and no error, when there is no network.
func KernelRoutes() ([]Route, error) {
	v4, err4 := readTable("/proc/net/route", func(r io.Reader) []Route { return parseRoutes4(r, binary.NativeEndian) })
	for i := range v4 {
		v4[i].Local = localTowards(v4[i].Interface, v4[i].Gateway)
	}
	v6, err6 := readTable("/proc/net/ipv6_route", parseRoutes6)
	addrs, _ := readTable("/proc/net/if_inet6", parseAddrs6)
	for i := range v6 {
		for _, a := range addrs {
			if a.Interface == v6[i].Interface {
				v6[i].Local = a.Local
				break
			}
		}
	}
	if errors.Is(err6, os.ErrNotExist) { // a kernel without IPv6
		err6 = nil
	}
	return append(usable(v4), usable(v6)...), errors.Join(err4, err6)
}

// readTable opens one of the kernel's tables.
func readTable(name string, parse func(io.Reader) []Route) ([]Route, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read default routes: %w", err)
	}
	defer f.Close()
	return parse(io.LimitReader(f, MaxRouteTable)), nil
}

// usable drops routes without an address of ours, sorts by metric and cuts.
func usable(routes []Route) []Route {
	routes = slices.DeleteFunc(routes, func(r Route) bool { return !r.Local.IsValid() })
	slices.SortStableFunc(routes, func(a, b Route) int { return int(min(a.metric, 1<<30)) - int(min(b.metric, 1<<30)) })
	return routes[:min(len(routes), MaxRoutes)]
}

// localTowards is the address of the interface in the subnet of the gateway,
// or else its first of IPv4 (point-to-point links).
func localTowards(name string, gateway netip.Addr) netip.Prefix {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Prefix{}
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}
	}
	var first netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		if p.Contains(gateway) {
			return p
		}
		if !first.IsValid() {
			first = p
		}
	}
	return first
}

// fields calls line with the words of each line of a table.
func fields(r io.Reader, line func([]string)) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		line(strings.Fields(s.Text()))
	}
}

// parseRoutes4 reads /proc/net/route: Iface Destination Gateway Flags RefCnt
// Use Metric Mask …, addresses as numbers of the machine's byte order.
func parseRoutes4(r io.Reader, order binary.ByteOrder) []Route {
	var routes []Route
	fields(r, func(f []string) {
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			return
		}
		gateway, err1 := strconv.ParseUint(f[2], 16, 32)
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		metric, err3 := strconv.ParseUint(f[6], 10, 32)
		if errors.Join(err1, err2, err3) != nil || flags&(routeUp|routeGateway) != routeUp|routeGateway || flags&routeReject != 0 {
			return
		}
		var b [4]byte
		order.PutUint32(b[:], uint32(gateway))
		routes = append(routes, Route{Gateway: netip.AddrFrom4(b), Interface: f[0], metric: metric})
	})
	return routes
}

// parseRoutes6 reads /proc/net/ipv6_route: destination length source length
// next-hop metric references uses flags device, all hexadecimal.
func parseRoutes6(r io.Reader) []Route {
	const none = "00000000000000000000000000000000"
	var routes []Route
	fields(r, func(f []string) {
		if len(f) < 10 || f[0] != none || f[1] != "00" || f[2] != none || f[3] != "00" || f[4] == none {
			return
		}
		gateway, err1 := parseHex6(f[4])
		metric, err2 := strconv.ParseUint(f[5], 16, 32)
		flags, err3 := strconv.ParseUint(f[8], 16, 32)
		if errors.Join(err1, err2, err3) != nil || flags&(routeUp|routeGateway) != routeUp|routeGateway || flags&routeReject != 0 {
			return
		}
		if gateway.IsLinkLocalUnicast() {
			gateway = gateway.WithZone(f[9])
		}
		routes = append(routes, Route{Gateway: gateway, Interface: f[9], metric: metric})
	})
	return routes
}

// parseAddrs6 reads /proc/net/if_inet6: address index length scope flags
// device. Global addresses only, lasting ones first: a privacy address would
// be gone within a day.
func parseAddrs6(r io.Reader) []Route {
	var addrs []Route
	fields(r, func(f []string) {
		if len(f) < 6 || f[3] != "00" {
			return
		}
		a, err1 := parseHex6(f[0])
		bits, err2 := strconv.ParseUint(f[2], 16, 8)
		flags, err3 := strconv.ParseUint(f[4], 16, 32)
		if errors.Join(err1, err2, err3) != nil || bits > 128 || flags&(addrDadFailed|addrOld|addrUnfinished) != 0 || !isPublic(a) {
			return
		}
		addrs = append(addrs, Route{Local: netip.PrefixFrom(a, int(bits)), Interface: f[5], metric: flags & addrTemporary})
	})
	slices.SortStableFunc(addrs, func(a, b Route) int { return int(a.metric) - int(b.metric) })
	return addrs
}

func parseHex6(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, err
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Is6() {
		return netip.Addr{}, fmt.Errorf("address %q", s)
	}
	return a, nil
}
