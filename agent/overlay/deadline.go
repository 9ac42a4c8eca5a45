package overlay

import (
	"os"
	"sync"
	"time"
)

// errDeadline is what net.Conn promises after a deadline.
var errDeadline = os.ErrDeadlineExceeded

// deadline is a moment that readers wait for and that may be moved; the zero
// value is never.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	sets  int           // how often it was moved
	ch    chan struct{} // closed when the moment is past
}

// passed returns a channel that is closed at the deadline. A reader that waits
// for it notices every later set as well.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	return d.ch
}

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sets++
	if d.timer != nil {
		d.timer.Stop()
	}
	select {
	case <-d.ch:
		d.ch = nil // who waited is gone
	default:
	}
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.ch)
		return
	}
	sets := d.sets
	d.timer = time.AfterFunc(left, func() { d.expire(sets) })
}

// expire ends the waiting unless the deadline was moved meanwhile.
func (d *deadline) expire(sets int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sets == sets {
		close(d.ch)
	}
}
