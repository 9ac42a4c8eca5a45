package dht

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"net/netip"
	"time"
)

// Codes of errors (BEP 5, BEP 44).
const (
	codeGeneric   = 201
	codeServer    = 202
	codeProtocol  = 203
	codeMethod    = 204
	codeTooBig    = 205
	codeSignature = 206
	codeSalt      = 207
	codeCas       = 301
	codeSeq       = 302
)

// refusal is why something was not stored, as it is told to the sender.
type refusal struct {
	code int
	text string
}

// stored is an item kept for somebody.
type stored struct {
	v       []byte // as it came
	salt    []byte
	key     [32]byte
	sig     [64]byte
	seq     int64
	mutable bool
	from    netip.Addr
	until   time.Duration
}

// store keeps items for others (BEP 44). The zero store is empty.
type store struct {
	items map[ID]*stored
	bytes int
}

// get returns an item that has not expired.
func (s *store) get(target ID, now time.Duration) *stored {
	it := s.items[target]
	if it == nil || it.until <= now {
		return nil
	}
	return it
}

// put checks and keeps what a put carries; ip is zero if it is our own. verify
// is asked before a signature is checked, for that takes time.
func (s *store) put(self ID, m *message, ip netip.Addr, now time.Duration, verify func() bool) *refusal {
	it, r := readPut(m)
	if r != nil {
		return r
	}
	target := it.target()
	old := s.get(target, now)
	if old != nil && it.mutable {
		if r := it.follows(old, m); r != nil {
			return r
		}
	}
	if old == nil && !s.admits(ip, now) {
		return &refusal{codeServer, "too many items from there"}
	}
	if it.mutable {
		if !verify() {
			return &refusal{codeServer, "busy"}
		}
		if !ed25519.Verify(it.key[:], signingBytes(it.salt, it.seq, it.v), it.sig[:]) {
			return &refusal{codeSignature, "wrong signature"}
		}
	}
	it.from, it.until = ip, now+ItemLife
	return s.keep(self, target, it, now)
}

// readPut takes the item out of the message. The bytes are copied: they live
// for hours, the datagram does not.
func readPut(m *message) (*stored, *refusal) {
	it := &stored{v: bytes.Clone(m.v), mutable: m.key != nil}
	switch {
	case len(m.v) == 0:
		return nil, &refusal{codeProtocol, "no v"}
	case len(m.v) > MaxValue:
		return nil, &refusal{codeTooBig, "v too big"}
	case !it.mutable:
		return it, nil
	case len(m.salt) > MaxSalt:
		return nil, &refusal{codeSalt, "salt too big"}
	case len(m.key) != len(it.key) || len(m.sig) != len(it.sig) || !m.hasSeq || m.seq < 0:
		return nil, &refusal{codeProtocol, "k, sig or seq wrong"}
	}
	it.key, it.sig, it.seq = [32]byte(m.key), [64]byte(m.sig), m.seq
	if len(m.salt) > 0 {
		it.salt = bytes.Clone(m.salt)
	}
	return it, nil
}

func (it *stored) target() ID {
	if it.mutable {
		return Target(it.key, it.salt)
	}
	return sha1.Sum(it.v)
}

func (it *stored) size() int { return len(it.v) + len(it.salt) + 160 }

// follows says whether it may take the place of old.
func (it *stored) follows(old *stored, m *message) *refusal {
	switch {
	case m.hasCas && m.cas != old.seq:
		return &refusal{codeCas, "cas does not match"}
	case it.seq < old.seq || it.seq == old.seq && !bytes.Equal(it.v, old.v):
		return &refusal{codeSeq, "seq less than current"}
	}
	return nil
}

// admits says whether ip may keep one more item here.
func (s *store) admits(ip netip.Addr, now time.Duration) bool {
	if !ip.IsValid() {
		return true
	}
	one, near := 0, 0
	for _, it := range s.items {
		if it.from.IsValid() && it.until > now && it.from.Is4() == ip.Is4() && network(it.from) == network(ip) {
			near++
			if it.from == ip {
				one++
			}
		}
	}
	return one < MaxItemsPerIP && near < MaxItemsPerNetwork
}

// keep stores an item; the farthest go if there are too many.
func (s *store) keep(self, target ID, it *stored, now time.Duration) *refusal {
	if s.items == nil {
		s.items = make(map[ID]*stored)
	}
	s.drop(target)
	for len(s.items) >= MaxItems || s.bytes+it.size() > MaxItemBytes {
		s.expire(now)
		if len(s.items) < MaxItems && s.bytes+it.size() <= MaxItemBytes {
			break
		}
		far := s.farthest(self)
		if !self.nearer(target, far) {
			return &refusal{codeServer, "full"}
		}
		s.drop(far)
	}
	s.items[target] = it
	s.bytes += it.size()
	return nil
}

// farthest returns the place that is farthest from us. Distances differ, so
// the order of the map doesn't matter.
func (s *store) farthest(self ID) (far ID) {
	first := true
	for id := range s.items {
		if first || self.nearer(far, id) {
			far, first = id, false
		}
	}
	return far
}

func (s *store) drop(target ID) {
	if it := s.items[target]; it != nil {
		s.bytes -= it.size()
		delete(s.items, target)
	}
}

// expire drops what is too old.
func (s *store) expire(now time.Duration) {
	for id, it := range s.items {
		if it.until <= now {
			s.drop(id)
		}
	}
}

// peer is an announce (BEP 5).
type peer struct {
	hash  ID
	addr  netip.AddrPort
	until time.Duration
}

// peers keeps announces, the oldest first. The zero peers is empty.
type peers struct {
	all []peer
}

// announce keeps a peer; the oldest goes if there are too many.
func (p *peers) announce(hash ID, addr netip.AddrPort, now time.Duration) *refusal {
	p.expire(now)
	drop, hashes, ips := -1, 0, 0
	for i, o := range p.all {
		if o.hash == hash && o.addr == addr {
			p.all = append(p.all[:i], p.all[i+1:]...)
			p.all = append(p.all, peer{hash, addr, now + PeerLife})
			return nil
		}
		if o.addr.Addr() == addr.Addr() {
			ips++
		}
		if o.hash == hash {
			if hashes == 0 {
				drop = i
			}
			hashes++
		}
	}
	if ips >= MaxPeersPerIP {
		return &refusal{codeServer, "too many announces from there"}
	}
	switch {
	case hashes >= MaxPeersPerHash:
		p.all = append(p.all[:drop], p.all[drop+1:]...)
	case len(p.all) >= MaxPeersKept:
		p.all = append(p.all[:0], p.all[1:]...)
	}
	p.all = append(p.all, peer{hash, addr, now + PeerLife})
	return nil
}

// get returns up to n peers of a family, the latest first.
func (p *peers) get(hash ID, fam, n int, now time.Duration) (out []netip.AddrPort) {
	for i := len(p.all) - 1; i >= 0 && len(out) < n; i-- {
		if o := p.all[i]; o.hash == hash && o.until > now && family(o.addr) == fam {
			out = append(out, o.addr)
		}
	}
	return out
}

func (p *peers) expire(now time.Duration) {
	n := 0
	for n < len(p.all) && p.all[n].until <= now {
		n++
	}
	if n > 0 {
		p.all = append(p.all[:0], p.all[n:]...)
	}
}
