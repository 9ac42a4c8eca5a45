package directory_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/record"
)

// reader runs test with a Directory in a bubble of virtual time.
func reader(t *testing.T, test func(t *testing.T, h *home, b *table)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		h := newHome(1, b, &disk{})
		defer h.Close()
		test(t, h, b)
	})
}

// itemOf is what device n puts for the period that is days from now.
func itemOf(t *testing.T, n byte, days int, rec record.Record) record.Item {
	t.Helper()
	body, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	period := record.PeriodAt(address(n), time.Now().Add(time.Duration(days)*record.PeriodLength))
	item, err := record.Seal(device(n), address(n), period, rec.Seq, body)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func withSeq(seq int64) record.Record {
	r := reachableAt("44.128.0.2:4001")
	r.Seq = seq
	return r
}

// store puts an item as if its device had.
func (b *table) store(item record.Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.items == nil {
		b.items = map[[32]byte]kept{}
	}
	b.items[item.Key] = kept{item, time.Now()}
}

func TestLookupAsksOnceIn30Seconds(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		b.store(itemOf(t, 2, 0, withSeq(5)))
		for _, step := range []struct {
			pass time.Duration
			gets int
		}{{0, 1}, {0, 0}, {29 * time.Second, 0}, {2 * time.Second, 1}} {
			sleep(step.pass)
			rec, err := h.Lookup(t.Context(), address(2))
			if err != nil || rec.Seq != 5 {
				t.Fatalf("Lookup = %+v, %v", rec, err)
			}
			if n := b.asked(); n != step.gets {
				t.Errorf("after %v more: %d questions, want %d", step.pass, n, step.gets)
			}
		}
	})
}

func TestInVainIsRememberedFor10Seconds(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		for _, step := range []struct {
			pass time.Duration
			gets int
		}{{0, 3}, {9 * time.Second, 0}, {2 * time.Second, 3}} {
			sleep(step.pass)
			if rec, err := h.Lookup(t.Context(), address(2)); !errors.Is(err, directory.ErrNotFound) || len(rec.At) > 0 {
				t.Errorf("Lookup = %+v, %v", rec, err)
			}
			if n := b.asked(); n != step.gets {
				t.Errorf("after %v more: %d questions, want %d", step.pass, n, step.gets)
			}
		}
		sleep(11 * time.Second)
		b.store(itemOf(t, 2, 0, withSeq(5)))
		if _, err := h.Lookup(t.Context(), address(2)); err != nil {
			t.Errorf("once it is there: %v", err)
		}
	})
}

func TestNeighbouringPeriodsAreAskedTogether(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		b.store(itemOf(t, 2, -1, withSeq(7)))
		b.store(itemOf(t, 2, 1, withSeq(6)))
		began := time.Now()
		rec, err := h.Lookup(t.Context(), address(2))
		if err != nil || rec.Seq != 7 {
			t.Errorf("Lookup = %+v, %v; want the higher seq of the two", rec, err)
		}
		if n, took := b.asked(), time.Since(began); n != 3 || took != 200*time.Millisecond {
			t.Errorf("%d questions in %v, want three in two rounds", n, took)
		}
	})
}

func TestCallersShareOneSearch(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		b.store(itemOf(t, 2, 0, withSeq(5)))
		impatient, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := h.Lookup(impatient, address(2)); !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up got %v", err)
			}
		})
		synctest.Wait()
		for range 50 {
			all.Go(func() {
				if rec, err := h.Lookup(t.Context(), address(2)); err != nil || rec.Seq != 5 {
					t.Errorf("Lookup = %+v, %v", rec, err)
				}
			})
		}
		cancel()
		all.Wait()
		if n := b.asked(); n != 1 {
			t.Errorf("%d questions for 51 callers", n)
		}
	})
}

func TestHostileTables(t *testing.T) {
	type get = func(context.Context, [32]byte, func(record.Item) bool) (record.Item, error)
	show := func(items ...record.Item) get {
		return func(_ context.Context, _ [32]byte, enough func(record.Item) bool) (record.Item, error) {
			for _, i := range items {
				for range 5 {
					enough(i)
				}
			}
			return items[len(items)-1], nil
		}
	}
	change := func(i record.Item, f func(*record.Item)) record.Item {
		i.Value = bytes.Clone(i.Value)
		f(&i)
		return i
	}
	sealed := func(t *testing.T, seq int64, body []byte) record.Item {
		i, err := record.Seal(device(2), address(2), record.PeriodAt(address(2), time.Now()), seq, body)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	tests := map[string]struct {
		get  func(t *testing.T, good record.Item) get
		want int64 // 0: nothing is found
	}{
		"honest":            {func(t *testing.T, good record.Item) get { return show(good) }, 5},
		"an older seq":      {func(t *testing.T, good record.Item) get { return show(itemOf(t, 2, 0, withSeq(4))) }, 0},
		"older after newer": {func(t *testing.T, good record.Item) get { return show(good, itemOf(t, 2, 0, withSeq(4))) }, 5},
		"a wrong signature": {func(t *testing.T, good record.Item) get {
			return show(change(good, func(i *record.Item) { i.Signature[1]++ }))
		}, 0},
		"a changed seq":  {func(t *testing.T, good record.Item) get { return show(change(good, func(i *record.Item) { i.Seq++ })) }, 0},
		"a foreign item": {func(t *testing.T, good record.Item) get { return show(itemOf(t, 3, 0, withSeq(9))) }, 0},
		"yesterday's":    {func(t *testing.T, good record.Item) get { return show(itemOf(t, 2, -1, withSeq(9))) }, 9},
		"last week's":    {func(t *testing.T, good record.Item) get { return show(itemOf(t, 2, -7, withSeq(9))) }, 0},
		"a salted item": {func(t *testing.T, good record.Item) get {
			return show(change(good, func(i *record.Item) { i.Salt = []byte("s") }))
		}, 0},
		"too large": {func(t *testing.T, good record.Item) get {
			return show(change(good, func(i *record.Item) { i.Value = make([]byte, 1<<20) }))
		}, 0},
		"empty":              {func(t *testing.T, good record.Item) get { return show(record.Item{}) }, 0},
		"a seq of two kinds": {func(t *testing.T, good record.Item) get { b, _ := withSeq(7).Encode(); return show(sealed(t, 8, b)) }, 0},
		"of a newer program": {func(t *testing.T, good record.Item) get { return show(sealed(t, 8, []byte{2, 1, 1})) }, 0},
		"no record":          {func(t *testing.T, good record.Item) get { return show(sealed(t, 8, nil)) }, 0},
		"good among lies": {func(t *testing.T, good record.Item) get {
			return show(itemOf(t, 3, 0, withSeq(9)), good, change(good, func(i *record.Item) { i.Seq += 9 }), record.Item{})
		}, 5},
		"good, then an error": {func(t *testing.T, good record.Item) get {
			return func(ctx context.Context, key [32]byte, enough func(record.Item) bool) (record.Item, error) {
				enough(good)
				return record.Item{}, errors.New("lost the rest")
			}
		}, 5},
		"good, then silence": {func(t *testing.T, good record.Item) get {
			return func(ctx context.Context, key [32]byte, enough func(record.Item) bool) (record.Item, error) {
				enough(good)
				<-ctx.Done()
				return record.Item{}, ctx.Err()
			}
		}, 5},
		"never an answer": {func(t *testing.T, good record.Item) get {
			return func(ctx context.Context, key [32]byte, enough func(record.Item) bool) (record.Item, error) {
				<-ctx.Done()
				return record.Item{}, ctx.Err()
			}
		}, 0},
		"told after the end": {func(t *testing.T, good record.Item) get {
			return func(ctx context.Context, key [32]byte, enough func(record.Item) bool) (record.Item, error) {
				defer func() { go enough(good) }()
				return record.Item{}, errNothing
			}
		}, -1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			reader(t, func(t *testing.T, h *home, b *table) {
				good := itemOf(t, 2, 0, withSeq(5))
				b.store(good)
				if _, err := h.Lookup(t.Context(), address(2)); err != nil {
					t.Fatal(err)
				}
				sleep(time.Minute)
				b.get = tt.get(t, good)
				began := time.Now()
				rec, err := h.Lookup(t.Context(), address(2))
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
				if tt.want > 0 && (err != nil || rec.Seq != tt.want) || tt.want == 0 && !errors.Is(err, directory.ErrNotFound) {
					t.Errorf("Lookup = seq %d, %v; want seq %d", rec.Seq, err, tt.want)
				}
				// Whatever happened, the last good record stays.
				if rec, ok := h.Cached(address(2)); !ok || rec.Seq != max(5, tt.want) {
					t.Errorf("Cached = %+v, %v", rec, ok)
				}
			})
		})
	}
}

func TestThreeNodesThatAgreeAreEnough(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		good, old := itemOf(t, 2, 0, withSeq(5)), itemOf(t, 2, 0, withSeq(4))
		var said []bool
		b.get = func(_ context.Context, _ [32]byte, enough func(record.Item) bool) (record.Item, error) {
			for _, i := range []record.Item{old, old, good, old, good, {}, good, old} {
				said = append(said, enough(i))
			}
			return good, nil
		}
		if rec, err := h.Lookup(t.Context(), address(2)); err != nil || rec.Seq != 5 {
			t.Errorf("Lookup = %+v, %v", rec, err)
		}
		want := []bool{false, false, false, false, false, false, true, true}
		for i := range want {
			if said[i] != want[i] {
				t.Errorf("enough said %v, want %v", said, want)
				break
			}
		}
	})
}

func TestKindsAreNotMistaken(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		owner := newOwner(2).address()
		if _, err := h.Lookup(t.Context(), owner); !errors.Is(err, directory.ErrKind) {
			t.Errorf("an owner as a device: %v", err)
		}
		if _, _, err := h.LookupOwner(t.Context(), address(2)); !errors.Is(err, directory.ErrKind) {
			t.Errorf("a device as an owner: %v", err)
		}
		if h.Learn(owner, record.Record{}) {
			t.Error("an owner's record was learnt")
		}
		if _, err := h.Lookup(t.Context(), identity.Address{}); !errors.Is(err, directory.ErrKind) {
			t.Errorf("nobody: %v", err)
		}
		broken := identity.NewAddress(make([]byte, 32), identity.KindDevice)
		if _, err := h.Lookup(t.Context(), broken); !errors.Is(err, identity.ErrNoPoint) {
			t.Errorf("no point: %v", err)
		}
	})
}

func TestTooManyLookupsAtOnce(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		var all sync.WaitGroup
		for n := range byte(64) {
			all.Go(func() { h.Lookup(t.Context(), address(100+n)) })
		}
		synctest.Wait()
		if _, err := h.Lookup(t.Context(), address(2)); !errors.Is(err, directory.ErrBusy) {
			t.Errorf("the 65th: %v", err)
		}
		all.Wait()
		if _, err := h.Lookup(t.Context(), address(2)); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("later: %v", err)
		}
	})
}

func TestLookupWaitsALittleForTheClock(t *testing.T) {
	reader(t, func(t *testing.T, h *home, b *table) {
		h.lost, h.skew = true, -20*365*24*time.Hour
		b.store(itemOf(t, 2, 0, withSeq(5)))
		go func() {
			time.Sleep(3 * time.Second)
			h.set(func() { h.lost, h.skew = false, 0 })
		}()
		if _, err := h.Lookup(t.Context(), address(2)); err != nil {
			t.Errorf("Lookup: %v", err)
		}
		h.set(func() { h.lost = true })
		began := time.Now()
		h.Lookup(t.Context(), address(3))
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it waited for %v", took)
		}
	})
}
