package scale

import (
	"slices"
	"time"
)

// The rules of agent/people (device.go, presence.go), agent/introduce (watch.go),
// agent/join (tell.go, introduce.go) and agent/overlay, by the names they have
// there.
const (
	lease          = 30 * time.Minute
	watchEvery     = 90 * time.Minute
	watchFirst     = 5 * time.Second
	watchSpread    = 15 * time.Second
	secondTry      = 5 * time.Second
	hintGap        = 30 * time.Second
	hintsPerMinute = 20
	hintsBurst     = 64
	maxAtOnce      = 8

	maxWatchers   = 64
	watchFor      = 2 * time.Hour
	tellPerSecond = 20 // hintsPerSecond of package introduce
	tellBurst     = 100
	maxBack       = 2

	tellAfter      = time.Second
	introduceAfter = 300 * time.Millisecond
	maxVia         = 4
	handshakeIdle  = 5 * time.Second
	carryLimit     = 5 * time.Second
	restAfter      = 2 * time.Minute

	// noteBytes is a sealed note with its request, or its answer.
	noteBytes = request + 400
)

var retries = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour}

// contact is what a device knows of one of its contacts, and how it is doing.
type contact struct {
	owner, peer *device
	other       *contact // the same, seen from there
	at          place
	via         []hint

	online   bool
	busy     bool
	again    bool
	doubted  bool
	seen     bool // was watched
	failures int
	due      time.Duration // zero for not at all
	alive    time.Duration
	watched  time.Duration
	hinted   time.Duration
}

func (c *contact) reset() {
	*c = contact{owner: c.owner, peer: c.peer, other: c.other, at: c.at, via: c.via, hinted: -time.Hour}
}

// take keeps where the directory says that a contact is.
func (c *contact) take(f *finding) { c.at, c.via = f.at, f.via }

// session is one with a rendezvous where the device is not registered.
type session struct {
	with  *device
	until time.Duration
}

// watch is who is to be told through whom.
type watch struct {
	back  []hint
	until time.Duration
}

// allowance is a bucket of tokens.
type allowance struct {
	level, rate, most float64 // rate a second
	at                time.Duration
}

func newAllowance(rate, most float64) allowance {
	return allowance{level: most, rate: rate, most: most}
}

// take returns how long one more has to wait; it is taken in any case.
func (a *allowance) take(now time.Duration) time.Duration {
	a.level = min(a.most, a.level+a.rate*(now-a.at).Seconds()) - 1
	a.at = now
	if a.level >= 0 {
		return 0
	}
	return time.Duration(-a.level / a.rate * float64(time.Second))
}

// try takes one only if there is one.
func (a *allowance) try(now time.Duration) bool {
	a.level = min(a.most, a.level+a.rate*(now-a.at).Seconds())
	a.at = now
	if a.level < 1 {
		return false
	}
	a.level--
	return true
}

// round tells contacts; all says that those off-line are told too.
func (w *world) round(d *device, all bool) {
	if !d.told {
		return
	}
	for _, c := range d.contacts {
		if all && !c.online {
			c.failures = 0
		}
		switch {
		case c.peer.place == (place{}): // it is not there yet, and will tell us
		case !all && !c.online && c.failures > 0:
		case c.busy:
			c.again = true
		default:
			w.plan(c, w.now)
		}
	}
}

// plan has a contact told at an instant.
func (w *world) plan(c *contact, at time.Duration) {
	at = max(at, w.now, 1)
	if c.due == at {
		return
	}
	c.due = at
	w.soon(c.owner, at-w.now, func() {
		if c.due == at {
			c.due = 0
			w.turn(c)
		}
	})
}

// turn tells a contact, or lets it wait while enough others are told.
func (w *world) turn(c *contact) {
	d := c.owner
	switch {
	case c.busy:
		c.again = true
	case d.busy >= maxAtOnce:
		if !slices.Contains(d.waiting, c) {
			d.waiting = append(d.waiting, c)
		}
	default:
		w.exchange(c)
	}
}

// exchange tells a contact and hears its answer.
func (w *world) exchange(c *contact) {
	d := c.owner
	d.busy++
	c.busy, c.again = true, false
	doubted, began := c.doubted, w.now
	c.doubted = false
	w.tell(c, func(ok bool) {
		d.busy--
		c.busy = false
		w.settleNote(c, ok, began, doubted)
		if c.again {
			w.plan(c, w.now)
		}
		if len(d.waiting) > 0 {
			next := d.waiting[0]
			d.waiting = d.waiting[1:]
			w.turn(next)
		}
	})
}

// settleNote takes the outcome of an exchange.
func (w *world) settleNote(c *contact, ok bool, began time.Duration, doubted bool) {
	switch {
	case ok && c.peer.up:
		c.watched, c.seen = w.now, true
		w.heard(c)
		if c.peer.told {
			w.heard(c.other)
		}
	case c.alive > began:
		w.schedule(c)
	case c.online && !doubted && c.failures == 0:
		c.failures = 1
		w.plan(c, w.now+secondTry)
	default:
		w.absent(c)
	}
}

// heard notes that a contact is on-line.
func (w *world) heard(c *contact) {
	c.alive, c.online, c.failures = w.now, true, 0
	w.schedule(c)
}

// schedule says when a contact is told next.
func (w *world) schedule(c *contact) {
	due := w.now + w.spread(lease)
	if !c.online {
		due = w.now + w.spread(retries[min(c.failures, len(retries)-1)])
	} else if !c.seen {
		due = min(due, w.now+watchFirst+w.upTo(watchSpread))
	} else {
		due = min(due, c.watched+watchEvery)
	}
	w.plan(c, due)
}

// absent takes a contact for off-line.
func (w *world) absent(c *contact) {
	if c.online {
		c.failures = 0
	}
	c.online = false
	c.failures++
	w.plan(c, w.now+w.spread(retries[min(c.failures, len(retries))-1]))
}

// left takes a hint that a contact is gone.
func (w *world) left(c *contact) {
	d := c.owner
	if !d.up || !c.online || w.now-c.hinted < hintGap || !d.doubts.try(w.now) {
		return
	}
	c.hinted, c.doubted = w.now, true
	if c.busy {
		c.again = true
		return
	}
	w.plan(c, w.now)
}

// takeLeave tells who is on-line that a device stops.
func (w *world) takeLeave(d *device) {
	for _, c := range d.contacts {
		o := c.other
		if !c.online || !c.peer.up {
			continue
		}
		if ok, took := w.carry(c, c.ways(), false); ok {
			w.soon(c.peer, took/2, func() {
				o.online, o.failures = false, 2
				w.schedule(o)
			})
		}
	}
}

// ways are by whom a note may go: the contact's rendezvous, our own, and the
// contact itself.
func (c *contact) ways() []hint {
	var all []hint
	add := func(h hint) {
		known := slices.ContainsFunc(all, func(o hint) bool { return o.of == h.of })
		if !known && h.of != c.peer && h.of != c.owner && len(all) < maxVia {
			all = append(all, h)
		}
	}
	for _, h := range c.via {
		add(h)
	}
	for _, h := range c.owner.rendezvous() {
		add(h)
	}
	if c.at != (place{}) {
		all = append(all, hint{c.peer, c.at})
	}
	return all
}

// tell brings a note by what is known or, in vain, by what the directory says.
func (w *world) tell(c *contact, done func(ok bool)) {
	d := c.owner
	ok, took := w.carry(c, c.ways(), true)
	w.soon(d, took, func() {
		if ok {
			done(true)
			return
		}
		w.find(d, c.peer, func(f *finding) {
			if !f.ok {
				done(false)
				return
			}
			c.take(f)
			ok, took := w.carry(c, c.ways(), true)
			w.soon(d, took, func() { done(ok) })
		})
	})
}

// carry tries the ways, each a little after the one before. What becomes of
// each is decided by how things are now.
func (w *world) carry(c *contact, ways []hint, watching bool) (ok bool, took time.Duration) {
	start, best, end := time.Duration(0), time.Duration(-1), time.Duration(0)
	for i, by := range ways {
		if best >= 0 && start >= best {
			break
		}
		brought, lasts := w.bring(c, by, watching)
		if brought && (best < 0 || start+lasts < best) {
			best = start + lasts
		}
		end = max(end, start+lasts)
		start = max(start, min(start+lasts, time.Duration(i+1)*tellAfter))
	}
	if best >= 0 {
		return true, best
	}
	return false, end
}

// bring tries one way.
func (w *world) bring(c *contact, by hint, watching bool) (ok bool, lasts time.Duration) {
	d := c.owner
	if !by.valid() {
		w.charge(d, forPresence, silentPackets, silentBytes)
		return false, handshakeIdle
	}
	r := by.of
	lasts = w.roundTrip(d, r)
	if !d.session(r, w.now) {
		lasts += 2 * w.roundTrip(d, r)
		w.charge(d, forPresence, opened, openedBytes)
		w.charge(r, forPresence, opened, openedBytes)
	}
	const both = 2*noteBytes + exchange*(headers+quicBytes)
	w.charge(d, forPresence, exchange, both)
	w.charge(r, forPresence, exchange, both)
	if r == c.peer {
		return true, lasts
	}
	reg := r.clients[c.peer.id]
	if reg == nil {
		return false, lasts
	}
	w.charge(r, forPresence, exchange, both)
	if !c.peer.up {
		return false, lasts + carryLimit
	}
	w.charge(c.peer, forPresence, exchange, both)
	r.notes++
	if watching && (len(reg.watchers) < maxWatchers) {
		if reg.watchers == nil {
			reg.watchers = map[int32]watch{}
		}
		back := d.rendezvous()
		reg.watchers[d.id] = watch{back[:min(len(back), maxBack)], w.now + watchFor}
	}
	return true, lasts + w.roundTrip(r, c.peer)
}

// session says whether there is a session with a rendezvous, and keeps it.
func (d *device) session(r *device, now time.Duration) bool {
	for _, h := range d.helpers {
		if h.of == r && h.registered {
			return true
		}
	}
	d.visits = slices.DeleteFunc(d.visits, func(s session) bool { return s.until < now })
	for i := range d.visits {
		if d.visits[i].with == r {
			d.visits[i].until = now + restAfter
			return true
		}
	}
	d.visits = append(d.visits, session{r, now + restAfter})
	return false
}

// tellWatchers tells whoever watches a registration that has ended, at the
// rate that a rendezvous keeps.
func (w *world) tellWatchers(r *device, c *client) {
	ids := make([]int32, 0, len(c.watchers))
	for id := range c.watchers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		watcher, watch := w.devices[id], c.watchers[id]
		if watch.until < w.now || !watcher.up {
			continue
		}
		w.soon(r, r.hints.take(w.now), func() { w.hint(r, c.of, watcher, watch.back) })
	}
}

// hint tells one watcher.
func (w *world) hint(r, of, watcher *device, back []hint) {
	const bytes = 2*request + exchange*(headers+quicBytes)
	wait := time.Duration(0)
	if r.clients[watcher.id] == nil && !watcher.session(r, w.now) {
		by := slices.IndexFunc(back, func(h hint) bool { return h.valid() && h.of.clients[watcher.id] != nil })
		if by < 0 {
			return
		}
		w.charge(r, forPresence, opened+exchange, openedBytes+bytes)
		w.charge(back[by].of, forPresence, opened+2*exchange, openedBytes+2*bytes)
		wait = 3*w.roundTrip(r, back[by].of) + w.delay(back[by].of, watcher)
	} else {
		w.charge(r, forPresence, exchange, bytes)
		wait = w.delay(r, watcher)
	}
	w.charge(watcher, forPresence, exchange, bytes)
	w.soon(watcher, wait, func() {
		if c := watcher.contact(of); c != nil {
			w.left(c)
		}
	})
}
