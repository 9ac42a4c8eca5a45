package dialback

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxRemembered is how many callers, or networks, have their rates remembered.
const maxRemembered = 1024

// limits allows each key so many things a minute, whichever minute: half of
// them at once, the other half as the minute passes.
type limits[K comparable] struct {
	perMinute int

	mu  sync.Mutex
	all map[K]*rate.Limiter
}

func newLimits[K comparable](perMinute int) *limits[K] {
	return &limits[K]{perMinute: perMinute, all: map[K]*rate.Limiter{}}
}

// allow reports whether one more is within the limit of a key.
func (l *limits[K]) allow(key K, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.all[key]
	if r == nil {
		if len(l.all) >= maxRemembered {
			l.forgetOne(now)
		}
		half := l.perMinute / 2
		r = rate.NewLimiter(rate.Every(time.Minute/time.Duration(half)), half)
		l.all[key] = r
	}
	return r.AllowN(now, 1)
}

// forgetOne drops the key that has most of its allowance left: forgotten, it
// gains the least; l.mu is held.
func (l *limits[K]) forgetOne(now time.Time) {
	var least K
	most := -1.0
	for key, r := range l.all {
		if left := r.TokensAt(now); left > most {
			least, most = key, left
		}
	}
	delete(l.all, least)
}
