package mail

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
)

func TestTextsReachAContactThatIsOnLine(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		changed := b.mail.Changed()
		a.send(b, "one")
		a.send(b, "two")
		synctest.Wait()
		b.has(a, "one", "two")
		a.has(b, "one", "two")
		a.states(b, Delivered, Delivered)
		b.states(a, "", "")
		select {
		case <-changed:
		default:
			t.Error("nothing told of the change")
		}
		if n := b.mail.Unread(a.person); n != 2 {
			t.Errorf("%d unread", n)
		}
		if err := b.mail.MarkRead(a.person); err != nil || b.mail.Unread(identity.Address{}) != 0 {
			t.Errorf("after MarkRead: %v, %d unread", err, b.mail.Unread(identity.Address{}))
		}
	})
}

func TestAHelperCarriesBetweenTwoThatAreNeverOnLineTogether(t *testing.T) {
	for _, inMemory := range []bool{false, true} {
		t.Run(fmt.Sprintf("in memory %v", inMemory), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b, h := w.add(1), w.add(2), w.add(3)
				h.inMemory = inMemory
				h.mail.Close()
				h.start()
				a.helpers = []identity.Address{h.address()}
				b.set(false)
				for i := range 5 {
					a.send(b, fmt.Sprint(i))
				}
				synctest.Wait()
				a.states(b, Stored, Stored, Stored, Stored, Stored)
				if s := h.mail.Stats(); s.Held != 5 {
					t.Errorf("the helper holds %d", s.Held)
				}
				a.set(false)
				pass(3 * time.Hour)
				b.set(true)
				synctest.Wait()
				b.has(a, "0", "1", "2", "3", "4")
				b.set(false)
				a.set(true)
				synctest.Wait()
				a.states(b, Delivered, Delivered, Delivered, Delivered, Delivered)
				if s := h.mail.Stats(); s.Held != 0 {
					t.Errorf("the helper still holds %d", s.Held)
				}
			})
		})
	}
}

func TestEveryDeviceOfBothPeopleHasTheConversation(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		alice := identity.NewAddress(address(101).Key(), identity.KindOwner)
		bob := identity.NewAddress(address(102).Key(), identity.KindOwner)
		a1, a2, b1, b2 := w.add(1), w.add(2), w.add(3), w.add(4)
		a1.person, a2.person, b1.person, b2.person = alice, alice, bob, bob
		a2.set(false)
		b2.set(false)
		a1.send(b1, "hello")
		synctest.Wait()
		a1.states(b1, Delivered)
		a2.set(true)
		b2.set(true)
		synctest.Wait()
		b2.send(a1, "good evening")
		synctest.Wait()
		for _, n := range []*node{a1, a2} {
			n.has(b1, "hello", "good evening")
		}
		for _, n := range []*node{b1, b2} {
			n.has(a1, "hello", "good evening")
		}
		list := a2.mail.List(bob, "", 0)
		if !list[0].Out || list[1].Out || list[0].ID != a1.mail.List(bob, "", 0)[0].ID {
			t.Errorf("the other device has %+v", list)
		}
		if a2.mail.Unread(bob) != 1 {
			t.Errorf("%d unread, one was the owner's own", a2.mail.Unread(bob))
		}
	})
}

func TestTheSenderTriesByItselfWithoutBeingTold(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		w.mu.Lock()
		b.online = false
		w.mu.Unlock()
		a.send(b, "x")
		pass(4 * time.Hour)
		// 1, 6, 36, 96, 156, 216 minutes.
		if n := w.requests("PUT /v1/deliver"); n != 6 {
			t.Errorf("%d tries in four hours", n)
		}
		w.mu.Lock()
		b.online = true
		w.mu.Unlock()
		pass(time.Hour)
		b.has(a, "x")
		before := w.requests("PUT /v1/deliver")
		pass(24 * time.Hour)
		if n := w.requests("PUT /v1/deliver"); n != before {
			t.Errorf("%d requests after all was delivered", n-before)
		}
	})
}

func TestMessagesExpireAndArePassedOver(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h := w.add(1), w.add(2), w.add(3)
		a.helpers = []identity.Address{h.address()}
		b.set(false)
		a.send(b, "old")
		pass(6 * 24 * time.Hour)
		a.send(b, "young")
		pass(30 * time.Hour)
		a.states(b, Expired, Stored)
		if s := h.mail.Stats(); s.Held != 1 {
			t.Errorf("the helper holds %d", s.Held)
		}
		b.set(true)
		synctest.Wait()
		b.has(a, "young")
		a.states(b, Expired, Delivered)
	})
}

func TestARecipientThatLostItsStateJoinsIn(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		a.send(b, "one")
		a.send(b, "two")
		synctest.Wait()
		b.mail.Close()
		b.fs = newCrashFS()
		b.start()
		a.send(b, "three")
		a.send(b, "four")
		synctest.Wait()
		b.has(a, "three", "four")
		a.states(b, Delivered, Delivered, Delivered, Delivered)
	})
}

func TestASenderThatLostItsStateBeginsAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		a.send(b, "one")
		synctest.Wait()
		a.mail.Close()
		a.fs = newCrashFS()
		a.start()
		a.send(b, "two")
		synctest.Wait()
		b.has(a, "one", "two")
		a.states(b, Delivered)
	})
}

// A copy of the state folder is put back: numbers are given a second time.
func TestASenderPutBackToAnEarlierStateLosesNothing(t *testing.T) {
	for _, viaHelper := range []bool{false, true} {
		t.Run(fmt.Sprintf("by helper %v", viaHelper), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b, h := w.add(1), w.add(2), w.add(3)
				a.send(b, "one")
				synctest.Wait()
				backup := a.fs.copy()
				a.send(b, "two")
				a.send(b, "three")
				synctest.Wait()
				a.mail.Close()
				a.fs = backup
				a.start()
				if viaHelper {
					a.helpers = []identity.Address{h.address()}
					b.set(false)
				}
				a.send(b, "deux")
				a.send(b, "trois")
				synctest.Wait()
				for range 4 { // turns: the receipt tells of the loss
					a.set(!viaHelper)
					b.set(true)
					synctest.Wait()
					b.set(!viaHelper)
					a.set(true)
					synctest.Wait()
				}
				b.has(a, "one", "two", "three", "deux", "trois")
				a.states(b, Delivered, Delivered, Delivered)
			})
		})
	}
}

func TestSendRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		tests := []struct {
			name, text string
			want       error
		}{
			{"nothing", "", ErrText},
			{"one byte", "x", nil},
			{"the longest", strings.Repeat("x", MaxText), nil},
			{"one more", strings.Repeat("x", MaxText+1), ErrText},
			{"no UTF-8", "\xff", ErrText},
			{"an escape", "\x1b[2J", ErrText},
			{"lines", "a\n\tb", nil},
		}
		for _, tt := range tests {
			if _, err := a.mail.Send(b.person, tt.text); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			}
		}
		if _, err := a.mail.Send(address(9), "x"); !errors.Is(err, ErrNoDevice) {
			t.Errorf("to nobody: %v", err)
		}
		if _, err := a.mail.Send(a.person, "x"); !errors.Is(err, ErrNoDevice) {
			t.Errorf("to itself: %v", err)
		}
		synctest.Wait()
		if n := len(b.mail.List(a.person, "", 0)); n != 3 {
			t.Errorf("%d came", n)
		}
	})
}

func TestSendSaysWhenTooManyWait(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		b.set(false)
		for i := range maxPending {
			a.send(b, fmt.Sprint(i))
		}
		if _, err := a.mail.Send(b.person, "x"); !errors.Is(err, ErrFull) {
			t.Errorf("one more than %d: %v", maxPending, err)
		}
		b.set(true)
		synctest.Wait()
		if n := len(b.mail.List(a.person, "", 0)); n != maxPending {
			t.Errorf("%d came", n)
		}
		a.send(b, "x")
	})
}

func TestAnOwnDeviceThatStaysAwayStopsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, own := w.add(1), w.add(2), w.add(3)
		own.person = a.person
		own.set(false)
		for i := range maxPending + 10 {
			a.send(b, fmt.Sprint(i))
			pass(time.Second)
		}
		if n := len(b.mail.List(a.person, "", 0)); n != maxPending+10 {
			t.Errorf("%d came", n)
		}
		own.set(true)
		synctest.Wait()
		list := own.mail.List(b.person, "", 0)
		if len(list) != maxPending || list[0].Text != "10" {
			t.Errorf("the own device has %d", len(list))
		}
	})
}

func TestAConversationIsThereAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.add(1), w.add(2)
		b.mail.Close()
		cfg := b.config()
		cfg.FS = Dir(t.TempDir())
		for range 3 {
			m, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			b.mail = m
			b.answerBy(m.Handler())
			m.Start(t.Context())
			a.send(b, "hello")
			b.send(a, "good evening")
			synctest.Wait()
			if m.Unread(a.person) != 1 || m.MarkRead(a.person) != nil {
				t.Errorf("%d unread", m.Unread(a.person))
			}
			for range 2 {
				if err := m.Close(); err != nil {
					t.Errorf("it does not close: %v", err)
				}
			}
			if _, err := m.Send(a.person, "late"); !errors.Is(err, ErrClosed) {
				t.Errorf("send after Close: %v", err)
			}
			if err := m.Start(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("start after Close: %v", err)
			}
		}
		if n := len(b.mail.List(a.person, "", 0)); n != 6 || len(a.mail.List(b.person, "", 0)) != 6 {
			t.Errorf("%d messages", n)
		}
		w.close()
	})
}

func TestListPages(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		for i := range 10 {
			a.send(b, fmt.Sprint(i))
		}
		all := a.mail.List(b.person, "", 0)
		tests := []struct {
			after       string
			limit       int
			first, last string
		}{
			{"", 3, "7", "9"},
			{"", 0, "0", "9"},
			{all[3].ID, 2, "4", "5"},
			{all[3].ID, 0, "4", "9"},
			{"unknown", 2, "8", "9"},
		}
		for _, tt := range tests {
			got := a.mail.List(b.person, tt.after, tt.limit)
			if got[0].Text != tt.first || got[len(got)-1].Text != tt.last {
				t.Errorf("after %q limit %d: %v", tt.after, tt.limit, got)
			}
		}
		if got := a.mail.List(b.person, all[9].ID, 5); len(got) != 0 {
			t.Errorf("after the last: %v", got)
		}
		if got := a.mail.List(address(7), "", 0); len(got) != 0 {
			t.Errorf("nobody's: %v", got)
		}
	})
}

func TestHistoryIsBoundedAndAFloodHarmsOnlyItsOwn(t *testing.T) {
	s := newStore()
	quiet, loud := address(1), address(2)
	n := uint64(0)
	get := func(from identity.Address, size int) {
		n++
		e := &entry{contact: from, text: strings.Repeat("x", size)}
		e.id = messageID{byte(n), byte(n >> 8), byte(n >> 16)}
		s.apply(encodeReceived(e, from, incoming{stream: 5, last: n}))
	}
	for range 20 {
		get(quiet, MaxText)
	}
	for range 3 * maxHistory {
		get(loud, MaxText)
	}
	if s.talks[loud].count != maxHistory || s.talks[quiet].count != 20 {
		t.Errorf("%d and %d are kept", s.talks[loud].count, s.talks[quiet].count)
	}
	for i := byte(3); i < 13; i++ {
		for range maxHistory {
			get(address(i), MaxText)
		}
	}
	if s.bytes > maxHistoryBytes || s.talks[quiet].count != 20 {
		t.Errorf("%d bytes, %d of the quiet one", s.bytes, s.talks[quiet].count)
	}
	if len(s.entries) != s.sum() {
		t.Errorf("%d entries, the conversations have %d", len(s.entries), s.sum())
	}
}

func (s *store) sum() (n int) {
	for _, t := range s.talks {
		n += t.count
	}
	return n
}

func TestClocks(t *testing.T) {
	y2026 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name         string
		before, then time.Time
		after        time.Duration
		want         State
	}{
		{"no clock", time.Time{}, time.Time{}, 6 * 24 * time.Hour, Waiting},
		{"no clock, too long", time.Time{}, time.Time{}, 8 * 24 * time.Hour, Expired},
		{"set from 1970", time.Time{}, y2026, 2 * time.Hour, Waiting},
		{"back a day", y2026, y2026.AddDate(0, 0, -1), 2 * time.Hour, Waiting},
		{"back a day, too long", y2026, y2026.AddDate(0, 0, -1), 8 * 24 * time.Hour, Expired},
		{"lost", y2026, time.Time{}, 2 * time.Hour, Waiting},
		{"past 2038", y2026, y2026.AddDate(20, 0, 0), 2 * time.Hour, Expired},
		{"a week later", y2026, y2026.Add(Lifetime), 2 * time.Hour, Expired},
		{"just not a week", y2026, y2026.Add(Lifetime - time.Second), 2 * time.Hour, Waiting},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.add(1), w.add(2)
				b.set(false)
				a.setWall(tt.before)
				a.send(b, "x")
				synctest.Wait()
				a.setWall(tt.then)
				pass(tt.after)
				a.states(b, tt.want)
			})
		})
	}
}

func TestAMessageWrittenWithoutClockHasTheTimeItCame(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.add(1), w.add(2)
		b.setWall(time.UnixMilli(1_800_000_000_123))
		a.send(b, "x")
		synctest.Wait()
		if got := b.mail.List(a.person, "", 0)[0].UnixMS; got != 1_800_000_000_123 {
			t.Errorf("it came at %d", got)
		}
		if got := a.mail.List(b.person, "", 0)[0].UnixMS; got != 0 {
			t.Errorf("it was written at %d", got)
		}
	})
}

func TestNothingIsWrittenWhileNothingHappens(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h := w.add(1), w.add(2), w.add(3)
		a.helpers = []identity.Address{h.address()}
		b.set(false)
		a.send(b, "x")
		pass(time.Hour)
		before := a.fs.ops + b.fs.ops + h.fs.ops
		pass(5 * 24 * time.Hour)
		a.mail.MarkRead(b.person)
		if n := a.fs.ops + b.fs.ops + h.fs.ops; n != before {
			t.Errorf("%d operations in five days", n-before)
		}
		writes := a.fs.writes
		a.mail.Close()
		a.start()
		synctest.Wait()
		if n := a.fs.writes; n != writes {
			t.Errorf("%d writes by a restart", n-writes)
		}
	})
}

func TestNothingGoesToADeviceThatWasRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, h := w.add(1), w.add(2), w.add(3)
		b.set(false)
		a.send(b, "x")
		synctest.Wait()
		a.friends = []identity.Address{h.person}
		a.helpers = []identity.Address{h.address()}
		w.count = map[string]int{}
		a.mail.Came(h.address())
		b.set(true)
		pass(48 * time.Hour)
		if len(w.count) != 0 {
			t.Errorf("requests were made: %v", w.count)
		}
		b.has(a)
	})
}

// copy returns the folder as it is.
func (f *crashFS) copy() *crashFS {
	c := newCrashFS()
	for name, n := range f.now {
		fresh := &inode{content: n.content, durable: n.content}
		c.now[name], c.safe[name] = fresh, fresh
	}
	return c
}
