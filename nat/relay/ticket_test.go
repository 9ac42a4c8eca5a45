package relay

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestTicketsAreRefused(t *testing.T) {
	clock := &testClock{}
	s := startServer(t, Config{Now: clock.now, Secret: "one secret for two starts", Limits: Limits{PerClient: 10}})
	other := startServer(t, Config{Secret: "one secret for two starts"})
	moved := func(tk Ticket) Ticket {
		home := s.Ticket(Grant{Client: "a"})
		tk.UDP, tk.TCP, tk.Nonces = home.UDP, home.TCP, home.Nonces
		return tk
	}
	for _, c := range []struct {
		name string
		make func() Ticket
		why  reason
	}{
		{"expired", func() Ticket {
			tk := s.Ticket(Grant{Client: "a", TTL: time.Minute})
			clock.advance(time.Minute)
			return tk
		}, expired},
		{"of another start with the same secret", func() Ticket { return moved(other.Ticket(Grant{Client: "a"})) }, otherStart},
		{"with a guessed password", func() Ticket {
			tk := s.Ticket(Grant{Client: "a"})
			tk.Password += "x"
			return tk
		}, badRequest},
		{"with a changed username", func() Ticket {
			tk := s.Ticket(Grant{Client: "a"})
			tk.Username = tk.Username[:30] + "AAAAAAAAA"
			return tk
		}, badRequest},
		{"that is no ticket", func() Ticket {
			tk := s.Ticket(Grant{Client: "a"})
			tk.Username = "root"
			return tk
		}, forged},
		{"replayed after close", func() Ticket {
			tk := s.Ticket(Grant{Client: "a"})
			a, err := tryAllocate(t, tk, "udp", nil)
			if err != nil {
				t.Fatal(err)
			}
			a.Close()
			return tk
		}, replayed},
		{"used twice at once", func() Ticket {
			tk := s.Ticket(Grant{Client: "a"})
			if _, err := tryAllocate(t, tk, "udp", nil); err != nil {
				t.Fatal(err)
			}
			return tk
		}, replayed},
	} {
		t.Run(c.name, func(t *testing.T) {
			ticket := c.make()
			before := refusals(s, c.why)
			if _, err := tryAllocate(t, ticket, "udp", nil); !errors.Is(err, ErrRefused) {
				t.Errorf("error %v, want ErrRefused", err)
			}
			if got := refusals(s, c.why); got != before+1 {
				t.Errorf("%s counted %d times, want once: %v", reasonNames[c.why], got-before, s.Stats().Refused)
			}
		})
	}
}

func TestATicketReplayedAfterItsExpiryIsStillRefused(t *testing.T) {
	clock := &testClock{}
	s := startServer(t, Config{Now: clock.now})
	tk := s.Ticket(Grant{Client: "a", TTL: time.Minute})
	a, err := tryAllocate(t, tk, "udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	clock.advance(2 * time.Minute)
	if _, err := a.refresh(within(t, patience), defaultLifetime); err != nil {
		t.Errorf("a running allocation must outlive its ticket: %v", err)
	}
	a.Close()
	s.sweep() // forgets the used ticket
	if _, err := tryAllocate(t, tk, "udp", nil); !errors.Is(err, ErrRefused) || refusals(s, expired) != 1 {
		t.Errorf("error %v, refused %v", err, s.Stats().Refused)
	}
}

func TestClockStartingIn1970AndSetLaterChangesNothing(t *testing.T) {
	clock := &testClock{}
	clock.ahead.Store(-time.Now().UnixNano())
	m := newMint(nil, func() time.Duration { return 5 * time.Second })
	user, _, ttl := m.issue(Grant{Client: "a"})
	if c, err := m.read(user); err != nil || ttl != DefaultTicketTTL || c.expires != 5*time.Second+ttl {
		t.Errorf("claim %+v ttl %v err %v", c, ttl, err)
	}
	s := startServer(t, Config{Now: clock.now})
	allocate(t, s, Grant{Client: "a"}, "udp", nil)
}

func TestTicketsHideTheirPasswordInText(t *testing.T) {
	m := newMint(nil, func() time.Duration { return 0 })
	_, password, _ := m.issue(Grant{})
	if s := password.String() + password.LogValue().String() + password.GoString(); strings.Contains(s, string(password)) {
		t.Error("password in text")
	}
}

func FuzzTicketUsername(f *testing.F) {
	m := newMint([]byte("s"), func() time.Duration { return 0 })
	user, _, _ := m.issue(Grant{Client: "a", Peer: netip.MustParseAddr("44.128.0.9"), Class: Friend})
	f.Add(user)
	f.Add("")
	f.Add(strings.Repeat("A", maxUsername+1))
	f.Fuzz(func(t *testing.T, name string) {
		c, err := m.read(name)
		if err == nil && (c.class > Friend || len(name) > maxUsername) {
			t.Errorf("%q accepted as %+v", name, c)
		}
	})
}
