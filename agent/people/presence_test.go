package people

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

// numbers returns 1 … n but one.
func numbers(n, but int) (all []int) {
	for i := 1; i <= n; i++ {
		if i != but {
			all = append(all, i)
		}
	}
	return all
}

func TestContactsSeeEachOtherComeAndGo(t *testing.T) {
	for _, contacts := range []int{3, 50} {
		t.Run(fmt.Sprint(contacts, " contacts"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				var others []*member
				for n := 2; n <= contacts+1; n++ {
					others = append(others, w.newMember(t, n, 1))
				}
				a := w.newMember(t, 1, numbers(contacts+1, 1)...)
				limit := time.Second
				if contacts > burst {
					limit = 5 * time.Second
				}
				a.Announce()
				came := until(t, limit, "a contact sees the other come", func() bool {
					return !slices.ContainsFunc(others, func(o *member) bool { return !o.sees(1) })
				})
				after(latency + time.Millisecond) // their answers arrive
				if a.State(address(2)) == (Seen{}) || !a.sees(2) || a.State(address(2)).Name != others[0].self.Name {
					t.Errorf("one exchange did not inform both: %+v", a.State(address(2)))
				}
				closing := make(chan error, 1)
				go func() { closing <- a.Close() }()
				went := until(t, time.Second, "a contact sees the other go", func() bool {
					return !slices.ContainsFunc(others, func(o *member) bool { return o.sees(1) })
				})
				if err := <-closing; err != nil {
					t.Error(err)
				}
				t.Logf("%d contacts: all saw it come in %v and go in %v", contacts, came, went)
			})
		})
	}
}

func TestSubscribersHearOfEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		changed := b.Changed()
		a.Announce()
		began := time.Now()
		<-changed
		if d := time.Since(began); d > time.Second {
			t.Errorf("the change was told after %v", d)
		}
		after(time.Minute)
		since := b.State(address(1)).Since
		changed = b.Changed()
		a.mu.Lock()
		a.self = Self{Name: "attic", Roster: 7}
		a.mu.Unlock()
		a.Announce()
		<-changed
		if s := b.State(address(1)); s.Name != "attic" || s.Roster != 7 || !s.Online || s.Since != since {
			t.Errorf("after another name: %+v", s)
		}
	})
}

func TestAnIdleHourCostsLessThanOnePacketAMinuteAndContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const contacts, packets = 50, 14
		w := newWorld()
		for n := 2; n <= contacts+1; n++ {
			w.newMember(t, n, 1).Announce()
		}
		a := w.newMember(t, 1, numbers(contacts+1, 1)...)
		a.Announce()
		after(5 * time.Minute)
		before := w.notes(identity.Address{}, identity.Address{})
		after(6 * time.Hour)
		perHour := float64(w.notes(identity.Address{}, identity.Address{})-before) / 6
		perMinute := perHour * packets / 60 / contacts
		t.Logf("50 contacts on-line: %.0f notes an hour of both sides, %.2f packets a minute and contact", perHour, perMinute)
		if perMinute > 1 {
			t.Errorf("%.2f packets a minute and contact", perMinute)
		}
		for n := 2; n <= contacts+1; n++ {
			if !a.sees(n) {
				t.Fatalf("contact %d is off-line though it never left", n)
			}
		}
	})
}

func TestAnOfflineContactIsTriedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.newMember(t, 1, numbers(51, 1)...)
		a.Announce()
		after(10 * time.Hour)
		perHour := float64(w.notes(a.address, identity.Address{})) / 10 / 50
		t.Logf("50 contacts off-line: %.2f notes an hour and contact", perHour)
		if perHour > 2 || perHour < 0.5 {
			t.Errorf("%.2f notes an hour and contact", perHour)
		}
	})
}

func TestEachSideIsWatchedForAsLongAsItIsOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		a.Announce()
		b.Announce()
		after(24 * time.Hour)
		last := map[identity.Address]time.Time{}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, n := range w.told {
			if !n.watch {
				t.Fatal("a note of presence asked for no watch")
			}
			if before, ok := last[n.from]; ok && n.at.Sub(before) > 2*time.Hour {
				t.Errorf("%s asked for no watch for %v", n.from.Short(), n.at.Sub(before))
			}
			last[n.from] = n.at
		}
		if len(last) != 2 {
			t.Errorf("%d sides ask for watches", len(last))
		}
	})
}

func TestAPowerCutIsSeenByTheHintAndWithoutItByTheLease(t *testing.T) {
	for _, hint := range []bool{true, false} {
		t.Run(fmt.Sprint("hint=", hint), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
				a.Announce()
				b.Announce()
				after(time.Minute)
				a.vanish()
				limit := time.Second
				if hint {
					b.Left(a.address)
				} else {
					limit = lease*5/4 + time.Minute
				}
				until(t, limit, "the contact is off-line", func() bool { return !b.sees(1) })
				if seen := b.State(a.address).LastSeen; seen.IsZero() || time.Since(seen) > limit+time.Minute {
					t.Errorf("last seen %v", seen)
				}
			})
		})
	}
}

func TestWhoComesBackIsWatchedAnew(t *testing.T) {
	for _, noticed := range []bool{true, false} {
		t.Run(fmt.Sprint("noticed=", noticed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
				a.Announce()
				b.Announce()
				after(time.Minute)
				a.vanish() // and its watchers with its registration
				if noticed {
					b.Left(a.address)
					after(10 * time.Second)
				}
				a.start(t)
				a.Announce()
				back := time.Now()
				after(watchFirst + watchSpread + 2*time.Second)
				w.mu.Lock()
				defer w.mu.Unlock()
				if !slices.ContainsFunc(w.told, func(n noted) bool {
					return n.from == b.address && n.to == a.address && n.watch && n.at.After(back)
				}) {
					t.Error("nobody watches it")
				}
			})
		})
	}
}

func TestForgedHintsCostFewNotesAndHarmNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		a.Announce()
		b.Announce()
		after(time.Minute)
		before := w.notes(b.address, a.address)
		for range 600 {
			b.Left(a.address)
			b.Left(address(77))
			after(100 * time.Millisecond)
			if !b.sees(1) {
				t.Fatal("a forged hint was believed")
			}
		}
		if n := w.notes(b.address, a.address) - before; n > 3 {
			t.Errorf("a minute of forged hints cost %d notes", n)
		}
	})
}

func TestOneLostNoteIsNotALostContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		a.Announce()
		b.Announce()
		after(time.Minute)
		w.mu.Lock()
		delete(w.nodes, a.address)
		w.mu.Unlock()
		b.Announce()
		after(time.Second)
		w.mu.Lock()
		w.nodes[a.address] = a
		w.mu.Unlock()
		if !b.sees(1) {
			t.Error("gone after one try")
		}
		after(secondTry + time.Second)
		if !b.sees(1) || b.device(a.address).failures != 0 {
			t.Error("gone though the second try was answered")
		}
	})
}

func TestWhoMovesTellsAlsoThoseItCouldNotReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		b := w.newMember(t, 2, 1)
		a := w.newMember(t, 1, 2, 3)
		w.mu.Lock()
		delete(w.nodes, b.address) // cannot be reached from here
		w.mu.Unlock()
		a.Moved() // nothing stands yet: nothing is told
		after(time.Second)
		if n := w.notes(a.address, identity.Address{}); n != 0 {
			t.Fatalf("%d notes before the first registration", n)
		}
		a.Announce()
		after(announceGap)
		w.mu.Lock()
		w.nodes[b.address] = b
		w.mu.Unlock()
		a.Announce()
		after(announceGap + time.Second)
		if b.sees(1) {
			t.Error("a new name was told to who was off-line")
		}
		a.Moved()
		until(t, announceGap, "the contact sees it", func() bool { return b.sees(1) })
	})
}

func TestRoundsDoNotFollowEachOtherClosely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, _ := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		a.Announce()
		for range 100 {
			a.Moved()
			after(50 * time.Millisecond)
		}
		after(time.Minute)
		if n := w.notes(a.address, address(2)); n > 3 {
			t.Errorf("%d notes for a hundred moves in five seconds", n)
		}
	})
}

func TestOwnDevicesAreToldFirstAndNotTooManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.newMember(t, 1, numbers(201, 1)...)
		a.Announce()
		after(9 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		for n := 2; n < 2+maxAtOnce; n++ {
			first := func(t noted) bool { return t.to == address(n) }
			if !slices.ContainsFunc(w.told[:maxAtOnce], first) {
				t.Errorf("number %d of the list is not among the first", n)
			}
		}
		perSecond := map[int64]int{}
		for _, n := range w.told {
			perSecond[n.at.Unix()]++
		}
		for s, n := range perSecond {
			if n > burst+20 {
				t.Errorf("%d notes in second %d", n, s)
			}
		}
		if len(w.told) < 150 {
			t.Errorf("%d told in 9 s", len(w.told))
		}
	})
}

func TestHidingLooksLikeAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		a.Announce()
		b.Announce()
		after(time.Minute)
		a.hide(2, true)
		until(t, time.Second, "who is hidden from sees it go", func() bool { return !b.sees(1) })
		before := w.notes(a.address, b.address)
		b.Moved()
		after(time.Second)
		if b.sees(1) {
			t.Error("seen though hidden")
		}
		if !a.sees(2) {
			t.Error("who hides does not see the other's note")
		}
		body := b.word(t, true)
		_, hidden := b.Tell(t.Context(), a.address, body, false)
		_, absent := b.Tell(t.Context(), address(77), body, false)
		if !errors.Is(hidden, introduce.ErrNotHere) || hidden.Error() != absent.Error() {
			t.Errorf("hidden: %v, absent: %v", hidden, absent)
		}
		a.Announce()
		after(12 * time.Hour)
		if n := w.notes(a.address, b.address) - before; n != 0 {
			t.Errorf("%d notes to whom we hide from", n)
		}
		if err := a.Close(); err != nil || w.notes(a.address, b.address) != before {
			t.Error("whom we hide from was told that we leave")
		}
	})
}

func TestHidingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		a.hide(2, true)
		a.Announce()
		b.Announce()
		after(time.Minute)
		if b.sees(1) || !a.sees(2) {
			t.Errorf("hidden: b sees %v, a sees %v", b.sees(1), a.sees(2))
		}
		a.hide(2, false)
		until(t, time.Second, "seen again", func() bool { return b.sees(1) })
		a.hide(2, true)
		b.vanish()
		until(t, silence+time.Minute, "whom we hide from is gone after long silence", func() bool { return !a.sees(2) })
	})
}

func TestTheBlockedAndStrangersSeeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.newMember(t, 1, 2)
		a.blocked = append(a.blocked, address(2))
		b, stranger := w.newMember(t, 2, 1), w.newMember(t, 3, 1)
		for _, m := range []*member{a, b, stranger} {
			m.Announce()
		}
		after(time.Hour)
		if b.sees(1) || stranger.sees(1) {
			t.Error("seen")
		}
		if a.Receive(b.address) != introduce.Unheard || a.Receive(stranger.address) != introduce.Unheard {
			t.Error("heard")
		}
	})
}

func TestANewContactIsToldAtOnceAndARemovedOneForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1), w.newMember(t, 2, 1)
		a.Announce()
		after(time.Minute)
		a.add(b.address, b.address)
		until(t, time.Second, "the new contact sees it", func() bool { return b.sees(1) && a.sees(2) })
		a.mu.Lock()
		a.peers = nil
		a.mu.Unlock()
		a.Refresh()
		if a.sees(2) {
			t.Error("the removed contact is on-line")
		}
		if a.Saw(b.address); a.sees(2) {
			t.Error("the removed contact was seen")
		}
	})
}

func TestASessionShowsThatAContactIsOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		w.mu.Lock()
		delete(w.nodes, b.address)
		w.mu.Unlock()
		a.Announce()
		after(time.Minute)
		w.mu.Lock()
		w.nodes[b.address] = b
		w.mu.Unlock()
		a.Saw(b.address)
		if !a.sees(2) {
			t.Error("not seen")
		}
		until(t, 2*soon, "both say who they are", func() bool { return a.State(b.address).Name != "" && b.sees(1) })
		before := w.notes(a.address, b.address)
		for range 1000 {
			a.Saw(b.address)
			after(time.Second)
		}
		if n := w.notes(a.address, b.address) - before; n > 1 {
			t.Errorf("%d notes while there were signs each second", n)
		}
	})
}

func TestAPersonIsOnlineIfAnyDeviceIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		phone, attic := w.newMember(t, 2, 1), w.newMember(t, 3, 1)
		a := w.newMember(t, 1)
		bob := owner(1)
		a.add(phone.address, bob)
		a.add(attic.address, bob)
		phone.self.Name, attic.self.Name = "phone", "attic"
		a.Announce()
		after(time.Second)
		if n := len(a.Members(bob.String())); n != 2 || !a.Person(bob.String()).Online {
			t.Fatalf("%d devices, %+v", n, a.Person(bob.String()))
		}
		phone.Close()
		after(time.Second)
		if p := a.Person(bob.String()); !p.Online || p.Name != "attic" || p.Address != attic.address {
			t.Errorf("one device left: %+v", p)
		}
		after(time.Minute)
		attic.Close()
		after(time.Second)
		if p := a.Person(bob.String()); p.Online || p.Name != "attic" || p.LastSeen.IsZero() {
			t.Errorf("none left: %+v", p)
		}
		if p := a.Person("nobody"); !p.Address.IsZero() {
			t.Errorf("of nobody: %+v", p)
		}
	})
}

func TestOldWordsChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2), w.newMember(t, 2, 1)
		say := func(on bool) []byte { return a.word(t, on) }
		hear := func(body []byte) {
			if _, err := b.Handle(t.Context(), a.address, body); err != nil {
				t.Error(err)
			}
		}
		oldOff, oldOn, on := say(false), say(true), say(true)
		hear(on)
		hear(oldOff)
		if !b.sees(1) {
			t.Error("an earlier farewell of the same life was believed")
		}
		off := say(false)
		hear(off)
		hear(oldOn)
		hear(on)
		if b.sees(1) {
			t.Error("an earlier greeting was believed after the farewell")
		}

		// Another life: what is left of the former is checked, not believed.
		heldUp := say(false)
		a.vanish()
		after(time.Minute)
		a.start(t)
		a.Announce()
		after(time.Second)
		if !b.sees(1) {
			t.Fatal("the new life is not seen")
		}
		before := w.notes(b.address, a.address)
		hear(heldUp)
		if !b.sees(1) {
			t.Error("a farewell of a former life was believed")
		}
		after(time.Second)
		if !b.sees(1) || w.notes(b.address, a.address) != before+1 {
			t.Errorf("%d notes to find out", w.notes(b.address, a.address)-before)
		}

		// One never heard of could be either: it is checked, too.
		unheard := message{Kind: kindHere, Boot: "00000000000000aa", N: 1}
		body, _ := unheard.encode()
		after(hintGap)
		hear(body)
		after(time.Second)
		if !b.sees(1) {
			t.Error("a farewell of an unknown life was believed")
		}

		// A greeting of an unknown life retires the present one wrongly; an
		// answer, which is fresh, brings it back.
		unheard.On = true
		body, _ = unheard.encode()
		hear(body)
		after(announceGap + hintGap)
		a.Announce()
		after(announceGap)
		if d := b.device(a.address); !d.seen.Online || d.boot != a.boot {
			t.Errorf("the present life is not believed any more: %+v", d)
		}
	})
}

func TestWhenContactsWereSeenOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1, 2, 3), w.newMember(t, 2, 1)
		a.Announce()
		after(time.Second)
		b.Close()
		after(time.Minute)
		seen := a.State(b.address).LastSeen.Truncate(time.Millisecond)
		after(23 * time.Hour)
		if a.files.count() != 0 {
			t.Errorf("%d writes within a day", a.files.count())
		}
		after(3 * time.Hour)
		if a.files.count() != 1 {
			t.Errorf("%d writes after a day", a.files.count())
		}
		after(100 * time.Hour)
		a.Close()
		if a.files.count() != 1 {
			t.Errorf("%d writes though nothing changed", a.files.count())
		}
		a.start(t)
		if s := a.State(b.address); s.Online || !s.LastSeen.Equal(seen) {
			t.Errorf("after a restart: %+v, want last seen %v", s, seen)
		}
	})
}

func TestCloseEndsInTimeWhateverContactsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.newMember(t, 1, numbers(101, 1)...)
		a.cfg.Teller = stuck{}
		a.Announce()
		for n := 2; n <= 101; n++ {
			a.Saw(address(n))
		}
		after(time.Second)
		began := time.Now()
		a.Close()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > partingLimit {
			t.Errorf("closed after %v", d)
		}
		if _, err := a.Handle(t.Context(), address(2), []byte(`{"v":1,"k":"here","boot":"0000000000000001","n":1,"on":true}`)); !errors.Is(err, ErrAway) {
			t.Errorf("after Close: %v", err)
		}
		a.Saw(address(2))
		a.Left(address(2))
	})
}

// stuck answers nobody.
type stuck struct{}

func (stuck) Tell(ctx context.Context, _ identity.Address, _ []byte, _ bool) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTooManyDevicesAreNotLookedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newWorld().newMember(t, 1, numbers(maxPeers+2, 1)...)
		if a.Refresh(); len(a.devices) != maxPeers {
			t.Errorf("%d devices", len(a.devices))
		}
	})
}
