package main

import (
	"net/netip"
	"strings"
	"testing"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

// TestIPv6 lets homes meet that have IPv6 behind firewalls, and one that has
// nothing else with one that has nothing of it.
func TestIPv6(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	porch, _ := s.at("porch", natlab.PortRestricted)
	six, _ := s.at("six", natlab.IPv6Only)
	t.Run("no address family in common", func(t *testing.T) {
		s.friends(six, porch)
		s.relayWell(six, porch)
		file := offer(t, s.ctx, porch, 1<<20)
		check(t, six.run(s.ctx, nil, "ping", porch.name))
		await(t, s.ctx, "relayed, because there is no common IP", patience, func() bool {
			c := contact(s.ctx, six, porch)
			return c.Path == relayed && c.Reason == api.NoCommonIP
		})
		if got := file.get(s.ctx, six, "film").arrived(); got.Path != relayed {
			t.Errorf("the file came by the path %q", got.Path)
		}
	})
	for _, kind := range []natlab.Kind{natlab.IPv6Only, natlab.IPv6Firewall, natlab.StatefulFirewall} {
		t.Run(string(kind)+" twice", func(t *testing.T) {
			a := six
			if kind != natlab.IPv6Only {
				a, _ = s.at("a-"+string(kind), kind)
			}
			b, _ := s.at("b-"+string(kind), kind)
			s.friends(a, b)
			s.directly(a, b)
			c := contact(s.ctx, a, b)
			t.Logf("%s → %s, %.0f ms", c.Local, c.Remote, c.RTTMS)
			if kind != natlab.StatefulFirewall && !addressOf(t, c.Remote).Is6() {
				t.Errorf("the path leads to %s, which is not IPv6", c.Remote)
			}
		})
	}
}

// addressOf takes the address out of an end of a path, as "srflx 44.128.0.7:4001".
func addressOf(t *testing.T, end string) netip.Addr {
	t.Helper()
	at, err := netip.ParseAddrPort(end[strings.LastIndex(end, " ")+1:])
	check(t, err)
	return at.Addr()
}
