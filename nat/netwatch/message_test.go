package netwatch

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// exact returns a copy without spare capacity, so that a read beyond the end
// cannot hit bytes that happen to be there.
func exact(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c[:len(c):len(c)]
}

func attr(typ uint16, value []byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(native.AppendUint16(b, typ), value...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func number(n uint32) []byte { return native.AppendUint32(nil, n) }

func ip(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func packet(typ, flags uint16, seq uint32, body []byte) []byte {
	b := native.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = native.AppendUint16(b, typ)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	b = append(append(b, 0, 0, 0, 0), body...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func linkBody(index int32, flags uint32, attrs ...[]byte) []byte {
	b := append([]byte{0, 0, 1, 0}, number(uint32(index))...)
	return join(append([][]byte{b, number(flags), number(0)}, attrs...)...)
}

func addrBody(family, bits, flags byte, index int32, attrs ...[]byte) []byte {
	return join(append([][]byte{{family, bits, flags, 0}, number(uint32(index))}, attrs...)...)
}

func routeBody(family, bits, kind byte, flags uint32, attrs ...[]byte) []byte {
	return join(append([][]byte{{family, bits, 0, 0, 254, 3, 0, kind}, number(flags)}, attrs...)...)
}

// nexthop is struct rtnexthop with its attributes.
func nexthop(index int32, attrs ...[]byte) []byte {
	body := join(attrs...)
	b := native.AppendUint16(nil, uint16(nexthopSize+len(body)))
	return join(b, []byte{0, 0}, number(uint32(index)), body)
}

const (
	v4 = unix.AF_INET
	v6 = unix.AF_INET6
)

func TestNextMessage(t *testing.T) {
	good := packet(unix.RTM_NEWADDR, 2, 7, []byte{1, 2, 3, 4, 5})
	altered := func(length uint32) []byte {
		b := exact(good)
		native.PutUint32(b, length)
		return b
	}
	for _, row := range []struct {
		name string
		b    []byte
		body int // -1: refused
		rest int
	}{
		{"whole with padding", good, 5, 0},
		{"without its padding", good[:21], 5, 0},
		{"followed by another", join(good, good), 5, len(good)},
		{"cut", good[:20], -1, 0},
		{"header only", packet(unix.NLMSG_DONE, 0, 0, nil), 0, 0},
		{"header cut", good[:15], -1, 0},
		{"empty", nil, -1, 0},
		{"length below the header", altered(15), -1, 0},
		{"length 0", altered(0), -1, 0},
		{"length one above", altered(25), -1, 0},
		{"length of four gigabytes", altered(0xFFFFFFFF), -1, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, rest, err := nextMessage(exact(row.b))
			if row.body < 0 {
				if !errors.Is(err, errMalformed) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(m.body) != row.body || len(rest) != row.rest {
				t.Fatalf("body %d, rest %d, %v", len(m.body), len(rest), err)
			}
			if row.body == 5 && (m.typ != unix.RTM_NEWADDR || m.flags != 2 || m.seq != 7) {
				t.Errorf("got %+v", m)
			}
		})
	}
}

func TestAttributesHaveALimit(t *testing.T) {
	for n, want := range map[int]error{maxAttributes - 1: nil, maxAttributes: nil, maxAttributes + 1: errMalformed} {
		var b []byte
		for range n {
			b = append(b, attr(1, nil)...)
		}
		count, last := 0, error(nil)
		for _, err := range attributes(b) {
			if last = err; err == nil {
				count++
			}
		}
		if !errors.Is(last, want) || count != min(n, maxAttributes) {
			t.Errorf("%d attributes: read %d, %v", n, count, last)
		}
	}
}

func TestParseLink(t *testing.T) {
	name := func(s string) []byte { return attr(unix.IFLA_IFNAME, append([]byte(s), 0)) }
	for _, row := range []struct {
		name string
		b    []byte
		want link
		err  error
	}{
		{"an interface", linkBody(3, 0x41, attr(40, make([]byte, 9)), name("eth0")), link{3, 0x41, "eth0"}, nil},
		{"without a name", linkBody(3, 0x41), link{3, 0x41, ""}, nil},
		{"a name of 15", linkBody(3, 0, name("abcdefghijklmno")), link{3, 0, "abcdefghijklmno"}, nil},
		{"a name of 16", linkBody(3, 0, name("abcdefghijklmnop")), link{}, errMalformed},
		{"an empty name", linkBody(3, 0, name("")), link{}, errMalformed},
		{"cut", linkBody(3, 0)[:15], link{}, errMalformed},
		{"an attribute cut", linkBody(3, 0, []byte{1, 0}), link{}, errMalformed},
		{"an attribute of length 3", linkBody(3, 0, native.AppendUint16(nil, 3), []byte{1, 0}), link{}, errMalformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, err := parseLink(exact(row.b)); got != row.want || !errors.Is(err, row.err) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestLinkUsable(t *testing.T) {
	for flags, want := range map[uint32]bool{
		unix.IFF_UP | unix.IFF_RUNNING: true,
		unix.IFF_UP:                    false, // no carrier
		unix.IFF_RUNNING:               false,
		unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOOPBACK:    false,
		unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_POINTOPOINT: true,
	} {
		if got := (link{flags: flags}).usable(); got != want {
			t.Errorf("flags %#x: %v", flags, got)
		}
	}
}

func TestParseAddress(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, row := range []struct {
		name   string
		b      []byte
		want   netip.Prefix
		usable bool
		err    error
	}{
		{"IPv4", addrBody(v4, 24, 0x80, 2, attr(unix.IFA_ADDRESS, ip("192.168.1.9")), attr(unix.IFA_LOCAL, ip("192.168.1.9"))),
			prefix("192.168.1.9/24"), true, nil},
		{"a line with two ends", addrBody(v4, 32, 0, 2, attr(unix.IFA_ADDRESS, ip("10.0.0.1")), attr(unix.IFA_LOCAL, ip("10.0.0.2"))),
			prefix("10.0.0.2/32"), true, nil},
		{"IPv6", addrBody(v6, 64, 0x80, 2, attr(unix.IFA_ADDRESS, ip("3fff::9"))), prefix("3fff::9/64"), true, nil},
		{"tentative", addrBody(v6, 64, 0x40, 2, attr(unix.IFA_ADDRESS, ip("3fff::9"))), prefix("3fff::9/64"), false, nil},
		{"deprecated", addrBody(v6, 64, 0x20, 2, attr(unix.IFA_ADDRESS, ip("3fff::9"))), prefix("3fff::9/64"), false, nil},
		{"a duplicate", addrBody(v6, 64, 0x08, 2, attr(unix.IFA_ADDRESS, ip("3fff::9"))), prefix("3fff::9/64"), false, nil},
		{"flags in an attribute", addrBody(v6, 64, 0x40, 2, attr(unix.IFA_ADDRESS, ip("3fff::9")), attr(unix.IFA_FLAGS, number(0x300))),
			prefix("3fff::9/64"), true, nil},
		{"no address", addrBody(v4, 24, 0, 2), netip.Prefix{}, false, errMalformed},
		{"too many bits", addrBody(v4, 33, 0, 2, attr(unix.IFA_ADDRESS, ip("10.0.0.1"))), netip.Prefix{}, false, errMalformed},
		{"an address of the other family", addrBody(v4, 24, 0, 2, attr(unix.IFA_ADDRESS, ip("3fff::9"))), netip.Prefix{}, false, errMalformed},
		{"an address of 5 bytes", addrBody(v4, 24, 0, 2, attr(unix.IFA_ADDRESS, make([]byte, 5))), netip.Prefix{}, false, errMalformed},
		{"flags of 2 bytes", addrBody(v6, 64, 0, 2, attr(unix.IFA_FLAGS, make([]byte, 2))), netip.Prefix{}, false, errMalformed},
		{"cut", addrBody(v4, 24, 0, 2)[:7], netip.Prefix{}, false, errMalformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := parseAddress(exact(row.b))
			if !errors.Is(err, row.err) || got.prefix != row.want {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err == nil && (got.usable() != row.usable || got.index != 2) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestParseRoute(t *testing.T) {
	addr := netip.MustParseAddr
	oif, gateway := attr(unix.RTA_OIF, number(2)), attr(unix.RTA_GATEWAY, ip("192.168.1.1"))
	via6 := append(native.AppendUint16(nil, v6), ip("fe80::1")...)
	rows := []struct {
		name string
		b    []byte
		want []hop // nil: no default route
		err  error
	}{
		{"a default route", routeBody(v4, 0, 1, 0, oif, gateway, attr(unix.RTA_PRIORITY, number(600))), []hop{{addr("192.168.1.1"), 2}}, nil},
		{"without a gateway", routeBody(v4, 0, 1, 0, oif), []hop{{addr("0.0.0.0"), 2}}, nil},
		{"IPv6", routeBody(v6, 0, 1, 0, oif, attr(unix.RTA_GATEWAY, ip("fe80::1"))), []hop{{addr("fe80::1"), 2}}, nil},
		{"IPv4 by a gateway with IPv6", routeBody(v4, 0, 1, 0, oif, attr(unix.RTA_VIA, via6)), []hop{{addr("fe80::1"), 2}}, nil},
		{"two hops", routeBody(v4, 0, 1, 0, attr(unix.RTA_MULTIPATH, join(nexthop(2, gateway), nexthop(3)))),
			[]hop{{addr("192.168.1.1"), 2}, {addr("0.0.0.0"), 3}}, nil},
		{"to a network", routeBody(v4, 24, 1, 0, oif, gateway), nil, nil},
		{"a refusal", routeBody(v6, 0, unix.RTN_UNREACHABLE, 0, oif), nil, nil},
		{"a cached one", routeBody(v6, 0, 1, unix.RTM_F_CLONED, oif), nil, nil},
		{"of another family", routeBody(129, 0, 1, 0), nil, nil},
		{"cut", routeBody(v4, 0, 1, 0)[:11], nil, errMalformed},
		{"a gateway of the other family", routeBody(v6, 0, 1, 0, oif, gateway), nil, errMalformed},
		{"an interface of 2 bytes", routeBody(v4, 0, 1, 0, attr(unix.RTA_OIF, []byte{1, 2})), nil, errMalformed},
		{"via of 1 byte", routeBody(v4, 0, 1, 0, attr(unix.RTA_VIA, []byte{2})), nil, errMalformed},
		{"a hop cut", routeBody(v4, 0, 1, 0, attr(unix.RTA_MULTIPATH, nexthop(2)[:7])), nil, errMalformed},
		{"a hop of length 0", routeBody(v4, 0, 1, 0, attr(unix.RTA_MULTIPATH, make([]byte, 8))), nil, errMalformed},
		{"a hop with half an attribute", routeBody(v4, 0, 1, 0, attr(unix.RTA_MULTIPATH, nexthop(2, []byte{9, 0}))), nil, errMalformed},
	}
	for n, err := range map[int]error{MaxRoutes: nil, MaxRoutes + 1: errMalformed} {
		var hops []byte
		for range n {
			hops = append(hops, nexthop(2)...)
		}
		var want []hop
		if err == nil {
			for range n {
				want = append(want, hop{addr("0.0.0.0"), 2})
			}
		}
		rows = append(rows, rows[0])
		last := &rows[len(rows)-1]
		last.name, last.b, last.want, last.err = "many hops", routeBody(v4, 0, 1, 0, attr(unix.RTA_MULTIPATH, hops)), want, err
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, ok, err := parseRoute(exact(row.b))
			if !errors.Is(err, row.err) || ok != (row.want != nil) || ok && !reflect.DeepEqual(got.hops, row.want) {
				t.Errorf("got %+v, %v, %v", got, ok, err)
			}
		})
	}
	if r, _, _ := parseRoute(rows[0].b); r.metric != 600 {
		t.Errorf("metric %d", r.metric)
	}
}

// TestEveryCutIsSurvived cuts each kind of message at each byte, with a header
// that agrees and with one that does not.
func TestEveryCutIsSurvived(t *testing.T) {
	k := &netlink{links: make(map[int32]uint32)}
	for typ, body := range map[uint16][]byte{
		unix.RTM_NEWLINK:  linkBody(3, 0x41, attr(unix.IFLA_IFNAME, []byte("eth0\x00"))),
		unix.RTM_NEWADDR:  addrBody(v4, 24, 0, 2, attr(unix.IFA_ADDRESS, ip("10.0.0.1")), attr(unix.IFA_FLAGS, number(0x80))),
		unix.RTM_DELROUTE: routeBody(v4, 0, 1, 0, attr(unix.RTA_MULTIPATH, join(nexthop(2, attr(unix.RTA_GATEWAY, ip("10.0.0.2"))), nexthop(3)))),
	} {
		for cut := range body {
			k.matter(exact(packet(typ, 0, 1, body[:cut])))
			k.matter(exact(packet(typ, 0, 1, body)[:cut]))
		}
		clear(k.links) // an interface not heard of is news
		if !k.matter(packet(typ, 0, 1, body)) {
			t.Errorf("type %d does not matter", typ)
		}
	}
}

func TestNoiseDoesNotMatter(t *testing.T) {
	k := &netlink{links: map[int32]uint32{3: unix.IFF_UP | unix.IFF_RUNNING}}
	const up = unix.IFF_UP | unix.IFF_RUNNING
	for _, row := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"nothing", nil, false},
		{"the same state of an interface", packet(unix.RTM_NEWLINK, 0, 0, linkBody(3, up|unix.IFF_PROMISC)), false},
		{"a neighbour", packet(unix.RTM_NEWNEIGH, 0, 0, make([]byte, 12)), false},
		{"a link-local address", packet(unix.RTM_NEWADDR, 0, 0, addrBody(v6, 64, 0, 3, attr(unix.IFA_ADDRESS, ip("fe80::9")))), false},
		{"an address without DHCP", packet(unix.RTM_DELADDR, 0, 0, addrBody(v4, 16, 0, 3, attr(unix.IFA_ADDRESS, ip("169.254.3.4")))), false},
		{"a route to a network", packet(unix.RTM_NEWROUTE, 0, 0, routeBody(v4, 24, 1, 0)), false},
		{"the carrier is lost", packet(unix.RTM_NEWLINK, 0, 0, linkBody(3, unix.IFF_UP)), true},
		{"an address behind noise", join(packet(unix.RTM_NEWNEIGH, 0, 0, make([]byte, 12)),
			packet(unix.RTM_DELADDR, 0, 0, addrBody(v4, 24, 0, 3, attr(unix.IFA_ADDRESS, ip("10.3.3.4"))))), true},
		{"what can't be read", []byte{1, 2, 3}, true},
		{"an interface is gone", packet(unix.RTM_DELLINK, 0, 0, linkBody(3, 0)), true},
		{"and once more", packet(unix.RTM_DELLINK, 0, 0, linkBody(3, 0)), false},
		{"an unknown interface", packet(unix.RTM_NEWLINK, 0, 0, linkBody(9, 0)), true},
	} {
		if got := k.matter(row.b); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}

func TestKernelError(t *testing.T) {
	if err := kernelError(number(uint32(0xFFFFFFFF - 15))); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v", err)
	}
	if err := kernelError(number(0)); err == nil {
		t.Error("an acknowledgement is no list")
	}
	if err := kernelError([]byte{1, 2, 3}); !errors.Is(err, errMalformed) {
		t.Errorf("got %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(packet(unix.RTM_NEWLINK, 0, 1, linkBody(3, 0x41, attr(unix.IFLA_IFNAME, []byte("eth0\x00")))))
	f.Add(packet(unix.RTM_NEWADDR, 0, 1, addrBody(v6, 64, 0x80, 2, attr(unix.IFA_ADDRESS, ip("3fff::9")))))
	f.Add(packet(unix.RTM_NEWROUTE, 0, 1, routeBody(v4, 0, 1, 0, attr(unix.RTA_OIF, number(2)), attr(unix.RTA_GATEWAY, ip("10.0.0.1")))))
	f.Add(packet(unix.RTM_NEWROUTE, 0, 1, routeBody(v6, 0, 1, 0, attr(unix.RTA_MULTIPATH, nexthop(2, attr(unix.RTA_GATEWAY, ip("fe80::1")))))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := exact(b); len(rest) > 0; {
			m, next, err := nextMessage(rest)
			if err != nil {
				return
			}
			if len(next) > len(rest)-unix.NLMSG_HDRLEN {
				t.Fatalf("no progress: %d of %d left", len(next), len(rest))
			}
			rest = next
			if l, err := parseLink(m.body); err == nil && len(l.name) >= unix.IFNAMSIZ {
				t.Errorf("name %q", l.name)
			}
			if a, err := parseAddress(m.body); err == nil && !a.prefix.IsValid() {
				t.Errorf("address %+v", a)
			}
			r, ok, err := parseRoute(m.body)
			if err == nil && ok && (len(r.hops) == 0 || len(r.hops) > MaxRoutes) {
				t.Errorf("route %+v", r)
			}
			for _, h := range r.hops {
				if !h.gateway.IsValid() {
					t.Errorf("hop %+v", h)
				}
			}
		}
	})
}
