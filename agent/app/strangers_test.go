package app

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) ReadJSON(string, any) error { return nil }
func (nowhere) WriteJSON(_ string, v any) error {
	return json.NewEncoder(io.Discard).Encode(v)
}

func numbered(n int) identity.Address {
	seed := make([]byte, 32)
	seed[0], seed[1] = byte(n), byte(n>>8)
	return identity.FromSeed(seed).Address()
}

// askAs makes one request as a device and returns its status.
func askAs(h http.Handler, a identity.Address) int {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	h.ServeHTTP(w, r.WithContext(overlay.WithCaller(r.Context(), a)))
	return w.Code
}

func TestStrangersAreLimitedAndContactsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book, err := contacts.Open(nowhere{})
		if err != nil {
			t.Fatal(err)
		}
		friend := numbered(1)
		if _, err := book.Add(identity.Link{Address: friend}, "bob", contacts.None); err != nil {
			t.Fatal(err)
		}
		h := newStrangers(book).guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		count := func(a identity.Address, n int) (passed int) {
			for range n {
				if askAs(h, a) == http.StatusOK {
					passed++
				}
			}
			return passed
		}
		if got := count(friend, 1000); got != 1000 {
			t.Errorf("%d of a contact's 1000 requests passed", got)
		}
		if got := count(numbered(2), 100); got != strangerBurst {
			t.Errorf("%d of a stranger's 100 requests passed", got)
		}
		if got := count(numbered(3), 1); got != 1 {
			t.Error("one stranger used up what is another's")
		}
		all := 0
		for n := range 300 {
			all += count(numbered(10+n), 1)
		}
		if want := strangersBurst - strangerBurst - 1; all != want {
			t.Errorf("%d of 300 strangers passed, want %d", all, want)
		}
		time.Sleep(time.Minute)
		if got := count(numbered(2), 100); got != strangerBurst {
			t.Errorf("%d of a stranger's 100 requests passed after a minute", got)
		}
	})
}

func TestAStrangerHoldsFewAnswersOpen(t *testing.T) {
	book, err := contacts.Open(nowhere{})
	if err != nil {
		t.Fatal(err)
	}
	s := newStrangers(book)
	now := time.Now()
	for n := range strangerAtOnce {
		if !s.enter(numbered(1), now) {
			t.Fatalf("answer %d was refused", n)
		}
	}
	if s.enter(numbered(1), now) {
		t.Error("one more than allowed")
	}
	for n := range strangersAtOnce - strangerAtOnce {
		if !s.enter(numbered(100+n), now) {
			t.Fatalf("stranger %d was refused", n)
		}
	}
	if s.enter(numbered(2), now) {
		t.Error("more strangers at once than allowed")
	}
	s.leave(numbered(1))
	if !s.enter(numbered(2), now) {
		t.Error("a place that was left is not given again")
	}
	for n := range 2 * maxStrangers {
		s.enter(numbered(1000+n), now)
	}
	if len(s.known) > maxStrangers {
		t.Errorf("%d strangers are remembered", len(s.known))
	}
}
