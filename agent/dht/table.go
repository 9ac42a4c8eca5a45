package dht

import (
	"net/netip"
	"slices"
)

// contact is a node that has answered us.
type contact struct {
	node
	heard int32 // last answer, in seconds since the core was made
	since int32 // first answer
	fails uint8 // queries without answer since
	wrong bool  // the id is not one that BEP 42 allows there
}

// table holds the known nodes of one family: at most MaxNodes, spread over the
// distances from our own id as in Kademlia, but in one list. A full list gives
// the place of the worst node at the most crowded distance to one from a less
// crowded.
type table struct {
	self  ID
	nodes []contact
	spare []node // not asked yet, or without a place; oldest first
}

// badAfter is how many unanswered queries in a row end an acquaintance.
const badAfter = 2

func (t *table) find(a netip.AddrPort) *contact {
	for i := range t.nodes {
		if t.nodes[i].addr == a {
			return &t.nodes[i]
		}
	}
	return nil
}

// heard notes that a node answered.
func (t *table) heard(n node, now int32) {
	t.forget(n)
	if n.id == t.self {
		return
	}
	if c := t.find(n.addr); c != nil {
		if c.id != n.id {
			c.id, c.since, c.wrong = n.id, now, !n.id.Secure(n.addr.Addr())
		}
		c.heard, c.fails = now, 0
		return
	}
	c := contact{node: n, heard: now, since: now, wrong: !n.id.Secure(n.addr.Addr())}
	victim, ok := t.place(&c)
	switch {
	case !ok:
		t.keepSpare(n)
	case victim >= 0:
		t.nodes[victim] = c
	default:
		t.nodes = append(t.nodes, c)
	}
}

// place says whether there is a place for c, and whose it is: that of the node
// with the index victim, or a new one if it is negative.
func (t *table) place(c *contact) (victim int, ok bool) {
	near := 0
	for i := range t.nodes {
		o := &t.nodes[i]
		if o.id == c.id {
			// The same id from elsewhere: the one that was there stays
			// unless it has gone silent.
			return i, o.fails > 0
		}
		if !public(c.addr.Addr()) {
			continue
		}
		if o.addr.Addr() == c.addr.Addr() {
			return i, o.fails > 0
		}
		if network(o.addr.Addr()) == network(c.addr.Addr()) {
			near++
		}
	}
	switch {
	case near >= MaxPerNetwork && len(t.nodes) >= 2*K:
		return -1, false
	case c.wrong && t.count(t.self.common(c.id)) >= K:
		return -1, false
	case len(t.nodes) < MaxNodes:
		return -1, true
	}
	return t.victim(c)
}

func (t *table) count(distance int) (n int) {
	for i := range t.nodes {
		if t.self.common(t.nodes[i].id) == distance {
			n++
		}
	}
	return n
}

// victim returns the worst node of the most crowded distance, the farthest such
// distance if there are several, and whether c is worth more.
func (t *table) victim(c *contact) (worst int, ok bool) {
	var counts [161]int
	for i := range t.nodes {
		counts[t.self.common(t.nodes[i].id)]++
	}
	crowd := 0
	for d, n := range counts {
		if n > counts[crowd] {
			crowd = d
		}
	}
	worst = -1
	for i := range t.nodes {
		o := &t.nodes[i]
		if t.self.common(o.id) == crowd && (worst < 0 || o.worse(&t.nodes[worst])) {
			worst = i
		}
	}
	o := &t.nodes[worst]
	return worst, o.fails > 0 || !c.wrong && (o.wrong || counts[t.self.common(c.id)] < counts[crowd])
}

// worse orders nodes by how little we would miss them: silent, wrong by
// BEP 42, then the younger acquaintance.
func (c *contact) worse(o *contact) bool {
	if c.fails != o.fails {
		return c.fails > o.fails
	}
	if c.wrong != o.wrong {
		return c.wrong
	}
	return c.since > o.since
}

// failed notes a query without answer. Nodes are dropped for it as long as
// others are left: a cut cable must not empty the table.
func (t *table) failed(a netip.AddrPort) {
	i := slices.IndexFunc(t.nodes, func(c contact) bool { return c.addr == a })
	if i < 0 {
		return
	}
	c := &t.nodes[i]
	if c.fails < 255 {
		c.fails++
	}
	if c.fails >= badAfter && (len(t.nodes) > K || len(t.spare) > 0) {
		t.nodes = slices.Delete(t.nodes, i, i+1)
	}
}

// keepSpare remembers a node that has no place yet; the oldest of them goes.
func (t *table) keepSpare(n node) {
	if n.id == t.self || t.find(n.addr) != nil {
		return
	}
	for _, o := range t.spare {
		if o.addr == n.addr {
			return
		}
	}
	if len(t.spare) >= maxSpare {
		t.spare = slices.Delete(t.spare, 0, 1)
	}
	t.spare = append(t.spare, n)
}

// forget takes a node out of the spare ones.
func (t *table) forget(n node) {
	t.spare = slices.DeleteFunc(t.spare, func(o node) bool { return o.addr == n.addr })
}

// wanted returns a spare node that would find a place if it answered.
func (t *table) wanted() (node, bool) {
	for _, n := range t.spare {
		if _, ok := t.place(&contact{node: n, wrong: !n.id.Secure(n.addr.Addr())}); ok {
			return n, true
		}
	}
	return node{}, false
}

// oldest returns the node that has been silent for longest.
func (t *table) oldest() *contact {
	var c *contact
	for i := range t.nodes {
		if c == nil || t.nodes[i].heard < c.heard {
			c = &t.nodes[i]
		}
	}
	return c
}

// closest returns up to n nodes in the order of their distance to id; those
// that do not answer at present come last.
func (t *table) closest(id ID, n int) []node {
	order := make([]*contact, 0, MaxNodes)
	for i := range t.nodes {
		order = append(order, &t.nodes[i])
	}
	slices.SortFunc(order, func(a, b *contact) int {
		switch {
		case (a.fails > 0) != (b.fails > 0):
			return int(a.fails) - int(b.fails)
		case id.nearer(a.id, b.id):
			return -1
		}
		return 1
	})
	out := make([]node, 0, min(n, len(order)))
	for _, c := range order[:min(n, len(order))] {
		out = append(out, c.node)
	}
	return out
}

// ranked returns all nodes, those that will most likely be there tomorrow
// first.
func (t *table) ranked() []contact {
	out := slices.Clone(t.nodes)
	slices.SortStableFunc(out, func(a, b contact) int {
		switch {
		case a.worse(&b):
			return 1
		case b.worse(&a):
			return -1
		}
		return 0
	})
	return out
}
