package overlay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"porchlight/agent/identity"
)

func TestMeetLearnsWhoIsThere(t *testing.T) {
	a, b := newEnd(t, 1, "127.0.0.1:0", nil), newEnd(t, 2, "127.0.0.1:0", nil)
	who, err := a.Meet(t.Context(), b.at)
	if err != nil || who != b.Address() {
		t.Fatalf("Meet = %v, %v", who, err)
	}
	if s := a.Current(b.Address()); s == nil || !s.Dialed() {
		t.Error("there is no session afterwards")
	}
	listener, err := b.Listen("hello")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial(t.Context(), b.Address(), "hello"); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil || conn.RemoteAddr().String() != a.Address().String() {
		t.Errorf("the other took a stream of %v, %v", conn, err)
	}
}

func TestMeetRefuses(t *testing.T) {
	blocked := errors.New("blocked")
	a := newEnd(t, 1, "127.0.0.1:0", func(identity.Address) error { return blocked })
	b := newEnd(t, 2, "127.0.0.1:0", nil)
	if who, err := a.Meet(t.Context(), b.at); !errors.Is(err, blocked) {
		t.Errorf("a blocked device: %v, %v", who, err)
	}
	if who, err := b.Meet(t.Context(), b.at); err == nil {
		t.Errorf("met itself: %v", who)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	b.close()
	if who, err := a.Meet(ctx, b.at); err == nil {
		t.Errorf("met nobody: %v", who)
	}
}

func TestUpkeepIsNoUse(t *testing.T) {
	a, b := pair(t)
	for _, service := range []string{"work", "introduce"} {
		listener, err := b.Listen(service)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
	}
	work, err := a.Dial(t.Context(), b.Address(), "work")
	if err != nil {
		t.Fatal(err)
	}
	s := a.Current(b.Address())
	if s.Idle() != 0 {
		t.Errorf("idle for %v with a stream open", s.Idle())
	}
	work.Close()
	if s.Idle() <= 0 {
		t.Error("not idle after its last stream")
	}
	upkeep, err := a.Dial(t.Context(), b.Address(), "introduce")
	if err != nil {
		t.Fatal(err)
	}
	defer upkeep.Close()
	if s.Idle() <= 0 {
		t.Error("upkeep counts as use")
	}
}
