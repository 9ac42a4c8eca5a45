package relay

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// silence is after what time without a packet a client may have one of its
	// own allocations replaced: it restarted, or its router moved it to another
	// port, by which we know it no more.
	silence = 5 * time.Second
	// maxUsedTickets bounds the memory against replays; when full, nothing is
	// allocated until tickets expire.
	maxUsedTickets = 1024
	// maxAccounts bounds the accounts by client key; when full of keys with
	// traffic of the last 24 h, only known keys and friends may allocate.
	maxAccounts = 1024
)

var errNoRoom = errors.New("relay has no room")

// usedTicket is one of the two allocations that a ticket is good for.
type usedTicket struct {
	session sessionID
	stream  bool
}

// admitTicket reads the username of an Allocate request.
func (s *Server) admitTicket(username string, stream bool) (claim, reason, bool) {
	c, err := s.mint.read(username)
	switch {
	case errors.Is(err, errExpired):
		return c, expired, false
	case errors.Is(err, errOtherStart):
		return c, otherStart, false
	case err != nil:
		return c, forged, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.used[usedTicket{c.session, stream}]; twice {
		return c, replayed, false
	}
	return c, 0, true
}

// room checks the limits, and makes some by closing what the client left
// behind; mu is held.
func (s *Server) room(c claim, prefix netip.Prefix) (*account, reason, bool) {
	acct := s.accountFor(c)
	if acct == nil {
		return nil, allFull, false
	}
	if acct.spent(s.now(), 1) {
		return nil, quota, false
	}
	if acct.live >= s.cfg.Limits.PerClient && !s.replaceSilent(c.client) {
		return nil, perClient, false
	}
	samePrefix := 0
	for r := range s.live {
		if r.prefix == prefix {
			samePrefix++
		}
	}
	switch {
	case samePrefix >= s.cfg.Limits.PerPrefix:
		return nil, perPrefix, false
	case len(s.live) >= s.cfg.Limits.Allocations,
		len(s.ending) >= s.cfg.Limits.Allocations,
		len(s.used) >= maxUsedTickets:
		return nil, allFull, false
	}
	return acct, 0, true
}

// accountFor finds or makes the account of a client; mu is held.
func (s *Server) accountFor(c claim) *account {
	limits := s.cfg.Limits.class(c.class)
	acct := s.accounts[c.client]
	if acct != nil && (acct.limits == limits || acct.live > 0) {
		return acct
	}
	if acct == nil && len(s.accounts) >= maxAccounts {
		for tag, a := range s.accounts {
			if a.forgettable(s.now()) {
				delete(s.accounts, tag)
			}
		}
		if len(s.accounts) >= maxAccounts && (c.class == Stranger || !s.forgetStranger()) {
			return nil
		}
	}
	fresh := newAccount(c.class, limits, s.now())
	if acct != nil { // the class changed: the day's bytes remain
		fresh.since, fresh.bytes = acct.since, acct.bytes
	}
	s.accounts[c.client] = fresh
	return fresh
}

// forgetStranger makes room for a friend, so that strangers with many keys do
// not lock friends out: the account with the fewest bytes goes. mu is held.
func (s *Server) forgetStranger() bool {
	var least clientTag
	fewest := int64(-1)
	for tag, a := range s.accounts {
		a.mu.Lock()
		n := a.bytes
		a.mu.Unlock()
		if a.class == Stranger && a.live == 0 && (fewest < 0 || n < fewest) {
			least, fewest = tag, n
		}
	}
	delete(s.accounts, least)
	return fewest >= 0
}

// replaceSilent closes the allocation of a client that has said nothing for the
// longest time, if that is a while: what the client cannot reach any more it
// cannot close. mu is held.
func (s *Server) replaceSilent(client clientTag) bool {
	var oldest *relayed
	for r := range s.live {
		if r.claim.client == client && (oldest == nil || r.heard.Load() < oldest.heard.Load()) {
			oldest = r
		}
	}
	if oldest == nil || s.since()-time.Duration(oldest.heard.Load()) < silence {
		return false
	}
	s.killLocked(oldest, replaced)
	return true
}

// account counts what one client key uses.
type account struct {
	class   Class
	limits  ClassLimits
	limiter *rate.Limiter

	mu    sync.Mutex
	since time.Time // when the present 24 h began
	bytes int64

	live int // allocations; guarded by Server.mu
}

const accountPeriod = 24 * time.Hour

func newAccount(c Class, l ClassLimits, now time.Time) *account {
	burst := max(l.BurstBytes, MaxMessage)
	return &account{class: c, limits: l, limiter: rate.NewLimiter(rate.Limit(l.BytesPerSecond), burst), since: now}
}

type verdict uint8

const (
	pass verdict = iota
	overRate
	overQuota
)

// charge accounts n bytes of payload, or says why they may not pass.
func (a *account) charge(n int, now time.Time) verdict {
	if a.spent(now, int64(n)) {
		return overQuota
	}
	if !a.limiter.AllowN(now, n) {
		return overRate
	}
	a.mu.Lock()
	a.bytes += int64(n)
	a.mu.Unlock()
	return pass
}

// spent reports whether n more bytes exceed the day's amount.
func (a *account) spent(now time.Time, n int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.since) >= accountPeriod {
		a.since, a.bytes = now, 0
	}
	return a.bytes+n > a.limits.BytesPerDay
}

// forgettable reports whether dropping the account would lose nothing.
func (a *account) forgettable(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live == 0 && (a.bytes == 0 || now.Sub(a.since) >= accountPeriod)
}
