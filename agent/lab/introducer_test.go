package main

import (
	"context"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

func TestTransferOutlivesItsIntroducer(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{Latency: slow}, 1)
	attic, _ := s.at("attic", natlab.PortRestricted)
	cabin, _ := s.at("cabin", natlab.PortRestricted)
	s.friends(attic, cabin)
	file := offer(t, s.ctx, cabin, 64<<20)
	s.directly(attic, cabin)
	get := file.get(s.ctx, attic, "arrived")
	file.awaitSent(s.ctx, 4<<20)
	s.agents[0].kill()
	if get.over() {
		t.Fatal("the transfer was over before its introducer was killed")
	}
	if got := get.arrived(); got.Fetched != file.size || got.Resumed || got.Path != direct {
		t.Errorf("%+v", got)
	}
}

func TestOneOfTwoIntroducersIsEnough(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{}, 2)
	attic, _ := s.at("attic", natlab.PortRestricted)
	cabin, _ := s.at("cabin", natlab.PortRestricted)
	barn, _ := s.at("barn", natlab.PortRestricted)
	s.friends(attic, cabin)
	s.friends(attic, barn)
	s.friends(cabin, barn)
	s.directly(attic, cabin)
	first, second := s.agents[0], s.agents[1]

	first.kill()
	t.Logf("one introducer is gone: a new call takes %v", s.untilMet(attic, barn))
	check(t, first.start(s.ctx))
	back := time.Now()
	second.kill()
	s.untilMet(cabin, barn)
	t.Logf("registered again and met by it after %v", time.Since(back).Round(time.Millisecond))

	// Nobody is left to say good-bye to.
	first.kill()
	stopInTime(t, attic, cabin, barn)
}

// untilMet lets a call b, again and again, until they meet directly.
func (s *scene) untilMet(a, b *agent) time.Duration {
	s.t.Helper()
	var last error
	took := await(s.t, s.ctx, a.name+" meets "+b.name, patience, func() bool {
		ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
		defer cancel()
		var p api.Ping
		last = a.run(ctx, &p, "ping", b.name, "--until-direct", "--timeout", "15s")
		if last != nil {
			s.t.Log(last)
		}
		return last == nil && p.Path == direct
	})
	return took.Round(time.Millisecond)
}
