package main

import (
	"slices"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// houseLimit is within what two devices of one house find each other.
	houseLimit = 3 * time.Second
	// movedLimit is within what a device that was carried to another home is
	// reached again, openLimit within what a transfer goes on.
	movedLimit = 30 * time.Second
	openLimit  = 5 * time.Second
)

// knows makes agents contacts of each other by nothing but their addresses.
func (s *scene) knows(a, b *agent) {
	s.t.Helper()
	check(s.t, a.run(s.ctx, nil, "contacts", "add", s.address(b), b.name))
	check(s.t, b.run(s.ctx, nil, "contacts", "add", s.address(a), a.name))
}

func TestAHouseWithoutInternet(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 0)
	host, err := s.lab.Home("attic", natlab.PortRestricted)
	check(t, err)
	host.Cut(true)
	deskHost, err := s.lab.AddDevice(host, "desk")
	check(t, err)
	attic, desk := s.run("attic", host), s.run("desk", deskHost)
	file := offer(t, s.ctx, desk, 4<<20)
	s.knows(attic, desk)
	p, took := s.reaches(attic, "desk", time.Now())
	if took > houseLimit || p.Path != direct {
		t.Errorf("found after %v by %q, %v are allowed", took, p.Path, houseLimit)
	}
	file.get(s.ctx, attic, "films.bin").arrived()
	s.seenBy("known by address", time.Now(), patience, true, desk, attic)
	s.gets(desk, "attic", s.write(attic, "desk", "without internet", 1), time.Now())
	s.mutual(attic, desk)

	// One that comes back into the house is found again.
	stopInTime(t, desk)
	began := time.Now()
	check(t, desk.start(s.ctx))
	_, took = s.reaches(attic, "desk", began)
	if took > houseLimit {
		t.Errorf("found again after %v, %v are allowed", took, houseLimit)
	}
}

// TestAVillageCutOff lets two homes and a public host live without the rest of
// the internet, in which everybody began.
func TestAVillageCutOff(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	far := s.agents[:2:2]
	mill, err := s.lab.Host("mill")
	check(t, err)
	village := s.run("mill", mill, "--listen", ":4001", "--reachability", "public")
	check(t, village.awaitHelpers(s.ctx, 1))
	attic, _ := s.settled("attic", natlab.PortRestricted)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	for _, a := range []*agent{attic, cabin} {
		await(t, s.ctx, a.name+" knows all three rendezvous", patience, func() bool {
			status, err := a.status(s.ctx)
			return err == nil && helperOnline(status.Helpers, s.address(village))
		})
	}
	for _, a := range far {
		a.kill()
	}
	began := time.Now()
	s.knows(attic, cabin)
	s.reaches(attic, "cabin", began)
	s.mutual(attic, cabin)
	t.Logf("mutual %.2f s after the rest of the world is gone", time.Since(began).Seconds())
	s.gets(cabin, "attic", s.write(attic, "cabin", "from the village", 1), time.Now())
	file := offer(t, s.ctx, cabin, 64<<10) // a relay's share of strangers
	file.get(s.ctx, attic, "films.bin").arrived()
}

func TestMovedDevice(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	cabin, cabinHost := s.settled("cabin", natlab.PortRestricted)
	cafe, err := s.lab.Home("cafe", natlab.FullCone)
	check(t, err)
	hotel, err := s.lab.Home("hotel", natlab.PortRestricted)
	check(t, err)
	s.knows(attic, cabin)
	s.mutual(attic, cabin)
	file := offer(t, s.ctx, cabin, 64<<20)

	// Nobody has a session with it.
	status, err := attic.status(s.ctx)
	check(t, err)
	if path := status.Contacts[0].Path; path != "" {
		t.Logf("there is a session by the %s path", path)
	}
	moved := time.Now()
	check(t, cabinHost.MoveTo(cafe))
	if _, took := s.reaches(attic, "cabin", moved); took > movedLimit {
		t.Errorf("reached %v after it was moved, %v are allowed", took, movedLimit)
	}

	// A transfer is under way.
	check(t, cafe.Limit(60e6))
	check(t, hotel.Limit(60e6))
	s.directly(attic, cabin)
	get := file.get(s.ctx, attic, "film")
	end := make(chan error, 1)
	go func() {
		<-get.done
		end <- get.err
	}()
	check(t, awaitBytes(s.ctx, get.dst, 8<<20, end))
	watch := newGrowth(get.dst)
	check(t, watch.during(s.ctx, func() error { return cabinHost.MoveTo(hotel) }))
	check(t, watch.until(s.ctx, end))
	t.Logf("a transfer went on after the move; longest stall %.2f s", watch.stall.Seconds())
	if watch.stall > openLimit {
		t.Errorf("the transfer stood still for %v, %v are allowed", watch.stall, openLimit)
	}
	get.arrived()
}

// helperOnline reports whether a device is among the rendezvous in use.
func helperOnline(list []api.Helper, address string) bool {
	return slices.ContainsFunc(list, func(h api.Helper) bool { return h.Online && h.Address == address })
}
