package dht

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/dht/bencode"
)

// GetRequest asks for the item of a key.
type GetRequest struct {
	Key  [32]byte
	Salt []byte
	// Floor is the lowest seq that is taken: older items are stale, or replayed.
	Floor int64
	// Enough is called with every valid item that a node gives, in the order
	// they come, and ends the search by true; nil never does. The search ends
	// anyway when EnoughEqual nodes agree on the best, when nobody nearer is
	// left, or after LookupTime.
	Enough func(Item) bool
	// Done is called once with the item of the highest seq, or with
	// ErrNotFound, ErrNoNodes, ErrBusy or ErrClosed.
	Done func(Item, error)
}

// get is the state of a GetRequest.
type get struct {
	GetRequest
	best    Item
	found   bool
	equal   int
	sources []netip.Addr
}

// Get looks for the item of a key. It never returns nil.
func (c *Core) Get(now time.Time, r GetRequest) *Lookup {
	c.enter(now)
	g := &get{GetRequest: r}
	target := Target(r.Key, r.Salt)
	l := c.newLookup(target, message{query: "get", hasTarget: true, target: target})
	l.k = 2 * K
	l.heard = func(n *candidate, m *message) verdict {
		v := g.take(m, n.addr.Addr())
		if g.found {
			l.k = K
		}
		return v
	}
	l.finish = func() {
		if g.found {
			r.Done(g.best, nil)
			return
		}
		r.Done(Item{}, l.failure())
	}
	if c.localItem(target, func(m *message) verdict { return g.take(m, netip.Addr{}) }) {
		l.end()
		c.settle()
		return l
	}
	c.start(l)
	return l
}

// localItem shows what we keep ourselves as if a node had answered, and says
// whether f finds it enough.
func (c *Core) localItem(target ID, f func(*message) verdict) bool {
	it := c.store.get(target, c.now)
	if it == nil {
		return false
	}
	var m message
	it.answer(&message{}, &m)
	return f(&m) == enough
}

// failure says why a search found nothing.
func (l *Lookup) failure() error {
	switch {
	case l.err != nil:
		return l.err
	case l.answers == 0:
		return ErrNoNodes
	}
	return ErrNotFound
}

// take judges an answer. An item older than the floor is no lie: the node may
// have missed the change.
func (g *get) take(m *message, from netip.Addr) verdict {
	if m.v == nil {
		return more
	}
	it, ok := readItem(m, g.Key, g.Salt)
	if !ok {
		return lie
	}
	if it.Seq < g.Floor {
		return more
	}
	same := g.found && it.Seq == g.best.Seq && bytes.Equal(it.Value, g.best.Value)
	if !same && !it.verified() {
		return lie
	}
	switch {
	case same:
		it = g.best
		// One address counts once, except where all share one.
		if reachOf(from) == loopback || !slices.Contains(g.sources, from) {
			g.equal++
		}
	case !g.found || it.Seq > g.best.Seq:
		g.best, g.found, g.equal, g.sources = it, true, 1, nil
	}
	g.sources = append(g.sources, from)
	if g.Enough != nil && g.Enough(it) || g.equal >= EnoughEqual {
		return enough
	}
	return more
}

// readItem takes the item out of an answer. Its signature is not checked yet.
func readItem(m *message, key [32]byte, salt []byte) (it Item, ok bool) {
	if !m.hasSeq || m.seq < 0 || len(m.v) > MaxValue || len(m.sig) != len(it.Signature) || !bytes.Equal(m.key, key[:]) {
		return it, false
	}
	value, ok := content(m.v)
	if !ok {
		return it, false
	}
	return Item{Key: key, Salt: bytes.Clone(salt), Seq: m.seq, Value: value, Signature: [64]byte(m.sig)}, true
}

// content returns a copy of what a value holds if it is a byte string, in its
// one form.
func content(v []byte) ([]byte, bool) {
	parsed, err := bencode.Parse(v)
	if err != nil {
		return nil, false
	}
	s, ok := parsed.Bytes()
	return bytes.Clone(s), ok
}

func (it *Item) verified() bool {
	return ed25519.Verify(it.Key[:], SigningBytes(it.Salt, it.Seq, it.Value), it.Signature[:])
}

// PutRequest stores an item.
type PutRequest struct {
	Item Item
	// Cas, if not nil, is the seq of the item that is to be replaced; nodes
	// with another one refuse (301).
	Cas *int64
	// Done is called once with the number of nodes that stored the item, this
	// one included if it is one of the nearest. The error is nil, a
	// *ConflictError, ErrItem, ErrNotStored, ErrNoNodes, ErrBusy or ErrClosed.
	// With a conflict, stored may be above 0: others took the item. Where Seq
	// is -1 the conflict is the bare word of a node, which may lie.
	Done func(stored int, err error)
}

// put is the state of a PutRequest.
type put struct {
	PutRequest
	v        []byte
	stored   int
	conflict *ConflictError
}

// Put looks for the nodes nearest to the item and stores it there, unless the
// search finds a newer one. It never returns nil.
func (c *Core) Put(now time.Time, r PutRequest) *Lookup {
	c.enter(now)
	p := &put{PutRequest: r, v: bencode.AppendBytes(nil, r.Item.Value)}
	target := Target(r.Item.Key, r.Item.Salt)
	l := c.newLookup(target, message{query: "get", hasTarget: true, target: target})
	if err := r.Item.check(); err != nil {
		l.err = err
	}
	l.heard = func(_ *candidate, m *message) verdict { return p.newer(m) }
	l.write = p.message
	l.wrote = p.wrote
	l.local = func() {
		refused := c.store.put(c.home(), p.message(nil), netip.Addr{}, c.now, func() bool { return true })
		p.result(refused)
	}
	l.finish = func() { r.Done(p.stored, p.outcome(l)) }
	if l.err != nil || c.localItem(target, p.newer) {
		l.end()
		c.settle()
		return l
	}
	c.start(l)
	return l
}

func (p *put) message(token []byte) *message {
	it := &p.Item
	m := &message{query: "put", token: token, key: it.Key[:], sig: it.Signature[:], seq: it.Seq, hasSeq: true, v: p.v}
	if len(it.Salt) > 0 {
		m.salt = it.Salt
	}
	if p.Cas != nil {
		m.cas, m.hasCas = *p.Cas, true
	}
	return m
}

// newer finds it enough if an answer proves that the item would be refused.
func (p *put) newer(m *message) verdict {
	it, ok := readItem(m, p.Item.Key, p.Item.Salt)
	if !ok || bytes.Equal(it.Value, p.Item.Value) && it.Seq == p.Item.Seq {
		return more
	}
	code := 0
	switch {
	case it.Seq >= p.Item.Seq:
		code = codeSeq
	case p.Cas != nil && it.Seq > *p.Cas:
		code = codeCas
	}
	if code == 0 || !it.verified() {
		return more
	}
	p.conflict = &ConflictError{Seq: it.Seq, Code: code}
	return enough
}

func (p *put) wrote(m *message) {
	switch {
	case m.kind == 'r':
		p.result(nil)
	case m.kind == 'e':
		p.result(&refusal{code: m.code})
	}
}

// result notes what became of the item at one node.
func (p *put) result(r *refusal) {
	switch {
	case r == nil:
		p.stored++
	case (r.code == codeCas || r.code == codeSeq) && p.conflict == nil:
		p.conflict = &ConflictError{Seq: -1, Code: r.code}
	}
}

func (p *put) outcome(l *Lookup) error {
	switch {
	case p.conflict != nil:
		return p.conflict
	case p.stored > 0:
		return nil
	}
	return l.unstored()
}

// unstored says why nothing was stored.
func (l *Lookup) unstored() error {
	if err := l.failure(); err != ErrNotFound {
		return err
	}
	return ErrNotStored
}

// GetImmutable looks for a value under its hash. done is called once, with the
// content of the byte string. It never returns nil.
func (c *Core) GetImmutable(now time.Time, target ID, done func(value []byte, err error)) *Lookup {
	c.enter(now)
	var value []byte
	found := false
	take := func(m *message) verdict {
		if m.v == nil {
			return more
		}
		if len(m.v) <= MaxValue && sha1.Sum(m.v) == target {
			value, found = content(m.v)
		}
		if found {
			return enough
		}
		return lie
	}
	l := c.newLookup(target, message{query: "get", hasTarget: true, target: target})
	l.k = 2 * K
	l.heard = func(_ *candidate, m *message) verdict { return take(m) }
	l.finish = func() {
		if found {
			done(value, nil)
			return
		}
		done(nil, l.failure())
	}
	if c.localItem(target, take) {
		l.end()
		c.settle()
		return l
	}
	c.start(l)
	return l
}

// PutImmutable stores a value of at most 996 bytes under its hash,
// [ImmutableTarget]. done is called once, as in [PutRequest]. It never returns
// nil.
func (c *Core) PutImmutable(now time.Time, value []byte, done func(stored int, err error)) *Lookup {
	c.enter(now)
	v := bencode.AppendBytes(nil, value)
	target := ID(sha1.Sum(v))
	l := c.newLookup(target, message{query: "get", hasTarget: true, target: target})
	stored := 0
	// A seq has no meaning here, but the servers of anacrolix/dht refuse to go
	// without.
	l.write = func(token []byte) *message { return &message{query: "put", token: token, v: v, hasSeq: true} }
	l.wrote = func(m *message) {
		if m.kind == 'r' {
			stored++
		}
	}
	l.local = func() {
		if c.store.put(c.home(), l.write(nil), netip.Addr{}, c.now, nil) == nil {
			stored++
		}
	}
	l.finish = func() {
		if stored > 0 {
			done(stored, nil)
			return
		}
		done(0, l.unstored())
	}
	if len(v) > MaxValue {
		l.err = ErrItem
		l.end()
		c.settle()
		return l
	}
	c.start(l)
	return l
}

// Announce says that we can be reached for infohash at a UDP or TCP port, as
// the nodes see our address (BEP 5). done is called once with the number of
// nodes that noted it. It never returns nil.
func (c *Core) Announce(now time.Time, infohash ID, port uint16, done func(noted int, err error)) *Lookup {
	c.enter(now)
	l := c.newLookup(infohash, message{query: "get_peers", hasInfoHash: true, infoHash: infohash})
	noted := 0
	l.write = func(token []byte) *message {
		return &message{query: "announce_peer", token: token, hasInfoHash: true, infoHash: infohash, port: port}
	}
	l.wrote = func(m *message) {
		if m.kind == 'r' {
			noted++
		}
	}
	l.local = func() {
		for _, ip := range c.care.external {
			if ip.IsValid() && c.peers.announce(infohash, netip.AddrPortFrom(ip, port), c.now) == nil {
				noted++
			}
		}
	}
	l.finish = func() {
		if noted > 0 {
			done(noted, nil)
			return
		}
		done(0, l.unstored())
	}
	c.start(l)
	return l
}

// Peers asks who announced infohash. done is called once with at most MaxPeers
// addresses, each as believable as the stranger who names it. It never returns
// nil.
func (c *Core) Peers(now time.Time, infohash ID, done func([]netip.AddrPort, error)) *Lookup {
	c.enter(now)
	var all []netip.AddrPort
	take := func(a netip.AddrPort, from netip.Addr) {
		if len(all) < MaxPeers && reachOf(a.Addr()) >= reachOf(from) && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	for f := range c.fams {
		for _, a := range c.peers.get(infohash, f, MaxPeers, c.now) {
			take(a, a.Addr())
		}
	}
	l := c.newLookup(infohash, message{query: "get_peers", hasInfoHash: true, infoHash: infohash})
	l.heard = func(n *candidate, m *message) verdict {
		for _, a := range m.values {
			take(a, n.addr.Addr())
		}
		if len(all) >= MaxPeers {
			return enough
		}
		return more
	}
	l.finish = func() {
		if len(all) > 0 {
			done(all, nil)
			return
		}
		done(nil, l.failure())
	}
	c.start(l)
	return l
}
