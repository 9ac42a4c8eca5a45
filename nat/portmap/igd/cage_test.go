package igd

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadReplyLimits(t *testing.T) {
	element := func(n int) string { return "<a>" + strings.Repeat("<b/>", n-1) + "</a>" }
	for _, c := range []struct {
		name string
		body string
		ok   bool
	}{
		{"one byte below the size", "<a>" + strings.Repeat("x", MaxBody-8) + "</a>", true},
		{"the size", "<a>" + strings.Repeat("x", MaxBody-7) + "</a>", true},
		{"one byte above", "<a>" + strings.Repeat("x", MaxBody-6) + "</a>", false},
		{"one level below", strings.Repeat("<a>", MaxDepth-1), true},
		{"the depth", strings.Repeat("<a>", MaxDepth), true},
		{"one level above", strings.Repeat("<a>", MaxDepth+1), false},
		{"one element below", element(MaxElements - 1), true},
		{"the elements", element(MaxElements), true},
		{"one element above", element(MaxElements + 1), false},
		{"one attribute below", "<a" + strings.Repeat(` b=""`, MaxAttributes-1) + "/>", true},
		{"the attributes", "<a" + strings.Repeat(` b=""`, MaxAttributes) + "/>", true},
		{"one attribute above", "<a" + strings.Repeat(` b=""`, MaxAttributes+1) + "/>", false},
		{"nothing", "", true},
		{"no xml", "404 not found", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readReply(iotest.HalfReader(strings.NewReader(c.body)))
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTooLarge) {
				t.Errorf("error %v, want ok %v", err, c.ok)
			}
		})
	}
}

func TestRepliesBecomeUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><a>ü</a>":       "<a>ü</a>",
		"\r\n<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xfc</a>": "<a>ü</a>",
		"<a>x</a>": "<a>x</a>",
		"<?xml ":   "<?xml ",
	} {
		if got := string(toUTF8([]byte(in))); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestAtHostIgnoresTheRoutersZone(t *testing.T) {
	u, err := url.Parse("http://[fe80::1%25br-lan]:5000/desc.xml")
	if err != nil {
		t.Fatal(err)
	}
	if !atHost(u, netip.MustParseAddr("fe80::1%eth0")) || atHost(u, netip.MustParseAddr("fe80::2%eth0")) {
		t.Error("zones of the router matter")
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><friendlyName>x</friendlyName></device></root>`))
	f.Add([]byte("<a b='c'><!-- d --><![CDATA[e]]></a>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := readReply(strings.NewReader(string(b)))
		if err != nil {
			return
		}
		u := &url.URL{Scheme: "http", Host: "192.168.1.1"}
		root, err := parseDescription(out, u)
		if err != nil {
			return
		}
		d := newDevice(root, newCage(netip.Addr{}, netip.MustParseAddr("192.168.1.1")), netip.MustParseAddr("192.168.1.1"))
		if n := len([]rune(d.Name)); n > MaxName || len(d.Services) > MaxServices {
			t.Fatalf("name of %d runes, %d services", n, len(d.Services))
		}
	})
}
