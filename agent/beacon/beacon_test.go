package beacon

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
)

func TestMain(m *testing.M) {
	if runHelper() {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestNewcomerHearsEverybodyWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const others = 20
		h := &house{}
		var all []*identity.Device
		for n := range byte(others + 1) {
			all = append(all, device(n+1))
		}
		for n := range byte(others) {
			h.in(t, n+1, Config{Known: addresses(all...)})
		}
		pass(17 * time.Second)
		before := h.count()
		var heard atomic.Int64
		late := h.in(t, others+1, Config{Known: addresses(all...), OnHeard: func(_ identity.Address, news bool) {
			if news {
				heard.Add(1)
			}
		}})
		pass(time.Second)
		if heard.Load() != others {
			t.Errorf("heard %d of %d", heard.Load(), others)
		}
		for n := range byte(others) {
			want := at(netip.AddrPortFrom(h.card(n+1).v4, 4000+uint16(n)+1).String(),
				netip.AddrPortFrom(h.card(n+1).v6, 4000+uint16(n)+1).String())
			if got := late.Hints(device(n + 1).Address()); !slices.Equal(got, want) {
				t.Errorf("hints of device %d: %v, want %v", n+1, got, want)
			}
		}
		// Each of the others answers once; the newcomer says it three times, and
		// once or twice more because the others are new to it.
		if sent := h.count() - before; sent < others+3 || sent > others+5 {
			t.Errorf("a newcomer made %d devices send %d beacons, want one each", others, sent-3)
		}
	})
}

func TestBeaconsComeEveryThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		b := h.in(t, 1, Config{})
		pass(time.Hour)
		if h.count() < 3+3600/33-1 || h.count() > 3+3600/27+1 {
			t.Errorf("%d beacons in an hour", h.count())
		}
		for i, at := range h.times[3:] {
			if d := at.Sub(h.times[i+2]); d < Interval-Jitter || d > Interval+Jitter {
				t.Fatalf("%v between two beacons", d)
			}
		}
		before := h.count()
		b.Moved()
		pass(time.Second)
		if n := h.count() - before; n != 3 {
			t.Errorf("a move was told %d times, want 3", n)
		}
		before = h.count()
		for range 1000 {
			b.Moved()
			pass(time.Millisecond)
		}
		if n := h.count() - before; n > int(time.Second/sendGap)+1 {
			t.Errorf("%d beacons in a second of flapping", n)
		}
	})
}

func TestHintsGrowOldAndFollowMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		var heard, news atomic.Int64
		a := h.in(t, 1, Config{Known: addresses(device(2)), OnHeard: func(_ identity.Address, fresh bool) {
			heard.Add(1)
			if fresh {
				news.Add(1)
			}
		}})
		b := h.in(t, 2, Config{})
		pass(time.Minute)
		if news.Load() != 1 || heard.Load() < 4 {
			t.Errorf("%d beacons, %d with news; want several and one", heard.Load(), news.Load())
		}
		b.ether.(*card).v4 = netip.MustParseAddr("192.168.1.77")
		b.ether.(*card).networks[0] = netip.MustParsePrefix("192.168.1.77/24")
		b.Moved()
		pass(time.Second)
		want := at("192.168.1.77:4002", "[fe80::2%eth0]:4002", "192.168.1.2:4002")
		if got := a.Hints(device(2).Address()); !slices.Equal(got, want) {
			t.Errorf("after a move: %v, want %v", got, want)
		}
		if news.Load() != 2 {
			t.Errorf("a move was news %d times", news.Load()-1)
		}
		b.Close()
		pass(Fresh + time.Second)
		if got := a.Hints(device(2).Address()); got != nil {
			t.Errorf("long after it went silent: %v", got)
		}
		again := h.in(t, 2, Config{})
		pass(time.Second)
		if got := a.Hints(again.cfg.Device.Address()); len(got) != 2 {
			t.Errorf("after a restart: %v", got)
		}
	})
}

func TestWhatWasHeardIsReadWhenItsSenderBecomesKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		var known atomic.Pointer[[]identity.Address]
		known.Store(&[]identity.Address{identity.NewAddress(device(9).Address().Key(), identity.KindOwner), device(1).Address()})
		a := h.in(t, 1, Config{Known: func() []identity.Address { return *known.Load() }})
		h.in(t, 2, Config{})
		pass(10 * time.Second)
		if got := a.Hints(device(2).Address()); got != nil {
			t.Fatalf("a stranger was recognised: %v", got)
		}
		known.Store(&[]identity.Address{device(2).Address()})
		a.KnownChanged()
		if got := a.Hints(device(2).Address()); !slices.Equal(got, at("192.168.1.2:4002")) {
			t.Errorf("right after it became known: %v", got)
		}
		known.Store(&[]identity.Address{})
		a.KnownChanged()
		if got := a.Hints(device(2).Address()); got != nil {
			t.Errorf("after it was forgotten: %v", got)
		}
	})
}

func TestNewDeviceFindsWhoInvitedByCode(t *testing.T) {
	for _, c := range []struct {
		name    string
		opens   time.Duration // after the search began
		limit   time.Duration
		want    bool
		wrong   bool
		already bool // the invitation was heard before the search
	}{
		{name: "open already", limit: 250 * time.Millisecond, want: true},
		{name: "heard before the search", already: true, limit: time.Millisecond, want: true},
		{name: "opened later", opens: 20 * time.Second, limit: 5200 * time.Millisecond, want: true},
		{name: "another code", wrong: true, limit: 2 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{}
				code, opens := [32]byte{7}, time.Now().Add(c.opens)
				if !c.already {
					opens = opens.Add(10 * time.Second)
				}
				inviter := h.in(t, 1, Config{Invite: func() ([32]byte, bool) { return code, !time.Now().Before(opens) }})
				h.in(t, 3, Config{Known: addresses(device(1))})
				n := h.in(t, 2, Config{})
				pass(10 * time.Second)
				if c.wrong {
					code[31]++
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.opens+c.limit)
				defer cancel()
				from, where, err := n.Find(ctx, [32]byte{7})
				if !c.want {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("found %v, %v", from, err)
					}
					return
				}
				if err != nil || from != inviter.cfg.Device.Address() || !slices.Equal(where[:1], at("192.168.1.1:4001")) {
					t.Errorf("%v at %v, %v", from, where, err)
				}
				if n.Hints(from) != nil {
					t.Error("an inviter became a known device")
				}
			})
		})
	}
}

func TestTwoWhoSearchDoNotTakeEachOtherForTheInviter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		failed := make(chan error, 2)
		for n := range byte(2) {
			b := h.in(t, n+1, Config{})
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, _, err := b.Find(ctx, [32]byte{7})
				failed <- err
			}()
		}
		for range 2 {
			if err := <-failed; !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
	})
}

func TestSearchesAreBoundedAndEndWithTheBeacon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		b := h.idle(1, Config{})
		if _, _, err := b.Find(t.Context(), [32]byte{}); !errors.Is(err, ErrClosed) {
			t.Errorf("before Start: %v", err)
		}
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, maxSearches)
		for range maxSearches {
			go func() {
				_, _, err := b.Find(t.Context(), [32]byte{})
				ended <- err
			}()
		}
		synctest.Wait()
		if _, _, err := b.Find(t.Context(), [32]byte{}); err == nil || errors.Is(err, ErrClosed) {
			t.Errorf("one search too many: %v", err)
		}
		b.Close()
		for range maxSearches {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		if err := b.Start(); !errors.Is(err, ErrClosed) {
			t.Errorf("Start after Close: %v", err)
		}
	})
}

// A stranger sees the magic, the version, the flags and the DHT port; nothing
// else in two beacons of one device is alike, and nothing tells who sends.
func TestStrangersLearnNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		material := [32]byte{7}
		d := device(1)
		h.in(t, 1, Config{Invite: func() ([32]byte, bool) { return material, true }})
		searcher := h.in(t, 2, Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := searcher.Find(ctx, material); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		if h.count() < 60 {
			t.Fatalf("only %d beacons", h.count())
		}
		secrets := [][]byte{d.Address().Key()[:4], device(2).Address().Key()[:4], []byte(d.Address().String()[:6]),
			{192, 168, 1}, {0xfe, 0x80, 0, 0}, material[:4]}
		seen := map[string]int{}
		for i, b := range h.sent {
			if len(b) != MinDatagram {
				t.Fatalf("a beacon has %d bytes; all must look alike", len(b))
			}
			for _, s := range secrets {
				if bytes.Contains(b[headerSize:], s) || bytes.Contains(b[nonceAt:flagsAt], s) {
					t.Errorf("beacon %d contains %x", i, s)
				}
			}
			if b[flagsAt] != 0 || b[dhtAt] != 0 || b[dhtAt+1] != 0 {
				t.Errorf("clear part % x", b[flagsAt:headerSize])
			}
			// Six equal bytes at any places are no accident: 2⁻⁴⁸ for each pair.
			for j := nonceAt; j+6 <= len(b); j++ {
				if j > flagsAt-6 && j < headerSize {
					continue
				}
				if k, twice := seen[string(b[j:j+6])]; twice {
					t.Fatalf("beacons %d and %d share % x", k, i, b[j:j+6])
				}
				seen[string(b[j:j+6])] = i
			}
		}
	})
}

func TestStrangersShareTheirDHT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		a := h.in(t, 1, Config{DHTPort: func() uint16 { return 1111 }})
		b := h.in(t, 2, Config{DHTPort: func() uint16 { return 2222 }})
		h.in(t, 3, Config{DHTPort: func() uint16 { return 0 }})
		pass(time.Second)
		if got := a.DHT(); !slices.Equal(got, at("192.168.1.2:2222")) {
			t.Errorf("heard of %v", got)
		}
		b.Close()
		pass(Fresh + time.Second)
		if got := a.DHT(); got != nil {
			t.Errorf("long after it went silent: %v", got)
		}
	})
}
