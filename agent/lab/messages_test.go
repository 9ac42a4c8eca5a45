package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

// writeText makes a file and the folders above it.
func writeText(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}

// messages are those between an agent and a peer, as the agent has them.
func messages(ctx context.Context, a *agent, peer string) (list []api.Message) {
	if err := a.run(ctx, &list, "messages", peer, "--limit", "200"); err != nil {
		return nil
	}
	return list
}

// texts are those of the messages that came, or that were sent.
func texts(list []api.Message, out bool) (all []string) {
	for _, m := range list {
		if m.Out == out {
			all = append(all, m.Text)
		}
	}
	return all
}

// states counts the states of what was sent.
func states(list []api.Message) map[string]int {
	count := map[string]int{}
	for _, m := range list {
		if m.Out {
			count[m.State]++
		}
	}
	return count
}

// write sends texts, one after the other, and returns them.
func (s *scene) write(from *agent, peer, about string, count int) (sent []string) {
	s.t.Helper()
	for i := range count {
		text := fmt.Sprintf("%s %d", about, i+1)
		check(s.t, from.run(s.ctx, nil, "message", peer, text))
		sent = append(sent, text)
	}
	return sent
}

// gets waits until exactly these texts have come, in order, and returns how
// long after began.
func (s *scene) gets(a *agent, from string, want []string, began time.Time) time.Duration {
	s.t.Helper()
	var got []string
	for {
		got = texts(messages(s.ctx, a, from), false)
		if len(got) >= len(want) {
			break
		}
		if time.Since(began) > patience || s.ctx.Err() != nil {
			s.t.Fatalf("%s has %d of %d messages of %s within %v: %q", a.name, len(got), len(want), from, patience, got)
		}
		pause(s.ctx, 20*time.Millisecond)
	}
	took := time.Since(began)
	if !slices.Equal(got, want) {
		s.t.Errorf("%s has %q of %s, want %q", a.name, got, from, want)
	}
	return took
}

// allIn waits until all that an agent sent to a peer is in a state.
func (s *scene) allIn(a *agent, peer, state string) time.Duration {
	s.t.Helper()
	var last map[string]int
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s to %s: %v", a.name, peer, last)
		}
	}()
	return await(s.t, s.ctx, fmt.Sprintf("all messages of %s to %s are %s", a.name, peer, state), patience, func() bool {
		last = states(messages(s.ctx, a, peer))
		return len(last) == 1 && last[state] > 0
	})
}

func TestMessagesWait(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	barn, _ := s.settled("barn", natlab.CGNAT)
	cabin, _ := s.settled("cabin", natlab.Symmetric)
	s.acquainted(attic, barn)
	s.acquainted(attic, cabin)
	s.acquainted(barn, cabin)

	stopInTime(t, cabin)
	await(t, s.ctx, "cabin is off-line", patience, func() bool {
		return !contact(s.ctx, attic, cabin).Online && !contact(s.ctx, barn, cabin).Online
	})
	sent := s.write(attic, "cabin", "wait", 20)
	t.Logf("20 messages are stored at a friend's after %.2f s more", s.allIn(attic, "cabin", "stored").Seconds())
	stopInTime(t, attic)

	began := time.Now()
	check(t, cabin.start(s.ctx))
	t.Logf("all there %.2f s after the start, the sender is off", s.gets(cabin, "attic", sent, began).Seconds())
	began = time.Now()
	check(t, attic.start(s.ctx))
	s.allIn(attic, "cabin", "delivered")
	t.Logf("told to be delivered %.2f s after the sender's start", time.Since(began).Seconds())
	s.gets(cabin, "attic", sent, time.Now()) // and nothing twice
}

func TestMessagesArriveAtOnce(t *testing.T) {
	t.Parallel()
	s := newNeighbourhood(t, 2)
	attic, _ := s.settled("attic", natlab.PortRestricted)
	cabin, cabinHost := s.settled("cabin", natlab.Symmetric)
	shed, _ := s.settled("shed", natlab.UDPBlocked)
	s.acquainted(attic, cabin)

	var sent []string
	for range 3 {
		sent = append(sent, s.write(attic, "cabin", fmt.Sprint("direct ", len(sent)), 1)...)
		took := s.gets(cabin, "attic", sent, time.Now())
		t.Logf("a message took %.2f s", took.Seconds())
		if took > messageLimit {
			t.Errorf("a message took %v, %v are allowed", took, messageLimit)
		}
	}

	// A device that is killed goes on sending what it took.
	cabinHost.Cut(true)
	sent = append(sent, s.write(attic, "cabin", "before the kill", 5)...)
	attic.kill()
	check(t, attic.start(s.ctx))
	cabinHost.Cut(false)
	t.Logf("after a kill: there %.2f s after the line is back", s.gets(cabin, "attic", sent, time.Now()).Seconds())
	s.allIn(attic, "cabin", "delivered")

	// A person has two devices; each gets all that comes from now on.
	person := s.household(cabin, shed)
	check(t, attic.run(s.ctx, nil, "contacts", "add", person.link, "lake"))
	check(t, shed.run(s.ctx, nil, "contacts", "add", s.linkOf(attic), "attic"))
	await(t, s.ctx, "attic sees both devices on-line", patience, func() bool { return onlineDevices(s.ctx, attic, "lake") == 2 })
	check(t, attic.run(s.ctx, nil, "message", "lake", "to both"))
	began := time.Now()
	s.gets(cabin, "attic", append(sent, "to both"), began)
	s.gets(shed, "attic", []string{"to both"}, began)
	took := time.Since(began)
	t.Logf("both devices of a person have it after %.2f s", took.Seconds())
	if took > messageLimit {
		t.Errorf("a message to two devices took %v, %v are allowed", took, messageLimit)
	}
}

// onlineDevices counts the devices of a contact that an agent sees on-line.
func onlineDevices(ctx context.Context, a *agent, name string) (count int) {
	status, err := a.status(ctx)
	if err != nil {
		return 0
	}
	for _, c := range status.Contacts {
		for _, d := range c.Devices {
			if c.Name == name && d.Online {
				count++
			}
		}
	}
	return count
}
