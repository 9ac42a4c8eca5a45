package portmap

import (
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"
)

const table4 = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0101A8C0	0003	0	0	200	00000000	0	0	0
eth0	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	100	00FFFFFF	0	0	0
ppp0	00000000	00000000	0001	0	0	0	00000000	0	0	0
bad0	00000000	0100000A	0203	0	0	0	00000000	0	0	0
down	00000000	0100000A	0002	0	0	0	00000000	0	0	0
`

const table6 = `00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
3fff0001000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
00000000000000000000000000000000 00 3fff0001000000000000000000000000 40 fe800000000000000000000000000002 00000400 00000001 00000000 00000003     eth0
`

const addrs6 = `00000000000000000000000000000001 01 80 10 80       lo
fe800000000000000000000000000050 02 40 20 80     eth0
3fff0001000000000000000000000099 02 40 00 01     eth0
3fff0001000000000000000000000050 02 40 00 80     eth0
3fff0001000000000000000000000051 02 40 00 20     eth0
fd000000000000000000000000000050 02 40 00 80     eth0
`

func TestRoutesOfIPv4(t *testing.T) {
	got := parseRoutes4(strings.NewReader(table4), binary.LittleEndian)
	if len(got) != 2 || got[1].Gateway != netip.MustParseAddr("10.0.0.1") || got[1].Interface != "eth0" || got[1].metric != 100 {
		t.Fatalf("routes %+v", got)
	}
	big := parseRoutes4(strings.NewReader(strings.Replace(table4, "0101A8C0", "C0A80101", 1)), binary.BigEndian)
	if len(big) != 2 || big[0].Gateway != netip.MustParseAddr("192.168.1.1") {
		t.Errorf("routes of a big-endian machine %+v", big)
	}
	for i := range got {
		got[i].Local = netip.MustParsePrefix("10.0.0.2/24")
	}
	if best := usable(got); best[0].Interface != "eth0" {
		t.Errorf("best route %+v, want the lowest metric", best[0])
	}
}

func TestRoutesOfIPv6(t *testing.T) {
	got := parseRoutes6(strings.NewReader(table6))
	if len(got) != 1 || got[0].Gateway != netip.MustParseAddr("fe80::1%eth0") {
		t.Fatalf("routes %+v", got)
	}
	addrs := parseAddrs6(strings.NewReader(addrs6))
	if len(addrs) != 2 || addrs[0].Local != netip.MustParsePrefix("3fff:1::50/64") || addrs[1].Local.Addr() != netip.MustParseAddr("3fff:1::99") {
		t.Errorf("addresses %+v, want the lasting one first, then the temporary one", addrs)
	}
}

func TestRouteLimits(t *testing.T) {
	for n, want := range map[int]int{MaxRoutes - 1: MaxRoutes - 1, MaxRoutes: MaxRoutes, MaxRoutes + 1: MaxRoutes} {
		routes := make([]Route, n)
		for i := range routes {
			routes[i].Local = netip.MustParsePrefix("10.0.0.2/24")
		}
		if got := len(usable(routes)); got != want {
			t.Errorf("of %d routes %d are used, want %d", n, got, want)
		}
	}
	line := "eth0	00000000	0100000A	0003	0	0	1	00000000	0	0	0\n"
	for size, want := range map[int]int{len(line) - 12: 0, len(line) - 1: 1, len(line): 1, len(line) + 1: 1} {
		r := io.LimitReader(strings.NewReader(line+line), int64(size))
		if got := len(parseRoutes4(r, binary.LittleEndian)); got != want {
			t.Errorf("of %d bytes %d routes, want %d", size, got, want)
		}
	}
}

func FuzzRoutes(f *testing.F) {
	f.Add(table4)
	f.Add(table6)
	f.Add(addrs6)
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range append(parseRoutes4(strings.NewReader(s), binary.BigEndian), parseRoutes6(strings.NewReader(s))...) {
			if !r.Gateway.IsValid() {
				t.Fatalf("%q gives %+v", s, r)
			}
		}
		for _, r := range parseAddrs6(strings.NewReader(s)) {
			if !r.Local.IsValid() {
				t.Fatalf("%q gives %+v", s, r)
			}
		}
	})
}

func TestIsPublicAndCheckExternal(t *testing.T) {
	for _, c := range []struct {
		addr           string
		public, usable bool
	}{
		{"44.128.0.1", true, true},
		{"8.8.8.8", true, true},
		{"10.0.0.1", false, true},
		{"192.168.1.1", false, true},
		{"100.64.0.1", false, true},
		{"100.128.0.1", true, true},
		{"169.254.1.1", false, false},
		{"0.0.0.0", false, false},
		{"0.1.2.3", false, false},
		{"127.0.0.1", false, false},
		{"224.0.0.1", false, false},
		{"255.255.255.255", false, false},
		{"240.0.0.1", false, false},
		{"203.0.113.9", false, true},
	} {
		a := netip.MustParseAddr(c.addr)
		if got := isPublic(a); got != c.public {
			t.Errorf("%s public: %v, want %v", a, got, c.public)
		}
		if err := checkExternal(a, false); (err == nil) != c.usable {
			t.Errorf("%s: error %v, want usable %v", a, err, c.usable)
		}
	}
	for addr, usable := range map[string]bool{"3fff:1::1": true, "fe80::1": false, "::": false, "::1": false, "ff02::1": false, "44.128.0.1": false} {
		if err := checkExternal(netip.MustParseAddr(addr), true); (err == nil) != usable {
			t.Errorf("%s for IPv6: error %v, want usable %v", addr, err, usable)
		}
	}
	if err := checkExternal(netip.Addr{}, false); err == nil {
		t.Error("no address at all is usable")
	}
}
