package igd

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"porchlight/nat/portmap/hostile"
)

func TestTrusted(t *testing.T) {
	v4 := Link{Local: netip.MustParsePrefix("192.168.1.50/24"), Gateway: netip.MustParseAddr("192.168.1.1")}
	v6 := Link{Local: netip.MustParsePrefix("3fff:1::50/64"), Gateway: netip.MustParseAddr("fe80::1%eth0")}
	beyond := Link{Local: netip.MustParsePrefix("10.64.0.7/32"), Gateway: netip.MustParseAddr("10.64.0.1")}
	for _, c := range []struct {
		link Link
		addr string
		want bool
	}{
		{v4, "192.168.1.1", true},
		{v4, "192.168.1.254", true},
		{v4, "192.168.1.50", false},
		{v4, "192.168.2.1", false},
		{v4, "127.0.0.1", false},
		{v4, "44.128.0.1", false},
		{v6, "fe80::1%eth0", true},
		{v6, "fe80::1%eth1", false},
		{v6, "fe80::2%eth0", false},
		{v6, "3fff:1::1", true},
		{v6, "3fff:2::1", false},
		{beyond, "10.64.0.1", false},
		{beyond, "10.64.0.2", false},
	} {
		if got := c.link.trusted(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s beside %s trusted: %v, want %v", c.addr, c.link.Gateway, got, c.want)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	from := netip.MustParseAddr("192.168.1.1")
	for _, c := range []struct {
		answer string
		ok     bool
	}{
		{string(hostile.Answer("http://192.168.1.1:5000/desc.xml")), true},
		{string(hostile.Answer("http://192.168.1.2:5000/desc.xml")), false},
		{string(hostile.Answer("https://192.168.1.1:5000/desc.xml")), false},
		{string(hostile.Answer("http://router.lan/desc.xml")), false},
		{string(hostile.Answer("")), false},
		{"HTTP/1.1 200 OK\r\nLocation:http://192.168.1.1/\r\n\r\n", true},
		{"HTTP/1.1 500 No\r\nLocation:http://192.168.1.1/\r\n\r\n", false},
		{"NOTIFY * HTTP/1.1\r\nLocation:http://192.168.1.1/\r\n\r\n", false},
		{"", false},
	} {
		if _, err := parseAnswer([]byte(c.answer), from); (err == nil) != c.ok {
			t.Errorf("%q: error %v, want ok %v", c.answer, err, c.ok)
		}
	}
}

func TestAdmissionIsBoundedAndKeepsTheRoutersPlace(t *testing.T) {
	l := Link{Local: netip.MustParsePrefix("192.168.1.50/24"), Gateway: netip.MustParseAddr("192.168.1.1")}
	seen := make(map[netip.Addr]map[string]bool)
	admitted := 0
	for i := range 100 {
		if l.admit(seen, netip.AddrFrom4([4]byte{192, 168, 1, byte(100 + i)})) {
			admitted++
		}
	}
	if admitted != MaxDevices || !l.admit(seen, l.Gateway) {
		t.Errorf("admitted %d strangers, want %d and the router", admitted, MaxDevices)
	}
	for i := range MaxLocations + 1 {
		if got, want := l.admit(seen, l.Gateway), i < MaxLocations; got != want {
			t.Errorf("description %d admitted: %v, want %v", i, got, want)
		}
		seen[l.Gateway][fmt.Sprint(i)] = true
	}
}

func TestSearchMessage(t *testing.T) {
	got := string(searchMessage(netip.MustParseAddrPort("[ff02::c%eth0]:1900"), "upnp:rootdevice"))
	want := "M-SEARCH * HTTP/1.1\r\nHOST: [ff02::c]:1900\r\nST: upnp:rootdevice\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\r\n"
	if got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"Fritz!Box 7590":                  "Fritz!Box 7590",
		"  a \r\n\t b  ":                  "a b",
		"evil\u202etxt\x00\x1b[31m":       "eviltxt[31m",
		"\xff\xfe":                        "",
		strings.Repeat("é", MaxName-1):    strings.Repeat("é", MaxName-1),
		strings.Repeat("é", MaxName):      strings.Repeat("é", MaxName),
		strings.Repeat("é", MaxName+1):    strings.Repeat("é", MaxName),
		strings.Repeat("x ", MaxName+100): strings.TrimSpace(strings.Repeat("x ", MaxName/2)),
	} {
		if got := printable(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestURLBaseElsewhereIsIgnored(t *testing.T) {
	location, _ := url.Parse("http://192.168.1.1:5000/desc.xml")
	for base, want := range map[string]string{
		"":                         "http://192.168.1.1:5000/ctl",
		"http://192.168.1.1:6000/": "http://192.168.1.1:6000/ctl",
		"http://10.0.0.1:6000/":    "http://192.168.1.1:5000/ctl",
		"::bad":                    "http://192.168.1.1:5000/ctl",
	} {
		body := strings.Replace(hostile.Description("x", "ctl"), "<device>", "<URLBase>"+base+"</URLBase><device>", 1)
		body = strings.TrimPrefix(body, `<?xml version="1.0"?>`)
		root, err := parseDescription([]byte(body), location)
		if err != nil {
			t.Fatal(err)
		}
		got := root.Device.FindService("urn:schemas-upnp-org:service:WANIPConnection:1")[0].ControlURL.URL.String()
		if got != want {
			t.Errorf("base %q: control URL %s, want %s", base, got, want)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(hostile.Answer("http://192.168.1.1:5000/desc.xml"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nLocation: http://[fe80::1%25lan]/\r\nTransfer-Encoding: chunked\r\n\r\n"))
	from := netip.MustParseAddr("192.168.1.1")
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := parseAnswer(b, from)
		if err == nil && (u.Scheme != "http" || !strings.Contains(u.Host, "192.168.1.1") && !strings.Contains(u.Host, "::ffff:")) {
			t.Fatalf("%q leads to %s", b, u)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("a \u202e b")
	f.Fuzz(func(t *testing.T, s string) {
		out := printable(s)
		if len([]rune(out)) > MaxName {
			t.Fatalf("%d runes", len([]rune(out)))
		}
		for _, r := range out {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q is not printable", r)
			}
		}
	})
}
