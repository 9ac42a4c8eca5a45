package mail

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"porchlight/agent/identity"
)

const (
	// Lifetime is how long a message is kept for a recipient that does not
	// come, at the sender as at helpers.
	Lifetime = 7 * 24 * time.Hour
	// maxHistory and maxHistoryBytes bound what is kept of conversations:
	// messages for each contact, and bytes in all.
	maxHistory      = 500
	maxHistoryBytes = 2 << 20
	// maxPending is how many messages wait for one device, maxPendingAll how
	// many copies wait in all.
	maxPending    = 64
	maxPendingAll = 1000
	// maxDevices is how many devices of one person a message is sent to.
	maxDevices = 16
	// maxHelpers is how many helpers hold one copy.
	maxHelpers = 2
	// maxStreams is how many streams of one sender's device are remembered,
	// maxSenders how many senders' devices: one that comes back later begins
	// anew, and only a replay of its old messages could be shown again.
	maxStreams = 8
	maxSenders = 1024
	// entryCost is what an entry takes beside its text, in bytes.
	entryCost = 128
)

// Errors of Send.
var (
	ErrFull     = errors.New("too many messages wait for the contact already; wait until it comes on-line")
	ErrNoDevice = errors.New("no device of the contact is known yet; wait until it was seen once")
)

// entry is one message of a conversation.
type entry struct {
	id      messageID
	contact identity.Address
	out     bool
	text    string
	written int64
	// created is when this device got it, in seconds since 1970, 0 if no clock
	// was set; born the same by the clock that never jumps, or the last start.
	created int64
	born    time.Time
	read    bool
	state   State
	// waiting counts the contact's devices that have not confirmed it, copies
	// all that have not, with the owner's own.
	waiting, copies int
}

func (e *entry) cost() int { return entryCost + len(e.text) }

func (e *entry) message() Message {
	return Message{ID: e.id.String(), Contact: e.contact, Out: e.out, Text: e.text, UnixMS: e.written, State: e.state}
}

// parcel is one copy of a message for one device.
type parcel struct {
	seq   uint64
	entry *entry
	// own: the device is another of the sender's owner.
	own     bool
	helpers []identity.Address
}

// outgoing is the stream to one device; parcels are those not confirmed.
type outgoing struct {
	stream, next uint64
	parcels      []*parcel
}

// incoming is one stream from one device.
type incoming struct {
	stream, last uint64
	id           messageID // of the last one
}

type sender struct {
	streams []incoming // the one used last is last
	used    uint64
}

type talk struct{ count, bytes int }

// store is the state of the sending and receiving side, as the log tells it.
// Whatever changes it is a record first: commit appends it, then applies it,
// and a start applies the same records again.
type store struct {
	log     *journal
	entries []*entry // in order of arrival
	known   map[identity.Address]map[messageID]*entry
	talks   map[identity.Address]*talk
	out     map[identity.Address]*outgoing
	in      map[identity.Address]*sender

	bytes, pending int
	uses           uint64
	dropped        int64
	now            func() time.Time // never jumps
}

func newStore() *store {
	return &store{
		known: map[identity.Address]map[messageID]*entry{},
		talks: map[identity.Address]*talk{},
		out:   map[identity.Address]*outgoing{},
		in:    map[identity.Address]*sender{},
		now:   time.Now,
	}
}

// commit makes a record part of the state, durably if asked for.
func (s *store) commit(record []byte, durable bool) error {
	if err := s.log.append(record, durable); err != nil {
		return err
	}
	s.apply(record)
	return nil
}

// add puts an entry into the history, if the conversation has none of its id.
func (s *store) add(e *entry) bool {
	ids := s.known[e.contact]
	if ids == nil {
		ids = map[messageID]*entry{}
		s.known[e.contact] = ids
		s.talks[e.contact] = &talk{}
	}
	if ids[e.id] != nil {
		return false
	}
	e.born = s.now()
	ids[e.id] = e
	s.entries = append(s.entries, e)
	t := s.talks[e.contact]
	t.count++
	t.bytes += e.cost()
	s.bytes += e.cost()
	return true
}

// trim drops the oldest messages beyond the bounds. A contact that floods
// loses its own history, not that of others.
func (s *store) trim(contact identity.Address) {
	for t := s.talks[contact]; t != nil && t.count > maxHistory; {
		if !s.dropOldest(contact) {
			break
		}
	}
	for s.bytes > maxHistoryBytes {
		var largest identity.Address
		most := 0
		for a, t := range s.talks {
			if t.bytes > most || (t.bytes == most && a.Compare(largest) < 0) {
				largest, most = a, t.bytes
			}
		}
		if !s.dropOldest(largest) {
			break
		}
	}
}

// dropOldest drops the oldest message of a contact that waits for nobody.
func (s *store) dropOldest(contact identity.Address) bool {
	i := slices.IndexFunc(s.entries, func(e *entry) bool { return e.contact == contact && e.copies == 0 })
	if i < 0 {
		return false
	}
	e := s.entries[i]
	s.entries = slices.Delete(s.entries, i, i+1)
	delete(s.known[contact], e.id)
	t := s.talks[contact]
	t.count--
	t.bytes -= e.cost()
	s.bytes -= e.cost()
	if t.count == 0 {
		delete(s.talks, contact)
		delete(s.known, contact)
	}
	s.dropped++
	return true
}

// enqueue puts a copy at the end of the stream to a device. Where too many
// wait, the oldest is given up: Send has made sure that another device of the
// contact has room.
func (s *store) enqueue(device identity.Address, stream, seq uint64, e *entry, own bool) *parcel {
	o := s.out[device]
	if o == nil || o.stream != stream {
		if o != nil {
			s.passOver(o, len(o.parcels))
		}
		o = &outgoing{stream: stream}
		s.out[device] = o
	}
	p := &parcel{seq: seq, entry: e, own: own}
	o.parcels = append(o.parcels, p)
	o.next = max(o.next, seq+1)
	e.copies++
	s.pending++
	if !own {
		e.waiting++
	}
	if len(o.parcels) > maxPending {
		s.passOver(o, 1)
	}
	return p
}

// confirm removes the copies that a device has taken, up to a number.
func (s *store) confirm(o *outgoing, last uint64) {
	n := 0
	for n < len(o.parcels) && o.parcels[n].seq <= last {
		p := o.parcels[n]
		if s.release(p); !p.own {
			p.entry.state = Delivered
		}
		n++
	}
	o.parcels = slices.Delete(o.parcels, 0, n)
}

// passOver gives up the first n copies of a stream.
func (s *store) passOver(o *outgoing, n int) {
	for _, p := range o.parcels[:n] {
		s.release(p)
		if p.entry.waiting == 0 && !p.own && p.entry.state != Delivered {
			p.entry.state = Expired
		}
	}
	o.parcels = slices.Delete(o.parcels, 0, n)
}

func (s *store) release(p *parcel) {
	s.pending--
	p.entry.copies--
	if !p.own {
		p.entry.waiting--
	}
}

// renew gives what waits for a device a new stream.
func (s *store) renew(o *outgoing, stream uint64) {
	o.stream, o.next = stream, 1
	for _, p := range o.parcels {
		p.seq, p.helpers = o.next, nil
		if o.next++; !p.own && p.entry.state == Stored {
			p.entry.state = Waiting
		}
	}
}

// taken notes that a stream has come to a number.
func (s *store) taken(from identity.Address, at incoming) {
	f := s.in[from]
	if f == nil {
		if len(s.in) >= maxSenders {
			s.forgetSender()
		}
		f = &sender{}
		s.in[from] = f
	}
	s.uses++
	f.used = s.uses
	f.streams = slices.DeleteFunc(f.streams, func(i incoming) bool { return i.stream == at.stream })
	f.streams = append(f.streams, at)
	if len(f.streams) > maxStreams {
		f.streams = slices.Delete(f.streams, 0, 1)
	}
}

func (s *store) forgetSender() {
	var oldest identity.Address
	least := ^uint64(0)
	for a, f := range s.in {
		if f.used < least {
			oldest, least = a, f.used
		}
	}
	delete(s.in, oldest)
}

// progress returns how far a stream has come; zero for one never seen.
func (s *store) progress(from identity.Address, stream uint64) incoming {
	if f := s.in[from]; f != nil {
		for _, i := range f.streams {
			if i.stream == stream {
				return i
			}
		}
	}
	return incoming{stream: stream}
}

// room says whether a message to these devices of a contact can wait.
func (s *store) room(devices []identity.Address, copies int) bool {
	if s.pending+copies > maxPendingAll {
		return false
	}
	return slices.ContainsFunc(devices, func(d identity.Address) bool {
		o := s.out[d]
		return o == nil || len(o.parcels) < maxPending
	})
}

// nextPlace returns the stream and number of the next copy for a device.
func (s *store) nextPlace(device identity.Address) (stream, seq uint64) {
	if o := s.out[device]; o != nil && o.next < maxSeq {
		return o.stream, o.next
	}
	return newStream(), 1
}

func newStream() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:])
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

// expired says whether something has outlived ttl. A wall clock counts only
// where it was set at both ends and has not gone back; the clock that never
// jumps, which begins anew at each start, counts always.
func expired(created int64, born time.Time, ttl time.Duration, mono, wall time.Time, set bool) bool {
	if mono.Sub(born) >= ttl {
		return true
	}
	return set && created > 0 && wall.Unix()-created >= int64(ttl/time.Second)
}
