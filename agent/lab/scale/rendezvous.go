package scale

import (
	"slices"
	"time"

	"porchlight/agent/introduce"
)

// The rules of agent/introduce (registration.go, server.go, watch.go), by the
// names they have there.
const (
	missedRenewals = 3
	absentEvery    = 2 * time.Second // lookEvery of package introduce
	maxCallers     = 1024
)

// client is a registration at a rendezvous.
type client struct {
	of       *device
	watchers map[int32]watch
}

// hearOthers takes the rendezvous that one names.
func (w *world) hearOthers(d, r *device) {
	for _, v := range r.fellows.For(d.self.Address(), introduce.MaxOthers) {
		d.fellows.Suggest(v)
	}
}

// sendAway ends what a rendezvous that goes held of others. Silently, each
// finds out by its next renewal; otherwise their sessions end at once.
func (w *world) sendAway(r *device, silently bool) {
	w.settleCounts(r)
	for _, c := range r.sorted() {
		d := c.of
		i := slices.IndexFunc(d.helpers, func(h *helper) bool { return h.of == r && h.registered })
		if !d.up || i < 0 {
			continue
		}
		h := d.helpers[i]
		w.hearOthers(d, r) // as it did with the last renewal
		since := h.since
		if !silently {
			h.session = false
			w.soon(d, w.delay(d, r), func() { w.gone(d, h, since) })
			continue
		}
		// The session lives for 45 s after the last renewal (overlay.maxIdle).
		past := (w.now - h.since) % registerEvery
		h.until = w.now - past + 45*time.Second
		w.soon(d, registerEvery-past+registerLimit, func() { w.gone(d, h, since) })
	}
	clear(r.clients)
	r.served = 0
}

// sorted lists the registrations in an order that does not change.
func (d *device) sorted() []*client {
	all := make([]*client, 0, len(d.clients))
	for _, c := range d.clients {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *client) int { return int(a.of.id - b.of.id) })
	return all
}

// dismiss ends a registration at a rendezvous, which tells who watches.
func (w *world) dismiss(r, d *device) {
	c := r.clients[d.id]
	if c == nil {
		return
	}
	w.settleCounts(r)
	delete(r.clients, d.id)
	r.served--
	w.tellWatchers(r, c)
}

// forsake has a rendezvous find out that a device is gone: three renewals are
// missed, and looked for every two seconds.
func (w *world) forsake(d *device, h *helper) {
	if !h.registered || !h.valid() {
		return
	}
	r, c := h.of, h.of.clients[d.id]
	past := (w.now - h.since) % registerEvery
	w.soon(r, missedRenewals*registerEvery-past+w.upTo(absentEvery), func() {
		if c != nil && r.clients[d.id] == c {
			w.dismiss(r, d)
		}
	})
}
