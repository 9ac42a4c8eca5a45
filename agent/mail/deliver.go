package mail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

const (
	// maxReply is the size of the largest answer that is read, in bytes: a
	// receipt is sealed.MaxMessage at most, a third more in base64.
	maxReply = 2048
	// requestLimit is how long one request may take, with finding the device.
	requestLimit = 30 * time.Second
)

// errReply says that a device answered what no honest one answers.
var errReply = errors.New("the answer makes no sense")

// request makes one request and reads its answer.
func (m *Mail) request(ctx context.Context, method string, at identity.Address, path string, body []byte) (int, reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+at.String()+path, bytes.NewReader(body))
	if err != nil {
		return 0, reply{}, err
	}
	response, err := m.cfg.Client.Do(request)
	if err != nil {
		return 0, reply{}, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	if err != nil {
		return 0, reply{}, err
	}
	var r reply
	if len(b) > maxReply || (response.StatusCode == http.StatusOK && json.Unmarshal(b, &r) != nil) {
		return 0, reply{}, fmt.Errorf("%s of %s: %w", path, at.Short(), errReply)
	}
	return response.StatusCode, r, nil
}

// shipment is a copy on its way: what is needed without the lock.
type shipment struct {
	seq     uint64
	body    body
	left    time.Duration // of its lifetime
	helpers []identity.Address
}

// shipments lists what waits for a device, the oldest first; m.mu is held.
func (m *Mail) shipments(to identity.Address, wall time.Time, set bool) (list []shipment) {
	o := m.store.out[to]
	if o == nil {
		return nil
	}
	for _, p := range o.parcels {
		e := p.entry
		s := shipment{seq: p.seq, left: Lifetime - m.store.now().Sub(e.born), helpers: slices.Clone(p.helpers)}
		if set && e.created > 0 {
			s.left = min(s.left, Lifetime-time.Duration(wall.Unix()-e.created)*time.Second)
		}
		s.body = body{
			kind: kindText, stream: o.stream, seq: p.seq, floor: o.parcels[0].seq,
			id: e.id, written: e.written, text: e.text,
		}
		if p.own {
			s.body.copied, s.body.contact = true, e.contact
		}
		list = append(list, s)
	}
	return list
}

// carryTo is one round to a device: to itself if it is on-line or its turn has
// come, and to helpers with what it did not take.
func (m *Mail) carryTo(ctx context.Context, to identity.Address, direct bool) (left bool) {
	if !m.giveUpOld(to) {
		return false
	}
	if !m.sendable(to) {
		return true // until it is known again, or the messages expire
	}
	if direct || m.cfg.Online(to) {
		err := m.bring(ctx, to)
		if err == nil {
			return m.giveUpOld(to)
		}
		m.cfg.Logger.Debug("messages wait", "peer", to.Short(), "err", err)
	}
	if ctx.Err() == nil {
		m.deposit(ctx, to)
	}
	return true
}

// giveUpOld gives up what has outlived its time and says whether more waits.
func (m *Mail) giveUpOld(to identity.Address) bool {
	wall, set := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.store.out[to]
	if o == nil {
		return false
	}
	floor := uint64(0)
	for _, p := range o.parcels {
		if !expired(p.entry.created, p.entry.born, Lifetime, m.store.now(), wall, set) {
			break
		}
		floor = p.seq + 1
	}
	if floor > 0 {
		if err := m.commit(encodeNumber(recordPassed, to, floor), false); err != nil {
			m.cfg.Logger.Warn("expired messages stay", "err", err)
			return true
		}
	}
	return len(o.parcels) > 0
}

// bring gives a device what waits for it, the oldest first, until it has all.
func (m *Mail) bring(ctx context.Context, to identity.Address) error {
	renewed := false
	for first := true; ; first = false {
		wall, set := m.cfg.Now()
		m.mu.Lock()
		list := m.shipments(to, wall, set)
		m.mu.Unlock()
		if len(list) == 0 {
			return nil
		}
		head := list[0]
		// What helpers hold may have come already: asking is cheaper.
		ask := first && len(head.helpers) > 0
		last, id, err := m.offer(ctx, to, head, ask)
		if err != nil {
			return err
		}
		if ask && last < head.seq {
			continue
		}
		switch m.confirmed(to, head.body.stream, last, id) {
		case confirmedAll:
		case confirmedOther:
			// It has another message by this number: this device was put back
			// to an earlier state. A new stream makes that good, once.
			if renewed {
				return fmt.Errorf("deliver to %s: %w", to.Short(), errReply)
			}
			renewed = true
		case confirmedNothing:
			return fmt.Errorf("deliver to %s: %w", to.Short(), errReply)
		}
	}
}

// offer delivers one message, or asks how far the stream has come.
func (m *Mail) offer(ctx context.Context, to identity.Address, s shipment, ask bool) (last uint64, id messageID, err error) {
	var status int
	var r reply
	if ask {
		status, r, err = m.request(ctx, http.MethodGet, to, "/v1/ack?stream="+strconv.FormatUint(s.body.stream, 16), nil)
	} else {
		var b []byte
		if b, err = sealed.Seal(m.cfg.Device, to, purpose, s.body.marshal()); err == nil {
			status, r, err = m.request(ctx, http.MethodPut, to, "/v1/deliver", b)
		}
	}
	if err != nil {
		return 0, id, err
	}
	if status != http.StatusOK {
		return 0, id, fmt.Errorf("deliver to %s: it answered %d", to.Short(), status)
	}
	if ask && r.Last == 0 {
		return 0, id, nil
	}
	id, ok := parseID(r.ID)
	if !ok || (r.Last < s.seq && !ask) {
		return 0, id, fmt.Errorf("deliver to %s: %w", to.Short(), errReply)
	}
	return r.Last, id, nil
}

// What a confirmation meant.
type confirmation int

const (
	// confirmedNothing: it is old, or of another stream.
	confirmedNothing confirmation = iota
	confirmedAll
	// confirmedOther: the recipient has another message by that number, so
	// what waits for it has a new stream now.
	confirmedOther
)

// confirmed notes that a device has all of a stream up to last, whose id it
// names: a number alone could be that of a message which this device, put back
// from a copy, no longer knows of.
func (m *Mail) confirmed(by identity.Address, stream, last uint64, id messageID) confirmation {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.store.out[by]
	if o == nil || o.stream != stream || len(o.parcels) == 0 || last < o.parcels[0].seq {
		return confirmedNothing
	}
	i := slices.IndexFunc(o.parcels, func(p *parcel) bool { return p.seq == last })
	if i < 0 || o.parcels[i].entry.id != id {
		m.cfg.Logger.Warn("a recipient knows of messages that this device does not; it begins a new stream", "peer", by.Short())
		if m.commit(encodeNumber(recordRenewed, by, newStream()), true) != nil {
			return confirmedNothing
		}
		return confirmedOther
	}
	if m.commit(encodeNumber(recordConfirmed, by, last), false) != nil {
		return confirmedNothing
	}
	return confirmedAll
}

// deposit gives what waits for a device to helpers.
func (m *Mail) deposit(ctx context.Context, to identity.Address) {
	helpers := m.cfg.Helpers(to)
	wall, set := m.cfg.Now()
	m.mu.Lock()
	list := m.shipments(to, wall, set)
	m.mu.Unlock()
	for _, s := range list {
		var b []byte
		for _, h := range slices.Clone(helpers) {
			if len(s.helpers) >= maxHelpers || ctx.Err() != nil {
				break
			}
			if h == m.self || h == to || slices.Contains(s.helpers, h) {
				continue
			}
			if b == nil {
				var err error
				if b, err = sealed.Seal(m.cfg.Device, to, purpose, s.body.marshal()); err != nil {
					return
				}
			}
			if err := m.depositAt(ctx, h, to, s, b); err != nil {
				m.cfg.Logger.Debug("a helper holds no more", "helper", h.Short(), "peer", to.Short(), "err", err)
				helpers = slices.DeleteFunc(slices.Clone(helpers), func(a identity.Address) bool { return a == h })
				continue
			}
			s.helpers = append(s.helpers, h)
			m.deposited(to, s, h)
		}
	}
}

func (m *Mail) depositAt(ctx context.Context, helper, to identity.Address, s shipment, b []byte) error {
	// Whole hours: the rest would tell when it was written.
	hours := int64((s.left + time.Hour - 1) / time.Hour)
	ref := reference(&s.body)
	path := fmt.Sprintf("/v1/deposit?to=%s&ttl=%d&ref=%s", to, max(hours, 1)*3600, hex.EncodeToString(ref[:]))
	status, _, err := m.request(ctx, http.MethodPost, helper, path, b)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("deposit at %s: it answered %d", helper.Short(), status)
	}
	return err
}

// reference names a copy to helpers: the same at every try, and nothing else.
func reference(b *body) (ref parcelRef) {
	h := sha256.New()
	h.Write([]byte("porchlight mail reference 1"))
	h.Write(binary.BigEndian.AppendUint64(nil, b.stream))
	h.Write(binary.BigEndian.AppendUint64(nil, b.seq))
	h.Write(b.id[:])
	copy(ref[:], h.Sum(nil))
	return ref
}

// deposited notes that a helper holds a copy. If that is lost, it is deposited
// once more in the place of the first.
func (m *Mail) deposited(to identity.Address, s shipment, helper identity.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.store.out[to]; o == nil || o.stream != s.body.stream {
		return
	}
	if err := m.commit(encodeStored(to, s.seq, helper), false); err != nil {
		m.cfg.Logger.Warn("where a message is stored was not noted", "err", err)
	}
}

// pushHeld is one round of the mailbox to a recipient.
func (m *Mail) pushHeld(ctx context.Context, to identity.Address, _ bool) (left bool) {
	wall, set := m.cfg.Now()
	m.mu.Lock()
	m.discard(m.mailbox.outlived(wall, set))
	items := m.mailbox.waiting(to)
	m.mu.Unlock()
	// What came in another order is taken in a later pass.
	for progress := true; progress && len(items) > 0; {
		progress = false
		var rest []heldItem
		for i, item := range items {
			status, r, err := m.request(ctx, http.MethodPut, to, "/v1/deliver", item.sealed)
			if err != nil || status == http.StatusTooManyRequests {
				m.cfg.Logger.Debug("held messages wait", "peer", to.Short(), "status", status, "err", err)
				return true
			}
			if status != http.StatusOK {
				rest = append(rest, items[i])
				continue
			}
			progress = true
			m.handedOver(item, r.Receipt)
		}
		items = rest
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mailbox.waiting(to)) > 0
}

// handedOver forgets a message that its recipient has, and holds the receipt
// for its sender in its place.
func (m *Mail) handedOver(item heldItem, receipt []byte) {
	m.mu.Lock()
	m.discard([]uint64{item.number})
	m.mu.Unlock()
	if len(receipt) == 0 || len(receipt) > sealed.MaxMessage || item.ref == receiptRef {
		return
	}
	back := &heldItem{from: item.to, to: item.from, ref: receiptRef, ttl: Lifetime, sealed: receipt}
	if err := m.keep(back); err != nil {
		m.cfg.Logger.Debug("a receipt was not kept", "peer", item.from.Short(), "err", err)
	}
}
