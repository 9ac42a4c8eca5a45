package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// soon is how long after its start a device may take until it knows how
	// people get in.
	soon = 2 * time.Second
	// noticed is how long a change of the router may stay unnoticed.
	noticed = 2 * time.Minute
)

// netcheck is what an agent says about its network.
func netcheck(t *testing.T, ctx context.Context, a *agent) (n api.Netcheck) {
	t.Helper()
	check(t, a.run(ctx, &n, "netcheck"))
	return n
}

// open reports whether strangers get in by UDP, and the verdict says so.
func open(n api.Netcheck) bool {
	if n.Verdict != api.Public && n.Verdict != api.Mapped && n.Verdict != api.Forwarded {
		return false
	}
	for _, d := range n.Doors {
		if d.Transport == "udp" && d.Reachable {
			return true
		}
	}
	return false
}

func TestVerdictsComeSoonAndAreTrue(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, matrixHelpers) // one is left to be a stranger
	for _, tc := range []struct {
		kind natlab.Kind
		want api.Verdict
	}{
		{natlab.Public, api.Public},
		{natlab.UPnP, api.Mapped},
		{natlab.PCP, api.Mapped},
		{natlab.FullCone, api.Forwarded},
		{natlab.AddressRestricted, api.NATEasy},
		{natlab.Symmetric, api.NATHard},
	} {
		t.Run(string(tc.kind), func(t *testing.T) {
			a, _ := s.at(string(tc.kind), tc.kind)
			var status api.Status
			await(t, s.ctx, "verdict "+string(tc.want), patience, func() bool {
				var err error
				status, err = a.status(s.ctx)
				check(t, err)
				if open := status.Reachability == api.Public || status.Reachability == api.Forwarded; open && tc.want != status.Reachability {
					t.Fatalf("says %s", status.Reachability)
				}
				return status.Reachability == tc.want
			})
			took := time.Duration(status.UptimeMS) * time.Millisecond
			t.Logf("%s after %.2f s", tc.want, took.Seconds())
			if took > soon && (tc.want == api.Public || tc.want == api.Mapped) {
				t.Errorf("took %v to know, %v are allowed", took, soon)
			}
		})
	}
}

// TestHomesLeftAlone leaves homes to themselves for as long as a mapping of
// theirs would last, one router is restarted, and one lets nobody in any more.
func TestHomesLeftAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, matrixHelpers)
	brief, _ := s.at("brief", natlab.ShortLifetime)
	porch, _ := s.at("porch", natlab.PortRestricted)
	restarted, restartedHost := s.at("restarted", natlab.UPnP)
	closed, closedHost := s.at("closed", natlab.UPnP)
	address, _ := s.at("address", natlab.AddressRestricted)
	s.friends(brief, porch)
	s.directly(brief, porch)
	idle := time.Now()
	for _, a := range []*agent{restarted, closed} {
		await(t, s.ctx, a.name+" is reachable", patience, func() bool { return open(netcheck(t, s.ctx, a)) })
	}
	shut(t, s.ctx, closedHost, true)
	shutAt := time.Now()
	check(t, restartedHost.Reboot(s.ctx, 3*time.Second))
	rebootedAt := time.Now()

	back, told := time.Duration(0), time.Duration(0)
	for time.Since(idle) < 70*time.Second || back == 0 || told == 0 {
		if time.Since(rebootedAt) > noticed {
			break
		}
		if n := netcheck(t, s.ctx, restarted); back == 0 && knocked(n, rebootedAt) {
			back = time.Since(rebootedAt)
		}
		if n := netcheck(t, s.ctx, closed); told == 0 && !open(n) && n.Verdict != api.Mapped {
			told = time.Since(shutAt)
			t.Logf("door closed: %s after %.0f s", n.Verdict, told.Seconds())
		}
		if n := netcheck(t, s.ctx, address); n.Verdict != api.NATEasy || open(n) {
			t.Fatalf("behind a router that filters by address: %s, %+v", n.Verdict, n.Doors)
		}
		pause(s.ctx, time.Second)
	}
	t.Logf("router restarted: a stranger is in again after %.0f s", back.Seconds())
	if back == 0 || told == 0 {
		t.Errorf("within %v: door open again after a restart %v, closed door noticed %v", noticed, back > 0, told > 0)
	}

	quiet := time.Since(idle)
	var p api.Ping
	check(t, brief.run(s.ctx, &p, "ping", porch.name))
	t.Logf("after %.0f s of silence: first byte in %.2f s by the %s path", quiet.Seconds(), p.FirstByteMS/1000, p.Path)
	if p.Path != direct || p.FirstByteMS > 500 {
		t.Errorf("after %v of silence: %+v", quiet, p)
	}
	s.unbroken(brief, porch)

	shut(t, s.ctx, closedHost, false)
	took := await(t, s.ctx, "the door is open again", noticed, func() bool { return open(netcheck(t, s.ctx, closed)) })
	t.Logf("door open again: said after %.0f s", took.Seconds())
}

// knocked reports whether somebody came in through a mapped UDP port since.
func knocked(n api.Netcheck, since time.Time) bool {
	for _, d := range n.Doors {
		if d.Transport == "udp" && d.Mapped && d.Reachable && d.KnockUnixMS > since.UnixMilli() {
			return true
		}
	}
	return false
}

// shut makes a home's router let nobody in whom the home has not called, in
// spite of all mappings, or ends that.
func shut(t *testing.T, ctx context.Context, h *natlab.Host, closed bool) {
	t.Helper()
	const netns = "/run/netns" // ip-netns(8)
	name := fmt.Sprintf("porchlab-%d-*-%s-router", os.Getpid(), h.Name())
	found, err := filepath.Glob(filepath.Join(netns, name))
	check(t, err)
	if len(found) != 1 {
		t.Fatalf("%d network namespaces are called %s", len(found), name)
	}
	change := "delete table ip shut"
	if closed {
		change = `table ip shut {
			chain forward {
				type filter hook forward priority filter - 1; policy accept;
				iifname "wan" ct state new counter drop
			}
		}`
	}
	nft := exec.CommandContext(ctx, "ip", "netns", "exec", filepath.Base(found[0]), "nft", "-f", "-")
	nft.Stdin = strings.NewReader(change)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft %s: %v: %s", change, err, out)
	}
}
