package app

import (
	"sync/atomic"
	"time"
)

// epochOfClocks is a time that every clock that is set has passed: this program
// is newer.
var epochOfClocks = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is the wall clock, or, while that stands where a router without a
// battery starts, what a rendezvous said the time is. What is found by the time
// may then be late; nothing is decided by it.
type clock struct{ ahead atomic.Int64 } // nanoseconds; 0: nobody said anything

// now returns the time, and whether it is known.
func (c *clock) now() (time.Time, bool) {
	now := time.Now()
	if now.After(epochOfClocks) {
		return now, true
	}
	if ahead := c.ahead.Load(); ahead != 0 {
		return now.Add(time.Duration(ahead)), true
	}
	return now, false
}

// told notes what a rendezvous says the time is, in seconds since 1970.
func (c *clock) told(unix int64) {
	if at := time.Unix(unix, 0); at.After(epochOfClocks) {
		c.ahead.Store(int64(time.Until(at)))
	}
}
