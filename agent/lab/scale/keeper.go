package scale

import (
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

// The rules of agent/reach (helpers.go, keeper.go) and agent/join (hints.go), by
// the names they have there.
const (
	wanted        = 3
	maxTended     = 16
	headStart     = time.Second
	registerEvery = introduce.DefaultPeriod
	registerLimit = 5 * time.Second
	lackEvery     = 500 * time.Millisecond
	retryFirst    = time.Second
	retryLast     = 8 * time.Second
	restLast      = 30 * time.Second

	hintLimit = 3 * time.Second // how long a silent address is asked
	lookAfter = time.Second
)

// helper is one rendezvous that is tended.
type helper struct {
	hint
	registered, claimed bool
	tried               time.Duration // when the attempt began, negative in pauses
	since               time.Duration
	until               time.Duration // a session that is dead lasts until then
	session             bool
	pause               time.Duration
	dropped             bool
}

// links are the rendezvous to try, in the order of agent/app/parts.go: whoever
// the device began with, contacts that published that they introduce others,
// those it was registered at, hearsay, and those that the first link named.
func (d *device) links(w *world) []hint {
	var all []hint
	if d.mentor.of != nil && d.mentor.of.public {
		all = append(all, d.mentor)
	}
	for _, c := range d.contacts {
		if c.at != (place{}) {
			all = append(all, hint{c.peer, c.at})
		}
	}
	for _, l := range d.fellows.Links() {
		all = append(all, hint{w.index[l.Address], place{l.At[0].Addr()}})
	}
	return append(all, d.via...)
}

// look tends rendezvous while there are too few.
func (w *world) look(d *device) {
	if !d.up || d.looking {
		return
	}
	hopeful, standing := 0, 0
	for of, until := range d.rests {
		if w.now >= until {
			delete(d.rests, of)
		}
	}
	for _, h := range d.helpers {
		if h.registered {
			standing++
		}
		if h.registered || h.tried >= 0 && w.now-h.tried < headStart {
			hopeful++
		}
	}
	if hopeful < wanted && len(d.helpers) < maxTended {
		for _, l := range d.links(w) {
			if hopeful >= wanted || len(d.helpers) >= maxTended {
				break
			}
			if _, rests := d.rests[l.of]; rests || l.of == d || slices.ContainsFunc(d.helpers, func(h *helper) bool { return h.of == l.of }) {
				continue
			}
			h := &helper{hint: l, tried: w.now, pause: retryFirst}
			d.helpers = append(d.helpers, h)
			hopeful++
			w.attempt(d, h)
		}
	}
	if standing < wanted {
		d.looking = true
		w.soon(d, lackEvery, func() { d.looking = false; w.look(d) })
	}
}

// attempt begins or goes on with a registration.
func (w *world) attempt(d *device, h *helper) {
	h.tried = w.now
	switch {
	case h.session && !h.valid() && w.now < h.until:
		// The session seems to live: a request finds out.
		w.charge(d, forRegistration, 4, 4*(request+headers+quicBytes))
		w.soon(d, registerLimit, func() { w.lost(d, h, retryFirst) })
	case h.session && h.valid():
		w.register(d, h)
	default:
		h.session = false
		w.connect(d, h)
	}
}

// connect begins a session: at the address that is known, or where the
// directory says.
func (w *world) connect(d *device, h *helper) {
	if h.valid() {
		w.charge(d, forRegistration, opened, openedBytes)
		w.charge(h.of, forRegistration, opened, openedBytes)
		w.soon(d, 2*w.roundTrip(d, h.of), func() {
			if !h.valid() {
				w.lost(d, h, 0)
				return
			}
			h.session = true
			w.register(d, h)
		})
		return
	}
	w.charge(d, forRegistration, silentPackets, silentBytes)
	w.soon(d, lookAfter, func() {
		w.find(d, h.of, func(f *finding) {
			if f.ok && f.at != (place{}) && f.at != h.at {
				h.at = f.at
				w.connect(d, h)
				return
			}
			w.soon(d, hintLimit-lookAfter, func() { w.lost(d, h, 0) })
		})
	})
}

// register asks for the registration, if it is still wanted.
func (w *world) register(d *device, h *helper) {
	taken := 0
	for _, o := range d.helpers {
		if o != h && (o.registered || o.claimed) {
			taken++
		}
	}
	if taken >= wanted {
		w.lost(d, h, 0)
		return
	}
	h.claimed = true
	bytes := 2*request + w.answerSize + exchange*(headers+quicBytes)
	w.charge(d, forRegistration, exchange, bytes)
	w.charge(h.of, forRegistration, exchange, bytes)
	w.soon(d, w.roundTrip(d, h.of), func() {
		if !h.valid() {
			w.soon(d, registerLimit, func() { w.lost(d, h, retryFirst) })
			return
		}
		if len(h.of.clients) >= maxCallers && h.of.clients[d.id] == nil {
			w.refuse(d, h)
			return
		}
		w.stands(d, h)
	})
}

// refuse is what becomes of a registration for which there is no room: the
// rendezvous names others, and is left alone for a while.
func (w *world) refuse(d *device, h *helper) {
	w.full++
	w.hearOthers(d, h.of)
	if d.rests == nil {
		d.rests = map[*device]time.Duration{}
	}
	d.rests[h.of] = w.now + restLast
	h.dropped = true
	d.helpers = slices.DeleteFunc(d.helpers, func(o *helper) bool { return o == h })
	w.lost(d, h, retryFirst)
}

// stands notes a registration.
func (w *world) stands(d *device, h *helper) {
	r := h.of
	w.settleCounts(d)
	w.settleCounts(r)
	if r.clients[d.id] == nil {
		r.clients[d.id] = &client{of: d}
		r.served++
	}
	if !h.registered {
		d.held++
	}
	h.registered, h.claimed, h.since, h.pause = true, false, w.now, retryFirst
	w.mix(uint64(d.id)<<32 | uint64(r.id))
	link := identity.Link{Address: r.self.Address(), At: []netip.AddrPort{h.at.main()}}
	d.fellows.Proved(link)
	w.hearOthers(d, r)
	if d.public {
		r.fellows.Suggest(identity.Via{Address: d.self.Address(), At: d.place.main()})
	}
	w.noteBirth(d)
	w.noteRecovery(d)
	w.changed(d)
	if !d.told {
		d.told = true
		w.round(d, false)
	}
	w.look(d)
}

// lost ends an attempt or a registration; another follows after a pause unless
// there are enough. pause is zero for the one that is due.
func (w *world) lost(d *device, h *helper, pause time.Duration) {
	if h.registered {
		w.settleCounts(d)
		d.held--
		w.changed(d)
	}
	h.registered, h.claimed, h.tried = false, false, -1
	if h.dropped {
		w.look(d)
		return
	}
	if pause > 0 {
		h.pause = pause
	}
	wait := h.pause
	h.pause = min(2*h.pause, retryLast)
	w.look(d)
	w.soon(d, wait, func() {
		switch {
		case h.dropped:
		case d.standing() >= wanted:
			h.dropped = true
			d.helpers = slices.DeleteFunc(d.helpers, func(o *helper) bool { return o == h })
		default:
			w.attempt(d, h)
		}
	})
}

// standing is how many registrations the device believes to stand.
func (d *device) standing() (n int) {
	for _, h := range d.helpers {
		if h.registered {
			n++
		}
	}
	return n
}

// real is how many registrations stand indeed.
func (d *device) real() (n int) {
	for _, h := range d.helpers {
		if h.registered && h.valid() && h.of.clients[d.id] != nil {
			n++
		}
	}
	return n
}

// rendezvous lists where the device is registered.
func (d *device) rendezvous() (all []hint) {
	for _, h := range d.helpers {
		if h.registered {
			all = append(all, h.hint)
		}
	}
	slices.SortFunc(all, func(a, b hint) int { return a.of.self.Address().Compare(b.of.self.Address()) })
	return all
}

// gone ends a registration, unless it has ended and begun anew since.
func (w *world) gone(d *device, h *helper, since time.Duration) {
	if h.registered && h.since == since {
		w.lost(d, h, retryFirst)
	}
}

// unregisterAll takes leave of the rendezvous.
func (w *world) unregisterAll(d *device) {
	for _, h := range d.helpers {
		if h.registered && h.valid() {
			w.charge(d, forRegistration, exchange, 2*request+exchange*(headers+quicBytes))
			w.charge(h.of, forRegistration, exchange, 2*request+exchange*(headers+quicBytes))
			w.dismiss(h.of, d)
		}
	}
}

// reconnect moves the sessions of a device to its new address.
func (w *world) reconnect(d *device) {
	for _, h := range d.helpers {
		if h.registered && h.valid() {
			w.charge(d, forRegistration, opened+exchange, openedBytes)
			w.charge(h.of, forRegistration, opened+exchange, openedBytes)
		}
	}
}
