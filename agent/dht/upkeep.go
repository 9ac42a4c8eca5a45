package dht

import (
	"net/netip"
	"slices"
	"time"
)

// How often a node looks after itself. A node that only asks sends about half
// a packet a minute by these figures.
const (
	refreshServing  = 15 * time.Minute
	refreshReadOnly = time.Hour
	fewServing      = 5 * time.Minute // fewer than K nodes are known
	fewReadOnly     = 20 * time.Minute
	pingServing     = time.Minute
	pingReadOnly    = 5 * time.Minute
	firstRetry      = time.Second // nobody is known
	lastRetry       = 5 * time.Minute
	sparePause      = time.Second
	spareLater      = 30 * time.Second // nobody is needed
	sweepEvery      = time.Minute
	rekeyPause      = 10 * time.Minute
)

// upkeep is what a node does unasked.
type upkeep struct {
	refresh  time.Duration // when the next look-up for ourselves is due
	ping     time.Duration
	spare    time.Duration
	sweep    time.Duration
	retry    time.Duration // the last pause, while nobody is known
	running  *Lookup
	rounds   int
	seeds    []netip.AddrPort // given by Add, newest last
	unasked  []netip.AddrPort // of them, those not asked yet
	shunned  []shunned
	votes    [2][]vote
	external [2]netip.Addr
	told     [2]bool // external was given by the owner of the core
	rekeyed  [2]time.Duration
}

type shunned struct {
	ip    netip.Addr
	until time.Duration
}

// vote is the opinion of a node on our address.
type vote struct{ by, ip netip.Addr }

func (u *upkeep) answered() { u.retry = 0 }

// shun notes an address that was silent; the oldest note goes.
func (u *upkeep) shun(ip netip.Addr, now time.Duration) {
	u.shunned = slices.DeleteFunc(u.shunned, func(s shunned) bool { return s.until <= now || s.ip == ip })
	if len(u.shunned) >= maxShunned {
		u.shunned = slices.Delete(u.shunned, 0, 1)
	}
	u.shunned = append(u.shunned, shunned{ip, now + shunTime})
}

func (u *upkeep) isShunned(ip netip.Addr, now time.Duration) bool {
	return public(ip) && slices.ContainsFunc(u.shunned, func(s shunned) bool { return s.ip == ip && s.until > now })
}

// Add gives addresses of nodes, for instance saved ones, those in a link, or
// neighbours in the LAN. They are asked once, and used again whenever few
// nodes are known. The last MaxSeeds are kept.
func (c *Core) Add(now time.Time, addrs ...netip.AddrPort) {
	c.enter(now)
	u := &c.care
	for _, a := range addrs {
		a = canonical(a)
		if !usable(a) || !c.fams[family(a)] || c.table[family(a)].find(a) != nil {
			continue
		}
		if !slices.Contains(u.unasked, a) {
			u.unasked = appendLimited(u.unasked, a)
		}
		if !slices.Contains(u.seeds, a) {
			u.seeds = appendLimited(u.seeds, a)
		}
	}
	if c.live() == 0 && len(u.unasked) > 0 {
		u.refresh, u.retry = c.now, 0
	}
	c.settle()
}

func appendLimited(list []netip.AddrPort, a netip.AddrPort) []netip.AddrPort {
	if len(list) >= MaxSeeds {
		list = slices.Delete(list, 0, 1)
	}
	return append(list, a)
}

// Moved says that the network has changed: what others reported of our address
// is forgotten, and the known nodes are asked again.
func (c *Core) Moved(now time.Time) {
	c.enter(now)
	u := &c.care
	u.votes, u.external, u.told = [2][]vote{}, [2]netip.Addr{}, [2]bool{}
	u.rekeyed = [2]time.Duration{}
	u.shunned, u.retry, u.refresh = nil, 0, c.now
	for f := range c.table {
		for i := range c.table[f].nodes {
			c.table[f].nodes[i].fails = 0
		}
	}
	c.settle()
}

// SetExternal says which addresses we have to others, where the caller knows
// it better than the nodes, until Moved.
func (c *Core) SetExternal(now time.Time, ips ...netip.Addr) {
	c.enter(now)
	for _, ip := range ips {
		ip = ip.Unmap()
		if ip.IsValid() && !ip.IsUnspecified() {
			f := family(netip.AddrPortFrom(ip, 1))
			c.care.told[f] = true
			c.located(f, ip)
		}
	}
	c.settle()
}

// Nodes returns up to MaxNodes addresses that are worth saving, the best first.
func (c *Core) Nodes() []netip.AddrPort {
	a, b := c.table[0].ranked(), c.table[1].ranked()
	var out []netip.AddrPort
	for i := 0; i < MaxNodes && len(out) < MaxNodes; i++ {
		for _, list := range [][]contact{a, b} {
			if i < len(list) && len(out) < MaxNodes {
				out = append(out, list[i].addr)
			}
		}
	}
	return out
}

// vote counts what a node says of our address. Two that agree, and no larger
// group that says otherwise, are believed.
func (c *Core) vote(from netip.AddrPort, ip netip.Addr) {
	f := family(from)
	u := &c.care
	if !ip.IsValid() || family(netip.AddrPortFrom(ip, 1)) != f || u.told[f] {
		return
	}
	by := from.Addr()
	votes := slices.DeleteFunc(u.votes[f], func(v vote) bool { return v.by == by })
	if len(votes) >= maxVotes {
		votes = slices.Delete(votes, 0, 1)
	}
	u.votes[f] = append(votes, vote{by, ip})
	best, most := netip.Addr{}, 1
	for _, v := range u.votes[f] {
		n := 0
		for _, o := range u.votes[f] {
			if o.ip == v.ip {
				n++
			}
		}
		if n > most {
			best, most = v.ip, n
		}
	}
	if best.IsValid() && best != u.external[f] {
		c.located(f, best)
	}
}

// located takes an address for ours, and an id that goes with it (BEP 42).
func (c *Core) located(f int, ip netip.Addr) {
	u, t := &c.care, &c.table[f]
	u.external[f] = ip
	if t.self.Secure(ip) || u.rekeyed[f] != 0 && c.now-u.rekeyed[f] < rekeyPause {
		return
	}
	u.rekeyed[f] = max(c.now, 1)
	t.self = t.self.secured(ip)
	// Others must get to know the new name.
	u.refresh = min(u.refresh, c.now+firstRetry)
}

// maintain does what is due of the upkeep.
func (c *Core) maintain() {
	u := &c.care
	if c.now >= u.sweep {
		u.sweep = c.now + sweepEvery
		c.store.expire(c.now)
		c.peers.expire(c.now)
	}
	c.askUnasked()
	if c.now >= u.refresh && u.running == nil {
		c.refresh()
	}
	if c.now >= u.ping {
		c.pingOldest()
	}
	if c.now >= u.spare {
		c.pingSpare()
	}
}

// dueCare returns when maintain has something to do.
func (c *Core) dueCare() time.Duration {
	u := &c.care
	next := u.ping
	if u.running == nil {
		next = min(next, u.refresh)
	}
	if len(c.store.items)+len(c.peers.all) > 0 {
		next = min(next, u.sweep)
	}
	for f := range c.table {
		if len(c.table[f].spare) > 0 {
			next = min(next, u.spare)
		}
	}
	return next
}

// refresh looks for the neighbours of our own id or, every other time, of any
// other; with nobody known it starts from the given addresses, and again after
// a growing pause.
func (c *Core) refresh() {
	u := &c.care
	readOnly := c.readOnly()
	switch known := c.live(); {
	case known == 0:
		u.retry = min(max(2*u.retry, firstRetry), lastRetry)
		u.refresh = c.now + u.retry
	case known < K && readOnly:
		u.refresh = c.now + c.spread(fewReadOnly)
	case known < K:
		u.refresh = c.now + c.spread(fewServing)
	case readOnly:
		u.refresh = c.now + c.spread(refreshReadOnly)
	default:
		u.refresh = c.now + c.spread(refreshServing)
	}
	u.rounds++
	l := c.newLookup(c.home(), message{query: "find_node", hasTarget: true})
	if u.rounds%4 == 0 && c.live() >= K {
		for i := range l.target {
			l.target[i] = byte(c.cfg.Random())
		}
	}
	l.search.target = l.target
	l.finish = func() {
		u.running = nil
		if c.live() > 0 {
			u.refresh = max(u.refresh, c.now+firstRetry)
		}
	}
	u.running = l
	c.start(l)
}

// spread varies a pause by an eighth, so that nodes started together don't
// stay in step.
func (c *Core) spread(d time.Duration) time.Duration {
	return d - d/8 + time.Duration(c.cfg.Random()%uint64(d/4))
}

// askUnasked asks the addresses given by Add.
func (c *Core) askUnasked() {
	u := &c.care
	for len(u.unasked) > 0 {
		if !c.ask(u.unasked[0], &message{query: "ping"}, nil, func(*message) {}) {
			return
		}
		u.unasked = slices.Delete(u.unasked, 0, 1)
	}
}

// pingOldest asks the node that has been silent for longest.
func (c *Core) pingOldest() {
	u := &c.care
	pause := pingServing
	if c.readOnly() {
		pause = pingReadOnly
	}
	first := u.ping == 0
	u.ping = c.now + c.spread(pause)
	var oldest *contact
	for f := range c.table {
		if o := c.table[f].oldest(); o != nil && (oldest == nil || o.heard < oldest.heard) {
			oldest = o
		}
	}
	if first || oldest == nil || c.now-time.Duration(oldest.heard)*time.Second < pause {
		return
	}
	c.ask(oldest.addr, &message{query: "ping"}, nil, func(*message) {})
}

// pingSpare asks one of those that could fill a gap.
func (c *Core) pingSpare() {
	for f := range c.table {
		t := &c.table[f]
		if len(t.spare) == 0 {
			continue
		}
		c.care.spare = c.now + spareLater
		n, ok := t.wanted()
		if ok && c.ask(n.addr, &message{query: "ping"}, nil, func(*message) {}) {
			t.forget(n)
			c.care.spare = c.now + sparePause
			return
		}
	}
}
