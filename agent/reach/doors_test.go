package reach

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/nat/portmap"
	"porchlight/nat/stun"
)

var (
	_ Mapper = (*portmap.Mapper)(nil)
	_ Knocks = (*dialback.Client)(nil)
)

func TestTheFirstTestComesWithTheFirstRegistration(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true}, func(w *watched) {
		if s := w.State(); s.Verdict != api.Forwarded || !s.UDP || s.TCP {
			t.Errorf("%+v", s)
		}
		if w.street.count() != 1 {
			t.Errorf("%d tests", w.street.count())
		}
	})
	watch(t, nil, func(w *watched) {
		if s := w.State(); s.Verdict != api.NATEasy {
			t.Errorf("%+v", s)
		}
	})
}

// slowly tells of a knock at the first place at once and then waits.
type slowly struct{ from netip.AddrPort }

func (s slowly) Knock(ctx context.Context, _ identity.Address, q dialback.Question) (dialback.Result, error) {
	q.Came(0, s.from)
	<-ctx.Done()
	return dialback.Result{}, ctx.Err()
}

func TestAKnockCountsBeforeTheTestIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeperWith(own, seesBy4(outside, stun.Behaviour{}))
		k.tested, k.cfg.Knocks = false, slowly{netip.MustParseAddrPort("44.9.9.9:1")}
		close(k.ready)
		k.Start()
		defer k.Close()
		synctest.Wait()
		if s := k.State(); s.Verdict != api.Forwarded || !s.UDP {
			t.Errorf("%+v", s)
		}
	})
}

func TestAClosedDoorIsNoticedWithinTwoMinutesAndNotByOneTest(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		w.stays(api.Forwarded, 5*time.Minute)
		tests := w.street.count()
		w.street.set(func() { w.street.open = nil })
		took := w.becomes(api.NATEasy, 2*time.Minute)
		if n := w.street.count() - tests; n < surely {
			t.Errorf("unreachable after %d tests", n)
		}
		t.Logf("noticed after %v and %d tests", took, w.street.count()-tests)
		if s := w.State(); s.Reachable || s.UDP || s.TCP || s.Doubt {
			t.Errorf("%+v", s)
		}
	})
}

func TestOneLostKnockIsDoubtAndNoVerdict(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		w.street.set(func() { w.street.lose = 1 })
		if doubted := w.stays(api.Forwarded, 10*time.Minute); !doubted {
			t.Error("there was no doubt")
		}
		if w.State().Doubt {
			t.Error("the doubt stays")
		}
	})
}

func TestAHelperThatDoesNotAnswerChangesNothing(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		w.street.set(func() { w.street.deaf = true })
		w.stays(api.Forwarded, 20*time.Minute)
		w.street.set(func() { w.street.deaf = false })
		before := w.street.count()
		w.stays(api.Forwarded, 15*time.Second)
		if w.street.count() == before {
			t.Error("no test although the helper answers again")
		}
	})
}

func TestSomebodyKnownProvesAMappingButNoForward(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		if w.State().Verdict != api.Forwarded {
			t.Fatalf("%+v", w.State())
		}
	})
	open := map[dialback.Place]bool{udp4001: true, tcp4001: true, {Network: "udp", Port: 7001}: true}
	synctest.Test(t, func(t *testing.T) {
		k := keeperWith(own, seesBy4(outside, stun.Behaviour{}))
		r := &router{state: portmap.State{Settled: true}}
		k.cfg.Knocks, k.cfg.Mapper = &street{open: open, known: true}, r
		k.cfg.Met = func() []netip.Addr { return []netip.Addr{known} }
		close(k.ready)
		k.Start()
		defer k.Close()
		synctest.Wait()
		if s := k.State(); s.Verdict != api.NATEasy || s.Reachable {
			t.Errorf("an address-restricted router is taken for open: %+v", s)
		}
		r.set(granted("44.128.0.1:7001"))
		synctest.Wait()
		if s := k.State(); s.Verdict != api.Mapped || !s.Reachable {
			t.Errorf("with a mapping: %+v", s)
		}
	})
}

func TestAMappingIsTriedAtOnce(t *testing.T) {
	watch(t, map[dialback.Place]bool{{Network: "udp", Port: 7001}: true}, func(w *watched) {
		w.stays(api.NATEasy, time.Minute)
		w.router.set(granted("44.128.0.1:7001"))
		if took := w.becomes(api.Mapped, time.Second); took != 0 {
			t.Errorf("after %v", took)
		}
		if at := w.Link().At; len(at) != 1 || at[0].Port() != 7001 {
			t.Errorf("%v", at)
		}
		w.router.set(portmap.State{Settled: true})
		w.becomes(api.NATEasy, time.Minute)
	})
}

func TestAMappingThatLeadsNowhereIsDistrusted(t *testing.T) {
	watch(t, nil, func(w *watched) {
		w.router.set(granted("44.128.0.1:7001"))
		synctest.Wait()
		if len(w.router.distrusted) != 0 {
			t.Fatal("distrusted after one test")
		}
		w.becomes(api.MapLies, 30*time.Second)
		if d := w.router.distrusted; len(d) != 1 || d[0].External.Port() != 7001 {
			t.Errorf("distrusted %v", d)
		}
		w.stays(api.MapLies, 10*time.Minute)
		// Another mapping that works is better news.
		w.street.set(func() { w.street.open = map[dialback.Place]bool{{Network: "udp", Port: 7002}: true} })
		w.router.set(granted("44.128.0.1:7002"))
		w.becomes(api.Mapped, time.Second)
	})
}

func TestAMappingAtAnAddressThatNobodySeesIsALie(t *testing.T) {
	watch(t, nil, func(w *watched) {
		w.router.set(granted("44.9.9.9:7001"))
		w.becomes(api.MapLies, 30*time.Second)
		if len(w.router.distrusted) != 1 {
			t.Errorf("distrusted %v", w.router.distrusted)
		}
	})
}

func TestAMappingBehindAnotherRouterIsNoLie(t *testing.T) {
	for external, want := range map[string]api.Verdict{"192.168.0.2:7001": api.DoubleNAT, "100.64.0.2:7001": api.CGNAT} {
		watch(t, nil, func(w *watched) {
			w.router.set(granted(external))
			w.becomes(want, time.Second)
			w.stays(want, 10*time.Minute)
			// Somebody known comes in by the way that helpers keep open.
			w.street.set(func() { w.street.open, w.street.known = map[dialback.Place]bool{udp4001: true}, true })
			w.stays(want, 10*time.Minute)
			if len(w.router.distrusted) != 0 {
				t.Errorf("distrusted %v", w.router.distrusted)
			}
		})
	}
}

func TestStrangersMayGetInBehindASecondRouter(t *testing.T) {
	for external, closed := range map[string]api.Verdict{"192.168.0.2:4001": api.DoubleNAT, "100.64.0.2:4001": api.CGNAT} {
		watch(t, map[dialback.Place]bool{udp4001: true}, func(w *watched) {
			// A carrier that filters nothing leads everybody to the mapping
			// in the home's router.
			w.router.set(granted(external))
			w.stays(api.Forwarded, 5*time.Minute)
			if s := w.State(); !s.UDP || s.TCP || !s.Reachable || s.Open {
				t.Errorf("%s: %+v", external, s)
			}
			if at := w.Link().At; len(at) != 1 || at[0] != outside {
				t.Errorf("link to %v", at)
			}
			w.street.set(func() { w.street.open = nil })
			w.becomes(closed, 2*time.Minute)
			if at := w.Link().At; len(at) != 0 || len(w.router.distrusted) != 0 {
				t.Errorf("link to %v, distrusted %v", at, w.router.distrusted)
			}
			w.street.set(func() { w.street.open = map[dialback.Place]bool{udp4001: true} })
			w.becomes(api.Forwarded, closedEvery+againAfter)
		})
	}
}

func TestAForwardByHandIsNoticed(t *testing.T) {
	watch(t, map[dialback.Place]bool{}, func(w *watched) {
		w.stays(api.NATEasy, 10*time.Minute)
		w.street.set(func() { w.street.open[tcp4001] = true })
		t.Logf("noticed after %v", w.becomes(api.Forwarded, closedEvery+time.Second))
	})
}

func TestHelpersAreAskedInTurn(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		w.stays(api.Forwarded, 5*time.Minute)
		asked := map[identity.Address]int{}
		for i, a := range w.street.asked {
			asked[a]++
			if i > 0 && w.street.asked[i-1] == a {
				t.Error("the same one twice in a row")
			}
		}
		if len(asked) != 3 {
			t.Errorf("%d helpers were asked", len(asked))
		}
		if rate := len(w.street.asked); rate > 2*5+1 {
			t.Errorf("%d requests in five minutes", rate)
		}
	})
}

func TestMovedMakesEverythingAnewAndForgetsNothing(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		w.mu.Lock()
		w.lied = true
		w.mu.Unlock()
		before := w.street.count()
		w.Moved()
		synctest.Wait()
		if w.street.count() != before+1 || w.router.refreshed != 1 || w.lied {
			t.Errorf("%d tests, %d refreshes, lied %t", w.street.count()-before, w.router.refreshed, w.lied)
		}
		if s := w.State(); s.Verdict != api.Forwarded || len(s.Candidates) != 2 {
			t.Errorf("%+v", s)
		}
		for _, h := range w.helpers {
			if len(h.again) != 1 {
				t.Error("a helper is not asked for the address")
			}
		}
	})
}

func TestAnotherAddressOutsideIsTestedAtOnce(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		before := w.street.count()
		w.unsure(0)
		synctest.Wait()
		if w.street.count() != before+1 {
			t.Errorf("%d tests", w.street.count()-before)
		}
	})
}

func TestPrivateAndPublicDevicesAskForNoKnocks(t *testing.T) {
	for policy, want := range map[Policy]api.Verdict{Private: api.NATEasy, Public: api.Forwarded} {
		synctest.Test(t, func(t *testing.T) {
			k := keeperWith(own, seesBy4(outside, stun.Behaviour{}))
			s := &street{}
			k.tested, k.cfg.Policy, k.cfg.Knocks = false, policy, s
			close(k.ready)
			k.Start()
			defer k.Close()
			<-time.After(5 * time.Minute)
			if len(s.asked) != 0 || k.State().Verdict != want {
				t.Errorf("%s: asked %d times, %s", policy, len(s.asked), k.State().Verdict)
			}
		})
	}
}

func TestMetForgetsTheOldest(t *testing.T) {
	m, now := newMet(), time.Now()
	for i := range 2 * maxMet {
		m.note(netip.AddrFrom4([4]byte{44, 1, byte(i >> 8), byte(i)}), now.Add(time.Duration(i)))
	}
	list := m.list(now)
	if len(list) != maxMet || list[0] != netip.AddrFrom4([4]byte{44, 1, byte((2*maxMet - 1) >> 8), 255}) {
		t.Errorf("%d, first %v", len(list), list[0])
	}
	m.note(netip.Addr{}, now)
	m.note(netip.MustParseAddr("::ffff:44.7.7.7"), now.Add(metFor))
	if list = m.list(now.Add(metFor + time.Second)); len(list) != 1 || list[0] != netip.MustParseAddr("44.7.7.7") {
		t.Errorf("%v", list)
	}
}

func TestWhoIsAskedForWhichFamily(t *testing.T) {
	four, six, early, tcp := seesBy4(outside, stun.Behaviour{}), seesBy4(outside, stun.Behaviour{}), &helper{registered: true}, &helper{registered: true}
	k := keeperWith(own, four, six, early, tcp)
	six.seenAt = netip.MustParseAddrPort("[3fff::5]:4001")
	six.views[1] = view{asked: true, mapped: outside6}
	four.views[1] = view{asked: true, mapped: outside6}
	tcp.transport = "tcp"
	type question struct {
		helper identity.Address
		at     netip.AddrPort
	}
	ask := func(f int) map[question]bool {
		asked := map[question]bool{}
		for range 8 {
			if helper, at, ok := k.examiner(f); ok {
				asked[question{helper, at}] = true
			}
		}
		return asked
	}
	got4, got6 := ask(0), ask(1)
	for q := range map[question]bool{{four.link.Address, netip.AddrPort{}}: true, {six.link.Address, outside}: true, {tcp.link.Address, netip.AddrPort{}}: true} {
		if !got4[q] {
			t.Errorf("IPv4: not asked: %v", q)
		}
	}
	for q := range map[question]bool{{six.link.Address, netip.AddrPort{}}: true, {four.link.Address, outside6}: true} {
		if !got6[q] {
			t.Errorf("IPv6: not asked: %v", q)
		}
	}
	if len(got4) != 3 || len(got6) != 2 {
		t.Errorf("%d for IPv4, %d for IPv6", len(got4), len(got6))
	}
	six.registered, four.registered, tcp.registered = false, false, false
	if len(ask(0))+len(ask(1)) != 0 {
		t.Error("asked before anything is known")
	}
}

func TestCheckedIsWhenSomethingWasFoundOut(t *testing.T) {
	watch(t, map[dialback.Place]bool{udp4001: true, tcp4001: true}, func(w *watched) {
		first := w.State().Checked
		<-time.After(openEvery - time.Second)
		synctest.Wait()
		if again := w.State().Checked; again != first {
			t.Errorf("checked without a test: %v later", again.Sub(first))
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if again := w.State().Checked; again.Sub(first) != openEvery {
			t.Errorf("checked %v later", again.Sub(first))
		}
	})
}
