package people

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

// two are devices that take requests and know nothing of each other.
func two(t *testing.T) (w *world, a, b *member, ra, rb *Requests) {
	w = newWorld()
	a, b = w.newMember(t, 1), w.newMember(t, 2)
	ra, rb = a.asking(t), b.asking(t)
	a.Announce()
	b.Announce()
	return w, a, b, ra, rb
}

func link(a identity.Address) identity.Link { return identity.Link{Address: a} }

func TestOneAsksTheOtherAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, ra, rb := two(t)
		changed := rb.Changed()
		a.add(b.address, b.address)
		if err := ra.Ask(link(b.address), "it is me"); err != nil {
			t.Fatal(err)
		}
		if s := ra.Standing(b.address); s != contacts.Asked {
			t.Errorf("standing %q", s)
		}
		<-changed
		all := rb.List()
		if len(all) != 1 || all[0].Address != a.address || all[0].Name != "Device" || all[0].Note != "it is me" {
			t.Fatalf("requests %+v", all)
		}
		if b.sees(1) || a.sees(2) {
			t.Error("seen before they are contacts")
		}
		after(time.Minute)
		b.add(a.address, a.address)
		got, name, err := rb.Accept(a.address)
		if err != nil || got.Address != a.address || name != "Device" || len(rb.List()) != 0 {
			t.Errorf("accepted %v %q, %v", got, name, err)
		}
		until(t, time.Second, "both are mutual and see each other", func() bool {
			return ra.Standing(b.address) == contacts.Mutual && rb.Standing(a.address) == contacts.Mutual && a.sees(2) && b.sees(1)
		})
		after(2 * latency)
		if bonds := append(ra.cfg.Store.Bonds(), rb.cfg.Store.Bonds()...); bonds[0].Unsent || bonds[1].Unsent {
			t.Errorf("something is still to be sent: %+v", bonds)
		}
	})
}

func TestWhoIsAContactAlreadyIsMutualAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, ra, rb := two(t)
		b.add(a.address, a.address)
		a.add(b.address, b.address)
		ra.Ask(link(b.address), "")
		until(t, time.Second, "mutual", func() bool {
			return ra.Standing(b.address) == contacts.Mutual && rb.Standing(a.address) == contacts.Mutual
		})
		if len(rb.List()) != 0 {
			t.Error("a contact was kept as a stranger")
		}
	})
}

func TestWhoIsRefusedOrBlockedCannotTellFromAbsence(t *testing.T) {
	for _, how := range []string{"refused", "blocked"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, b, ra, rb := two(t)
				ra.Ask(link(b.address), "")
				after(time.Second)
				if how == "blocked" {
					b.blocked = append(b.blocked, a.address)
				} else if err := rb.Refuse(a.address); err != nil {
					t.Fatal(err)
				}
				before := w.notes(b.address, a.address)
				body, err := ra.message(kindRequest, "").encode()
				if err != nil {
					t.Fatal(err)
				}
				_, err = a.Tell(t.Context(), b.address, body, false)
				_, absent := a.Tell(t.Context(), address(77), body, false)
				if !errors.Is(err, introduce.ErrNotHere) || err.Error() != absent.Error() {
					t.Errorf("answered %v, who is absent %v", err, absent)
				}
				after(24 * time.Hour)
				if ra.Standing(b.address) != contacts.Asked || w.notes(b.address, a.address) != before {
					t.Error("it was told")
				}
				if how == "refused" && len(rb.List()) != 0 {
					t.Error("the refused one may ask again")
				}
				b.blocked = nil
				b.add(a.address, a.address) // another mind
				if err := rb.Ask(link(a.address), ""); err != nil {
					t.Error(err)
				}
				if b.Receive(a.address) != introduce.Known {
					t.Error("who became a contact is not heard")
				}
			})
		})
	}
}

func TestWhatWasNotSentIsSentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, ra, rb := two(t)
		w.mu.Lock()
		delete(w.nodes, b.address)
		w.mu.Unlock()
		a.add(b.address, b.address)
		if err := ra.Ask(link(b.address), "hello"); err != nil {
			t.Fatal(err)
		}
		after(24 * time.Hour)
		if n := len(requestsOf(w, a, b)); n < 6 || n > 10 {
			t.Errorf("asked %d times in a day", n)
		}
		// A restart forgets nothing.
		ra.Close()
		a.Close()
		a.start(t)
		ra = a.asking(t)
		if ra.Standing(b.address) != contacts.Asked {
			t.Error("forgotten by a restart")
		}
		w.mu.Lock()
		w.nodes[b.address] = b
		w.mu.Unlock()
		b.add(a.address, a.address) // so that a hears b come
		rb.Forget(a.address)
		a.Announce()
		until(t, time.Second, "asked once there is a network", func() bool { return ra.Standing(b.address) == contacts.Mutual })
	})
}

// requestsOf returns the requests that one sent to another.
func requestsOf(w *world, from, to *member) (all []noted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.told {
		if n.from == from.address && n.to == to.address && n.kind == kindRequest {
			all = append(all, n)
		}
	}
	return all
}

func TestARequestIsSentWhenTheContactComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, ra, _ := two(t)
		w.mu.Lock()
		delete(w.nodes, b.address)
		w.mu.Unlock()
		a.add(b.address, b.address)
		ra.Ask(link(b.address), "")
		after(3 * time.Hour)
		w.mu.Lock()
		w.nodes[b.address] = b
		w.mu.Unlock()
		b.add(a.address, a.address)
		until(t, time.Second, "asked when it comes", func() bool { return ra.Standing(b.address) == contacts.Mutual })
	})
}

func TestNobodyAcceptsWhatWasNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, ra, rb := two(t)
		body, err := rb.message(kindAccept, "").encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Handle(t.Context(), b.address, body); !errors.Is(err, ErrAway) {
			t.Errorf("a stranger's yes: %v", err)
		}
		a.add(b.address, b.address)
		if _, err := a.Handle(t.Context(), b.address, body); !errors.Is(err, ErrAway) || ra.Standing(b.address) != "" {
			t.Errorf("a contact's yes to nothing: %v, standing %q", err, ra.Standing(b.address))
		}
	})
}

func TestARequestForSomebodyElseIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, ra, rb := two(t)
		for _, who := range []identity.Address{address(9), owner(9)} {
			m := ra.message(kindRequest, "")
			m.Link.Address = who
			body, err := m.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Handle(t.Context(), a.address, body); !errors.Is(err, ErrAway) || len(rb.List()) != 0 {
				t.Errorf("%s speaks for %s: %v", a.address.Short(), who.Short(), err)
			}
		}
	})
}

func TestPeopleAskEachOtherWhicheverDeviceAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, ra, rb := two(t)
		anna, bob := owner(1), owner(2)
		attic := w.newMember(t, 3) // of Bob, too; b is off
		attic.asking(t)
		a.owners[a.address] = anna
		b.owners[b.address], attic.owners[attic.address] = bob, bob
		w.mu.Lock()
		delete(w.nodes, b.address)
		w.mu.Unlock()
		rc := attic.cfg.Requests
		attic.Announce()
		a.add(b.address, bob)
		a.add(attic.address, bob)
		ra.Ask(link(bob), "")
		until(t, time.Second, "the attic has it", func() bool { return len(rc.List()) == 1 })
		if r := rc.List()[0]; r.Address != anna || r.From != a.address || r.Name != "Person" {
			t.Errorf("request %+v", r)
		}
		after(time.Second)
		attic.add(a.address, anna)
		if _, _, err := rc.Accept(anna); err != nil {
			t.Fatal(err)
		}
		until(t, time.Second, "mutual", func() bool {
			return ra.Standing(bob) == contacts.Mutual && rc.Standing(anna) == contacts.Mutual
		})
		after(2 * latency)
		if bonds := rc.cfg.Store.Bonds(); bonds[0].Unsent {
			t.Errorf("the yes did not arrive: %+v", bonds)
		}
		if len(rb.List()) != 0 {
			t.Error("a device that is off was asked")
		}
	})
}

func TestAFloodOfRequestsKeepsTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, b, _, rb := two(t)
		for n := range 1000 {
			from := address(100 + n)
			l := link(from)
			body, err := message{Kind: kindRequest, Name: fmt.Sprint(n), Link: &l}.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Handle(t.Context(), from, body); err != nil {
				t.Fatal(err)
			}
		}
		if all := rb.List(); len(all) != contacts.MaxPending || all[0].Name != "999" {
			t.Errorf("%d wait, the latest %q", len(all), all[0].Name)
		}
		if b.files.count() > 2 {
			t.Errorf("strangers caused %d writes", b.files.count())
		}
	})
}

func TestTextsThatCannotBeSentAreSaidSoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, b, ra, _ := two(t)
		for text, ok := range map[string]bool{
			strings.Repeat("x", MaxNote): true, strings.Repeat("x", MaxNote+1): false,
			"two\nlines": false, "\xff": false, "": true,
		} {
			if err := ra.Ask(link(b.address), text); (err == nil) != ok {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

func TestWithoutRequestsStrangersAreUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.newMember(t, 1), w.newMember(t, 2)
		body := []byte(`{"v":1,"k":"request","link":"` + b.address.String() + `"}`)
		if _, err := a.Handle(t.Context(), b.address, body); !errors.Is(err, ErrAway) {
			t.Error(err)
		}
		for _, answer := range []string{kindAsked, kindMutual} {
			if _, err := a.Handle(t.Context(), b.address, []byte(`{"v":1,"k":"`+answer+`"}`)); !errors.Is(err, ErrMessage) {
				t.Errorf("an answer as a question: %v", err)
			}
		}
	})
}
