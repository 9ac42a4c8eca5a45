package portmap

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	upnpOnly = "enable_upnp=yes\nenable_natpmp=no\n"
	pcpOnly  = "enable_upnp=no\nenable_natpmp=yes\n"
	both     = "enable_upnp=yes\nenable_natpmp=yes\n"
)

// complete reports whether both transports are mapped by one of the methods.
func complete(methods ...Method) func(State) bool {
	return func(s State) bool {
		n := 0
		for _, m := range s.Mappings {
			for _, method := range methods {
				if m.Method == method && m.Internal.Addr().Is4() {
					n++
				}
			}
		}
		return n == 2
	}
}

// checkEntrance proves that every mapping of the State carries packets.
func checkEntrance(t *testing.T, n *network, s State) {
	t.Helper()
	for _, m := range s.Mappings {
		if !n.enters(m.Transport, m.External) {
			t.Errorf("%s %s by %s lets nobody in:\n%s", m.Transport, m.External, m.Method, n.rules())
		}
	}
}

// mapped reports whether the router's rules lead to the device.
func mapped(rules string) bool { return strings.Contains(rules, "dnat") }

func TestMiniupnpd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, conf string
		methods    []Method
		outcomes   map[Method]Outcome
	}{
		{"upnp alone", upnpOnly, []Method{IGD1, IGD2}, map[Method]Outcome{PCP: Silent, NATPMP: Silent}},
		{"upnp version 1", upnpOnly + "force_igd_desc_v1=yes\n", []Method{IGD1}, map[Method]Outcome{IGD2: Silent, IGD1: Granted}},
		{"pcp alone", pcpOnly, []Method{PCP}, map[Method]Outcome{PCP: Granted, NATPMP: Offered, IGD2: Silent, IGD1: Silent}},
		{"both", both, []Method{PCP}, map[Method]Outcome{PCP: Granted, NATPMP: Offered}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.startDaemon(c.conf)
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
			got := d.await("mapped", complete(c.methods...))
			settled := d.await("settled", func(s State) bool { return s.Settled })
			t.Logf("mapped after %v, settled after %v", got.After, settled.After)
			for method, want := range c.outcomes {
				o := settled.State.Outcomes[method]
				if o == Granted && want == Offered {
					continue // a router on a busy machine took longer than our patience
				}
				if o != want {
					t.Errorf("outcome of %s is %s, want %s", method, o, want)
				}
			}
			if strings.Contains(c.conf, "enable_upnp=yes") && settled.State.Router != "Acme Home Hub 7" {
				t.Errorf("router is %q", settled.State.Router)
			}
			for _, m := range settled.State.Mappings {
				if m.External.String() != fmt.Sprintf("%s:%d", wanRouter, m.Internal.Port()) || m.Lifetime != 2*time.Hour {
					t.Errorf("mapping %+v, want the same port at %s for 2 h", m, wanRouter)
				}
			}
			checkEntrance(t, n, settled.State)
			d.stop()
			n.poll("mappings removed by close", func() bool { return !mapped(n.rules()) })
		})
	}
}

func TestPCPPacketReallyLeaves(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
	n.poll("a version 2 packet at the router's port 5351", func() bool {
		out := n.run("", "ip", "netns", "exec", n.router, "nft", "list", "counter", "inet", networkTable, "pcp")
		return !strings.Contains(out, "packets 0 ")
	})
}

func TestMappingsAreRenewed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, conf string }{{"pcp", pcpOnly}, {"upnp", upnpOnly}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.startDaemon(c.conf)
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort, Lease: 4 * time.Second})
			first := d.await("mapped", complete(PCP, IGD1, IGD2))
			var before time.Time
			for _, m := range first.State.Mappings {
				before = m.Expires
			}
			later := d.await("renewed twice", func(s State) bool {
				for _, m := range s.Mappings {
					if m.Expires.Before(before.Add(3500 * time.Millisecond)) {
						return false
					}
				}
				return len(s.Mappings) == 2
			})
			checkEntrance(t, n, later.State)
		})
	}
}

func TestMappingsAreRemadeAfterRouterRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, conf string
		check      time.Duration
	}{
		{"upnp, another SOAP port", upnpOnly, 400 * time.Millisecond},
		{"pcp, asked", pcpOnly, 1200 * time.Millisecond},
		{"pcp, announced", pcpOnly, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.startDaemon(c.conf)
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort, Check: c.check})
			d.await("mapped", complete(PCP, IGD1, IGD2))
			// The epoch has to be older than the 2 s that clocks may be off.
			<-time.After(3500 * time.Millisecond)
			n.stopDaemon()
			n.flush()
			n.startDaemon(c.conf)
			n.poll("mapped again", func() bool { return strings.Count(n.rules(), "dnat") == 2 })
			n.poll("entrance", func() bool {
				return n.enters("udp", d.last.State.Mappings[0].External)
			})
		})
	}
}

func TestRenewedMappingsAreRemoved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, conf string }{{"pcp", pcpOnly}, {"upnp", upnpOnly}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.withIPv6()
			if c.conf == upnpOnly {
				n.withoutPCPv6()
			}
			n.startDaemon(c.conf)
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort, Lease: 4 * time.Second})
			d.await("open for both families", func(s State) bool { return len(s.Mappings) == 4 })
			var latest time.Time
			for _, m := range d.last.State.Mappings {
				if m.Expires.After(latest) {
					latest = m.Expires
				}
			}
			d.await("renewed", func(s State) bool {
				for _, m := range s.Mappings {
					if !m.Expires.After(latest) {
						return false
					}
				}
				return len(s.Mappings) == 4
			})
			d.stop()
			n.poll("all removed", func() bool { return !strings.Contains(n.rules(), "41641") && !strings.Contains(n.rules(), "41642") })
		})
	}
}

func TestMappingOfACrashedRunIsTakenBack(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.startDaemon(pcpOnly)
	d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort, Secret: 7})
	d.await("mapped", complete(PCP))
	d.say("crash")
	<-d.done
	again := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort, Secret: 7})
	got := again.await("mapped", complete(PCP))
	checkEntrance(t, n, got.State)
	again.stop()
	n.poll("mappings removed by close", func() bool { return !mapped(n.rules()) })
}

func TestCrashedRunWithoutSecretLeavesOtherMethods(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.startDaemon(both)
	d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
	d.await("mapped", complete(PCP))
	d.say("crash")
	<-d.done
	again := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
	got := again.await("mapped", complete(PCP, NATPMP, IGD2))
	t.Logf("outcomes %v, mappings %+v", got.State.Outcomes, got.State.Mappings)
	checkEntrance(t, n, got.State)
}

func TestConflictTakesAnotherPort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, conf string
		methods    []Method
	}{{"upnp", upnpOnly, []Method{IGD2}}, {"upnp version 1", upnpOnly + "force_igd_desc_v1=yes\n", []Method{IGD1}}, {"pcp", both, []Method{PCP, NATPMP}}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.startDaemon(c.conf + "secure_mode=no\n")
			n.run("", "ip", "netns", "exec", n.device, "upnpc", "-a", "192.168.1.60", "9", fmt.Sprint(udpPort), "udp")
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
			got := d.await("mapped", complete(c.methods...))
			for _, m := range got.State.Mappings {
				if m.Transport == "udp" && m.External.Port() == udpPort {
					t.Errorf("got the port of another: %+v", m)
				}
			}
			checkEntrance(t, n, got.State)
		})
	}
}

func TestPinholes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, conf string
		method     Method
	}{{"pcp", pcpOnly, PCP}, {"upnp", upnpOnly, IGD2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.withIPv6()
			if c.method == IGD2 {
				n.withoutPCPv6()
			}
			n.startDaemon(c.conf)
			d := startDevice(t, n.device, helperConfig{UDP: udpPort, TCP: tcpPort})
			got := d.await("open for IPv6", func(s State) bool { return len(s.Mappings) == 4 })
			t.Logf("all open after %v", got.After)
			for _, m := range got.State.Mappings {
				if m.Internal.Addr().Is6() && (m.Method != c.method || m.External.Addr().String() != lan6Device) {
					t.Errorf("pinhole %+v, want one by %s for %s", m, c.method, lan6Device)
				}
			}
			checkEntrance(t, n, got.State)
			d.stop()
			n.poll("pinholes closed", func() bool { return !strings.Contains(n.rules(), "41641") })
		})
	}
}
