package directory_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/record"
)

func TestLearnt(t *testing.T) {
	learn := func(h *home, seq int64, place string) bool {
		r := reachableAt(place)
		r.Seq = seq
		return h.Learn(address(2), r)
	}
	reader(t, func(t *testing.T, h *home, b *table) {
		steps := []struct {
			seq   int64
			place string
			taken bool
			want  string
		}{
			{0, "44.128.0.1:1", true, "44.128.0.1:1"},
			{0, "44.128.0.2:1", true, "44.128.0.2:1"},
			{7, "44.128.0.3:1", true, "44.128.0.3:1"},
			{6, "44.128.0.4:1", false, "44.128.0.3:1"},
			{0, "44.128.0.5:1", false, "44.128.0.3:1"},
			{7, "44.128.0.6:1", true, "44.128.0.6:1"},
			{8, "44.128.0.7:0", false, "44.128.0.6:1"},
			{8, "44.128.0.7:1", true, "44.128.0.7:1"},
		}
		for i, s := range steps {
			if got := learn(h, s.seq, s.place); got != s.taken {
				t.Errorf("step %d: Learn = %v", i, got)
			}
			rec, ok := h.Cached(address(2))
			hints, _ := h.Hints(address(2))
			if !ok || rec.At[0] != at(s.want) || len(hints) != 1 || hints[0] != at(s.want) {
				t.Errorf("step %d: Cached = %+v, Hints = %v", i, rec, hints)
			}
		}
		if rec, err := h.Lookup(t.Context(), address(2)); err != nil || rec.Seq != 8 || b.asked() != 0 {
			t.Errorf("right after: %+v, %v", rec, err)
		}
		b.store(itemOf(t, 2, 0, withSeq(7)))
		sleep(31 * time.Second)
		if rec, err := h.Lookup(t.Context(), address(2)); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("a table that is behind what was learnt: %+v, %v", rec, err)
		}
		if rec, ok := h.Cached(address(2)); !ok || rec.Seq != 8 {
			t.Errorf("Cached = %+v, %v", rec, ok)
		}
	})
}

func TestLearntDuringASearchWins(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		b.store(itemOf(t, 2, 0, withSeq(5)))
		result := make(chan record.Record, 1)
		go func() {
			rec, _ := h.Lookup(t.Context(), address(2))
			result <- rec
		}()
		sleep(50 * time.Millisecond)
		h.Learn(address(2), withSeq(9))
		if rec := <-result; rec.Seq != 9 {
			t.Errorf("Lookup = %+v", rec)
		}
	})
}

func TestHintsAreCopies(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		if at, via := h.Hints(address(2)); at != nil || via != nil {
			t.Errorf("of nobody known: %v, %v", at, via)
		}
		rec := withSeq(5)
		rec.Via = []identity.Via{{Address: address(3), At: at("44.128.0.3:1")}}
		h.Learn(address(2), rec)
		first, via := h.Hints(address(2))
		first[0], via[0] = netip.AddrPort{}, identity.Via{}
		if again, via := h.Hints(address(2)); again[0] != at("44.128.0.2:4001") || via[0] != rec.Via[0] {
			t.Errorf("Hints = %v, %v", again, via)
		}
	})
}

func numbered(n uint32) identity.Address {
	seed := make([]byte, 32)
	binary.BigEndian.PutUint32(seed, n)
	return identity.FromSeed(seed).Address()
}

func TestTheCacheIsBounded(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		// One device was looked up in vain, one was heard of, one looked up.
		h.Lookup(t.Context(), address(3))
		h.Learn(address(4), withSeq(1))
		b.store(itemOf(t, 2, 0, withSeq(5)))
		if _, err := h.Lookup(t.Context(), address(2)); err != nil {
			t.Fatal(err)
		}
		for n := range uint32(511) {
			sleep(time.Millisecond)
			if !h.Learn(numbered(n), withSeq(1)) {
				t.Fatalf("learning %d failed", n)
			}
		}
		known := func(a identity.Address) bool { _, ok := h.Cached(a); return ok }
		if known(address(4)) || !known(numbered(0)) || !known(address(2)) {
			t.Errorf("heard of first %v, heard of next %v, looked up %v", known(address(4)), known(numbered(0)), known(address(2)))
		}
		for n := range uint32(2000) {
			time.Sleep(time.Millisecond)
			h.Learn(numbered(1000+n), withSeq(1))
		}
		if !known(address(2)) {
			t.Error("what was looked up was displaced by what was only heard of")
		}
		for n := range uint32(511) {
			h.Hints(numbered(2489 + n)) // all of them are wanted now
		}
		if h.Learn(address(5), withSeq(1)) || known(address(5)) {
			t.Error("something heard of displaced what is wanted")
		}
		h.Lookup(t.Context(), address(3)) // in vain
		if !known(address(2)) || !known(numbered(2999)) {
			t.Error("a look-up in vain displaced what is wanted")
		}
	})
}

func TestForget(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		b.store(itemOf(t, 2, 0, withSeq(5)))
		h.Lookup(t.Context(), address(2))
		h.Forget(address(2))
		if _, ok := h.Cached(address(2)); ok {
			t.Error("still known")
		}
		done := make(chan error)
		go func() {
			_, err := h.Lookup(t.Context(), address(2))
			done <- err
		}()
		sleep(50 * time.Millisecond)
		h.Forget(address(2))
		if err := <-done; err != nil {
			t.Errorf("who waited got %v", err)
		}
		if _, ok := h.Cached(address(2)); ok {
			t.Error("a search that was under way brought it back")
		}
	})
}

func TestWhatWasFoundSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, files := &table{}, &disk{}
		o := newOwner(7)
		signed := o.presign(t, []byte("list"), 4, 1)
		period := record.PeriodAt(o.address(), time.Now())
		item, err := signed.Item(o.address(), []byte("list"), period)
		if err != nil {
			t.Fatal(err)
		}
		b.store(item)
		first := newHome(1, b, files)
		for n := range uint32(70) {
			sleep(time.Millisecond)
			first.Learn(numbered(n), withSeq(int64(n)))
			if n > 0 {
				first.Hints(numbered(n))
			}
		}
		if _, _, err := first.LookupOwner(t.Context(), o.address()); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil || files.written() != 1 {
			t.Fatalf("Close: %v, %d writes", err, files.written())
		}
		second := newHome(1, b, files)
		kept := 0
		for n := range uint32(70) {
			rec, ok := second.Cached(numbered(n))
			if ok {
				kept++
			}
			if ok != (n >= 7) || ok && rec.Seq != int64(n) {
				t.Errorf("device %d: %v, seq %d", n, ok, rec.Seq)
			}
		}
		if roster, version, ok := second.CachedOwner(o.address()); !ok || string(roster) != "list" || version != 4 || kept != 63 {
			t.Errorf("owner: %q, %d, %v; %d devices", roster, version, ok, kept)
		}
		// The list of a revoked device, signed long ago, is refused.
		old, err := o.presign(t, []byte("old"), 3, 1).Item(o.address(), []byte("old"), period)
		if err != nil {
			t.Fatal(err)
		}
		b.store(old)
		if roster, version, err := second.LookupOwner(t.Context(), o.address()); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("an old list was taken: %q, %d, %v", roster, version, err)
		}
		if err := second.Close(); err != nil || files.written() != 1 {
			t.Errorf("nothing changed, yet: %v, %d writes", err, files.written())
		}
		third := newHome(1, b, files)
		third.Forget(numbered(69))
		third.Close()
		fourth := newHome(1, b, files)
		if _, ok := fourth.Cached(numbered(69)); ok || files.written() != 2 {
			t.Errorf("what was forgotten is back; %d writes", files.written())
		}
		fourth.Close()
	})
}

func TestFlashIsWrittenForNewsOnlyAndSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, files := &table{}, &disk{}
		h := newHome(1, b, files)
		h.Start()
		defer h.Close()
		b.store(itemOf(t, 2, 0, withSeq(5)))
		h.Lookup(t.Context(), address(2))
		count := func(what string, pass time.Duration, want int) {
			t.Helper()
			before := files.written()
			sleep(pass)
			if n := files.written() - before; n != want {
				t.Errorf("%s: %d writes in %v, want %d", what, n, pass, want)
			}
		}
		count("at first", 9*time.Minute, 0)
		count("then", 2*time.Minute, 1)
		rec := withSeq(6)
		h.Learn(address(2), rec)
		count("a new seq alone", 24*time.Hour, 0)
		for i := range 24 * 60 { // an address that changes each minute
			rec := reachableAt("44.128.0.2:1")
			rec.At[0] = netip.AddrPortFrom(rec.At[0].Addr(), uint16(1+i))
			rec.Seq = 7 + int64(i)
			h.Learn(address(2), rec)
			before := files.written()
			sleep(time.Minute)
			if n := files.written() - before; n > 1 {
				t.Errorf("%d writes in a minute", n)
			}
		}
		total := files.written()
		if total < 4 || total > 6 {
			t.Errorf("%d writes in two days", total)
		}
		files.mu.Lock()
		files.fail = errors.New("no space left")
		files.mu.Unlock()
		h.Forget(address(2))
		count("a full disk", 24*time.Hour, 4)
	})
}

func TestDamagedFilesAreNoObstacle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &disk{files: map[string][]byte{
			"directory.json":       []byte(`{"seq_cei`),
			"directory-cache.json": []byte(`{"x":"AAAA","` + address(2).String() + `":"AAAAAAAAAAUB","` + newOwner(2).address().String() + `":"AAAAAAAABQ=="}`),
		}}
		b := &table{}
		h := newHome(1, b, files)
		h.self = reachableAt("44.128.0.1:4001")
		h.Start()
		defer h.Close()
		sleep(time.Second)
		if _, ok := h.Current(); !ok {
			t.Error("not published")
		}
		if _, ok := h.Cached(address(2)); ok {
			t.Error("half a record was read")
		}
	})
}
