package scale

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/dht"
	"porchlight/agent/identity"
	"porchlight/agent/record"
)

// The rules of agent/directory (schedule.go, cache.go, directory.go), by the
// names they have there.
const (
	refreshMin = 40 * time.Minute
	refreshMax = 60 * time.Minute
	settle     = 5 * time.Second
	spacing    = 10 * time.Second
	maxSpacing = 10 * time.Minute
	calm       = 15 * time.Minute
	forced     = time.Minute
	retryMin   = 10 * time.Second
	retryMax   = 10 * time.Minute
	pollEvery  = 3 * time.Second
	freshFor   = 30 * time.Second
	missingFor = 10 * time.Second
)

func sha1Of(s string) [20]byte { return sha1.Sum([]byte(s)) }

// schedule says when a device's record is due.
type schedule struct {
	next     time.Duration // of the next poll
	begun    bool
	busy     bool
	due      time.Duration
	last     time.Duration
	changed  time.Duration // negative while nothing did
	space    time.Duration
	failures int
	content  []byte // what lies in the table, with seq 0
	covered  []uint64
	looked   uint64
}

// say is what the device's record says now.
func (d *device) say() record.Record {
	r := record.Record{NAT: record.NATEasy}
	if d.public {
		r.NAT = record.NATNone
		r.Flags = record.Introduces | record.Relays
		r.At = []netip.AddrPort{d.place.main()}
	}
	for _, v := range d.rendezvous() {
		r.Via = append(r.Via, identity.Via{Address: v.of.self.Address(), At: v.at.main()})
	}
	return r
}

// changed has the record looked at: at the next of the polls that the directory
// makes, every pollEvery.
func (w *world) changed(d *device) {
	if d.up {
		w.pollAt(d, w.now+w.upTo(pollEvery))
	}
}

func (w *world) pollAt(d *device, at time.Duration) {
	s := &d.schedule
	if s.next > w.now && s.next <= at {
		return
	}
	s.next = at
	w.soon(d, at-w.now, func() {
		if s.next == at {
			s.next = 0
			w.poll(d)
		}
	})
}

// poll publishes the record if it is due, and says when to look again unless
// something changes before.
func (w *world) poll(d *device) {
	s := &d.schedule
	rec := d.say()
	if s.busy || len(rec.At)+len(rec.Via) == 0 {
		return
	}
	content, err := rec.Encode()
	if err != nil {
		return
	}
	a := d.self.Address()
	needed := periods(a, w.wall())
	due := s.at(w.now, !bytes.Equal(content, s.content), needed)
	if w.now < due {
		if early := record.PeriodStart(a, needed[0]+1).Add(-record.Overlap).Sub(epoch); early > w.now {
			due = min(due, early)
		}
		w.pollAt(d, due)
		return
	}
	if !bytes.Equal(content, s.content) {
		s.pace(w.now)
		d.seqs = max(d.seqs+1, w.wall().Unix())
	}
	s.begun, s.busy, s.last, s.content = true, true, w.now, content
	rec.Seq = d.seqs
	w.publish(d, rec, needed)
}

// at returns when the record is due.
func (s *schedule) at(now time.Duration, differs bool, needed []uint64) time.Duration {
	if !s.begun {
		return now
	}
	due := s.due
	if !differs {
		s.changed = -1
	} else if s.changed < 0 {
		s.changed = now
	}
	if differs {
		due = min(due, max(s.changed+settle, s.last+s.space))
	}
	missing := slices.ContainsFunc(needed, func(p uint64) bool { return !slices.Contains(s.covered, p) })
	if s.failures == 0 && missing {
		due = min(due, s.last+forced)
	}
	return due
}

// pace notes that a change is put.
func (s *schedule) pace(now time.Duration) {
	if now-s.last > calm {
		s.space = 0
	}
	s.space = min(max(2*s.space, spacing), maxSpacing)
}

func periods(a identity.Address, wall time.Time) []uint64 {
	p := record.PeriodAt(a, wall)
	if record.PeriodStart(a, p+1).Sub(wall) <= record.Overlap {
		return []uint64{p, p + 1}
	}
	return []uint64{p}
}

// publish seals the record for each period and puts it.
func (w *world) publish(d *device, rec record.Record, needed []uint64) {
	body, err := rec.Encode()
	if err != nil {
		return
	}
	left, stored := len(needed), 0
	life := d.life
	for _, p := range needed {
		item, err := record.Seal(d.self, d.self.Address(), p, rec.Seq, body)
		if err != nil {
			left--
			continue
		}
		d.core.Put(w.wall(), dht.PutRequest{Item: dht.Item(item), Done: func(n int, err error) {
			var conflict *dht.ConflictError
			if errors.As(err, &conflict) {
				w.conflicts++
			}
			if n > 0 {
				stored++
			}
			if left--; left == 0 && d.up && d.life == life {
				w.published(d, needed, stored)
			}
		}})
	}
	w.arm(d)
}

// published plans the next put.
func (w *world) published(d *device, needed []uint64, stored int) {
	s := &d.schedule
	s.busy, s.changed = false, -1
	defer w.changed(d)
	if stored < len(needed) {
		w.unstored++
		s.due = w.now + min(retryMin<<min(s.failures, 9), retryMax)
		s.failures++
		s.covered = nil
		return
	}
	s.failures, s.covered = 0, needed
	s.due = w.now + refreshMin + w.upTo(refreshMax-refreshMin)
	if !d.stored {
		d.stored = true
		w.bornOne(&w.born.published, d)
	}
	if s.looked != needed[0] {
		// Once a period the table is asked whether it holds something newer.
		s.looked = needed[0]
		w.get(d, d, needed[0], func(record.Record, bool) {})
	}
}

// finding is what a device remembers of a look-up.
type finding struct {
	at      place
	via     []hint
	ok      bool
	checked time.Duration
	running bool
	wait    []func(*finding)
}

// find looks a device up: from memory if that is fresh, else in the DHT, in the
// present period and then in those beside it.
func (w *world) find(d, of *device, done func(*finding)) {
	f := d.found[of.id]
	if f == nil {
		f = &finding{checked: -time.Hour}
		d.found[of.id] = f
	}
	if f.running {
		f.wait = append(f.wait, done)
		return
	}
	if age := w.now - f.checked; f.ok && age < freshFor || age < missingFor {
		done(f)
		return
	}
	f.running, f.wait = true, append(f.wait, done)
	w.search(d, of, func(rec record.Record, ok bool) {
		f.running, f.ok, f.checked = false, ok, w.now
		if ok {
			f.at, f.via = w.readRecord(rec)
		}
		wait := f.wait
		f.wait = nil
		for _, do := range wait {
			do(f)
		}
	})
}

// search asks for the present period and, in vain, for the two beside it.
func (w *world) search(d, of *device, done func(record.Record, bool)) {
	p := record.PeriodAt(of.self.Address(), w.wall())
	w.get(d, of, p, func(rec record.Record, ok bool) {
		if ok {
			done(rec, true)
			return
		}
		left := 2
		var best record.Record
		found := false
		for _, beside := range []uint64{p + 1, p - 1} {
			w.get(d, of, beside, func(rec record.Record, ok bool) {
				if ok && (!found || rec.Seq > best.Seq) {
					best, found = rec, true
				}
				if left--; left == 0 {
					done(best, found)
				}
			})
		}
	})
}

// get asks the DHT for a record and opens it. Nothing happens after the end of
// the device's life.
func (w *world) get(d, of *device, period uint64, done func(record.Record, bool)) {
	a := of.self.Address()
	key, err := w.key(of, period)
	if err != nil {
		done(record.Record{}, false)
		return
	}
	life := d.life
	d.core.Get(w.wall(), dht.GetRequest{Key: key, Floor: record.WireSeq(a, period, 0), Done: func(it dht.Item, err error) {
		if !d.up || d.life != life {
			return
		}
		rec, ok := record.Record{}, false
		if err == nil {
			rec, ok = openItem(a, period, it)
		}
		done(rec, ok)
	}})
	w.arm(d)
}

// keyOf is whose key in the table, and when.
type keyOf struct {
	id     int32
	period uint64
}

// key is record.Key; it is remembered, since many ask for the same.
func (w *world) key(of *device, period uint64) ([32]byte, error) {
	k, known := w.keys[keyOf{of.id, period}]
	if known {
		return k, nil
	}
	k, err := record.Key(of.self.Address(), period)
	if err == nil {
		w.keys[keyOf{of.id, period}] = k
	}
	return k, err
}

// openItem verifies and reads an item.
func openItem(a identity.Address, period uint64, it dht.Item) (record.Record, bool) {
	body, seq, err := record.Open(a, period, record.Item(it))
	if err != nil {
		return record.Record{}, false
	}
	rec, err := record.Decode(body)
	return rec, err == nil && rec.Seq == seq
}

// readRecord turns what a record says into places.
func (w *world) readRecord(rec record.Record) (at place, via []hint) {
	if len(rec.At) > 0 {
		at = place{rec.At[0].Addr()}
	}
	for _, v := range rec.Via {
		via = append(via, hint{w.index[v.Address], place{v.At.Addr()}})
	}
	return at, via
}
