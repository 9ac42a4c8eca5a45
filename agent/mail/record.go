package mail

import (
	"encoding/binary"

	"porchlight/agent/identity"
)

// The kinds of records in the log of messages. Numbers are big-endian,
// addresses 33 bytes (key, kind), ids 16, streams and their numbers 8.
//
//	sent      id contact written(8) created(8) state(1) n(2) text m(1)
//	          m × { device stream seq own(1) }
//	received  device stream seq id contact flags(1) written(8) created(8) n(2) text
//	          flags: 1 written by the owner elsewhere, 2 read; stream 0: history only
//	confirmed device seq             the device has all up to seq
//	stored    device seq helper      a helper holds the copy
//	passed    device seq             all below seq are given up
//	renewed   device stream          what waits is numbered anew from 1
//	read      contact                all so far is read
//	next      device stream seq      where the stream to a device stands
//	taken     device stream seq id   where a stream from a device stands
const (
	recordSent      = 1
	recordReceived  = 2
	recordConfirmed = 3
	recordStored    = 4
	recordPassed    = 5
	recordRenewed   = 6
	recordRead      = 7
	recordNext      = 8
	recordTaken     = 9
)

const (
	flagOut  = 1
	flagRead = 2
)

// states as the log writes them.
var states = [...]State{"", Waiting, Stored, Delivered, Expired}

func stateByte(s State) byte {
	for i, have := range states {
		if have == s {
			return byte(i)
		}
	}
	return 0
}

// place is where one copy goes.
type place struct {
	device      identity.Address
	stream, seq uint64
	own         bool
}

func appendText(b []byte, text string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

func encodeSent(e *entry, places []place) []byte {
	b := append([]byte{recordSent}, e.id[:]...)
	b = appendAddress(b, e.contact)
	b = binary.BigEndian.AppendUint64(b, uint64(e.written))
	b = binary.BigEndian.AppendUint64(b, uint64(e.created))
	b = append(b, stateByte(e.state))
	b = appendText(b, e.text)
	b = append(b, byte(len(places)))
	for _, p := range places {
		b = encodePlace(b, p.device, p.stream, p.seq)
		own := byte(0)
		if p.own {
			own = 1
		}
		b = append(b, own)
	}
	return b
}

func encodeReceived(e *entry, from identity.Address, at incoming) []byte {
	b := encodePlace([]byte{recordReceived}, from, at.stream, at.last)
	b = append(b, e.id[:]...)
	b = appendAddress(b, e.contact)
	flags := byte(0)
	if e.out {
		flags |= flagOut
	}
	if e.read {
		flags |= flagRead
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint64(b, uint64(e.written))
	b = binary.BigEndian.AppendUint64(b, uint64(e.created))
	return appendText(b, e.text)
}

func encodePlace(b []byte, device identity.Address, stream, seq uint64) []byte {
	b = appendAddress(b, device)
	b = binary.BigEndian.AppendUint64(b, stream)
	return binary.BigEndian.AppendUint64(b, seq)
}

func encodeNumber(kind byte, device identity.Address, n uint64) []byte {
	return binary.BigEndian.AppendUint64(appendAddress([]byte{kind}, device), n)
}

func encodeStored(device identity.Address, seq uint64, helper identity.Address) []byte {
	return appendAddress(encodeNumber(recordStored, device, seq), helper)
}

func encodeTaken(from identity.Address, at incoming) []byte {
	return append(encodePlace([]byte{recordTaken}, from, at.stream, at.last), at.id[:]...)
}

// apply makes one record part of the state. It returns false, and changes
// nothing, if the record is none of ours.
func (s *store) apply(record []byte) bool {
	d := &decoder{b: record}
	switch kind := d.byte(); kind {
	case recordSent:
		return s.applySent(d)
	case recordReceived:
		return s.applyReceived(d)
	case recordRead:
		contact := d.address()
		return !d.bad && s.applyRead(contact)
	case recordNext, recordTaken:
		device, stream, seq := d.address(), d.uint64(), d.uint64()
		var id messageID
		if kind == recordTaken {
			id = d.id()
		}
		if d.bad {
			return false
		}
		if kind == recordTaken {
			s.taken(device, incoming{stream, seq, id})
		} else {
			s.out[device] = &outgoing{stream: stream, next: seq}
		}
		return true
	case recordConfirmed, recordStored, recordPassed, recordRenewed:
		return s.applyProgress(kind, d)
	}
	return false
}

func (s *store) applySent(d *decoder) bool {
	e := &entry{id: d.id(), contact: d.address(), out: true, written: int64(d.uint64()), created: int64(d.uint64())}
	state := int(d.byte())
	e.text = string(d.bytes(int(d.uint16())))
	places := make([]place, d.byte())
	for i := range places {
		places[i] = place{d.address(), d.uint64(), d.uint64(), d.byte() == 1}
	}
	if d.bad || state >= len(states) {
		return false
	}
	e.state = states[state]
	if s.add(e) {
		for _, p := range places {
			s.enqueue(p.device, p.stream, p.seq, e, p.own)
		}
		s.trim(e.contact)
	}
	return true
}

func (s *store) applyReceived(d *decoder) bool {
	from, at := d.address(), incoming{stream: d.uint64(), last: d.uint64()}
	e := &entry{id: d.id(), contact: d.address()}
	flags := d.byte()
	e.written, e.created = int64(d.uint64()), int64(d.uint64())
	e.text = string(d.bytes(int(d.uint16())))
	if d.bad {
		return false
	}
	e.out, e.read = flags&flagOut != 0, flags&(flagRead|flagOut) != 0
	if at.stream != 0 {
		at.id = e.id
		s.taken(from, at)
	}
	s.add(e)
	s.trim(e.contact)
	return true
}

func (s *store) applyRead(contact identity.Address) bool {
	for _, e := range s.entries {
		if e.contact == contact {
			e.read = true
		}
	}
	return true
}

func (s *store) applyProgress(kind byte, d *decoder) bool {
	device, n := d.address(), d.uint64()
	var helper identity.Address
	if kind == recordStored {
		helper = d.address()
	}
	if d.bad {
		return false
	}
	o := s.out[device]
	if o == nil {
		return true
	}
	switch kind {
	case recordConfirmed:
		s.confirm(o, n)
	case recordRenewed:
		s.renew(o, n)
	case recordPassed:
		below := 0
		for below < len(o.parcels) && o.parcels[below].seq < n {
			below++
		}
		s.passOver(o, below)
	case recordStored:
		for _, p := range o.parcels {
			if p.seq != n {
				continue
			}
			p.helpers = append(p.helpers, helper)
			if !p.own && p.entry.state == Waiting {
				p.entry.state = Stored
			}
		}
	}
	return true
}

// live returns the state as the frames of a new log.
func (s *store) live() []byte {
	b := make([]byte, 0, s.bytes+s.bytes/2)
	for device, o := range s.out {
		b = appendFrame(b, encodePlace([]byte{recordNext}, device, o.stream, o.next))
	}
	for from, f := range s.in {
		for _, at := range f.streams {
			b = appendFrame(b, encodeTaken(from, at))
		}
	}
	places := map[*entry][]place{}
	var stored []byte
	for device, o := range s.out {
		for _, p := range o.parcels {
			places[p.entry] = append(places[p.entry], place{device, o.stream, p.seq, p.own})
			for _, h := range p.helpers {
				stored = appendFrame(stored, encodeStored(device, p.seq, h))
			}
		}
	}
	for _, e := range s.entries {
		if e.out && (e.state != "" || e.copies > 0) {
			b = appendFrame(b, encodeSent(e, places[e]))
		} else {
			b = appendFrame(b, encodeReceived(e, identity.Address{}, incoming{}))
		}
	}
	return append(b, stored...)
}
