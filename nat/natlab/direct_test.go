package natlab

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestDirectLabsHaveTheSameKinds(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{Direct: true})
	outcomes := make(chan error)
	kinds := []Kind{Public, StatefulFirewall, PortRestricted, Symmetric, CGNAT, UPnPCGNAT, IPv6Firewall, IPv6Only}
	for _, k := range kinds {
		go func() {
			h, err := l.Home(string(k), k)
			if err == nil {
				_, err = l.Verify(context.Background(), h)
			}
			outcomes <- err
		}()
	}
	for range kinds {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
	if s := l.Stats(); s != (Stats{}) {
		t.Errorf("the forwarder saw packets: %+v", s)
	}
}

func TestDirectLabsCutPartAndRenumber(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{Direct: true})
	one, two, third := mustHost(t, l, "one"), mustHome(t, l, "two", FullCone), mustHost(t, l, "third")
	a, b, c := listenUDP(t, one, 9), listenUDP(t, two, 9), listenUDP(t, third, 9)
	outside(t, b, third, c)
	reaches := func(why string, fromOne, fromThird bool) {
		t.Helper()
		sendTo(t, a, two.Public(), 9, "one")
		if got, _ := receive(t, b, silence/2); (got != "") != fromOne {
			t.Errorf("%s: got %q from the first", why, got)
		}
		sendTo(t, c, two.Public(), 9, "third")
		if got, _ := receive(t, b, silence/2); (got != "") != fromThird {
			t.Errorf("%s: got %q from the third", why, got)
		}
	}
	reaches("at first", true, true)
	l.Part(one, two, true)
	reaches("parted", false, true)
	l.Part(two, one, false)
	two.Cut(true)
	reaches("cut", false, false)
	two.Cut(true)
	two.Cut(false)
	reaches("mended", true, true)
	if err := two.Renumber(); err != nil {
		t.Fatal(err)
	}
	reaches("renumbered", false, false)
	outside(t, b, third, c)
	reaches("seen again", true, true)
	if err := two.Reboot(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	outside(t, b, third, c)
	reaches("rebooted", true, true)
	if two.Delay(time.Second) == nil || two.Limit(1e6) == nil {
		t.Error("delay or limit was accepted")
	}
	if _, err := l.Host(middleName); err == nil {
		t.Errorf("host %s was accepted", middleName)
	}
}

func TestDirectLabsRefuseWhatTheyCannot(t *testing.T) {
	newLab(t, Options{}) // skips without root
	for _, o := range []Options{{Latency: 1}, {Jitter: 1}, {Loss: 0.1}, {Reorder: 0.1}} {
		o.Direct = true
		if l, err := New(context.Background(), o); err == nil {
			l.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

// BenchmarkTCPDirect compares one punched TCP connection in labs with and without
// Options.Direct.
func BenchmarkTCPDirect(b *testing.B) {
	forwarded, direct := newLab(b, Options{Latency: -1}), newLab(b, Options{Direct: true})
	var took [2]time.Duration
	var pairs [2][2]*Host
	for i, l := range []*Lab{forwarded, direct} {
		pairs[i][0], pairs[i][1] = twoHomes(b, l)
	}
	for b.Loop() {
		for i, p := range pairs {
			x, y := punchTCP(b, p[0], p[1])
			took[i] += transfer(b, x, y)
		}
	}
	mbs := func(d time.Duration) float64 { return float64(b.N) * bulk / 1e6 / d.Seconds() }
	b.ReportMetric(mbs(took[0]), "forwarder-MB/s")
	b.ReportMetric(mbs(took[1]), "direct-MB/s")
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "ratio")
}

func TestNetworkOf(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"44.128.7.10", "44.128.7.0"}, {"44.128.7.255", "44.128.7.0"},
		{"3fff:0:7::a", "3fff:0:7::"}, {"3fff:0:7:0:ffff::1", "3fff:0:7::"}, {"3fff:0:7:1::1", "3fff:0:7:1::"},
	} {
		if got := networkOf(netip.MustParseAddr(tc.in)); got.String() != tc.want {
			t.Errorf("%s: %v, want %s", tc.in, got, tc.want)
		}
	}
	if got := fmt.Sprint(networkOf(netip.Addr{})); got != "invalid IP" {
		t.Errorf("of nothing: %s", got)
	}
}
