package mail

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/identity"
)

const (
	// requestsPerMinute is how many requests of one device are looked at, and
	// how many at once: two helpers' worth of what may wait for a recipient.
	requestsPerMinute = 240
	// strangersPerMinute is the same for all devices together that are neither
	// contacts nor depositors: they can only be helpers of contacts.
	strangersPerMinute = 240
	// messagesPerMinute is how many messages of one sender's device are taken.
	messagesPerMinute = 90
	// maxCallers is how many devices' rates are remembered.
	maxCallers = 512
)

// limits are the rates of the service.
type limits struct {
	requests, messages *rates
	strangers          *rate.Limiter
}

func newLimits() limits {
	return limits{
		requests:  &rates{perMinute: requestsPerMinute, all: map[identity.Address]*rate.Limiter{}},
		messages:  &rates{perMinute: messagesPerMinute, all: map[identity.Address]*rate.Limiter{}},
		strangers: rate.NewLimiter(rate.Limit(strangersPerMinute)/60, strangersPerMinute),
	}
}

// rates allows each device so many things a minute, and as many at once.
type rates struct {
	perMinute int
	mu        sync.Mutex
	all       map[identity.Address]*rate.Limiter
}

func (r *rates) allow(a identity.Address) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.all[a]
	if l == nil {
		if len(r.all) >= maxCallers {
			r.forgetOne(now)
		}
		l = rate.NewLimiter(rate.Limit(r.perMinute)/60, r.perMinute)
		r.all[a] = l
	}
	return l.AllowN(now, 1)
}

// forgetOne drops the device that has most of its allowance left: forgotten,
// it gains the least; r.mu is held.
func (r *rates) forgetOne(now time.Time) {
	var least identity.Address
	most := -1.0
	for a, l := range r.all {
		if left := l.TokensAt(now); left > most {
			least, most = a, left
		}
	}
	delete(r.all, least)
}
