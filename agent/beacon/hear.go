package beacon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/identity"
)

// Counts says what has become of the datagrams heard so far.
type Counts struct {
	Heard     int64 // beacons of known devices and about invitations
	Again     int64 // the same ones on another interface or family, and our own
	Strangers int64 // beacons that nobody's key opens
	Malformed int64 // no beacons at all
	Foreign   int64 // from a source on no network of ours
	Limited   int64 // too many
	Refused   int64 // old, or sealed or signed wrongly
}

// Counts returns what has been counted so far.
func (b *Beacon) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}

// hear is called with each datagram, by one goroutine per family.
func (b *Beacon) hear(d []byte, src netip.Addr) {
	h, err := parseHeader(d)
	if err != nil {
		b.count(&b.counts.Malformed)
		return
	}
	if !onLink(b.look(false), src) {
		b.count(&b.counts.Foreign)
		return
	}
	now := time.Now()
	if b.admit(h, src, now) && !b.fromKnown(h, d, src, now) && !b.byCode(h, d, src) {
		b.mu.Lock()
		b.counts.Strangers++
		b.table.keep(unread{datagram: slices.Clone(d), src: src, heard: now})
		b.mu.Unlock()
	}
}

func (b *Beacon) count(what *int64) {
	b.mu.Lock()
	*what++
	b.mu.Unlock()
}

// admit reports whether a datagram is worth more than a glance.
func (b *Beacon) admit(h header, src netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if who, again := b.table.nonces[h.nonce]; again {
		b.counts.Again++
		if n := b.table.neighbours[who]; n != nil && n.last == h.nonce {
			n.source(src, n.heard)
		}
		return false
	}
	if !b.limits.allow(now, src, b.table.isProven(src, now)) {
		b.counts.Limited++
		return false
	}
	b.table.note(h.nonce, identity.Address{})
	b.table.noteDHT(netip.AddrPortFrom(src, h.dht), now)
	return true
}

// fromKnown takes in the beacon of a known device; false if it is none.
func (b *Beacon) fromKnown(h header, d []byte, src netip.Addr, now time.Time) bool {
	b.mu.Lock()
	k, found := recognise(b.table.known, h)
	if !found {
		b.mu.Unlock()
		return false
	}
	newBoot, news, err := b.take(k, h, d, src, now)
	if err != nil {
		b.counts.Refused++
	} else {
		b.counts.Heard++
	}
	if newBoot {
		b.plan.owe(now)
	}
	b.mu.Unlock()
	if newBoot {
		b.wake()
	}
	if err != nil {
		b.cfg.Logger.Debug("beacon refused", "peer", k.device.Short(), "source", src.String(), "err", err)
	} else if b.cfg.OnHeard != nil {
		b.cfg.OnHeard(k.device, news)
	}
	return true
}

var (
	errOld   = errors.New("heard before, or older than what was heard")
	errOther = errors.New("another device's beacon")
)

// take opens and checks the beacon of a known device; b.mu is held.
func (b *Beacon) take(k knownKey, h header, d []byte, src netip.Addr, heard time.Time) (newBoot, news bool, err error) {
	l, err := open(k.key, d, h.nonce)
	if err != nil {
		return false, false, err
	}
	if l.sender != k.device || l.kind != kindHere {
		return false, false, errOther
	}
	n := b.table.neighbours[k.device]
	if n == nil {
		n = &neighbour{}
	}
	if n.isOld(l.body) {
		return false, false, errOld
	}
	if err := l.verify(); err != nil {
		return false, false, err
	}
	b.table.neighbours[k.device] = n
	b.table.note(h.nonce, k.device)
	b.table.prove(src, heard)
	newBoot, news = n.accept(l, h.nonce, src, b.networks, heard)
	return newBoot, news, nil
}

// byCode takes in a beacon about an invitation, given or looked for; false if
// it is none.
func (b *Beacon) byCode(h header, d []byte, src netip.Addr) bool {
	if material, isOpen := b.invitation(); isOpen {
		if k := codeKey(material); k.tag(h.nonce) == h.tag {
			b.asked(k, h, d)
			return true
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.searches {
		if s.key.tag(h.nonce) == h.tag {
			b.invited(s, h, d, src)
			return true
		}
	}
	return false
}

// asked answers somebody who was told the code of the open invitation.
func (b *Beacon) asked(k key, h header, d []byte) {
	l, err := open(k, d, h.nonce)
	good := err == nil && l.kind == kindAsk && l.sender != b.cfg.Device.Address() && l.verify() == nil
	b.mu.Lock()
	if good {
		b.counts.Heard++
		b.plan.owe(time.Now())
	} else {
		b.counts.Refused++
	}
	b.mu.Unlock()
	if good {
		b.wake()
	}
}

// search is one call of Find.
type search struct {
	key   key
	found chan invitation
}

// invitation is the answer to a search.
type invitation struct {
	from identity.Address
	at   []netip.AddrPort
}

// invited hands an invitation to a search; b.mu is held.
func (b *Beacon) invited(s *search, h header, d []byte, src netip.Addr) {
	l, err := open(s.key, d, h.nonce)
	if err != nil || l.kind != kindInvite || l.verify() != nil {
		b.counts.Refused++
		return
	}
	b.counts.Heard++
	at := believed(l.body, b.networks)
	if a := netip.AddrPortFrom(src, l.port); !slices.Contains(at, a) {
		at = append(at, a)
	}
	select {
	case s.found <- invitation{l.sender, at}:
	default: // it has one
	}
}

const (
	// maxSearches is how many calls of Find may wait at once.
	maxSearches = 4
	// askEvery is the time between questions after the first three.
	askEvery = 5 * time.Second
)

// Find asks the network who has invited by the code that material was derived
// from, until somebody answers or ctx ends. Whoever answers knows the code and
// holds the key of the address returned; joining must prove the rest.
func (b *Beacon) Find(ctx context.Context, material [32]byte) (identity.Address, []netip.AddrPort, error) {
	b.life.Lock()
	runs := b.started && !b.closed
	b.life.Unlock()
	s := &search{key: codeKey(material), found: make(chan invitation, 1)}
	if !runs {
		return identity.Address{}, nil, ErrClosed
	}
	if err := b.begin(s); err != nil {
		return identity.Address{}, nil, err
	}
	defer b.end(s)
	for n := 0; ; n++ {
		b.look(true)
		b.ether.Send(b.write(s.key, kindAsk))
		wait := askEvery
		if n+1 < len(quick) {
			wait = quick[n+1]
		}
		select {
		case i := <-s.found:
			return i.from, i.at, nil
		case <-time.After(wait):
		case <-b.done:
			return identity.Address{}, nil, ErrClosed
		case <-ctx.Done():
			return identity.Address{}, nil, fmt.Errorf("find who invited, in this network: %w", ctx.Err())
		}
	}
}

// begin enters a search, and looks whether it was answered already.
func (b *Beacon) begin(s *search) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.searches) >= maxSearches {
		return fmt.Errorf("already looking for %d invitations; wait until one is found", maxSearches)
	}
	b.searches[s] = struct{}{}
	for _, u := range b.table.unread {
		h, err := parseHeader(u.datagram)
		if err == nil && time.Since(u.heard) <= Fresh && s.key.tag(h.nonce) == h.tag {
			b.invited(s, h, u.datagram, u.src)
		}
	}
	return nil
}

func (b *Beacon) end(s *search) {
	b.mu.Lock()
	delete(b.searches, s)
	b.mu.Unlock()
}

// KnownChanged asks again which devices are known. What was heard of new ones
// within the last minute and a half is read now.
func (b *Beacon) KnownChanged() {
	b.knowing.Lock()
	defer b.knowing.Unlock()
	var devices []identity.Address
	if b.cfg.Known != nil {
		devices = b.cfg.Known()
	}
	b.mu.Lock()
	fresh := b.table.learn(devices, b.cfg.Device.Address())
	kept := slices.Clone(b.table.unread)
	b.mu.Unlock()
	slices.SortFunc(kept, func(x, y unread) int { return x.heard.Compare(y.heard) })
	for _, u := range kept {
		if time.Since(u.heard) > Fresh {
			continue
		}
		h, err := parseHeader(u.datagram)
		if err != nil {
			continue
		}
		if _, found := recognise(fresh, h); found {
			b.fromKnown(h, u.datagram, u.src, u.heard)
		}
	}
}

// Hints returns where a known device was heard within the last 95 s, the most
// recent first; none if it was not heard. Link-local IPv6 addresses come with
// their zone.
func (b *Beacon) Hints(a identity.Address) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.table.neighbours[a]
	if n == nil {
		return nil
	}
	var at []netip.AddrPort
	for _, h := range n.hints {
		if time.Since(h.heard) <= Fresh {
			at = append(at, h.at)
		}
	}
	return at
}

// DHT returns the DHT nodes that any device in this network, strangers'
// included, has named within the last 95 s. Nothing vouches for them.
func (b *Beacon) DHT() []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	var at []netip.AddrPort
	for a, heard := range b.table.dht {
		if time.Since(heard) <= Fresh {
			at = append(at, a)
		}
	}
	slices.SortFunc(at, func(x, y netip.AddrPort) int { return x.Compare(y) })
	return at
}
