package app

import (
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

const (
	// strangerEvery is how often one stranger may ask for something public, on
	// average, and strangerBurst how often at once; strangersEvery and
	// strangersBurst are the same for all strangers together.
	strangerEvery  = 500 * time.Millisecond
	strangerBurst  = 40
	strangersEvery = 100 * time.Millisecond
	strangersBurst = 120
	// strangerAtOnce is how many answers one stranger is given at the same
	// time, strangersAtOnce how many all of them.
	strangerAtOnce  = 4
	strangersAtOnce = 16
	// maxStrangers is how many are remembered; beyond, any without an answer
	// under way is forgotten.
	maxStrangers = 256
)

// strangers bounds what people cost whom the owner does not know. Contacts pass.
type strangers struct {
	book *contacts.Book

	mu     sync.Mutex
	all    *rate.Limiter
	atOnce int
	known  map[identity.Address]*stranger
}

type stranger struct {
	rate   *rate.Limiter
	atOnce int
}

func newStrangers(book *contacts.Book) *strangers {
	return &strangers{
		book:  book,
		all:   rate.NewLimiter(rate.Every(strangersEvery), strangersBurst),
		known: map[identity.Address]*stranger{},
	}
}

// guard lets contacts through to h, and strangers within limits.
func (s *strangers) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := overlay.Caller(r)
		if _, contact := s.book.Get(caller); contact {
			h.ServeHTTP(w, r)
			return
		}
		if !s.enter(caller, time.Now()) {
			w.Header().Set("Retry-After", "10")
			http.Error(w, "too much at once for somebody who is no contact; try again in ten seconds", http.StatusTooManyRequests)
			return
		}
		defer s.leave(caller)
		h.ServeHTTP(w, r)
	})
}

func (s *strangers) enter(a identity.Address, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.known[a]
	if one == nil {
		s.makeRoom()
		one = &stranger{rate: rate.NewLimiter(rate.Every(strangerEvery), strangerBurst)}
		s.known[a] = one
	}
	if one.atOnce >= strangerAtOnce || s.atOnce >= strangersAtOnce || !one.rate.AllowN(now, 1) || !s.all.AllowN(now, 1) {
		return false
	}
	one.atOnce++
	s.atOnce++
	return true
}

func (s *strangers) leave(a identity.Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[a].atOnce--
	s.atOnce--
}

// makeRoom forgets strangers until one more has a place; s.mu is held.
func (s *strangers) makeRoom() {
	for a, one := range s.known {
		if len(s.known) < maxStrangers {
			return
		}
		if one.atOnce == 0 {
			delete(s.known, a)
		}
	}
}
