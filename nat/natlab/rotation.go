package natlab

import (
	"context"
	"sync"
	"time"
)

// RotatePeriod is how long a PortRotating carrier leaves the ports of its flows
// alone.
const RotatePeriod = 5 * time.Second

// rotation moves the UDP flows of a carrier to other ports, again and again.
type rotation struct {
	home *home
	pass sync.Mutex // held during a turn, and by whoever needs the ports to stay

	once   sync.Once
	cancel context.CancelFunc
	ctx    context.Context
	done   sync.WaitGroup
	turns  int
}

// newRotation prepares a rotation that Close will stop.
func (l *Lab) newRotation(m *home) *rotation {
	r := &rotation{home: m}
	r.ctx, r.cancel = context.WithCancel(l.ctx)
	l.mu.Lock()
	l.rotations = append(l.rotations, r)
	l.mu.Unlock()
	return r
}

// start begins turning, once.
func (r *rotation) start() { r.once.Do(func() { r.done.Go(r.run) }) }

func (r *rotation) run() {
	tick := time.NewTicker(RotatePeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		if err := r.turn(); err != nil && r.ctx.Err() == nil {
			r.home.lab.opt.Logger.Warn("ports not rotated", "home", r.home.name, "error", err)
		}
	}
}

// turn moves all UDP flows to other ports. Those inside keep sending and find out.
func (r *rotation) turn() error {
	r.home.mu.Lock() // the address may be changing
	defer r.home.mu.Unlock()
	r.pass.Lock()
	defer r.pass.Unlock()
	r.turns++
	m := r.home
	if err := m.lab.rules(m.carrier, m.plan.rotated(m.party.addr4(firstSeat).String(), r.turns)); err != nil {
		return err
	}
	return flushConntrack(m.carrier, udpMark)
}

// stop ends the turning and waits for it.
func (r *rotation) stop() {
	r.cancel()
	r.done.Wait()
}
