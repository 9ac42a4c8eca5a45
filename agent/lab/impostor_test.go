package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porchlight/agent/identity"
	"porchlight/nat/natlab"
)

func TestImpostorAtTheRightPlace(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 1)
	attic, atticHost := s.at("attic", natlab.PortRestricted)
	mallory, malloryHost := s.at("mallory", natlab.Public, "--listen", ":4001")
	cabin, cabinHost := s.at("cabin", natlab.Public, "--listen", ":4001")
	there := netip.AddrPortFrom(malloryHost.Public(), 4001)
	text, err := cabin.link(s.ctx)
	check(t, err)
	link, err := identity.ParseLink(text)
	check(t, err)
	link.At = []netip.AddrPort{there}
	link.Via = nil
	check(t, attic.run(s.ctx, nil, "contacts", "add", link.String(), "cabin"))
	back, err := attic.link(s.ctx)
	check(t, err)
	check(t, cabin.run(s.ctx, nil, "contacts", "add", back, "attic"))
	check(t, mallory.run(s.ctx, nil, "contacts", "add", back, "attic"))

	// The rendezvous knows better than the link.
	s.directly(attic, cabin)
	if c := contact(s.ctx, attic, cabin); !strings.Contains(c.Remote, cabinHost.Public().String()) {
		t.Errorf("attic is connected to %q", c.Remote)
	}
	s.noSession(mallory, attic)
	if !s.passed(atticHost, malloryHost) {
		t.Error("attic has not even asked where the link leads")
	}

	// Nobody knows better.
	cabin.kill()
	check(t, stopped(attic))
	check(t, attic.start(s.ctx))
	check(t, attic.awaitHelpers(s.ctx, 1))
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	err = attic.run(ctx, nil, "ping", "cabin", "--timeout", "25s")
	t.Log(err)
	if err == nil || ctx.Err() != nil {
		t.Fatalf("calling an impostor: %v", err)
	}
	if c := contact(s.ctx, attic, cabin); c.Online {
		t.Errorf("attic believes to be connected: %+v", c)
	}
	s.noSession(mallory, attic)
}

// passed reports whether any packet went from one host to another.
func (s *scene) passed(from, to *natlab.Host) bool {
	s.t.Helper()
	name := filepath.Join(s.dir, "passed.pcap")
	check(s.t, s.lab.WritePCAP(name))
	b, err := os.ReadFile(name)
	check(s.t, err)
	// An IPv4 header has the destination right behind the source.
	return bytes.Contains(b, append(from.Public().AsSlice(), to.Public().AsSlice()...))
}

func stopped(a *agent) error {
	_, err := a.stop()
	return err
}

// noSession checks that a never had a session with b.
func (s *scene) noSession(a, b *agent) {
	s.t.Helper()
	status, err := b.status(s.ctx)
	check(s.t, err)
	if n := sessions(s.t, a, status.Address); n != 0 || contact(s.ctx, a, b).Online {
		s.t.Errorf("%s had %d sessions with %s", a.name, n, b.name)
	}
}
