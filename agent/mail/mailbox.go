package mail

import (
	"encoding/binary"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

// What is held for others: messages and bytes for one recipient, messages of
// one sender for one recipient and for all, messages and bytes in all.
const (
	maxHeldFor      = 64
	maxHeldForBytes = 96 << 10
	maxHeldPair     = 32
	maxHeldSender   = 256
	maxHeld         = 1000
	maxHeldBytes    = 3 << 19
)

// parcelRef tells the copies of one sender for one recipient apart.
type parcelRef [8]byte

// receiptRef is the reference of a receipt: one is held for each pair of
// devices, since each confirms all before it.
var receiptRef = parcelRef{'r', 'e', 'c', 'e', 'i', 'p', 't', 0}

// heldItem is one sealed message for another device.
type heldItem struct {
	number   uint64
	from, to identity.Address
	ref      parcelRef
	created  int64 // seconds since 1970, 0 unknown
	born     time.Time
	ttl      time.Duration
	sealed   []byte
}

// The kinds of records in the log of the mailbox.
//
//	held  number(8) from(33) to(33) ref(8) created(8) ttl in seconds(4) sealed
//	gone  number(8)
const (
	recordHeld = 1
	recordGone = 2
	heldHead   = 95
)

// mailbox is what this device holds for others.
type mailbox struct {
	log    *journal
	items  []*heldItem // by number
	bytes  int
	number uint64 // of the last one
	now    func() time.Time
}

func encodeHeld(i *heldItem) []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordHeld}, i.number)
	b = appendAddress(appendAddress(b, i.from), i.to)
	b = append(b, i.ref[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(i.created))
	b = binary.BigEndian.AppendUint32(b, uint32(i.ttl/time.Second))
	return append(b, i.sealed...)
}

func encodeGone(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{recordGone}, number)
}

func (m *mailbox) apply(record []byte) bool {
	d := &decoder{b: record}
	switch d.byte() {
	case recordHeld:
		i := &heldItem{number: d.uint64(), from: d.address(), to: d.address(), ref: parcelRef(d.bytes(8))}
		i.created, i.ttl = int64(d.uint64()), time.Duration(d.uint32())*time.Second
		if d.bad || len(d.b) == 0 || len(d.b) > sealed.MaxMessage || i.number <= m.number {
			return false
		}
		i.sealed, i.born = slices.Clone(d.b), m.now()
		if old := m.find(i.from, i.to, i.ref); old != nil {
			m.remove(old.number)
		}
		m.items = append(m.items, i)
		m.bytes += len(i.sealed)
		m.number = i.number
		return true
	case recordGone:
		number := d.uint64()
		if d.bad {
			return false
		}
		m.remove(number)
		return true
	}
	return false
}

func (m *mailbox) remove(number uint64) {
	m.items = slices.DeleteFunc(m.items, func(i *heldItem) bool {
		if i.number == number {
			m.bytes -= len(i.sealed)
		}
		return i.number == number
	})
}

func (m *mailbox) find(from, to identity.Address, ref parcelRef) *heldItem {
	for _, i := range m.items {
		if i.from == from && i.to == to && i.ref == ref {
			return i
		}
	}
	return nil
}

// room says whether one more message fits, beside the one it replaces.
func (m *mailbox) room(item *heldItem) bool {
	count, bytes := len(m.items), m.bytes
	pair, bySender, forOne, forOneBytes := 0, 0, 0, 0
	for _, i := range m.items {
		if i.from == item.from && i.to == item.to && i.ref == item.ref {
			count, bytes = count-1, bytes-len(i.sealed)
			continue
		}
		if i.from == item.from {
			bySender++
		}
		if i.to == item.to {
			forOne++
			forOneBytes += len(i.sealed)
			if i.from == item.from {
				pair++
			}
		}
	}
	size := len(item.sealed)
	return count < maxHeld && bytes+size <= maxHeldBytes && bySender < maxHeldSender &&
		forOne < maxHeldFor && forOneBytes+size <= maxHeldForBytes && pair < maxHeldPair
}

// put holds a message durably.
func (m *mailbox) put(i *heldItem) error {
	i.number = m.number + 1
	record := encodeHeld(i)
	if err := m.log.append(record, true); err != nil {
		return err
	}
	m.apply(record)
	return nil
}

// drop forgets messages. If the log cannot say so they come back at the next
// start, are carried once more, and their recipient knows them.
func (m *mailbox) drop(numbers []uint64) error {
	var failed error
	for _, n := range numbers {
		if err := m.log.append(encodeGone(n), false); err != nil {
			failed = err
		}
		m.remove(n)
	}
	return failed
}

// outlived lists the messages whose time is over.
func (m *mailbox) outlived(wall time.Time, set bool) (numbers []uint64) {
	for _, i := range m.items {
		if expired(i.created, i.born, i.ttl, m.now(), wall, set) {
			numbers = append(numbers, i.number)
		}
	}
	return numbers
}

// waiting lists what is held for a device, oldest first.
func (m *mailbox) waiting(to identity.Address) (items []heldItem) {
	for _, i := range m.items {
		if i.to == to {
			items = append(items, *i)
		}
	}
	return items
}

// live returns what is held as the frames of a new log.
func (m *mailbox) live() []byte {
	b := make([]byte, 0, m.bytes+len(m.items)*(heldHead+frameHead))
	for _, i := range m.items {
		b = appendFrame(b, encodeHeld(i))
	}
	return b
}
