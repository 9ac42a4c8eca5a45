package introduce

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/identity"
)

// limits allows each device so many things a minute, and as many at once. It
// remembers maxCallers devices.
type limits struct {
	perMinute int

	mu  sync.Mutex
	all map[identity.Address]*rate.Limiter
}

func newLimits(perMinute int) *limits {
	return &limits{perMinute: perMinute, all: map[identity.Address]*rate.Limiter{}}
}

// allow reports whether one more is within the limit of a device.
func (l *limits) allow(a identity.Address, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.all[a]
	if r == nil {
		if len(l.all) >= maxCallers {
			l.forgetOne(now)
		}
		r = rate.NewLimiter(rate.Every(time.Minute/time.Duration(l.perMinute)), l.perMinute)
		l.all[a] = r
	}
	return r.AllowN(now, 1)
}

// forgetOne drops the device that has most of its allowance left: forgotten,
// it gains the least. Whoever used up theirs stays limited; l.mu is held.
func (l *limits) forgetOne(now time.Time) {
	var least identity.Address
	most := -1.0
	for a, r := range l.all {
		if left := r.TokensAt(now); left > most {
			least, most = a, left
		}
	}
	delete(l.all, least)
}
