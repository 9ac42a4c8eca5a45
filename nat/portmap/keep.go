package portmap

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// maxFailures is how many checks without answer make a router lost; its
	// SOAP port may have changed with a restart.
	maxFailures = 3

	// firstRetry is when routers are asked again after a look that left a
	// port unmapped; it doubles up to lastRetry, and is idleRetry after
	// idleMisses looks.
	firstRetry = 5 * time.Second
	lastRetry  = time.Minute
	idleRetry  = 5 * time.Minute
	idleMisses = 30
)

// pace is how long things take. Tests against real routers run faster.
type pace struct {
	// lease is what is asked for. RFC 6886 §3.3 recommends two hours.
	lease time.Duration
	// minRenew keeps a router that grants seconds from being asked all the
	// time.
	minRenew time.Duration
	// check is how often routers are asked whether they still know us.
	check time.Duration
	// checkAgain is how soon a check without answer is repeated.
	checkAgain time.Duration
	// announceRest is how often announcements can cause a check: anybody on
	// the LAN can send them.
	announceRest time.Duration
	// announceDelay is the longest wait before mappings are re-made after an
	// announcement, so that the whole home does not ask at once (RFC 6887
	// §14.1.3).
	announceDelay time.Duration
}

var usual = pace{
	lease:         2 * time.Hour,
	minRenew:      20 * time.Second,
	check:         45 * time.Second,
	checkAgain:    2 * time.Second,
	announceRest:  5 * time.Second,
	announceDelay: 5 * time.Second,
}

// retryAfter is how long to wait after n looks without anything new.
func retryAfter(n int) time.Duration {
	if n > idleMisses {
		return idleRetry
	}
	return min(firstRetry<<min(n, 10), lastRetry)
}

// rest is the time between two looks: renewals and checks.
type rest struct {
	m        *Mapper
	look     time.Time // zero: everything wanted is mapped
	check    time.Time
	checked  time.Time
	failures int
}

// keep renews and checks until a new look is needed or ctx ends.
func (m *Mapper) keep(ctx context.Context) {
	now := time.Now()
	r := &rest{m: m, check: now.Add(m.pace.check)}
	if missing, misses := m.missing(); missing {
		r.look = now.Add(retryAfter(misses))
	}
	for ctx.Err() == nil {
		if r.step(ctx) {
			return
		}
	}
}

// missing reports whether a port is unmapped, and since how many looks.
func (m *Mapper) missing() (bool, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.wanted {
		if m.slots[s] == nil {
			return true, m.misses
		}
	}
	return len(m.wanted) == 0, m.misses
}

// step waits for whatever comes first and does it. It returns true if a new
// look is needed.
func (r *rest) step(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(r.next()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.m.wake:
		return r.m.applyDistrust(ctx)
	case <-r.m.heard:
		return r.announced(ctx)
	case <-timer.C:
	}
	now := time.Now()
	if !r.look.IsZero() && !now.Before(r.look) {
		return true
	}
	if r.m.renewDue(ctx, now) {
		return true
	}
	if now.Before(r.check) {
		return false
	}
	return r.checkAll(ctx)
}

// next is when something is due.
func (r *rest) next() time.Time {
	next := r.check
	if !r.look.IsZero() && r.look.Before(next) {
		next = r.look
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	for _, h := range r.m.slots {
		if !h.renew.IsZero() && h.renew.Before(next) {
			next = h.renew
		}
	}
	return next
}

// announced checks at once, and if the router has forgotten us waits a random
// time.
func (r *rest) announced(ctx context.Context) bool {
	if time.Since(r.checked) < r.m.pace.announceRest {
		r.check = r.checked.Add(r.m.pace.announceRest)
		return false
	}
	if !r.checkAll(ctx) {
		return false
	}
	select {
	case <-time.After(rand.N(r.m.pace.announceDelay)):
	case <-ctx.Done():
	}
	return true
}

// checkAll asks the ways of all mappings whether these stand.
func (r *rest) checkAll(ctx context.Context) (look bool) {
	lost, silent := false, false
	for w, mappings := range r.m.byWay() {
		asking, cancel := context.WithTimeout(ctx, lookTime)
		err := w.check(asking, mappings)
		cancel()
		if err == nil || ctx.Err() != nil {
			continue
		}
		if errors.Is(err, errLost) || r.failures+1 >= maxFailures {
			r.m.log.Info("mapping lost", "method", w.method, "gateway", w.gateway, "reason", err)
			r.m.markStale(w)
			lost = true
			continue
		}
		silent = true
	}
	r.checked = time.Now()
	r.check = r.checked.Add(r.m.pace.check)
	if silent {
		r.failures++
		r.check = r.checked.Add(r.m.pace.checkAgain)
	} else {
		r.failures = 0
	}
	return lost
}

// byWay groups what is held.
func (m *Mapper) byWay() map[*way][]Mapping {
	m.mu.Lock()
	defer m.mu.Unlock()
	ways := make(map[*way][]Mapping)
	for _, h := range m.slots {
		ways[h.way] = append(ways[h.way], h.Mapping)
	}
	return ways
}

// markStale marks the mappings of a way for being made again.
func (m *Mapper) markStale(w *way) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.slots {
		if h.way == w {
			h.stale = true
		}
	}
}

// renewDue renews what is due. It returns true if a mapping could not be
// renewed, or the router tells that it has forgotten others.
func (m *Mapper) renewDue(ctx context.Context, now time.Time) (look bool) {
	m.mu.Lock()
	var due []slot
	for s, h := range m.slots {
		if !h.renew.IsZero() && !now.Before(h.renew) {
			due = append(due, s)
		}
	}
	m.mu.Unlock()
	for _, s := range due {
		if !m.renew(ctx, s) {
			look = true
		}
	}
	return look
}

// renew asks for one mapping again. Only run calls it, so nobody else changes
// the slot meanwhile.
func (m *Mapper) renew(ctx context.Context, s slot) bool {
	m.mu.Lock()
	h := m.slots[s]
	m.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	mapping, err := h.way.add(asking, s.transport, h.Internal.Port(), h.External.Port())
	if err != nil {
		m.log.Info("mapping not renewed", "method", h.Method, "gateway", h.Gateway, "transport", s.transport, "error", err)
		m.markStale(h.way)
		return false
	}
	forgotten := h.way.lost != nil && h.way.lost()
	if forgotten {
		m.markStale(h.way)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	renewed := m.newHeld(mapping, h.way)
	renewed.also = h.also
	m.slots[s] = renewed
	m.publish()
	return !forgotten
}

// applyDistrust removes what others found not to work.
func (m *Mapper) applyDistrust(ctx context.Context) (look bool) {
	m.mu.Lock()
	list := m.distrusts
	m.distrusts = nil
	var gone []*held
	for _, mapping := range list {
		for s, h := range m.slots {
			if !h.same(mapping) {
				continue
			}
			key := doubt{h.Method, h.Gateway.String(), s}
			m.doubts[key] = distrust{m.doubts[key].count + 1, time.Now().Add(distrustFor)}
			gone = append(gone, h)
			delete(m.slots, s)
		}
	}
	m.publish()
	m.mu.Unlock()
	for _, h := range gone {
		removing, cancel := context.WithTimeout(ctx, closeTime)
		m.remove(removing, h)
		cancel()
	}
	return len(gone) > 0
}
