package scale

import (
	"slices"
	"time"

	"porchlight/agent/record"
)

// storm counts what public devices send and receive, second by second.
type storm struct {
	since   time.Duration
	seconds map[*device][]float64
}

// add counts packets of a device.
func (s *storm) add(d *device, now time.Duration, packets float64) {
	of := s.seconds[d]
	if i := int((now - s.since) / time.Second); of != nil && i < len(of) {
		of[i] += packets
	}
}

// peak returns the busiest second of all, and of the busiest device its mean.
func (s *storm) peak() (peak, mean float64) {
	for d, of := range s.seconds {
		steady := float64(d.held+d.served) * renewedPerMinute / 60
		sum := 0.0
		for _, n := range of {
			peak = max(peak, n+steady)
			sum += n
		}
		mean = max(mean, sum/float64(len(of))+steady)
	}
	return peak, mean
}

// noteBirth notes how long a new device took for its registrations.
func (w *world) noteBirth(d *device) {
	if !d.registered {
		d.registered = true
		w.bornOne(&w.born.registered, d)
	}
	if !d.enough && d.standing() >= enoughRendezvous {
		d.enough = true
		w.bornOne(&w.born.enough, d)
	}
}

func (w *world) bornOne(list *[]time.Duration, d *device) {
	*list = append(*list, w.now-d.began)
	w.born.last = w.now
}

// noteRecovery notes when a device has two registrations again.
func (w *world) noteRecovery(d *device) {
	if d.recovered < 0 && d.real() >= enoughRendezvous {
		d.recovered = w.now
	}
}

// probe is what came of look-ups and of trying to reach whom was looked up.
type probe struct {
	asked, found, reached, cached, withCache int
	took, reach                              []time.Duration
	packets                                  float64
}

// probeOne has one device look another up and reach it.
func (w *world) probeOne(p *probe, d, of *device) {
	p.asked++
	began, before := w.now, d.core.Stats()
	w.search(d, of, func(rec record.Record, ok bool) {
		after := d.core.Stats()
		p.packets += float64(after.Sent-before.Sent) + float64(after.Answered-before.Answered)
		if !ok {
			return
		}
		p.found++
		p.took = append(p.took, w.now-began)
		at, via := w.readRecord(rec)
		if lasts, ok := w.wayTo(d, of, at, via); ok {
			p.reached++
			p.reach = append(p.reach, w.now-began+lasts)
		}
	})
	w.arm(d)
}

// probeContact has a device reach a contact by what it knows, without asking
// the directory.
func (w *world) probeContact(p *probe, d *device) {
	for _, i := range w.rng.Perm(len(d.contacts)) {
		c := d.contacts[i]
		if !c.peer.up || len(c.via) == 0 && c.at == (place{}) {
			continue
		}
		p.withCache++
		if _, ok := w.wayTo(d, c.peer, c.at, c.via); ok {
			p.cached++
		}
		return
	}
}

// wayTo says whether and how soon an offer gets to a device: to itself, or by
// the first of its rendezvous that introduces it, each 300 ms after the one
// before.
func (w *world) wayTo(d, of *device, at place, via []hint) (best time.Duration, ok bool) {
	if (hint{of, at}).valid() {
		best, ok = w.roundTrip(d, of), true
	}
	for i, v := range via {
		if !v.valid() || v.of.clients[of.id] == nil || !of.up {
			continue
		}
		lasts := time.Duration(i)*introduceAfter + w.roundTrip(d, v.of) + w.roundTrip(v.of, of)
		if !d.session(v.of, w.now) {
			lasts += 2 * w.roundTrip(d, v.of)
		}
		if !ok || lasts < best {
			best, ok = lasts, true
		}
	}
	return best, ok
}

// someUp returns a device that is up and has been for a while.
func (w *world) someUp() *device {
	for {
		if d := w.devices[w.rng.IntN(len(w.devices))]; d.up && d.stored {
			return d
		}
	}
}

// probes plans probes by random devices of random others within a time.
func (w *world) probes(n int, from, within time.Duration) *probe {
	p := &probe{}
	for i := range n {
		w.at(from+within*time.Duration(i)/time.Duration(n), func() {
			d, of := w.someUp(), w.someUp()
			for of == d {
				of = w.someUp()
			}
			w.probeOne(p, d, of)
			w.probeContact(p, d)
		})
	}
	return p
}

// sums returns what each device spent, up to now.
func (w *world) sums() [][purposes]traffic {
	all := make([][purposes]traffic, len(w.devices))
	for i, d := range w.devices {
		w.settleCounts(d)
		all[i] = d.spent
	}
	return all
}

// at returns a quantile of what is in no order.
func quantile[T time.Duration | float64 | int](list []T, q float64) T {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
