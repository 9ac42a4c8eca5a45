package directory_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/record"
)

// run starts a publisher in a bubble of virtual time and hands it to test.
func run(t *testing.T, h func() (*home, *table), test func(t *testing.T, h *home, b *table)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h, b := h()
		h.Start()
		defer h.Close()
		synctest.Wait()
		test(t, h, b)
	})
}

func publisher() (*home, *table) {
	b := &table{}
	h := newHome(1, b, &disk{})
	h.self = reachableAt("44.128.0.1:4001")
	return h, b
}

func sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestTheFirstRecordIsPutAtOnceAndFound(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		sleep(time.Second)
		reader := newHome(2, b, &disk{})
		defer reader.Close()
		rec, err := reader.Lookup(t.Context(), address(1))
		if err != nil || len(rec.At) != 1 || rec.At[0] != at("44.128.0.1:4001") {
			t.Fatalf("Lookup = %+v, %v", rec, err)
		}
		if now := time.Now().Unix(); rec.Seq < now-2 || rec.Seq > now {
			t.Errorf("the first seq is %d, not the time %d", rec.Seq, now)
		}
		if own, ok := h.Current(); !ok || own.Seq != rec.Seq {
			t.Errorf("Current = %+v, %v", own, ok)
		}
	})
}

func TestNothingIsPutWithoutAWayIn(t *testing.T) {
	none := func() (*home, *table) { h, b := publisher(); h.self = record.Record{}; return h, b }
	run(t, none, func(t *testing.T, h *home, b *table) {
		sleep(time.Hour)
		if n := len(b.log()); n != 0 {
			t.Errorf("%d puts", n)
		}
		h.set(func() { h.self.Via = []identity.Via{{Address: address(3), At: at("44.128.0.3:1")}} })
		h.Changed()
		sleep(time.Second)
		if n := len(b.log()); n != 1 {
			t.Errorf("%d puts once there is a rendezvous", n)
		}
	})
}

func TestChangesArePutSoonButNotOften(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		sleep(10 * time.Minute)
		first := b.log()
		if len(first) != 1 {
			t.Fatalf("%d puts in ten quiet minutes", len(first))
		}
		h.set(func() { h.self = reachableAt("44.128.0.2:4001") })
		told := time.Now()
		h.Changed()
		sleep(time.Minute)
		second := b.log()
		if len(second) != 1 || second[0].when.Sub(told) != 5*time.Second {
			t.Fatalf("after a change that was told: %d puts, %v", len(second), second)
		}
		h.set(func() { h.self = reachableAt("44.128.0.3:4001") })
		seen := time.Now()
		sleep(time.Minute)
		third := b.log()
		if len(third) != 1 || third[0].when.Sub(seen) > 16*time.Second {
			t.Fatalf("after a change that was not told: %d puts", len(third))
		}
		for i := range byte(60) { // an address that flaps each second
			h.set(func() {
				h.self = record.Record{At: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 128, 1, i}), 1)}}
			})
			h.Changed()
			sleep(time.Second)
		}
		if n := len(b.log()); n != 1 {
			t.Errorf("%d puts of an address that changed 60 times in a minute", n)
		}
		sleep(time.Minute)
		if rec, _ := h.Current(); rec.At[0] != at("44.128.1.59:1") {
			t.Errorf("the last change was not put: %v", rec.At)
		}
		a, _ := seqOf(t, 1, first[0], 0)
		c, _ := seqOf(t, 1, third[0], 0)
		if c != a+2 {
			t.Errorf("two changes took the seq from %d to %d", a, c)
		}
	})
}

func TestWhoKeepsMovingIsPutLessAndLess(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		move := func(i int) {
			h.set(func() {
				h.self = record.Record{At: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 128, byte(i >> 8), byte(i)}), 1)}}
			})
			h.Changed()
		}
		sleep(20 * time.Minute)
		b.log()
		for i := range 240 { // every 15 s for an hour
			move(i)
			sleep(15 * time.Second)
		}
		if n := len(b.log()); n < 5 || n > 14 {
			t.Errorf("%d puts in an hour of an address that changed 240 times", n)
		}
		sleep(time.Hour)
		b.log()
		for i := range 3 { // moved, and moved again while others are still looking
			move(1000 + i)
			sleep(25 * time.Second)
		}
		if n := len(b.log()); n != 3 {
			t.Errorf("%d puts of three moves 25 s apart after a calm hour", n)
		}
	})
}

func TestTheSameIsPutAgainEvery40To60Minutes(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		sleep(48 * time.Hour)
		puts := b.log()
		var before kept
		pauses := map[time.Duration]bool{}
		for _, k := range puts {
			seq, period := seqOf(t, 1, k, 0)
			if first, _ := seqOf(t, 1, puts[0], 0); seq != first {
				t.Errorf("the same record got the seq %d after %d", seq, first)
			}
			if period != record.PeriodAt(address(1), k.when) {
				continue // next period's
			}
			if pause := k.when.Sub(before.when); !before.when.IsZero() {
				pauses[pause] = true
				if pause > 60*time.Minute+10*time.Second {
					t.Errorf("nothing for %v", pause)
				}
			}
			before = k
		}
		if len(puts) < 45 || len(puts) > 80 || len(pauses) < 20 {
			t.Errorf("%d puts in two days, %d different pauses", len(puts), len(pauses))
		}
	})
}

// Over three days, every reader whose clock is wrong by less than a day finds
// the record at every moment.
func TestReadersFindItAcrossPeriodsWithClocksADayOff(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		sleep(time.Second)
		for range 3 * 24 * 2 {
			for _, skew := range []time.Duration{0, -23 * time.Hour, 23 * time.Hour, -time.Hour, time.Hour} {
				reader := newHome(2, b, &disk{})
				reader.skew = skew
				if _, err := reader.Lookup(t.Context(), address(1)); err != nil {
					t.Errorf("%v, a clock %v off: %v", time.Now(), skew, err)
				}
				reader.Close()
			}
			sleep(30 * time.Minute)
		}
	})
}

func TestNextPeriodsItemIsPut90MinutesBefore(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		a := address(1)
		p := record.PeriodAt(a, time.Now())
		start := record.PeriodStart(a, p+1)
		sleep(time.Until(start.Add(-record.Overlap - time.Second)))
		for _, k := range b.log() {
			if _, period := seqOf(t, 1, k, 0); period != p {
				t.Errorf("at %v, period %d instead of %d", k.when, period, p)
			}
		}
		sleep(12 * time.Second)
		found := false
		for _, k := range b.log() {
			_, period := seqOf(t, 1, k, 0)
			found = found || period == p+1
		}
		if !found {
			t.Error("nothing was put for the next period in time")
		}
	})
}

func TestWithoutAClock(t *testing.T) {
	const behind = -30 * 365 * 24 * time.Hour
	lost := func() (*home, *table) { h, b := publisher(); h.lost, h.skew = true, behind; return h, b }
	t.Run("it is waited for", func(t *testing.T) {
		run(t, lost, func(t *testing.T, h *home, b *table) {
			sleep(20 * time.Second)
			if n := len(b.log()); n != 0 {
				t.Fatalf("%d puts under a wrong period", n)
			}
			h.set(func() { h.lost, h.skew = false, 0 })
			sleep(2 * time.Second)
			if puts := b.log(); len(puts) != 1 {
				t.Errorf("%d puts once the clock is known", len(puts))
			}
		})
	})
	t.Run("but not for ever", func(t *testing.T) {
		run(t, lost, func(t *testing.T, h *home, b *table) {
			sleep(62 * time.Second)
			puts := b.log()
			if len(puts) != 1 {
				t.Fatalf("%d puts after a minute", len(puts))
			}
			first, _ := seqOf(t, 1, puts[0], behind)
			if first != 1 {
				t.Errorf("without a clock the first seq is %d", first)
			}
			h.set(func() { h.lost, h.skew = false, 0 })
			sleep(75 * time.Second)
			if puts = b.log(); len(puts) != 1 {
				t.Fatalf("%d puts once the clock is known", len(puts))
			}
			if seq, _ := seqOf(t, 1, puts[0], 0); seq < time.Now().Unix()-100 {
				t.Errorf("the clock did not lift the seq: %d", seq)
			}
		})
	})
}

func TestARestoredDeviceGoesAboveWhatTheTableHolds(t *testing.T) {
	const ahead = 1 << 40
	tests := map[string]func(t *testing.T) record.Item{
		"a higher seq": func(t *testing.T) record.Item {
			body, _ := record.Record{Seq: ahead, At: []netip.AddrPort{at("44.128.9.9:9")}}.Encode()
			return mustSeal(t, ahead, body)
		},
		"a higher seq, at some nodes": func(t *testing.T) record.Item { return mustSeal(t, ahead, nil) },
		"of a newer program":          func(t *testing.T) record.Item { return mustSeal(t, ahead, []byte{2, 0, 0}) },
		"the same seq": func(t *testing.T) record.Item {
			seq := time.Now().Unix()
			body, _ := record.Record{Seq: seq, At: []netip.AddrPort{at("44.128.9.9:9")}}.Encode()
			return mustSeal(t, seq, body)
		},
	}
	for name, item := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, b := publisher()
				i := item(t)
				b.items = map[[32]byte]kept{i.Key: {i, time.Now()}}
				switch name {
				case "the same seq": // a node that lets the older one stand
					b.put = func(context.Context, record.Item) (int, error) { return 1, nil }
				case "a higher seq, at some nodes":
					b.put = func(context.Context, record.Item) (int, error) { return 1, errors.New("302") }
				}
				h.Start()
				defer h.Close()
				sleep(20 * time.Second)
				puts := b.log()
				if len(puts) != 2 {
					t.Fatalf("%d puts, want one that loses and one that wins", len(puts))
				}
				if puts[1].item.Seq <= i.Seq {
					t.Errorf("seq %d does not win against %d", puts[1].item.Seq, i.Seq)
				}
			})
		})
	}
}

func mustSeal(t *testing.T, seq int64, body []byte) record.Item {
	t.Helper()
	item, err := record.Seal(device(1), address(1), record.PeriodAt(address(1), time.Now()), seq, body)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func TestRetries(t *testing.T) {
	refuse := func(context.Context, record.Item) (int, error) { return 0, nil }
	tests := map[string]func(context.Context, record.Item) (int, error){
		"nobody stores it":   refuse,
		"an error":           func(context.Context, record.Item) (int, error) { return 0, errors.New("no network") },
		"a negative number":  func(context.Context, record.Item) (int, error) { return -5, nil },
		"it never answers":   func(ctx context.Context, _ record.Item) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
		"lies about storing": func(context.Context, record.Item) (int, error) { return 1 << 30, nil },
	}
	for name, put := range tests {
		t.Run(name, func(t *testing.T) {
			deaf := func() (*home, *table) { h, b := publisher(); b.put = put; return h, b }
			run(t, deaf, func(t *testing.T, h *home, b *table) {
				sleep(100 * time.Second)
				n := len(b.log())
				if want := 4; name != "lies about storing" && name != "it never answers" && n != want {
					t.Errorf("%d tries in 100 s, want %d (0, 10, 30, 70 s)", n, want)
				}
				sleep(6 * time.Hour)
				n = len(b.log())
				if name == "lies about storing" {
					if n > 12 {
						t.Errorf("%d puts in six hours to a table that takes all", n)
					}
					return
				}
				if n < 30 || n > 60 {
					t.Errorf("%d tries in six hours", n)
				}
				b.mu.Lock()
				b.put = nil
				b.mu.Unlock()
				sleep(70 * time.Second) // more than the spacing: the next retry is minutes away
				h.Changed()             // the network is back
				sleep(50 * time.Second)
				if len(b.items) == 0 {
					t.Error("not published after the network came back")
				}
			})
		})
	}
}

// Back-off after an outage ends when the network is said to be back.
func TestAnOutageOfTheNetwork(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		sleep(time.Minute)
		b.mu.Lock()
		b.put = func(context.Context, record.Item) (int, error) { return 0, errors.New("no network") }
		b.mu.Unlock()
		sleep(5 * time.Hour)
		for b.log(); len(b.log()) == 0; { // the retries are minutes apart
			sleep(time.Second)
		}
		sleep(2 * time.Minute)
		b.mu.Lock()
		b.put = nil
		b.mu.Unlock()
		b.log()
		h.Changed()
		sleep(time.Second)
		if n := len(b.log()); n != 1 {
			t.Errorf("%d puts once the network is back", n)
		}
	})
}

func TestARefusalBySomeNodesIsLookedInto(t *testing.T) {
	run(t, publisher, func(t *testing.T, h *home, b *table) {
		sleep(time.Minute)
		higher := mustSeal(t, 1<<40, nil) // by another life of this device
		b.store(higher)
		b.mu.Lock()
		b.put = func(_ context.Context, i record.Item) (int, error) {
			if i.Seq < higher.Seq {
				return 3, errors.New("302")
			}
			return 8, nil
		}
		b.mu.Unlock()
		b.log()
		sleep(61 * time.Minute)
		puts := b.log()
		if len(puts) != 2 || puts[1].item.Seq <= higher.Seq {
			t.Errorf("%d puts, and none wins", len(puts))
		}
	})
}

func TestAFullDiskIsNoReasonToPutMoreOften(t *testing.T) {
	for name, want := range map[string]int{"with a clock": 2, "without": 0} {
		t.Run(name, func(t *testing.T) {
			files := &disk{fail: errors.New("no space left")}
			full := func() (*home, *table) {
				b := &table{}
				h := newHome(1, b, files)
				h.self, h.lost = reachableAt("44.128.0.1:4001"), name == "without"
				return h, b
			}
			run(t, full, func(t *testing.T, h *home, b *table) {
				sleep(65 * time.Minute)
				if n := len(b.log()); n > want || n < want/2 {
					t.Errorf("%d puts in an hour", n)
				}
				files.mu.Lock()
				files.fail = nil
				files.mu.Unlock()
				sleep(11 * time.Minute)
				if _, ok := h.Current(); !ok {
					t.Error("not published once there was room")
				}
			})
		})
	}
}

func TestAnUnusableRecordIsNotPut(t *testing.T) {
	bad := func() (*home, *table) { h, b := publisher(); h.self = reachableAt("224.0.0.1:5"); return h, b }
	run(t, bad, func(t *testing.T, h *home, b *table) {
		sleep(time.Minute)
		if n := len(b.log()); n != 0 {
			t.Errorf("%d puts", n)
		}
		h.set(func() {
			h.self = record.Record{At: []netip.AddrPort{at("[::ffff:44.128.0.1]:1"), at("44.128.0.2:1"), at("44.128.0.3:1"), at("44.128.0.4:1"), at("44.128.0.5:1")}}
		})
		sleep(time.Minute)
		if rec, _ := h.Current(); len(rec.At) != record.MaxAt || rec.At[0] != at("44.128.0.1:1") {
			t.Errorf("published %v", rec.At)
		}
	})
}

func TestThreeWeeksWithoutAWrite(t *testing.T) {
	files := &disk{}
	quiet := func() (*home, *table) {
		b := &table{}
		h := newHome(1, b, files)
		h.self = reachableAt("44.128.0.1:4001")
		return h, b
	}
	run(t, quiet, func(t *testing.T, h *home, b *table) {
		sleep(time.Second)
		if n := files.written(); n != 1 {
			t.Errorf("%d writes at the start, want one", n)
		}
		for range 21 {
			sleep(24 * time.Hour)
			h.set(func() { h.self.Flags ^= record.Relays }) // one change a day
			h.Lookup(t.Context(), address(9))               // in vain
		}
		if n := files.written(); n != 1 {
			t.Errorf("%d writes in three weeks, want one", n)
		}
		if n := len(b.log()); n < 21*24 {
			t.Errorf("only %d puts", n)
		}
	})
}

func TestOwnersListIsPutByADeviceWithoutTheOwnersKey(t *testing.T) {
	o := newOwner(7)
	synctest.Test(t, func(t *testing.T) {
		b, roster := &table{}, []byte("list 1")
		signed := o.presign(t, roster, 1, 3)
		homes := []*home{newHome(1, b, &disk{}), newHome(2, b, &disk{})}
		for _, h := range homes {
			h.owned = func() (identity.Address, []byte, record.Presigned, bool) { return o.address(), roster, signed, true }
			h.Start()
			defer h.Close()
		}
		sleep(time.Second)
		reader := newHome(3, b, &disk{})
		defer reader.Close()
		got, version, err := reader.LookupOwner(t.Context(), o.address())
		if err != nil || string(got) != "list 1" || version != 1 {
			t.Fatalf("LookupOwner = %q, %d, %v", got, version, err)
		}
		sleep(24 * time.Hour)
		puts := b.log()
		if len(puts) < 2*22 || len(puts) > 2*40 {
			t.Errorf("two devices put it %d times in a day", len(puts))
		}
		newer := o.presign(t, []byte("list 2"), 2, 2)
		homes[0].set(func() {
			homes[0].owned = func() (identity.Address, []byte, record.Presigned, bool) {
				return o.address(), []byte("list 2"), newer, true
			}
		})
		homes[0].Changed()
		sleep(time.Minute + 10*time.Second)
		if got, version, err = reader.LookupOwner(t.Context(), o.address()); err != nil || string(got) != "list 2" || version != 2 {
			t.Errorf("after a change: %q, %d, %v", got, version, err)
		}
		b.log()
		// The other device still has the old list: it is refused, learns that
		// there is a newer one, and does not insist.
		sleep(3 * time.Hour)
		if got, version, ok := homes[1].CachedOwner(o.address()); !ok || version != 2 || string(got) != "list 2" {
			t.Errorf("the other device knows %q, %d, %v", got, version, ok)
		}
		if n := len(b.log()); n > 2*8 {
			t.Errorf("%d puts in three hours", n)
		}
		// When the signatures end, nothing is put, and nothing is retried.
		sleep(48 * time.Hour)
		b.log()
		b.asked()
		sleep(24 * time.Hour)
		if puts, gets := len(b.log()), b.asked(); puts+gets != 0 {
			t.Errorf("%d puts, %d questions after the last period", puts, gets)
		}
		if failed, missing := homes[1].logged("was not published"), homes[1].logged("cannot be published"); failed != 0 || missing == 0 || missing > 5 {
			t.Errorf("it was logged %d times as failed, %d times as not signed", failed, missing)
		}
	})
}

func TestOwnersListThatDoesNotFitItsSignatures(t *testing.T) {
	o := newOwner(7)
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		h := newHome(1, b, &disk{})
		signed := o.presign(t, []byte("list"), 1, 3)
		h.owned = func() (identity.Address, []byte, record.Presigned, bool) {
			return o.address(), []byte("other"), signed, true
		}
		h.Start()
		defer h.Close()
		sleep(time.Hour)
		if n := len(b.log()); n != 0 {
			t.Errorf("%d puts of a list that nobody signed", n)
		}
	})
}

func TestCloseEndsWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, b := publisher()
		b.put = func(ctx context.Context, _ record.Item) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		b.get = func(ctx context.Context, _ [32]byte, _ func(record.Item) bool) (record.Item, error) {
			<-ctx.Done()
			return record.Item{}, ctx.Err()
		}
		h.Start()
		result := make(chan error, 1)
		go func() {
			_, err := h.Lookup(t.Context(), address(2))
			result <- err
		}()
		sleep(time.Second)
		began := time.Now()
		if err := errors.Join(h.Close(), h.Close()); err != nil || time.Since(began) != 0 {
			t.Errorf("Close took %v: %v", time.Since(began), err)
		}
		if err := <-result; !errors.Is(err, directory.ErrClosed) {
			t.Errorf("the look-up ended with %v", err)
		}
		if _, err := h.Lookup(t.Context(), address(3)); !errors.Is(err, directory.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}
