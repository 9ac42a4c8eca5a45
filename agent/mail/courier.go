package mail

import (
	"context"
	"sync"
	"time"

	"porchlight/agent/identity"
)

// maxRounds is how many devices a courier calls on at once; as many again may
// be devices that just came, which need not wait behind those that do not
// answer.
const maxRounds = 4

// call says why a courier is to go.
type call int

const (
	// nudge: a helper came; the next round of its own stays when it was.
	nudge call = iota
	// fresh: there is something new.
	fresh
	// came: the device is on-line.
	came
)

// round is one visit to a device, or to helpers in its place.
type round struct {
	due, retry time.Time
	attempt    int
	direct     bool
	busy       bool
}

// courier goes to devices for which something waits: at once when called, and
// again by its waits while something is left. run does one round; direct says
// that the device itself is to be tried whatever is known about it.
type courier struct {
	waits []time.Duration
	run   func(ctx context.Context, to identity.Address, direct bool) (left bool)

	mu     sync.Mutex
	rounds map[identity.Address]*round
	wake   chan struct{}
	going  sync.WaitGroup
	busy   int
}

func newCourier(waits []time.Duration, run func(context.Context, identity.Address, bool) bool) *courier {
	return &courier{waits: waits, run: run, rounds: map[identity.Address]*round{}, wake: make(chan struct{}, 1)}
}

// call sends the courier to a device, now or after a delay.
func (c *courier) call(to identity.Address, why call, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rounds[to]
	now := time.Now()
	if r == nil {
		r = &round{due: now.Add(after), retry: now}
		c.rounds[to] = r
	}
	if due := now.Add(after); due.Before(r.due) || r.busy {
		r.due = due
	}
	switch why {
	case fresh:
		r.attempt = 0
	case came:
		r.attempt, r.direct = 0, true
	}
	if why != nudge {
		r.retry = now
	}
	c.signal()
}

func (c *courier) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// loop sends rounds until ctx ends, and waits for them.
func (c *courier) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer c.going.Wait()
	for {
		next, ok := c.launch(ctx)
		if !ok {
			next = time.Hour
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// launch starts the rounds that are due and returns how long until the next.
func (c *courier) launch(ctx context.Context) (wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for to, r := range c.rounds {
		if r.busy || c.busy >= 2*maxRounds || (c.busy >= maxRounds && !r.direct) {
			continue
		}
		if left := r.due.Sub(now); left > 0 {
			if !ok || left < wait {
				wait, ok = left, true
			}
			continue
		}
		// A round of the courier's own tries the device itself, but the first.
		direct := r.direct || (r.attempt > 0 && !now.Before(r.retry))
		r.busy, r.direct = true, false
		r.due = now.Add(c.waits[len(c.waits)-1])
		asked := r.due
		c.busy++
		c.going.Go(func() { c.visit(ctx, to, direct, asked) })
	}
	return wait, ok
}

// visit makes one round and decides on the next.
func (c *courier) visit(ctx context.Context, to identity.Address, direct bool, asked time.Time) {
	left := c.run(ctx, to, direct)
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rounds[to]
	r.busy = false
	c.busy--
	defer c.signal()
	if r.due != asked {
		return // called again meanwhile: that round comes next
	}
	if !left {
		delete(c.rounds, to)
		return
	}
	now := time.Now()
	if now.Before(r.retry) {
		r.due = r.retry // it was a nudge
		return
	}
	r.due = now.Add(c.waits[min(r.attempt, len(c.waits)-1)])
	r.retry = r.due
	r.attempt++
}
