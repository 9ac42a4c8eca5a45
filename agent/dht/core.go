package dht

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// CoreConfig is what a [Core] gets from outside.
type CoreConfig struct {
	// Start is the time of the first call; the core counts from there.
	Start time.Time
	// Random gives 64 random bits: ids, transaction ids and write tokens come
	// from it. Strangers must not be able to guess it, except in a simulation.
	Random func() uint64
	// Send takes a datagram to be sent; b is the core's to use again after it
	// returns. An error says that it can't leave at all (no route), so that
	// nobody waits for an answer. Send must not call the core.
	Send func(to netip.AddrPort, b []byte) error
	// ReadOnly says whether the node only asks (BEP 43); nil is never.
	ReadOnly func() bool
	// Bootstrap returns addresses to begin with when no node is known; nil is
	// none. At most MaxSeeds of them are used.
	Bootstrap func() []netip.AddrPort
	// IPv4 and IPv6 say what Send can reach; neither is both.
	IPv4, IPv6 bool
	// Rate is how many queries may leave a second; 0 is DefaultRate. Four
	// seconds' worth may leave at once.
	Rate int
}

// Core is a node of the directory without a socket, a clock and goroutines:
// what arrives goes in by Receive, what leaves goes out by CoreConfig.Send, and
// Tick is to be called when the time is Next. The same calls with the same
// random numbers give the same datagrams. A Core is not safe for concurrent
// use; its callbacks run inside its calls and may start operations.
type Core struct {
	cfg   CoreConfig
	now   time.Duration // since cfg.Start
	rate  float32
	fams  [2]bool
	table [2]table
	care  upkeep
	out   bucket
	// starved says that something waits for the rate.
	starved bool
	turn    int

	pending  []*query
	lookups  []*Lookup
	finished []func()
	settling bool
	started  bool // an operation, since the last pump

	tokens  tokens
	limiter *limiter // made with the first query that is answered
	store   store
	peers   peers
	stats   Stats
	buf     []byte
}

// Stats counts what a node knows and did.
type Stats struct {
	// ID is our name in the IPv4 network, ID6 that in the IPv6 one.
	ID, ID6 ID
	// External is our address as others report it, invalid if they don't.
	External, External6 netip.Addr
	ReadOnly            bool
	// Nodes and Nodes6 are how many nodes are known, Lookups how many
	// operations are running, Items and Peers what is kept for others.
	Nodes, Nodes6, Lookups, Items, Peers int
	// Sent counts queries, Answered the answers to them, Unanswered those that
	// nobody answered in time.
	Sent, Answered, Unanswered uint64
	// Queries counts those of others, Replies what they got; Limited got
	// nothing because of the rates.
	Queries, Replies, Limited uint64
	// Dropped counts datagrams that are malformed or answer nothing we asked.
	Dropped uint64
}

// query is one of ours that waits for its answer.
type query struct {
	tid    uint32
	to     netip.AddrPort
	at     time.Duration
	slow   bool
	slowed func()         // once, after SlowAfter; may be nil
	done   func(*message) // nil if there was no answer
}

// NewCore makes a node. It sends nothing before the first Tick.
func NewCore(cfg CoreConfig) *Core {
	c := &Core{cfg: cfg, rate: float32(cfg.Rate), fams: [2]bool{cfg.IPv4, cfg.IPv6}}
	if c.rate <= 0 {
		c.rate = DefaultRate
	}
	if !cfg.IPv4 && !cfg.IPv6 {
		c.fams = [2]bool{true, true}
	}
	var id ID
	for i := 0; i < len(id); i += 4 {
		binary.BigEndian.PutUint32(id[i:], uint32(cfg.Random()))
	}
	c.table[0].self, c.table[1].self = id, id
	return c
}

// enter notes the time. It never goes back.
func (c *Core) enter(now time.Time) { c.now = max(c.now, now.Sub(c.cfg.Start)) }

func (c *Core) readOnly() bool { return c.cfg.ReadOnly != nil && c.cfg.ReadOnly() }

func (c *Core) isSelf(id ID) bool { return id == c.table[0].self || id == c.table[1].self }

// home is the id by which the store judges distances.
func (c *Core) home() ID {
	if c.fams[0] {
		return c.table[0].self
	}
	return c.table[1].self
}

// known returns how many nodes are known.
func (c *Core) known() int { return len(c.table[0].nodes) + len(c.table[1].nodes) }

// live returns how many of them answered when they were last asked.
func (c *Core) live() (n int) {
	for f := range c.table {
		for i := range c.table[f].nodes {
			if c.table[f].nodes[i].fails == 0 {
				n++
			}
		}
	}
	return n
}

// Receive takes a datagram that has arrived. b may be used again afterwards.
func (c *Core) Receive(now time.Time, from netip.AddrPort, b []byte) {
	c.enter(now)
	from = canonical(from)
	m, err := parseMessage(b)
	switch {
	case errors.Is(err, errMessage) || !usable(from) || !c.fams[family(from)]:
		c.stats.Dropped++
	case m.kind == 'q':
		c.serve(from, &m, err)
	default:
		c.answered(from, &m)
	}
	c.settle()
}

// answered finds the query that an answer belongs to: by transaction and
// address.
func (c *Core) answered(from netip.AddrPort, m *message) {
	i := -1
	if len(m.tid) == 4 {
		tid := binary.BigEndian.Uint32(m.tid)
		i = slices.IndexFunc(c.pending, func(q *query) bool { return q.tid == tid && q.to == from })
	}
	if i < 0 {
		c.stats.Dropped++
		return
	}
	q := c.pending[i]
	c.pending = slices.Delete(c.pending, i, i+1)
	c.stats.Answered++
	if m.kind == 'r' {
		if c.isSelf(m.id) {
			q.done(nil)
			return
		}
		c.table[family(from)].heard(node{m.id, from}, c.seconds())
		c.care.answered()
		c.vote(from, m.ip.Addr())
	}
	q.done(m)
}

func (c *Core) seconds() int32 { return int32(c.now / time.Second) }

// ask sends a query if the rate allows it. Exactly one call of done follows,
// never inside ask.
func (c *Core) ask(to netip.AddrPort, m *message, slowed func(), done func(*message)) bool {
	if len(c.pending) >= MaxPending || !c.out.take(c.now, 1, c.rate, c.rate*burstSeconds) {
		c.starved = true
		return false
	}
	q := &query{tid: uint32(c.cfg.Random()), to: to, at: c.now, slowed: slowed, done: done}
	var tid [4]byte
	binary.BigEndian.PutUint32(tid[:], q.tid)
	m.kind, m.tid, m.id = 'q', tid[:], c.table[family(to)].self
	m.readOnly = c.readOnly()
	both := c.fams[0] && c.fams[1] && (m.hasTarget || m.hasInfoHash) && m.token == nil
	m.want4, m.want6 = both, both
	c.pending = append(c.pending, q)
	c.stats.Sent++
	if !c.emit(to, m) {
		q.at = c.now - QueryTimeout
	}
	return true
}

func (c *Core) emit(to netip.AddrPort, m *message) bool {
	c.buf = m.append(c.buf[:0])
	return c.cfg.Send(to, c.buf) == nil
}

// Tick does what is due. It may be called at any time.
func (c *Core) Tick(now time.Time) {
	c.enter(now)
	c.expireQueries()
	c.settle()
}

// expireQueries ends what got no answer. The oldest query is the first, but
// for those that could not be sent.
func (c *Core) expireQueries() {
	var late []*query
	c.pending = slices.DeleteFunc(c.pending, func(q *query) bool {
		if c.now-q.at < QueryTimeout {
			return false
		}
		late = append(late, q)
		return true
	})
	for _, q := range late {
		c.stats.Unanswered++
		c.silent(q.to)
		q.done(nil)
	}
	if len(late) > 0 && c.live() == 0 {
		// Nobody is left: back to the addresses we began with.
		c.care.refresh = min(c.care.refresh, c.now+max(c.care.retry, firstRetry))
	}
	for _, q := range c.pending {
		if !q.slow && c.now-q.at >= SlowAfter {
			q.slow = true
			if q.slowed != nil {
				q.slowed()
			}
		}
	}
}

// silent notes that an address did not answer; one that never did is shunned
// for a while, so that lists can't make us ask it again and again.
func (c *Core) silent(a netip.AddrPort) {
	t := &c.table[family(a)]
	if t.find(a) == nil {
		c.care.shun(a.Addr(), c.now)
		return
	}
	t.failed(a)
}

// settle moves everything on that can move, and runs the callbacks of what
// has ended; these may start more.
func (c *Core) settle() {
	if c.settling {
		return
	}
	c.settling = true
	for {
		c.starved, c.started = false, false
		c.pump()
		c.maintain()
		if len(c.finished) == 0 && !c.started {
			break
		}
		done := c.finished
		c.finished = nil
		for _, f := range done {
			f()
		}
	}
	c.settling = false
}

// pump lets the operations send, in turns.
func (c *Core) pump() {
	c.turn++
	running := slices.Clone(c.lookups)
	for i := range running {
		running[(i+c.turn)%len(running)].step()
	}
	c.lookups = slices.DeleteFunc(c.lookups, func(l *Lookup) bool { return l.over })
}

// Next returns when Tick is to be called, if nothing arrives before.
func (c *Core) Next() time.Time {
	next := c.dueCare()
	for _, q := range c.pending {
		due := q.at + QueryTimeout
		if !q.slow && q.slowed != nil {
			due = q.at + SlowAfter
		}
		next = min(next, due)
	}
	for _, l := range c.lookups {
		next = min(next, l.until)
	}
	if c.starved && len(c.pending) < MaxPending {
		next = min(next, c.now+c.out.wait(1, c.rate))
	}
	return c.cfg.Start.Add(max(next, c.now))
}

// Stats returns what the node knows and has done.
func (c *Core) Stats() Stats {
	s := c.stats
	s.ID, s.ID6 = c.table[0].self, c.table[1].self
	s.External, s.External6 = c.care.external[0], c.care.external[1]
	s.ReadOnly = c.readOnly()
	s.Nodes, s.Nodes6 = len(c.table[0].nodes), len(c.table[1].nodes)
	s.Lookups, s.Items, s.Peers = len(c.lookups), len(c.store.items), len(c.peers.all)
	return s
}
