package natlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// conversation is a running exchange between a home's device and a public host.
type conversation struct {
	t       *testing.T
	inside  *net.UDPConn
	outside *net.UDPConn
	witness *Host
	at      netip.AddrPort // where the witness saw the device last
}

func converse(t *testing.T, device, witness *Host) *conversation {
	t.Helper()
	c := &conversation{t: t, inside: listenUDP(t, device, 5000), outside: listenUDP(t, witness, 9), witness: witness}
	c.out()
	if !c.in("first answer") {
		t.Fatal("no conversation to begin with")
	}
	return c
}

// out sends from the device and notes where it comes from.
func (c *conversation) out() { c.t.Helper(); c.at = outside(c.t, c.inside, c.witness, c.outside) }

// in reports whether the device still gets what is sent to where it was seen.
func (c *conversation) in(text string) bool {
	c.t.Helper()
	sendTo(c.t, c.outside, c.at.Addr(), c.at.Port(), text)
	got, _ := receive(c.t, c.inside, silence)
	return got == text
}

func TestRenumberedHomeIsElsewhere(t *testing.T) {
	for _, k := range []Kind{PortRestricted, FullCone, CGNAT, SymmetricSequential, UPnP, StatefulFirewall} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			device := mustHome(t, l, "home", k)
			c := converse(t, device, mustHost(t, l, "witness"))
			before, own := device.Public(), device.Addr()
			if err := device.Renumber(); err != nil {
				t.Fatal(err)
			}
			if device.Public() == before || (k != StatefulFirewall && device.Addr() != own) {
				t.Errorf("public %v → %v, own %v → %v", before, device.Public(), own, device.Addr())
			}
			if c.in("to the old address") {
				t.Error("the old address still leads to the device")
			}
			if k == StatefulFirewall { // its own address is gone: a new socket
				c.inside.Close()
				c.inside = listenUDP(t, device, 5000)
			}
			c.out()
			if c.at.Addr() != device.Public() || !c.in("to the new address") {
				t.Errorf("seen at %v, should be %v", c.at, device.Public())
			}
			if _, err := l.Verify(context.Background(), device); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if k == UPnP {
				out := onHost(t, device, "upnpc", "-u", soapURL, "-s")
				if want := "ExternalIPAddress = " + device.Public().String(); !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestRenumberChangesIPv6Addresses(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	host := mustHost(t, l, "host")
	for _, h := range []*Host{mustHome(t, l, "firewall", IPv6Firewall), mustHome(t, l, "only", IPv6Only), host} {
		before := h.Addr6()
		if err := h.Renumber(); err != nil {
			t.Fatal(err)
		}
		if h.Addr6() == before {
			t.Errorf("%s kept %v", h.Name(), before)
		}
		if _, err := l.Verify(context.Background(), h); err != nil {
			t.Errorf("%s afterwards: %v", h.Name(), err)
		}
		out := onHost(t, h, "ip", "-6", "-o", "address")
		if strings.Contains(out, before.String()+"/") || !strings.Contains(out, h.Addr6().String()+"/") {
			t.Errorf("%s moved from %v to %v:\n%s", h.Name(), before, h.Addr6(), out)
		}
	}
}

func TestFlushedNATForgetsFlowsAndPorts(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		same bool // the device's next packet leaves from the same port
	}{{PortRestricted, true}, {FullCone, true}, {AddressRestricted, true}, {CGNAT, true}, {StatefulFirewall, true}, {Symmetric, false}, {CGNATSymmetric, false}} {
		t.Run(string(tc.kind), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			device := mustHome(t, l, "home", tc.kind)
			c := converse(t, device, mustHost(t, l, "witness"))
			before := c.at
			if err := device.FlushNAT(); err != nil {
				t.Fatal(err)
			}
			if c.in("unasked") {
				t.Error("the flow is still known")
			}
			if c.out(); (c.at == before) != tc.same || !c.in("asked") {
				t.Errorf("flow moved from %v to %v", before, c.at)
			}
		})
	}
}

func TestRebootedRouterForgetsEverything(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	device, witness := mustHome(t, l, "home", UPnP), mustHost(t, l, "witness")
	c := converse(t, device, witness)
	add := []string{"-a", device.Addr().String(), "5000", "6000", "udp"}
	onHost(t, device, "upnpc", append([]string{"-u", soapURL}, add...)...)
	stranger := listenUDP(t, mustHost(t, l, "stranger"), 9)
	sendTo(t, stranger, device.Public(), 6000, "by the mapping")
	if got, _ := receive(t, c.inside, patience); got != "by the mapping" {
		t.Fatalf("got %q", got)
	}

	const down = 300 * time.Millisecond
	links := watchLinks(t, device)
	start, back := time.Now(), make(chan error, 1)
	go func() { back <- device.Reboot(context.Background(), down) }()
	if event := next(t, links); event.dev != "eth0" || event.carrier {
		t.Errorf("first event %+v: the cable should be dead", event)
	}
	if c.in("while it is down") {
		t.Error("a packet came in through a router that is off")
	}
	if err := <-back; err != nil || time.Since(start) < down {
		t.Fatalf("up after %v: %v", time.Since(start), err)
	}
	if event := next(t, links); event.dev != "eth0" || !event.carrier {
		t.Errorf("last event %+v: the cable should be alive", event)
	}
	if c.in("to the old flow") {
		t.Error("the flow is still known")
	}
	sendTo(t, stranger, device.Public(), 6000, "to the old mapping")
	if got, _ := receive(t, c.inside, silence); got != "" {
		t.Errorf("got %q", got)
	}
	c.out()
	if !c.in("new flow") {
		t.Error("no new flow")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := device.Command(ctx, "upnpc", "-u", soapURL, "-s").CombinedOutput(); !strings.Contains(string(out), "No") && err == nil {
		t.Errorf("the old SOAP port still answers:\n%s", out)
	}
	url := fmt.Sprintf("http://%s:%d/rootDesc.xml", lanRouter, firstSOAPPort+1)
	if out := onHost(t, device, "upnpc", "-u", url, "-l"); strings.Contains(out, "6000") {
		t.Errorf("old mappings:\n%s", out)
	}
	onHost(t, device, "upnpc", append([]string{"-u", url}, add...)...)
	sendTo(t, stranger, device.Public(), 6000, "by the new mapping")
	if got, _ := receive(t, c.inside, patience); got != "by the new mapping" {
		t.Errorf("got %q", got)
	}
}

func TestRebootedKindsAreStillTheirKind(t *testing.T) {
	for _, k := range []Kind{IPv6Firewall, IPv6Only, StatefulFirewall, CGNAT, PCP} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			h := mustHome(t, l, "home", k)
			if err := h.Reboot(context.Background(), 0); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Verify(context.Background(), h); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestSwappedInterfaceHasAnotherAddress(t *testing.T) {
	for _, k := range []Kind{PortRestricted, StatefulFirewall, IPv6Firewall} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			device := mustHome(t, l, "home", k)
			c := converse(t, device, mustHost(t, l, "witness"))
			links := watchLinks(t, device)
			before, before6 := device.Addr(), device.Addr6()
			for _, want := range []string{"wlan0", "eth0"} {
				if err := device.SwapLAN(); err != nil {
					t.Fatal(err)
				}
				for event := next(t, links); event.dev != want || !event.carrier; event = next(t, links) {
					if event.dev == want || event.carrier {
						t.Logf("on the way: %+v", event)
					}
				}
				if device.Addr() == before || (before6.IsValid() && device.Addr6() == before6) {
					t.Errorf("address %v, %v stayed", before, before6)
				}
				if out := onHost(t, device, "ip", "route", "get", c.witness.Public().String()); !strings.Contains(out, "dev "+want+" src "+device.Addr().String()) {
					t.Errorf("route: %s", out)
				}
				if c.in("to the old address") {
					t.Error("the old address still gets packets")
				}
				if _, err := l.Verify(context.Background(), device); err != nil {
					t.Errorf("afterwards: %v", err)
				}
				before, before6 = device.Addr(), device.Addr6()
			}
		})
	}
}

func TestMovedDeviceIsAtHomeElsewhere(t *testing.T) {
	for _, pair := range [][2]Kind{{PortRestricted, Symmetric}, {IPv6Firewall, FullCone}, {StatefulFirewall, PortRestricted}} {
		t.Run(fmt.Sprintf("%s to %s", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			device, other := mustHome(t, l, "here", pair[0]), mustHome(t, l, "there", pair[1])
			c := converse(t, device, mustHost(t, l, "witness"))
			if err := device.MoveTo(other); err != nil {
				t.Fatal(err)
			}
			if device.Kind() != pair[1] || device.Public() != other.Public() && pair[1] != StatefulFirewall {
				t.Errorf("the device is seen at %v as %s, its new home at %v", device.Public(), device.Kind(), other.Public())
			}
			if c.in("to the old address") {
				t.Error("the old address still gets packets")
			}
			if _, err := l.Verify(context.Background(), device); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if err := device.MoveTo(other); err == nil {
				t.Error("moved to where it is")
			}
		})
	}
}

func TestEventsThatNeedARouter(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	host := mustHost(t, l, "host")
	if err := host.Reboot(context.Background(), 0); err == nil {
		t.Error("a router that is not there was rebooted")
	}
	if err := host.SwapLAN(); err == nil {
		t.Error("a LAN that is not there was swapped")
	}
	if err := host.MoveTo(host); err == nil {
		t.Error("a host without a home was moved")
	}
	if err := host.FlushNAT(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := host.Renumber(); err == nil {
		t.Error("renumbered in a closed lab")
	}
}

// linkEvent is what the kernel tells programs of a device about an interface.
type linkEvent struct {
	dev     string
	carrier bool // the cable is alive
}

// watchLinks follows the interfaces of a host by rtnetlink(7), as agents do.
func watchLinks(t *testing.T, h *Host) <-chan linkEvent {
	t.Helper()
	var fd int
	err := h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK})
	})
	if err != nil {
		t.Fatal(err)
	}
	wait := unix.NsecToTimeval(int64(50 * time.Millisecond))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	events, quit, done := make(chan linkEvent, 64), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		followLinks(fd, events, quit)
	}()
	t.Cleanup(func() { close(quit); <-done })
	return events
}

// followLinks sends events that differ from the one before.
func followLinks(fd int, events chan<- linkEvent, quit <-chan struct{}) {
	b := make([]byte, 1<<16)
	var last linkEvent
	for {
		select {
		case <-quit:
			return
		default:
		}
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			continue
		}
		for _, e := range linkEvents(b[:n]) {
			if e != last {
				events <- e
			}
			last = e
		}
	}
}

func next(t *testing.T, events <-chan linkEvent) linkEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		t.Fatal("no event")
		return linkEvent{}
	}
}
