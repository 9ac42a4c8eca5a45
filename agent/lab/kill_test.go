package main

import (
	"math/rand/v2"
	"testing"

	"porchlight/nat/natlab"
	"porchlight/share/merkle"
)

// kills is how often an agent is killed during one transfer.
const kills = 3

func TestGetGoesOnWhenTheServingAgentIsKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{Latency: slow}, 1)
	attic, _ := s.at("attic", natlab.PortRestricted)
	cabin, _ := s.at("cabin", natlab.PortRestricted)
	s.friends(attic, cabin)
	file := offer(t, s.ctx, cabin, 96<<20)
	s.directly(attic, cabin)
	get := file.get(s.ctx, attic, "arrived")
	for n := range kills {
		s.killIn(file, n)
		at := get.part()
		cabin.kill()
		if get.over() {
			t.Fatalf("the transfer was over before kill %d", n+1)
		}
		check(t, cabin.start(s.ctx))
		took := await(t, s.ctx, "the same get goes on", patience, func() bool { return get.part() > at+4<<20 || get.over() })
		t.Logf("killed at %d of %d bytes; goes on after %.1f s", at, file.size, took.Seconds())
	}
	got := get.arrived()
	if most := file.size + kills*merkle.PieceSize(file.size); got.Fetched > most {
		t.Errorf("%d bytes came over the network, at most %d are needed", got.Fetched, most)
	}
}

// killIn waits for a random point in the n-th part of the transfer.
func (s *scene) killIn(file offered, n int) {
	s.t.Helper()
	section := file.size / (kills + 1)
	point := int64(n)*section + section/4 + rand.Int64N(section/2)
	file.awaitSent(s.ctx, point)
}

func TestGetResumesWhenTheFetchingSideIsKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{Latency: slow}, 1)
	attic, _ := s.at("attic", natlab.PortRestricted)
	cabin, _ := s.at("cabin", natlab.PortRestricted)
	s.friends(attic, cabin)
	file := offer(t, s.ctx, cabin, 96<<20)
	s.directly(attic, cabin)
	var have, fetched int64
	piece := merkle.PieceSize(file.size)
	for n := range kills {
		get := file.get(s.ctx, attic, "arrived")
		s.killIn(file, n)
		get.kill()
		attic.kill()
		<-get.done
		if get.err == nil {
			t.Fatalf("the transfer was over before kill %d", n+1)
		}
		if get.part() < have {
			t.Errorf("only %d bytes are left of %d that had arrived", get.part(), have)
		}
		// Each run fetches again at most the piece that was unfinished.
		fetched += get.part() - have + min(have, piece)
		have = get.part()
		t.Logf("killed with %d of %d bytes in place", have, file.size)
		check(t, attic.start(s.ctx))
	}
	got := file.get(s.ctx, attic, "arrived").arrived()
	if !got.Resumed || got.Fetched > file.size-have+piece {
		t.Errorf("resumed %v, %d bytes fetched with %d of %d in place", got.Resumed, got.Fetched, have, file.size)
	}
	if fetched+got.Fetched > file.size+kills*piece {
		t.Errorf("%d bytes fetched in all", fetched+got.Fetched)
	}
}
