package dht

import (
	"net/netip"
	"slices"
	"time"
)

// Lookup is an operation under way: a search for the nodes next to a target,
// and what is then written to them. It is given to [Core.Cancel] only.
type Lookup struct {
	c      *Core
	target ID
	search message
	f      [2]frontier
	until  time.Duration
	over   bool
	err    error // why it ended early, nil if it didn't

	// heard judges an answer of the search; it may be nil.
	heard func(*candidate, *message) verdict
	// k is how many of the nearest nodes end the search by their answers: K, or
	// twice as many as long as a reader has found nothing.
	k int
	// write makes the message that stores something, nil if nothing is to be
	// stored; wrote looks at what came back. local stores in the node itself,
	// which may be one of the nearest.
	write func(token []byte) *message
	wrote func(*message)
	local func()
	// finish is called at the end, once.
	finish func()

	writing bool
	todo    []*candidate
	writes  int
	answers int
}

// verdict is what the operation thinks of an answer.
type verdict uint8

const (
	more   verdict = iota // go on
	enough                // stop the search, and write nothing
	lie                   // go on as if the node had not answered
)

type state uint8

const (
	fresh state = iota
	asked
	slow
	answered
	failed
)

// candidate is a node that a search knows of.
type candidate struct {
	node
	named bool // the id is known
	state state
	wrong bool // the id is not one that BEP 42 allows there
	src   *candidate
	// Of those it named: how many are fresh, dead or slow, have answered.
	fresh, dead, good uint8
	token             []byte
	// counts says that the answer is one of the k that end the search. Those
	// with a wrong id don't, and those without token if we want to write.
	counts bool
}

// frontier is the state of a search in one family: the candidates, nearest
// first. Those that were asked stay in the list, and it has MaxQueried places:
// so many are asked at most.
type frontier struct {
	cands  []*candidate
	flying int // asked and not slow
	onWay  int // asked or slow
}

// newLookup prepares a search; start begins it.
func (c *Core) newLookup(target ID, search message) *Lookup {
	return &Lookup{c: c, target: target, search: search, k: K, finish: func() {}}
}

// start begins a search with the nearest known nodes, and with the given
// addresses if these are few.
func (c *Core) start(l *Lookup) {
	if len(c.lookups) >= MaxLookups {
		l.err = ErrBusy
		l.end()
		c.settle()
		return
	}
	l.until = c.now + LookupTime
	for f := range c.table {
		for _, n := range c.table[f].closest(l.target, 2*K) {
			l.add(n, true, nil)
		}
	}
	if c.live() < K {
		l.addSeeds()
	}
	c.lookups = append(c.lookups, l)
	c.started = true
	c.settle()
}

// addSeeds adds up to K of the given addresses, others each time.
func (l *Lookup) addSeeds() {
	c := l.c
	seeds := slices.Clone(c.care.seeds)
	if c.cfg.Bootstrap != nil {
		for _, a := range c.cfg.Bootstrap() {
			if a = canonical(a); len(seeds) < 2*MaxSeeds && usable(a) && c.fams[family(a)] && !slices.Contains(seeds, a) {
				seeds = append(seeds, a)
			}
		}
	}
	for n := 0; n < K && len(seeds) > 0; n++ {
		i := int(c.cfg.Random() % uint64(len(seeds)))
		l.add(node{addr: seeds[i]}, false, nil)
		seeds = slices.Delete(seeds, i, i+1)
	}
}

// add notes a node; src is who named it, nil if we knew it.
func (l *Lookup) add(n node, named bool, src *candidate) {
	ip := n.addr.Addr()
	if named && l.c.isSelf(n.id) || !l.c.fams[family(n.addr)] {
		return
	}
	if src != nil && (n.addr.Port() < 1024 || reachOf(ip) < reachOf(src.addr.Addr()) || l.c.care.isShunned(ip, l.c.now)) {
		return
	}
	f := &l.f[family(n.addr)]
	same := 0
	for _, o := range f.cands {
		if o.addr == n.addr {
			return
		}
		if o.addr.Addr() == ip {
			same++
		}
	}
	if most := portsOf(ip); same >= most {
		return
	}
	f.insert(l.target, &candidate{node: n, named: named, src: src, wrong: named && !n.id.Secure(ip)})
}

// portsOf returns how many ports of an address a search may ask.
func portsOf(ip netip.Addr) int {
	switch reachOf(ip) {
	case worldwide:
		return MaxPerAddress
	case private:
		return MaxPerPrivate
	}
	return MaxQueried
}

// insert puts a candidate in its place. If the list is full, one that was not
// asked yet goes: of those named by whoever named the most, the farthest. So
// nodes that invent neighbours push out each other's, not those of the honest.
func (f *frontier) insert(target ID, n *candidate) {
	i := 0
	for i < len(f.cands) && !n.before(f.cands[i], target) {
		i++
	}
	f.cands = slices.Insert(f.cands, i, n)
	if n.src != nil && n.state == fresh {
		n.src.fresh++
	}
	if len(f.cands) <= MaxQueried {
		return
	}
	drop, most := -1, -1
	for j := len(f.cands) - 1; j >= 0; j-- {
		if o := f.cands[j]; o.state == fresh && o.siblings() > most {
			drop, most = j, o.siblings()
		}
	}
	if drop >= 0 {
		f.cands[drop].leave()
		f.cands = slices.Delete(f.cands, drop, drop+1)
	}
}

// siblings returns how many fresh candidates have the same source.
func (n *candidate) siblings() int {
	if n.src == nil {
		return 0
	}
	return int(n.src.fresh)
}

// leave notes that a candidate is fresh no longer.
func (n *candidate) leave() {
	if n.src != nil && n.src.fresh > 0 {
		n.src.fresh--
	}
}

// before orders candidates: nearest first, those without a name last.
func (n *candidate) before(o *candidate, target ID) bool {
	if n.named != o.named {
		return n.named
	}
	return n.named && target.nearer(n.id, o.id)
}

// waits says that a candidate must wait for all others: too many of those that
// its source named are dead.
func (n *candidate) waits() bool {
	return n.src != nil && int(n.src.dead) >= MaxReferrals+int(n.src.good)
}

// next returns whom to ask, nil if nobody: one of the k nearest that are not
// dead or slow, or one of those that wait if nobody else is left.
func (f *frontier) next(k int) *candidate {
	live := 0
	var waiting *candidate
	for _, n := range f.cands {
		switch {
		case n.state == fresh && n.waits():
			if waiting == nil {
				waiting = n
			}
		case n.state == fresh:
			return n
		case n.state == asked || n.state == answered && n.counts:
			live++
		}
		if live >= k {
			return nil
		}
	}
	if f.onWay > 0 {
		return nil
	}
	return waiting
}

// done says that nothing more is to be had: the k nearest have answered, or
// nobody is left to ask.
func (f *frontier) done(k int) bool {
	got := 0
	for _, n := range f.cands {
		switch {
		case n.state == answered && n.counts:
			got++
		case n.state == asked || n.state == slow:
			return false
		case n.state == fresh && !n.waits():
			return false
		}
		if got >= k {
			return true
		}
	}
	return f.onWay == 0 && f.next(k) == nil
}

// step sends what may be sent now, and ends the phase that is over.
func (l *Lookup) step() {
	switch {
	case l.over:
	case l.writing:
		l.stepWrite()
	case l.c.now >= l.until:
		l.searched()
	default:
		for i := range l.f {
			if !l.stepSearch(&l.f[i]) {
				return
			}
		}
		if l.f[0].done(l.k) && l.f[1].done(l.k) {
			l.searched()
		}
	}
}

// stepSearch returns false if the rate is used up.
func (l *Lookup) stepSearch(f *frontier) bool {
	for f.flying < Alpha {
		n := f.next(l.k)
		if n == nil {
			return true
		}
		m := l.search
		ok := l.c.ask(n.addr, &m, func() {
			n.state = slow
			n.blame(1)
			f.flying--
		}, func(m *message) { l.reply(f, n, m) })
		if !ok {
			return false
		}
		n.leave()
		n.state = asked
		f.flying++
		f.onWay++
	}
	return true
}

// blame notes against the source of a candidate that it is dead, or takes the
// note back.
func (n *candidate) blame(by int) {
	if n.src != nil {
		n.src.dead = uint8(min(max(int(n.src.dead)+by, 0), 255))
	}
}

// reply takes the answer of a candidate, nil if there was none.
func (l *Lookup) reply(f *frontier, n *candidate, m *message) {
	was := n.state
	f.onWay--
	if was == asked {
		f.flying--
	}
	if m == nil || m.kind != 'r' {
		n.state = failed
		if was == asked {
			n.blame(1)
		}
		return
	}
	n.state = answered
	if was == slow {
		n.blame(-1)
	}
	if n.src != nil && n.src.good < 255 {
		n.src.good++
	}
	l.answers++
	if !n.named || n.id != m.id {
		n.id, n.named, n.wrong = m.id, true, !m.id.Secure(n.addr.Addr())
		f.cands = slices.DeleteFunc(f.cands, func(o *candidate) bool { return o == n })
		f.insert(l.target, n)
	}
	if !l.over && !l.writing {
		l.learn(n, m)
	}
}

// learn takes what an answer contains.
func (l *Lookup) learn(n *candidate, m *message) {
	v := more
	if l.heard != nil {
		v = l.heard(n, m)
	}
	if v == lie {
		n.state = failed
		return
	}
	n.token = slices.Clone(m.token)
	n.counts = !n.wrong && (l.write == nil || n.token != nil)
	eachNode(m.nodes, 0, func(o node) { l.add(o, true, n) })
	eachNode(m.nodes6, 1, func(o node) { l.add(o, true, n) })
	if v == enough {
		l.write = nil
		l.searched()
	}
}

// searched ends the search and begins to write, if anything is to be written.
func (l *Lookup) searched() {
	if l.write == nil {
		l.end()
		return
	}
	l.writing = true
	l.until = l.c.now + WriteTime
	for i := range l.f {
		targets := l.f[i].holders()
		l.todo = append(l.todo, targets...)
		if l.local != nil && l.c.fams[i] && l.isHolder(i, targets) {
			l.local()
			l.local = nil
		}
	}
	l.stepWrite()
}

// holders returns the K nearest that gave a token, those with a wrong id only
// if there are not enough others.
func (f *frontier) holders() (out []*candidate) {
	for _, wrong := range []bool{false, true} {
		for _, n := range f.cands {
			if n.state == answered && n.token != nil && n.wrong == wrong && len(out) < K {
				out = append(out, n)
			}
		}
	}
	return out
}

// isHolder says whether we are one of the K nearest ourselves.
func (l *Lookup) isHolder(fam int, targets []*candidate) bool {
	if l.c.readOnly() {
		return false
	}
	self := l.c.table[fam].self
	return len(targets) < K || slices.ContainsFunc(targets, func(n *candidate) bool { return l.target.nearer(self, n.id) })
}

func (l *Lookup) stepWrite() {
	for len(l.todo) > 0 && l.c.now < l.until {
		n := l.todo[0]
		if !l.c.ask(n.addr, l.write(n.token), nil, l.written) {
			return
		}
		l.todo = l.todo[1:]
		l.writes++
	}
	if l.writes == 0 || l.c.now >= l.until {
		l.end()
	}
}

func (l *Lookup) written(m *message) {
	l.writes--
	if m != nil && !l.over {
		l.wrote(m)
	}
}

// end finishes the operation; its callback runs when the core has settled.
func (l *Lookup) end() {
	if l.over {
		return
	}
	l.over = true
	l.c.finished = append(l.c.finished, l.finish)
}

// Cancel gives an operation up; its callback runs with ErrClosed or with what
// was found so far. Nil is allowed.
func (c *Core) Cancel(now time.Time, l *Lookup) {
	if l == nil {
		return
	}
	c.enter(now)
	if !l.over {
		l.err = ErrClosed
	}
	l.end()
	c.settle()
}
