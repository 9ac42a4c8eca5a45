package natlab

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func mustHost(t testing.TB, l *Lab, name string) *Host {
	t.Helper()
	h, err := l.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// onHost runs a command on a host and returns what it prints; it must succeed.
func onHost(t testing.TB, h *Host, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// soapURL is where a router's miniupnpd describes itself before its first reboot.
var soapURL = fmt.Sprintf("http://%s:%d/rootDesc.xml", lanRouter, firstSOAPPort)

func TestKindsAreListedOnceAndPlanned(t *testing.T) {
	seen := make(map[Kind]bool)
	for _, k := range Kinds() {
		if _, err := planOf(k); err != nil || seen[k] {
			t.Errorf("%s: seen %v, %v", k, seen[k], err)
		}
		seen[k] = true
	}
	if len(seen) != len(plans) {
		t.Errorf("%d kinds, %d plans", len(seen), len(plans))
	}
	published := PublishedKinds()
	for _, k := range published {
		if !seen[k] {
			t.Errorf("%s is published but no kind", k)
		}
	}
	if pairs := len(published) * (len(published) + 1) / 2; pairs != 105 || len(slices.Compact(slices.Sorted(slices.Values(published)))) != 14 {
		t.Errorf("%d pairs of %v", pairs, published)
	}
}

func TestDevicesOpenPorts(t *testing.T) {
	for _, tc := range []struct {
		kind    Kind
		command func(device *Host) []string
		want    string
	}{
		{UPnP, func(d *Host) []string {
			return []string{"upnpc", "-m", "eth0", "-a", d.Addr().String(), "4000", "5000", "udp"}
		}, "is redirected to internal"},
		{UPnPSymmetric, func(d *Host) []string {
			return []string{"upnpc", "-u", soapURL, "-a", d.Addr().String(), "4000", "5000", "udp"}
		}, "is redirected to internal"},
		{PCP, func(*Host) []string {
			return []string{"natpmpc", "-g", lanRouter, "-a", "5000", "4000", "udp", "300"}
		}, "Mapped public port 5000 protocol UDP to local port 4000"},
	} {
		t.Run(string(tc.kind), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			stranger, device := mustHost(t, l, "stranger"), mustHome(t, l, "home", tc.kind)
			s, d := listenUDP(t, stranger, 9), listenUDP(t, device, 4000)
			sendTo(t, s, device.Public(), 5000, "too early")
			if got, _ := receive(t, d, silence); got != "" {
				t.Fatalf("%q came in unasked", got)
			}
			command := tc.command(device)
			if out := onHost(t, device, command[0], command[1:]...); !strings.Contains(out, tc.want) {
				t.Errorf("no %q in\n%s", tc.want, out)
			}
			sendTo(t, s, device.Public(), 5000, "welcome")
			got, from := receive(t, d, patience)
			if got != "welcome" || from.Addr() != stranger.Public() {
				t.Fatalf("got %q from %v", got, from)
			}
			sendTo(t, d, from.Addr(), from.Port(), "answer")
			if got, from := receive(t, s, patience); got != "answer" || from.Port() != 5000 {
				t.Errorf("got %q from %v", got, from)
			}
		})
	}
}

func TestGatewaysOfferOnlyWhatTheirKindSays(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	for _, tc := range []struct {
		kind     Kind
		igd, pmp bool
	}{{UPnP, true, false}, {PCP, false, true}, {PortRestricted, false, false}} {
		h := mustHome(t, l, string(tc.kind), tc.kind)
		if igd := h.asksGateway(upnpIGD) == nil; igd != tc.igd {
			t.Errorf("%s: UPnP %v", tc.kind, igd)
		}
		if pmp := h.asksGateway(natPMP) == nil; pmp != tc.pmp {
			t.Errorf("%s: NAT-PMP %v", tc.kind, pmp)
		}
	}
}

// A mapping of a router behind a carrier leads nowhere until the device has opened
// the carrier's NAT itself, and the router tells its carrier address.
func TestUPnPBehindACarrierTellsTheCarriersAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	stranger, device := mustHost(t, l, "stranger"), mustHome(t, l, "home", UPnPCGNAT)
	s, d := listenUDP(t, stranger, 9), listenUDP(t, device, 4000)
	out := onHost(t, device, "upnpc", "-i", "-u", soapURL, "-a", device.Addr().String(), "4000", "4000", "udp")
	for _, want := range []string{"ExternalIPAddress = " + carrierInner, "is redirected to internal " + device.Addr().String() + ":4000"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	sendTo(t, s, device.Public(), 4000, "lost at the carrier")
	if got, _ := receive(t, d, silence); got != "" {
		t.Errorf("got %q through the carrier", got)
	}
	other := mustHost(t, l, "other")
	sendTo(t, d, other.Public(), 9, "opener")
	receive(t, listenUDP(t, other, 9), silence)
	sendTo(t, s, device.Public(), 4000, "through both")
	if got, _ := receive(t, d, patience); got != "through both" {
		t.Errorf("got %q", got)
	}
}

func TestDevicesOfAHomeShareTheirLAN(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	outside := mustHost(t, l, "outside")
	for _, k := range []Kind{PortRestricted, StatefulFirewall} {
		first := mustHome(t, l, string(k), k)
		second, err := l.AddDevice(first, string(k)+"-2")
		if err != nil {
			t.Fatal(err)
		}
		if first.Addr() == second.Addr() || second.Kind() != k {
			t.Errorf("addresses %v and %v", first.Addr(), second.Addr())
		}
		a, b := listenUDP(t, first, 5000), listenUDP(t, second, 6000)
		sendTo(t, a, second.Addr(), 6000, "over the LAN")
		if got, from := receive(t, b, patience); got != "over the LAN" || from.Addr() != first.Addr() {
			t.Errorf("%s: got %q from %v", k, got, from)
		}
		o := listenUDP(t, outside, 9)
		sendTo(t, b, outside.Public(), 9, "from the second")
		got, from := receive(t, o, patience)
		if got != "from the second" || from.Addr() != second.Public() {
			t.Errorf("%s: got %q from %v, want %v", k, got, from, second.Public())
		}
		o.Close()
	}
	if _, err := l.AddDevice(outside, "none"); err == nil {
		t.Error("a public host got a second device")
	}
}

// outside returns the public endpoint of a socket as a public host sees it.
func outside(t *testing.T, from *net.UDPConn, witness *Host, w *net.UDPConn) netip.AddrPort {
	t.Helper()
	_, port, _ := net.SplitHostPort(w.LocalAddr().String())
	var n uint16
	fmt.Sscan(port, &n)
	sendTo(t, from, witness.Public(), n, "who am I?")
	_, seen := receive(t, w, patience)
	return seen
}

func TestOnlyHairpinTurnsPacketsBack(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		back bool
	}{{Hairpin, true}, {FullCone, false}, {PortRestricted, false}, {UPnP, false}, {CGNAT, false}, {OpenInput, false}} {
		t.Run(string(tc.kind), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			witness, first := mustHost(t, l, "witness"), mustHome(t, l, "first", tc.kind)
			second, err := l.AddDevice(first, "second")
			if err != nil {
				t.Fatal(err)
			}
			w, a, b := listenUDP(t, witness, 9), listenUDP(t, first, 5000), listenUDP(t, second, 6000)
			atA, atB := outside(t, a, witness, w), outside(t, b, witness, w)
			sendTo(t, a, atB.Addr(), atB.Port(), "there")
			got, from := receive(t, b, silence)
			if !tc.back {
				if got != "" {
					t.Errorf("%q came back from %v", got, from)
				}
				return
			}
			if got != "there" || from != atA {
				t.Fatalf("got %q from %v, want %v", got, from, atA)
			}
			sendTo(t, b, from.Addr(), from.Port(), "and back")
			if got, from := receive(t, a, patience); got != "and back" || from != atB {
				t.Errorf("got %q from %v, want %v", got, from, atB)
			}
		})
	}
}

func TestRotatingCarrierMovesRunningFlows(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	witness, device := mustHost(t, l, "witness"), mustHome(t, l, "home", PortRotating)
	w, d := listenUDP(t, witness, 9), listenUDP(t, device, 5000)
	before := outside(t, d, witness, w)
	if before.Port() == 5000 {
		t.Errorf("port was kept")
	}
	seen := map[uint16]bool{before.Port(): true}
	for range 3 {
		if err := device.home.rotation.turn(); err != nil {
			t.Fatal(err)
		}
		sendTo(t, w, before.Addr(), before.Port(), "to the old port")
		if got, _ := receive(t, d, silence); got != "" {
			t.Errorf("got %q", got)
		}
		now := outside(t, d, witness, w)
		if now.Addr() != before.Addr() || seen[now.Port()] {
			t.Errorf("moved from %v to %v", before, now)
		}
		seen[now.Port()] = true
		before = now
		sendTo(t, w, now.Addr(), now.Port(), "to the new port")
		if got, _ := receive(t, d, patience); got != "to the new port" {
			t.Errorf("got %q", got)
		}
	}
}

func TestRotationGoesByItself(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	witness, device := mustHost(t, l, "witness"), mustHome(t, l, "home", PortRotating)
	w, d := listenUDP(t, witness, 9), listenUDP(t, device, 5000)
	first := outside(t, d, witness, w)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * RotatePeriod); outside(t, d, witness, w) == first; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("port never moved")
		}
	}
}

func TestShortLifetimeForgetsFlowsInUse(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	witness := mustHost(t, l, "witness")
	for _, tc := range []struct {
		kind Kind
		most int
	}{{ShortLifetime, 30}, {PortRestricted, 120}} {
		device := mustHome(t, l, string(tc.kind), tc.kind)
		w, d := listenUDP(t, witness, 9), listenUDP(t, device, 5000)
		// The kernel takes a flow for a stream when it has lasted two seconds.
		left := 0
		waitFor(t, "a stream", func() bool {
			at := outside(t, d, witness, w)
			sendTo(t, w, at.Addr(), at.Port(), "answer")
			receive(t, d, patience)
			var assured bool
			left, assured = flowLifetime(t, device.home.router, device.Addr())
			return assured && (left > 30 || tc.most == 30)
		})
		if left > tc.most || left < tc.most-5 {
			t.Errorf("%s: stream lives for another %d s, want %d", tc.kind, left, tc.most)
		}
		w.Close()
	}
}

// flowLifetime returns how many seconds the router will remember the UDP flow of a
// device, and whether it thinks it a stream.
func flowLifetime(t *testing.T, ns string, device netip.Addr) (seconds int, assured bool) {
	t.Helper()
	err := inNamespace(ns, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 5 && f[2] == "udp" && f[5] == "src="+device.String() && strings.Contains(line, "dport=9 ") {
				fmt.Sscan(f[4], &seconds)
				assured = strings.Contains(line, "[ASSURED]")
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seconds, assured
}

// The conntrack trap: a router that does not drop an early packet gives the own
// device another port towards that peer.
func TestOpenInputGivesThePortToTheStrayPacket(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		kept bool
	}{{OpenInput, false}, {PortRestricted, true}, {PortRestrictedReject, true}} {
		t.Run(string(tc.kind), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			peer, err := l.Host("peer")
			if err != nil {
				t.Fatal(err)
			}
			home := mustHome(t, l, "home", tc.kind)
			p, h := listenUDP(t, peer, 5000), listenUDP(t, home, 5000)
			sendTo(t, p, home.Public(), 5000, "stray")
			if got, _ := receive(t, h, silence); got != "" {
				t.Errorf("%q came in", got)
			}
			sendTo(t, h, peer.Public(), 5000, "out")
			if _, from := receive(t, p, patience); (from.Port() == 5000) != tc.kept {
				t.Errorf("left from port %d, kept should be %v", from.Port(), tc.kept)
			}
		})
	}
}

// pcpMap is a MAP request of RFC 6887 §7.1 and §11.1 for a UDP port.
func pcpMap(client netip.Addr, inner, outer uint16, seconds uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{2, 1, 0, 0}, seconds)
	mapped := client.As16()
	b = append(b, mapped[:]...)
	b = append(b, "twelve bytes"...) // the nonce
	b = append(b, 17, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, inner)
	b = binary.BigEndian.AppendUint16(b, outer)
	nowhere := netip.IPv4Unspecified().As16() // any outer address
	return append(b, nowhere[:]...)
}

func TestPCPMapOpensAPort(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	stranger, device := mustHost(t, l, "stranger"), mustHome(t, l, "home", PCP)
	s, d := listenUDP(t, stranger, 9), listenUDP(t, device, 4000)
	client := listenUDP(t, device, 0)
	sendTo(t, client, netip.MustParseAddr(lanRouter), 5351, string(pcpMap(device.Addr(), 4000, 5000, 600)))
	got, _ := receive(t, client, patience)
	// Version 2, response to MAP, success; the outer port and address are at the end.
	if len(got) != 60 || got[0] != 2 || got[1] != 0x81 || got[3] != 0 {
		t.Fatalf("% x", got)
	}
	outer := netip.AddrFrom16([16]byte([]byte(got[44:60]))).Unmap()
	if port := binary.BigEndian.Uint16([]byte(got[42:44])); port != 5000 || outer != device.Public() {
		t.Errorf("mapped to %v port %d", outer, port)
	}
	sendTo(t, s, device.Public(), 5000, "welcome")
	if got, _ := receive(t, d, patience); got != "welcome" {
		t.Errorf("got %q", got)
	}
}

func TestOnlyTheKnownProgramIsMadeTruthful(t *testing.T) {
	for times, want := range []bool{false, true, false} {
		dir := t.TempDir()
		program := filepath.Join(dir, "program")
		text := bytes.Repeat(append([]byte("code"), reservedCGN()...), times)
		if err := os.WriteFile(program, text, 0o600); err != nil {
			t.Fatal(err)
		}
		copied, err := truthful(program, dir)
		if (err == nil) != want {
			t.Errorf("entry found %d times: %v", times, err)
			continue
		}
		if b, _ := os.ReadFile(copied); want && (len(b) != len(text) || bytes.Contains(b, reservedCGN())) {
			t.Errorf("copy is % x", b)
		}
	}
}
