package mail

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

func TestBodiesOfAllSizes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		b, h := w.add(2), w.add(3)
		for _, tt := range []struct {
			size    int
			deliver int
			deposit int
		}{
			{0, 400, 400}, {1, 404, 200}, {sealed.MaxMessage - 1, 404, 200},
			{sealed.MaxMessage, 404, 200}, {sealed.MaxMessage + 1, 413, 413}, {1 << 20, 413, 413},
		} {
			message := make([]byte, tt.size)
			if got, _ := deliver(t, b, 1, message); got != tt.deliver {
				t.Errorf("deliver %d bytes: %d", tt.size, got)
			}
			if got := deposit(h, 1, address(9), "3600", ref(tt.size), message); got != tt.deposit {
				t.Errorf("deposit %d bytes: %d", tt.size, got)
			}
		}
	})
}

func TestDepositRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		h := w.add(3)
		owner := identity.NewAddress(address(8).Key(), identity.KindOwner)
		tests := []struct {
			name   string
			from   byte
			to     identity.Address
			ttl    string
			ref    string
			status int
		}{
			{"good", 1, address(9), "3600", ref(1), 200},
			{"a stranger", 9, address(1), "3600", ref(1), 403},
			{"to the helper", 1, h.address(), "3600", ref(1), 400},
			{"to itself", 1, address(1), "3600", ref(1), 400},
			{"to a person", 1, owner, "3600", ref(1), 400},
			{"to nobody", 1, identity.Address{}, "3600", ref(1), 400},
			{"no ttl", 1, address(9), "", ref(1), 400},
			{"ttl 0", 1, address(9), "0", ref(1), 400},
			{"ttl 1", 1, address(9), "1", ref(1), 200},
			{"ttl negative", 1, address(9), "-1", ref(1), 400},
			{"ttl largest", 1, address(9), "4294967295", ref(1), 200},
			{"ttl too large", 1, address(9), "4294967296", ref(1), 400},
			{"no ref", 1, address(9), "3600", "", 400},
			{"short ref", 1, address(9), "3600", ref(1)[2:], 400},
			{"long ref", 1, address(9), "3600", ref(1) + "00", 400},
			{"no hex", 1, address(9), "3600", "zzzzzzzzzzzzzzzz", 400},
		}
		for _, tt := range tests {
			if got := deposit(h, tt.from, tt.to, tt.ttl, tt.ref, []byte("x")); got != tt.status {
				t.Errorf("%s: %d, want %d", tt.name, got, tt.status)
			}
		}
		if s := h.mail.Stats(); s.Held != 1 {
			t.Errorf("%d are held: a retry is not a second message", s.Held)
		}
		if ttl := h.mail.mailbox.items[0].ttl; ttl != Lifetime {
			t.Errorf("held for %v", ttl)
		}
	})
}

func TestMailboxLimits(t *testing.T) {
	who := func(n int) identity.Address { // no real key: nothing is sealed to it
		var key [32]byte
		key[0], key[1] = byte(n), byte(n>>8)
		return identity.NewAddress(key[:], identity.KindDevice)
	}
	tests := []struct {
		name string
		size int
		from func(n int) int
		to   func(n int) int
		want int
	}{
		{"one sender, one recipient", 400, func(int) int { return 1 }, func(int) int { return 2 }, maxHeldPair},
		{"one recipient", 400, func(n int) int { return n }, func(int) int { return 5000 }, maxHeldFor},
		{"one recipient, in bytes: four senders", 1200, func(n int) int { return n }, func(int) int { return 5000 }, maxHeldFor},
		{"one sender", 400, func(int) int { return 1 }, func(n int) int { return 2 + n }, maxHeldSender},
		{"all", 400, func(n int) int { return n }, func(n int) int { return 3000 + n }, maxHeld},
		{"all, the largest", sealed.MaxMessage, func(n int) int { return n }, func(n int) int { return 3000 + n }, maxHeld},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			box := &mailbox{now: time.Now}
			n := 0
			for ; n < 2*maxHeld; n++ {
				item := &heldItem{from: who(tt.from(n)), to: who(tt.to(n)), ref: parcelRef{byte(n), byte(n >> 8)}, ttl: Lifetime, sealed: make([]byte, tt.size)}
				if !box.room(item) {
					break
				}
				box.put(item)
			}
			if n != tt.want || box.bytes != n*tt.size {
				t.Errorf("%d of %d bytes fit, %d in all; want %d", n, tt.size, box.bytes, tt.want)
			}
			again := *box.items[0]
			if !box.room(&again) {
				t.Error("a retry of one that is held has no room")
			}
		})
	}
	// The limits in bytes can only be met by what is larger than a message.
	box := &mailbox{now: time.Now, bytes: maxHeldBytes - 10}
	if !box.room(&heldItem{sealed: make([]byte, 10)}) || box.room(&heldItem{sealed: make([]byte, 11)}) {
		t.Error("bytes in all are not limited where they should be")
	}
}

func TestRates(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.add(1)
		b := w.add(2)
		for seq := uint64(1); seq <= messagesPerMinute; seq++ {
			if status, _ := deliver(t, b, 1, seal(t, 1, 2, text(seq, 1, "x").marshal())); status != 200 {
				t.Fatalf("message %d: %d", seq, status)
			}
		}
		next := seal(t, 1, 2, text(messagesPerMinute+1, 1, "x").marshal())
		if status, _ := deliver(t, b, 1, next); status != http.StatusTooManyRequests {
			t.Errorf("one more: %d", status)
		}
		pass(time.Minute)
		if status, _ := deliver(t, b, 1, next); status != 200 {
			t.Errorf("a minute later: %d", status)
		}
		statuses := map[int]int{}
		for n := range 2 * strangersPerMinute {
			status, _ := deliver(t, b, byte(10+n%100), []byte("x"))
			statuses[status]++
		}
		if statuses[404] != strangersPerMinute || statuses[429] != strangersPerMinute {
			t.Errorf("strangers: %v", statuses)
		}
		if status, _ := deliver(t, b, 1, []byte("x")); status != 404 {
			t.Errorf("a contact suffers from strangers: %d", status)
		}
		for range requestsPerMinute {
			deliver(t, b, 1, []byte("x"))
		}
		if status, _ := deliver(t, b, 1, []byte("x")); status != 429 {
			t.Errorf("one device's requests: %d", status)
		}
	})
}

func TestRatesRememberABoundedNumberOfDevices(t *testing.T) {
	r := newLimits().messages
	for range messagesPerMinute {
		r.allow(address(1))
	}
	for n := range maxCallers + 50 {
		var key [32]byte
		key[0], key[1] = byte(n), byte(n>>8)
		r.allow(identity.NewAddress(key[:], identity.KindDevice))
	}
	if len(r.all) != maxCallers || r.allow(address(1)) {
		t.Errorf("%d are remembered; who used up its allowance is forgotten", len(r.all))
	}
}

func TestStreamsOfSendersAreBounded(t *testing.T) {
	s := newStore()
	for stream := uint64(1); stream <= maxStreams+1; stream++ {
		s.taken(address(1), incoming{stream: stream, last: 1})
	}
	if s.progress(address(1), 1).last != 0 || s.progress(address(1), 2).last != 1 || len(s.in[address(1)].streams) != maxStreams {
		t.Errorf("%+v", s.in[address(1)].streams)
	}
	for n := range maxSenders {
		var key [32]byte
		key[0], key[1], key[2] = byte(n), byte(n>>8), 7
		s.taken(identity.NewAddress(key[:], identity.KindDevice), incoming{stream: 1, last: 1})
	}
	if len(s.in) != maxSenders || s.in[address(1)] != nil {
		t.Errorf("%d senders are remembered, the oldest among them: %v", len(s.in), s.in[address(1)] != nil)
	}
}

func TestWhatWaitsIsBoundedInAll(t *testing.T) {
	s := newStore()
	for n := range maxPendingAll {
		e := &entry{id: messageID{byte(n), byte(n >> 8)}, contact: address(1), text: "x", state: Waiting}
		if !s.room([]identity.Address{address(byte(n % 50))}, 1) {
			t.Fatalf("no room for copy %d", n)
		}
		to := address(byte(n % 50))
		stream, seq := s.nextPlace(to)
		s.apply(encodeSent(e, []place{{to, stream, seq, false}}))
	}
	if s.room([]identity.Address{address(200)}, 1) {
		t.Error("room for one more")
	}
}

func TestAPersonHasABoundedNumberOfDevices(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.add(1)
		bob := identity.NewAddress(address(102).Key(), identity.KindOwner)
		for n := range byte(maxDevices + 1) {
			w.add(10 + n).person = bob
		}
		if _, err := a.mail.Send(bob, strings.Repeat("x", MaxText)); err != nil {
			t.Fatal(err)
		}
		if n := a.mail.Stats().Pending; n > maxDevices {
			t.Errorf("%d copies", n)
		}
		synctest.Wait()
		if n := w.requests("PUT /v1/deliver"); n != maxDevices {
			t.Errorf("%d copies came", n)
		}
	})
}
