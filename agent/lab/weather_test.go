package main

import (
	"testing"
	"time"

	"porchlight/nat/natlab"
)

// TestBadWeather lets two homes meet and move a file over an internet that
// loses packets, delays them unevenly and lets some overtake others.
func TestBadWeather(t *testing.T) {
	t.Parallel()
	s := newScene(t, natlab.Options{Latency: 10 * time.Millisecond, Loss: 0.02, Jitter: 10 * time.Millisecond, Reorder: 0.01}, 2)
	attic, _ := s.at("attic", natlab.PortRestricted)
	cabin, _ := s.at("cabin", natlab.PortRestricted)
	s.friends(attic, cabin)
	s.directly(attic, cabin)
	got := offer(t, s.ctx, cabin, 8<<20).get(s.ctx, attic, "film").arrived()
	if stats := s.lab.Stats(); stats.Lost == 0 {
		t.Errorf("nothing was lost: %+v", stats)
	}
	if got.Path != direct {
		t.Errorf("the path ended as %q", got.Path)
	}
}
