package main

import (
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

func TestRelayFirstDirectLaterAndBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{Latency: slow}, 1)
	attic, atticHost := s.at("attic", natlab.PortRestricted)
	cabin, cabinHost := s.at("cabin", natlab.PortRestricted)
	s.friends(attic, cabin)
	s.relayWell(attic, cabin)
	s.lab.Part(atticHost, cabinHost, true)
	file := offer(t, s.ctx, cabin, 48<<20)

	get := file.get(s.ctx, attic, "first")
	took := await(t, s.ctx, "path relay, reason no_direct", patience, func() bool {
		c := contact(s.ctx, attic, cabin)
		return c.Path == relayed && c.Reason == api.NoDirect
	})
	t.Logf("parted: relayed, and no direct path for certain after %.1f s, %d bytes arrived", took.Seconds(), get.part())
	if get.part() == 0 {
		t.Error("nothing came by the relay")
	}
	s.lab.Part(atticHost, cabinHost, false)
	took = await(t, s.ctx, "direct after mending", 20*time.Second, func() bool { return contact(s.ctx, attic, cabin).Path == direct })
	t.Logf("mended: direct after %.1f s, %d bytes arrived", took.Seconds(), get.part())
	if get.over() {
		t.Fatal("the transfer was over before the path was direct")
	}
	if got := get.arrived(); got.Resumed || got.Fetched != file.size || got.Path != direct {
		t.Errorf("%+v", got)
	}
	s.unbroken(attic, cabin)

	get = file.get(s.ctx, attic, "second")
	file.awaitSent(s.ctx, 40<<20)
	s.lab.Part(atticHost, cabinHost, true)
	if get.over() {
		t.Fatal("the transfer was over before the path was cut")
	}
	took = await(t, s.ctx, "relayed after parting", patience, func() bool { return contact(s.ctx, attic, cabin).Path == relayed })
	t.Logf("parted again at %d bytes: relayed after %.1f s", get.part(), took.Seconds())
	if got := get.arrived(); got.Resumed || got.Fetched != file.size {
		t.Errorf("%+v", got)
	}
	s.unbroken(attic, cabin)
}

// relayWell makes homes friends of the rendezvous, for whom it relays faster
// than for strangers. The ticket for that comes with the next registration.
func (s *scene) relayWell(homes ...*agent) {
	s.t.Helper()
	for _, home := range homes {
		link, err := home.link(s.ctx)
		check(s.t, err)
		check(s.t, s.agents[0].run(s.ctx, nil, "contacts", "add", link, home.name))
		home.stop()
		check(s.t, home.start(s.ctx))
		check(s.t, home.awaitHelpers(s.ctx, len(s.links)))
	}
}

// unbroken checks that the devices have had one session all along.
func (s *scene) unbroken(a, b *agent) {
	s.t.Helper()
	status, err := b.status(s.ctx)
	check(s.t, err)
	if n := sessions(s.t, a, status.Address); n != 1 {
		s.t.Errorf("%s has begun %d sessions with %s", a.name, n, b.name)
	}
}
