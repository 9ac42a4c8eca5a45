package ice

import (
	"net/netip"
	"sync"
	"time"
)

// Pacing of checks towards addresses that have not answered yet. The engine
// would send to each of them twenty times a second for as long as it lives;
// an address that a peer merely named could be anybody's.
const (
	// Ta is the least time between two such checks once the burst is used
	// up (RFC 8445 §14.2).
	Ta = 50 * time.Millisecond
	// checkBurst is how many may leave at once: the usual number of
	// candidates, so that none of them waits.
	checkBurst = 8
	// firstGap is the pause before an unanswered check is sent again; it
	// doubles up to lastGap, which keeps a NAT's mapping (30 s) open for a
	// peer that starts late.
	firstGap = 100 * time.Millisecond
	lastGap  = 5 * time.Second
)

// pacer decides for each check whether it leaves. A check held back is one
// the engine repeats at its next tick anyway.
type pacer struct {
	now func() time.Time

	mu    sync.Mutex
	dests map[netip.AddrPort]*destination
	used  int       // tokens of the burst in use
	since time.Time // when used was last reduced
}

// destination is an address we check. The map is bounded by the number of
// candidates an Agent admits.
type destination struct {
	last     time.Time // of the latest check
	next     time.Time
	gap      time.Duration
	answered bool
}

func newPacer(now func() time.Time) *pacer {
	return &pacer{now: now, since: now(), dests: make(map[netip.AddrPort]*destination)}
}

func (p *pacer) dest(a netip.AddrPort) *destination {
	d := p.dests[a]
	if d == nil {
		d = &destination{gap: firstGap}
		p.dests[a] = d
	}
	return d
}

// allow says whether a check to a may leave now, and counts it.
func (p *pacer) allow(a netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, now := p.dest(a), p.now()
	if d.answered {
		return true
	}
	if now.Before(d.next) || !p.take(now) {
		return false
	}
	d.last, d.next = now, now.Add(d.gap)
	d.gap = min(2*d.gap, lastGap)
	return true
}

// take uses a token of the burst, one of which comes back each Ta.
func (p *pacer) take(now time.Time) bool {
	back := int(now.Sub(p.since) / Ta)
	p.used = max(0, p.used-back)
	p.since = p.since.Add(time.Duration(back) * Ta)
	if p.used == checkBurst {
		return false
	}
	p.used++
	return true
}

// heard notes an authenticated check from a: the way back may just have
// opened, so the next check need not wait. It still keeps Ta, as the source
// of what was heard may be forged by a peer that knows the password.
func (p *pacer) heard(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dest(a)
	d.gap = firstGap
	d.next = d.last.Add(Ta)
}

// answered notes that a has answered a check: it wants them.
func (p *pacer) answered(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dest(a).answered = true
}
