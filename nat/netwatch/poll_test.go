package netwatch

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	routeHead = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	zeros     = "00000000000000000000000000000000"
)

// hexOf prints an address as /proc/net/route does: as the machine would read
// the number from memory.
func hexOf(addr string) string { return fmt.Sprintf("%08X", native.Uint32(ip(addr))) }

func TestRouteTable(t *testing.T) {
	line := func(iface, dst, gateway, flags, metric, mask string) string {
		return strings.Join([]string{iface, dst, gateway, flags, "0", "0", metric, mask, "0", "0", "0"}, "\t") + "   \n"
	}
	const none = "00000000"
	for _, row := range []struct {
		name, table string
		want        []Route
	}{
		{"a default route", routeHead + line("eth0", none, hexOf("192.168.1.1"), "0003", "100", none),
			[]Route{{netip.MustParseAddr("192.168.1.1"), "eth0", 100}}},
		{"without a gateway", routeHead + line("ppp0", none, none, "0001", "0", none),
			[]Route{{netip.IPv4Unspecified(), "ppp0", 0}}},
		{"to a network", routeHead + line("eth0", hexOf("192.168.1.0"), none, "0001", "0", hexOf("255.255.255.0")), nil},
		{"half of the internet", routeHead + line("tun0", none, none, "0001", "0", hexOf("128.0.0.0")), nil},
		{"a refusal", routeHead + line("*", none, none, "0201", "0", none), nil},
		{"down", routeHead + line("eth0", none, none, "0002", "0", none), nil},
		{"a gateway of nine digits", routeHead + line("eth0", none, "00101A8C0", "0003", "0", none), nil},
		{"no number", routeHead + line("eth0", none, "0101A8CG", "0003", "0", none), nil},
		{"a metric beyond 32 bits", routeHead + line("eth0", none, none, "0001", "4294967296", none), nil},
		{"a line cut", routeHead + "eth0\t00000000\t0101A8C0\t0003", nil},
		{"nothing", "", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			var s Snapshot
			if err := s.parseRoutes(strings.NewReader(row.table)); err != nil || !s.Equal(Snapshot{Routes: row.want}) {
				t.Errorf("got %v, %v", s.Routes, err)
			}
		})
	}
}

func TestIPv6Tables(t *testing.T) {
	const table = "fd000000000000000000000000000000 40 " + zeros + " 00 " + zeros + " 00000100 00000001 00000000 00000001     eth0\n" +
		zeros + " 00 " + zeros + " 00 fe800000000000000000000000000001 00000400 00000003 00000000 00000003     eth0\n" +
		zeros + " 00 " + zeros + " 00 " + zeros + " 00000010 00000001 00000000 00000001     ppp0\n" +
		zeros + " 00 " + zeros + " 00 " + zeros + " ffffffff 00000001 00000000 00200200       lo\n" +
		zeros + " 00 " + zeros + " 00 fe80 00000400 00000003 00000000 00000003     eth0\n"
	const addresses = "fd000000000000000000000000000002 04 40 00 82     eth0\n" +
		"3fff0000000000000000000000000002 04 40 00 c0     eth0\n" + // tentative
		"fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n" +
		"00000000000000000000000000000001 01 80 10 80       lo\n" +
		"3fff0000000000000000000000000003 04 81 00 80     eth0\n" + // 129 bits
		"3fff0000000000000000000000000004 04 40\n"
	var s Snapshot
	if err := errors.Join(s.parseRoutes6(strings.NewReader(table)), s.parseAddresses6(strings.NewReader(addresses))); err != nil {
		t.Fatal(err)
	}
	want := Snapshot{
		Addrs: []netip.Prefix{netip.MustParsePrefix("fd00::2/64")},
		Routes: []Route{
			{netip.MustParseAddr("fe80::1%eth0"), "eth0", 0x400},
			{netip.IPv6Unspecified(), "ppp0", 0x10},
		},
	}
	if !s.Equal(want) {
		t.Errorf("got %v", s)
	}
}

func TestTableHasALimit(t *testing.T) {
	line := "eth0\t00000000\t00000000\t0001\t0\t0\t%d\t00000000\t0\t0\t0\n"
	last := fmt.Sprintf(line, 7)
	for spare, want := range map[int]int{1: 1, 0: 1, -1: 1, -2: 0} {
		name := filepath.Join(t.TempDir(), "route")
		// Without its end of line, and then without its last digit, the last
		// line is one field short at the limit.
		table := strings.Repeat("\n", maxTable-len(last)-spare) + last
		if err := os.WriteFile(name, []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		var s Snapshot
		if err := readTable(name, s.parseRoutes); err != nil || len(s.Routes) != want {
			t.Errorf("%d bytes: %d routes, %v", len(table)-maxTable, len(s.Routes), err)
		}
	}
	if err := readTable(filepath.Join(t.TempDir(), "none"), nil); err != nil {
		t.Errorf("a missing table: %v", err)
	}
	if err := readTable(t.TempDir(), new(Snapshot).parseRoutes); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder: %v", err)
	}
}

func FuzzTables(f *testing.F) {
	f.Add(routeHead + "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n")
	f.Add(zeros + " 00 " + zeros + " 00 fe800000000000000000000000000001 00000400 00000003 00000000 00000003     eth0\n")
	f.Add("fd000000000000000000000000000002 04 40 00 82     eth0\n")
	f.Fuzz(func(t *testing.T, table string) {
		var s Snapshot
		_ = errors.Join(s.parseRoutes(strings.NewReader(table)), s.parseRoutes6(strings.NewReader(table)),
			s.parseAddresses6(strings.NewReader(table)))
		s.order()
		for _, a := range s.Addrs {
			if !a.IsValid() || a.Addr().IsLinkLocalUnicast() {
				t.Errorf("address %v", a)
			}
		}
		for _, r := range s.Routes {
			if !r.Gateway.IsValid() {
				t.Errorf("route %v", r)
			}
		}
	})
}
