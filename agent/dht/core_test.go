package dht

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// person is somebody who publishes.
type person struct {
	key  ed25519.PrivateKey
	salt []byte
}

func newPerson(n byte) person {
	return person{key: ed25519.NewKeyFromSeed(append(make([]byte, 31), n)), salt: []byte("beacon")}
}

func (p person) public() [32]byte { return [32]byte(p.key.Public().(ed25519.PublicKey)) }

func (p person) item(seq int64, value string) Item {
	it := Item{Key: p.public(), Salt: p.salt, Seq: seq, Value: []byte(value)}
	it.Signature = [64]byte(ed25519.Sign(p.key, SigningBytes(it.Salt, it.Seq, it.Value)))
	return it
}

// TestPublishAndResolve walks through networks of all sizes, those of one
// serving node included.
func TestPublishAndResolve(t *testing.T) {
	for _, c := range []struct {
		name     string
		n, every int
		addr     func(int) netip.AddrPort
		stored   int
		loss     float64
	}{
		{"one serving, one reading", 2, 2, privateAddr, 1, 0},
		{"three serving", 3, 1, privateAddr, 3, 0},
		{"two serving, eight reading", 10, 5, privateAddr, 2, 0},
		{"fifty private", 50, 1, privateAddr, 8, 0},
		{"fifty public", 50, 1, publicAddr, 8, 0},
		{"fifty public IPv6", 50, 1, v6Addr, 8, 0},
		{"fifty, 5 % lost", 50, 1, privateAddr, 5, 0.05},
		{"five hundred, a tenth serving", 500, 10, publicAddr, 8, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.loss = c.loss
			village(w, c.n, c.every, c.addr)
			for i := range 10 {
				p := newPerson(byte(i))
				from, to := w.list[w.rng.IntN(len(w.list))], w.list[w.rng.IntN(len(w.list))]
				stored, err := w.store(from, p.item(int64(i), fmt.Sprint("value ", i)), nil)
				if err != nil || stored < c.stored {
					t.Fatalf("person %d: stored %d, %v", i, stored, err)
				}
				began := w.now
				got, err := w.get(to, p.public(), p.salt, 0, nil)
				if err != nil || string(got.Value) != fmt.Sprint("value ", i) {
					t.Fatalf("person %d: %q, %v", i, got.Value, err)
				}
				if took := w.now.Sub(began); took > LookupTime {
					t.Errorf("took %v", took)
				}
			}
		})
	}
}

func TestOneServingNodeAloneKeepsItsOwnItem(t *testing.T) {
	w := newWorld(t, 1)
	h := w.add(privateAddr(1), false)
	p := newPerson(1)
	stored, err := w.store(h, p.item(3, "alone"), nil)
	if stored != 1 || err != nil {
		t.Fatal(stored, err)
	}
	if got, err := w.get(h, p.public(), p.salt, 3, nil); err != nil || string(got.Value) != "alone" {
		t.Fatal(got, err)
	}
	if _, err := w.get(h, p.public(), p.salt, 4, nil); !errors.Is(err, ErrNoNodes) {
		t.Fatal("an item below the floor was taken", err)
	}
}

func TestAReadingNodeAloneSaysThatNobodyAnswers(t *testing.T) {
	w := newWorld(t, 1)
	h := w.add(privateAddr(1), true, privateAddr(2))
	p := newPerson(1)
	if _, err := w.store(h, p.item(3, "alone"), nil); !errors.Is(err, ErrNoNodes) {
		t.Error(err)
	}
	if _, err := w.get(h, p.public(), nil, 0, nil); !errors.Is(err, ErrNoNodes) {
		t.Error(err)
	}
	if _, err := w.peersOf(h, ID{1}); !errors.Is(err, ErrNoNodes) {
		t.Error(err)
	}
}

// TestTheSameSeedTellsTheSameStory compares everything that was sent.
func TestTheSameSeedTellsTheSameStory(t *testing.T) {
	story := func(seed uint64) string {
		w := newWorld(t, seed)
		w.loss = 0.1
		village(w, 40, 2, publicAddr)
		p := newPerson(1)
		for i := range 5 {
			_, _ = w.store(w.list[i], p.item(int64(i), "x"), nil)
			_, _ = w.announce(w.list[i], ID{7}, 99)
			_, _ = w.get(w.list[39-i], p.public(), p.salt, 0, nil)
		}
		w.run(time.Hour)
		return fmt.Sprintf("%x", w.trace.Sum(nil))
	}
	if a, b := story(5), story(5); a != b {
		t.Error("two histories of one seed")
	}
	if story(5) == story(6) {
		t.Error("the seed makes no difference")
	}
}

func TestItemsOutliveAThirdOfTheNodes(t *testing.T) {
	w := newWorld(t, 3)
	village(w, 200, 1, publicAddr)
	const people = 40
	for i := range people {
		p := newPerson(byte(i))
		if _, err := w.store(w.list[i], p.item(1, "here"), nil); err != nil {
			t.Fatal(err)
		}
	}
	gone := 0
	for _, h := range w.list[people:] {
		if w.rng.Float64() < 0.36 {
			h.off = true
			gone++
		}
	}
	if gone < 50 {
		t.Fatal("only", gone, "left")
	}
	found := 0
	var longest time.Duration
	for i := range people {
		p := newPerson(byte(i))
		began := w.now
		if _, err := w.get(w.list[(i+7)%people], p.public(), p.salt, 0, nil); err == nil {
			found++
		}
		longest = max(longest, w.now.Sub(began))
	}
	t.Logf("%d of 200 left at once: %d of %d found, at most %v", gone, found, people, longest)
	if found < people-1 || longest > LookupTime {
		t.Errorf("found %d of %d, at most %v", found, people, longest)
	}
}

func TestChurnLeavesTheNetworkWhole(t *testing.T) {
	w := newWorld(t, 4)
	village(w, 60, 1, privateAddr)
	p := newPerson(1)
	for round := range 20 {
		w.list[w.rng.IntN(len(w.list)-20)+10].off = true
		w.add(privateAddr(1000+round), false, w.list[0].addr, w.list[1].addr)
		w.run(3 * time.Minute)
		if _, err := w.store(w.list[2], p.item(int64(round), "v"), nil); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		newest := w.list[len(w.list)-1]
		if got, err := w.get(newest, p.public(), p.salt, int64(round), nil); err != nil || got.Seq != int64(round) {
			t.Fatalf("round %d: the newest node finds seq %d, %v", round, got.Seq, err)
		}
	}
}

func TestConflictsAreTold(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 20, 1, privateAddr)
	p := newPerson(1)
	if _, err := w.store(w.list[3], p.item(10, "ten"), nil); err != nil {
		t.Fatal(err)
	}
	five := int64(5)
	ten := int64(10)
	for _, c := range []struct {
		name string
		it   Item
		cas  *int64
		seq  int64
		code int
	}{
		{"older", p.item(9, "nine"), nil, 10, 302},
		{"same seq, other value", p.item(10, "TEN"), nil, 10, 302},
		{"the same again", p.item(10, "ten"), nil, 0, 0},
		{"cas of something older", p.item(11, "eleven"), &five, 10, 301},
		{"cas that matches", p.item(12, "twelve"), &ten, 0, 0},
	} {
		stored, err := w.store(w.list[7], c.it, c.cas)
		var conflict *ConflictError
		switch {
		case c.code == 0:
			if err != nil || stored < K {
				t.Errorf("%s: stored %d, %v", c.name, stored, err)
			}
		case !errors.As(err, &conflict) || conflict.Seq != c.seq || conflict.Code != c.code || stored != 0:
			t.Errorf("%s: stored %d, %v", c.name, stored, err)
		}
	}
}

func TestImmutableItemsAndPeers(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 30, 2, publicAddr)
	value := []byte("for ever")
	done := false
	w.list[1].core.PutImmutable(w.now, value, func(n int, err error) {
		done = true
		if n != 8 || err != nil {
			t.Error(n, err)
		}
	})
	w.arm(w.list[1])
	w.until(&done)
	done = false
	w.list[5].core.GetImmutable(w.now, ImmutableTarget(value), func(v []byte, err error) {
		done = true
		if string(v) != "for ever" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	})
	w.arm(w.list[5])
	w.until(&done)

	hash := ID{9, 9}
	for i := 1; i < 6; i++ {
		if n, err := w.announce(w.list[i], hash, 4000); n < 8 || err != nil {
			t.Error(n, err)
		}
	}
	all, err := w.peersOf(w.list[29], hash)
	if len(all) != 5 || err != nil {
		t.Errorf("%v, %v", all, err)
	}
	for _, a := range all {
		if a.Port() != 4000 {
			t.Error(a)
		}
	}
	w.run(PeerLife + time.Minute)
	if all, err := w.peersOf(w.list[29], hash); err == nil {
		t.Error("peers outlive their time", all)
	}
}

func TestItemsExpire(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 10, 1, privateAddr)
	p := newPerson(1)
	if _, err := w.store(w.list[3], p.item(1, "x"), nil); err != nil {
		t.Fatal(err)
	}
	w.run(ItemLife - 5*time.Minute)
	if _, err := w.get(w.list[9], p.public(), p.salt, 0, nil); err != nil {
		t.Error("gone too early:", err)
	}
	w.run(10 * time.Minute)
	if _, err := w.get(w.list[9], p.public(), p.salt, 0, nil); !errors.Is(err, ErrNotFound) {
		t.Error("still there:", err)
	}
	for _, h := range w.list {
		if s := h.core.Stats(); s.Items != 0 {
			t.Error(h.addr, s.Items)
		}
	}
}

func TestIdsFollowTheAddressThatOthersReport(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 30, 1, publicAddr)
	for _, h := range w.list {
		s := h.core.Stats()
		if s.External != h.addr.Addr() || !s.ID.Secure(h.addr.Addr()) {
			t.Errorf("%v: external %v, id %v", h.addr, s.External, s.ID)
		}
	}
}

// TestAnIdleReadingNodeIsQuiet counts six hours of a node that nobody asks.
func TestAnIdleReadingNodeIsQuiet(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 60, 2, publicAddr)
	reader := w.list[1]
	serving := w.list[2]
	w.run(20 * time.Minute)
	if n := reader.core.known(); n < K {
		t.Fatal("knows only", n)
	}
	before, served := reader.sent, serving.sent
	const hours = 6
	w.run(hours * time.Hour)
	perMinute := float64(reader.sent-before) / (hours * 60)
	t.Logf("idle packets a minute: reading %.2f, serving %.2f", perMinute, float64(serving.sent-served)/(hours*60))
	if perMinute > 1 {
		t.Errorf("%.2f packets a minute", perMinute)
	}
	if n := reader.core.known(); n < K {
		t.Errorf("knows only %d in the end", n)
	}
}

func TestANodeWithoutNetworkWaitsLongerAndLonger(t *testing.T) {
	w := newWorld(t, 1)
	h := w.add(privateAddr(1), true, privateAddr(2))
	w.run(time.Minute)
	first := h.sent
	w.run(time.Hour)
	if first < 4 || h.sent-first > 20 {
		t.Errorf("%d packets in the first minute, %d in the next hour", first, h.sent-first)
	}
	// The other appears: found within the longest pause.
	w.add(privateAddr(2), false)
	w.run(lastRetry + time.Minute)
	if h.core.known() != 1 {
		t.Error("did not find the node that appeared")
	}
	// The same at once when the network changed, or an address was given.
	for name, wake := range map[string]func(h *host){
		"moved": func(h *host) { h.core.Moved(w.now) },
		"added": func(h *host) { h.core.Add(w.now, privateAddr(2)) },
	} {
		h := w.add(privateAddr(10+len(name)+int(name[0])), true, privateAddr(3))
		w.run(time.Hour)
		if name == "moved" {
			w.add(privateAddr(3), false)
		}
		wake(h)
		w.arm(h)
		w.run(3 * time.Second)
		if h.core.known() == 0 {
			t.Error(name, "does not wake it")
		}
	}
}

// TestANodeWhoseAcquaintancesAreGoneStartsAgain: all that it knew are dead, but
// not an address that it was given.
func TestANodeWhoseAcquaintancesAreGoneStartsAgain(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 30, 1, publicAddr)
	fallback := publicAddr(900)
	reader := w.add(publicAddr(901), true, fallback, w.list[0].addr)
	w.run(time.Minute)
	if reader.core.live() < K {
		t.Fatal("knows only", reader.core.live())
	}
	for _, h := range w.list[:30] {
		h.off = true
	}
	w.add(fallback, false)
	w.add(publicAddr(902), false, fallback)
	p := newPerson(1)
	if _, err := w.get(reader, p.public(), p.salt, 0, nil); err == nil {
		t.Fatal("found what nobody published")
	}
	w.run(lastRetry + time.Minute)
	if _, err := w.store(w.list[32], p.item(1, "again"), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := w.get(reader, p.public(), p.salt, 0, nil); err != nil || string(got.Value) != "again" {
		t.Errorf("%q, %v", got.Value, err)
	}
}
