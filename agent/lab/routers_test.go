package main

import (
	"context"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

// TestOddRouters lets homes behind routers that are seldom tried meet an
// ordinary one.
func TestOddRouters(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 2)
	porch, _ := s.at("porch", natlab.PortRestricted)
	for _, kind := range []natlab.Kind{natlab.EIMNoPreserve, natlab.UPnPCGNAT} {
		t.Run(string(kind), func(t *testing.T) {
			odd, _ := s.at(string(kind), kind)
			s.friends(odd, porch)
			s.directly(odd, porch)
			n := netcheck(t, s.ctx, odd)
			t.Logf("verdict %s, NAT %+v, ports preserved %v", n.Verdict, n.NAT, n.Ports.Preserved)
			if n.Ports.Preserved && kind == natlab.EIMNoPreserve {
				t.Error("says that its router preserves ports")
			}
		})
	}
}

// TestDevicesOfOneHomeMeetInIt checks that what is at home stays at home,
// whether the router turns packets back or not.
func TestDevicesOfOneHomeMeetInIt(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	for _, kind := range []natlab.Kind{natlab.PortRestricted, natlab.Hairpin} {
		t.Run(string(kind), func(t *testing.T) {
			attic, host := s.at("attic-"+string(kind), kind)
			cellarHost, err := s.lab.AddDevice(host, "cellar-"+string(kind))
			check(t, err)
			cellar := s.on(cellarHost)
			s.friends(attic, cellar)
			s.directly(attic, cellar)
			var c api.Contact
			took := await(t, s.ctx, "a path inside the home", patience, func() bool {
				c = contact(s.ctx, attic, cellar)
				return c.Path == direct && addressOf(t, c.Remote) == cellarHost.Addr()
			})
			t.Logf("%s → %s, %.1f ms, after %.1f s", c.Local, c.Remote, c.RTTMS, took.Seconds())
		})
	}
}

// on starts an agent on a host that the laboratory has already.
func (s *scene) on(host *natlab.Host) *agent {
	s.t.Helper()
	args := []string{"--console", "off"}
	for _, link := range s.links {
		args = append(args, "--bootstrap", link)
	}
	a, err := newAgent(s.dir, s.program, host.Name(), host, args...)
	check(s.t, err)
	s.agents = append(s.agents, a)
	check(s.t, a.start(s.ctx))
	check(s.t, a.awaitHelpers(s.ctx, len(s.links)))
	return a
}

const (
	// rotatedSpeed lets a transfer of rotatedSize last for some rotations, in
	// bits per second.
	rotatedSpeed = 10e6
	rotatedSize  = 20 << 20
	// rotatedLimit ends the transfer: three times what it needs.
	rotatedLimit = 50 * time.Second
)

// TestPortsThatRotateUnderATransfer fetches a file through a carrier that gives
// each flow another port every few seconds.
func TestPortsThatRotateUnderATransfer(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	porch, _ := s.at("porch", natlab.PortRestricted)
	farm, host := s.at("farm", natlab.PortRotating)
	s.friends(porch, farm)
	s.relayWell(porch, farm)
	// That a router rotates ports is known after two rotations; a call before
	// that may be in vain.
	await(t, s.ctx, "a call to somebody whose ports rotate", patience, func() bool {
		return porch.run(s.ctx, nil, "ping", farm.name, "--timeout", "15s") == nil
	})
	file := offer(t, s.ctx, farm, rotatedSize)
	check(t, host.Limit(rotatedSpeed))
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, rotatedLimit)
	defer cancel()
	get := file.get(ctx, porch, "film")
	changes, last, silent := 0, "", 0
	for !get.over() {
		c := contact(s.ctx, porch, farm)
		if c.Path != last {
			t.Logf("%5.1f s: %q %s %s", time.Since(began).Seconds(), c.Path, c.Remote, c.Reason)
			changes++
		}
		if c.Path == "" {
			silent++
		}
		last = c.Path
		pause(s.ctx, 50*time.Millisecond)
	}
	get.arrived()
	rotations := int(time.Since(began)/natlab.RotatePeriod) + 1
	t.Logf("%d changes of path in %d rotations; without any in %d looks", changes, rotations, silent)
	if most := 2*rotations + 1; changes > most {
		t.Errorf("the path changed %d times in %d rotations, at most %d are allowed", changes, rotations, most)
	}
	s.unbroken(porch, farm)
}
