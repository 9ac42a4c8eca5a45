package people

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"porchlight/agent/identity"
)

const (
	// lease is how long a contact is on-line without another sign of it; each
	// is a quarter longer or shorter, so that not all end at once.
	lease = 30 * time.Minute
	// watchEvery is how often at least a note of our own goes to a contact that
	// is on-line: the watch of its rendezvous ends after two hours.
	watchEvery = 90 * time.Minute
	// A contact that told us is told, and watched, after watchFirst and up to
	// watchSpread more.
	watchFirst  = 5 * time.Second
	watchSpread = 15 * time.Second
	// soon is when a device is asked that is on-line but has said nothing.
	soon = 2 * time.Second
	// secondTry is when a check that failed is repeated, before the contact is
	// taken for gone.
	secondTry = 5 * time.Second
	// silence is after how long a contact we hide from is taken for gone: to it
	// we are off-line, so that it tries us every 45 to 75 minutes.
	silence = 80 * time.Minute

	// hintGap is the least pause between two checks of one device because of
	// hints, hintsPerMinute and hintsBurst how many of all devices are checked.
	hintGap        = 30 * time.Second
	hintsPerMinute = 20
	hintsBurst     = 64
	// maxRetired is how many former lives of a device are remembered.
	maxRetired = 4
)

// retries is when a contact that is off-line is tried; the last one repeats.
var retries = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour}

// Seen is what is known of one device.
type Seen struct {
	Online bool
	// Since is when Online became what it is, LastSeen the last sign of the
	// device; both zero if there never was any. They are of the wall clock.
	Since, LastSeen time.Time
	// Name is what the device calls itself, "" if it never said.
	Name string
	// Roster is the version of its owner's list of devices, as it told last.
	Roster uint64
}

// device is one device of a contact. Presence.mu guards it.
type device struct {
	peer Peer
	seen Seen

	boot    string   // of its present life
	last    uint64   // what it counted last in it
	retired []string // boots of former lives

	alive    time.Time // the last sign of it
	watched  time.Time // the last note of ours that it answered
	due      time.Time // when it is to be told next; zero for not at all
	busy     bool      // it is being told
	again    bool      // it is to be told again after that
	leave    bool      // the next note says that we left
	doubted  bool      // the next note answers a hint that it left
	hinted   time.Time // when it was last doubted because of a hint
	failures int       // in a row
}

// run tells devices when they are due, until the Presence is closed.
func (p *Presence) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.wake:
		case <-timer.C:
		case <-p.ctx.Done():
			return
		}
		timer.Reset(p.step(time.Now()))
	}
}

// step tells whoever is due and returns for how long nobody will be.
func (p *Presence) step(now time.Time) time.Duration {
	p.mu.Lock()
	save := p.unsaved && now.Sub(p.saved) >= saveEvery
	wait := saveEvery
	for p.busy < maxAtOnce {
		d := p.next()
		if d == nil {
			break
		}
		if early := d.due.Sub(now); early > 0 {
			wait = early
			break
		}
		if d.peer.Hidden && !d.leave {
			p.gone(d, now)
			continue
		}
		if pause := p.pace(now); pause > 0 {
			wait = pause
			break
		}
		p.begin(d, now)
	}
	p.mu.Unlock()
	if save {
		if err := p.save(); err != nil {
			p.cfg.Logger.Warn("not stored", "err", err)
		}
	}
	return min(wait, saveEvery)
}

// next returns the device that is due first; p.mu is held.
func (p *Presence) next() (first *device) {
	for _, d := range p.order {
		if !d.busy && !d.due.IsZero() && (first == nil || d.due.Before(first.due)) {
			first = d
		}
	}
	return first
}

// pace returns how long the next note has to wait, 0 if it may go.
func (p *Presence) pace(now time.Time) time.Duration {
	r := p.rate.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// begin starts one exchange with a device; p.mu is held.
func (p *Presence) begin(d *device, now time.Time) {
	p.busy++
	d.busy, d.again, d.due = true, false, time.Time{}
	to, on, doubted := d.peer.Address, !d.leave, d.doubted
	d.leave, d.doubted = false, false
	p.running.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, tellLimit)
		defer cancel()
		m, err := p.tell(ctx, to, on)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy--
		d.busy = false
		poke(p.wake)
		if p.devices[to] != d || p.ctx.Err() != nil {
			return
		}
		p.settle(d, m, err, now, doubted)
		if d.again && (!d.peer.Hidden || d.leave) {
			d.due = time.Now()
		}
	})
}

// settle takes the outcome of an exchange that began at a time; p.mu is held.
func (p *Presence) settle(d *device, m message, err error, began time.Time, doubted bool) {
	now := time.Now()
	switch {
	case err == nil:
		d.watched = now
		p.hear(d, m, true)
	case d.alive.After(began), d.peer.Hidden: // it gave another sign meanwhile
		p.schedule(d, now)
	case d.seen.Online && !doubted && d.failures == 0:
		d.failures, d.due = 1, now.Add(secondTry)
	default:
		p.cfg.Logger.Debug("contact is not reached", "peer", d.peer.Address.Short(), "err", err)
		p.gone(d, now)
	}
}

// gone takes a device for off-line and says when to try again; p.mu is held.
func (p *Presence) gone(d *device, now time.Time) {
	if d.seen.Online {
		d.failures = 0
	}
	p.set(d, false)
	d.failures++
	d.due = now.Add(spread(retries[min(d.failures, len(retries))-1]))
	if d.peer.Hidden {
		d.due = time.Time{}
	}
}

// hear takes what a device says of itself. An answer is fresh: it was made for
// a question of ours; p.mu is held.
func (p *Presence) hear(d *device, m message, fresh bool) {
	now := time.Now()
	other := m.Boot != d.boot
	switch {
	case !other && m.N <= d.last:
		if d.due.IsZero() {
			p.schedule(d, now)
		}
		return // an older word than the last
	case other && !fresh && (slices.Contains(d.retired, m.Boot) || !m.On && d.seen.Online):
		p.doubt(d, now) // of another life: which one is this?
		return
	}
	if other {
		d.begin(m.Boot)
		if !fresh {
			d.watched = time.Time{} // the watch was one of the former life
		}
	}
	d.last = m.N
	if m.Name != d.seen.Name || m.Roster != d.seen.Roster {
		d.seen.Name, d.seen.Roster = m.Name, m.Roster
		p.notify()
	}
	p.sign(d, now)
	p.set(d, m.On)
	d.failures = 0
	if !m.On { // it took leave, and will tell when it is back
		d.failures = 2
	}
	p.schedule(d, now)
}

// begin notes that the device lives another life.
func (d *device) begin(boot string) {
	d.retired = slices.DeleteFunc(d.retired, func(b string) bool { return b == boot })
	if d.boot != "" {
		d.retired = append(d.retired, d.boot)
	}
	if len(d.retired) > maxRetired {
		d.retired = d.retired[1:]
	}
	d.boot = boot
}

// sign notes a sign of a device; p.mu is held.
func (p *Presence) sign(d *device, now time.Time) {
	d.alive = now
	d.seen.LastSeen = p.cfg.Now()
	p.unsaved = true
}

// set says whether a device is on-line; p.mu is held.
func (p *Presence) set(d *device, online bool) {
	if d.seen.Online == online {
		return
	}
	d.seen.Online, d.seen.Since = online, p.cfg.Now()
	if !online {
		d.watched = time.Time{} // the watch ended with the registration
	}
	p.notify()
	if online && p.cfg.Requests != nil {
		p.cfg.Requests.online(d.peer.Address)
	}
}

// schedule says when a device is told next; p.mu is held.
func (p *Presence) schedule(d *device, now time.Time) {
	if d.leave {
		return // what is due is our leave
	}
	switch {
	case d.peer.Hidden && d.seen.Online:
		d.due = now.Add(silence)
	case d.peer.Hidden:
		d.due = time.Time{}
	case !d.seen.Online:
		d.due = now.Add(spread(retries[min(d.failures, len(retries)-1)]))
	default:
		d.due = now.Add(spread(lease))
		watch := now.Add(watchFirst + rand.N(watchSpread))
		if !d.watched.IsZero() {
			watch = d.watched.Add(watchEvery)
		}
		if watch.Before(d.due) {
			d.due = watch
		}
	}
	poke(p.wake)
}

// Saw says that a device is on-line: a session with it began, or it sent
// something that only it can.
func (p *Presence) Saw(device identity.Address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.devices[device]
	if d == nil || p.closed {
		return
	}
	now := time.Now()
	came := !d.seen.Online
	p.sign(d, now)
	p.set(d, true)
	if d.busy {
		return
	}
	d.failures = 0
	p.schedule(d, now)
	if came && !d.peer.Hidden && !d.leave && p.begun {
		d.due = now.Add(soon)
		poke(p.wake)
	}
}

// Left takes a hint that a device has left, which may be forged: it is asked.
func (p *Presence) Left(device identity.Address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.devices[device]
	switch {
	case d == nil || !d.seen.Online || p.closed:
	case d.peer.Hidden:
		p.gone(d, time.Now())
	default:
		p.doubt(d, time.Now())
	}
}

// doubt has a device asked at once, though not too often; p.mu is held.
func (p *Presence) doubt(d *device, now time.Time) {
	if d.peer.Hidden || now.Sub(d.hinted) < hintGap || !p.doubts.AllowN(now, 1) {
		return
	}
	d.hinted, d.doubted = now, true
	if d.busy {
		d.again = true
		return
	}
	d.due = now
	poke(p.wake)
}

// spread returns d, a quarter longer or shorter.
func spread(d time.Duration) time.Duration { return d - d/4 + rand.N(d/2) }
