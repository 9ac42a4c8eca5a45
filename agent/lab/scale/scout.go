package scale

import (
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/dht"
	"porchlight/agent/identity"
)

// The rules of agent/app (rendezvous.go), by the names they have there.
const (
	enoughRendezvous = 2
	lackAfter        = 4 * time.Second
	lookFirst        = 8 * time.Second
	lookLast         = 10 * time.Minute
	maxAsked         = 6
	maxMet           = 3
	announceEvery    = 22 * time.Minute
)

// meetingPlace is where rendezvous announce themselves (agent/app/rendezvous.go).
var meetingPlace = sha1Of("porchlight rendezvous 1")

// scout looks for rendezvous when registrations are lacking.
func (w *world) scout(d *device) {
	wait := lookFirst
	var search func()
	search = func() {
		if d.standing() >= enoughRendezvous {
			wait = lookFirst
			w.soon(d, lackAfter, search)
			return
		}
		w.askFriends(d, func() {
			pause := wait - wait/8 + w.upTo(wait/4)
			wait = min(2*wait, lookLast)
			w.soon(d, pause+lackAfter, search)
			if d.standing() < enoughRendezvous {
				w.meetStrangers(d)
			}
		})
	}
	w.soon(d, lackAfter, search)
}

// askFriends looks some contacts up: those that are public may help.
func (w *world) askFriends(d *device, done func()) {
	order := slices.DeleteFunc(w.rng.Perm(len(d.contacts)), func(i int) bool { return d.contacts[i].peer.place == (place{}) })
	order = order[:min(len(order), maxAsked)]
	left := len(order)
	if left == 0 {
		w.soon(d, 0, done)
		return
	}
	for _, i := range order {
		c := d.contacts[i]
		w.find(d, c.peer, func(f *finding) {
			if f.ok {
				c.take(f)
			}
			if left--; left == 0 {
				done()
			}
		})
	}
}

// meetStrangers calls rendezvous that announce themselves.
func (w *world) meetStrangers(d *device) {
	d.core.Peers(w.wall(), meetingPlace, w.alive(d, func(peers []netip.AddrPort) {
		w.rng.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
		wait := time.Duration(0)
		for _, at := range peers[:min(len(peers), maxMet)] {
			o := w.nodes[netip.AddrPortFrom(at.Addr(), port+dhtOffset)]
			if o == nil || o == d {
				wait += hintLimit
				w.charge(d, forRegistration, silentPackets, silentBytes)
				continue
			}
			wait += 2 * w.roundTrip(d, o)
			w.charge(d, forRegistration, opened, openedBytes)
			w.charge(o, forRegistration, opened, openedBytes)
			w.soon(d, wait, func() {
				d.fellows.Suggest(identity.Via{Address: o.self.Address(), At: at})
				w.look(d)
			})
		}
	}))
	w.arm(d)
}

// alive makes a callback of a node's that does nothing after the end of the
// device's life.
func (w *world) alive(d *device, do func([]netip.AddrPort)) func([]netip.AddrPort, error) {
	life := d.life
	return func(peers []netip.AddrPort, err error) {
		if err == nil && d.up && d.life == life {
			do(peers)
		}
	}
}

// announce says in the DHT that a public device is a rendezvous.
func (w *world) announce(d *device) {
	life := d.life
	d.core.Announce(w.wall(), dht.ID(meetingPlace), port, func(_ int, err error) {
		wait := announceEvery
		if err != nil {
			wait = lackAfter
		}
		if d.life == life {
			w.soon(d, wait, func() { w.announce(d) })
		}
	})
	w.arm(d)
}
