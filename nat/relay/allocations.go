package relay

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

const (
	sweepEvery        = 5 * time.Second
	ownAddressesEvery = time.Minute
	expiryMargin      = 10 * time.Second // we close that long before pion would
	restBetween       = 2 * time.Second  // before an address may allocate again
)

// open makes the allocation for the request on f, within the limits.
func (s *Server) open(f *front) (*relayed, reason, error) {
	c, prefix := f.cur.claim, prefixOf(f.cur.src.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, allFull, errServerClosed
	}
	acct, why, ok := s.room(c, prefix)
	if !ok {
		return nil, why, fmt.Errorf("%w: %s", errNoRoom, reasonNames[why])
	}
	sd := s.side(f.cur.family)
	sock, err := listenRelayed(sd.listen, s.cfg.MinPort, s.cfg.MaxPort)
	if err != nil {
		return nil, noPort, err
	}
	local, _ := addrPort(sock.LocalAddr())
	r := &relayed{
		srv: s, front: f, sock: sock, prefix: prefix,
		public: netip.AddrPortFrom(sd.public, local.Port()),
		claim:  c, username: f.cur.username, key: f.cur.key, account: acct,
		control:  rate.NewLimiter(rate.Limit(s.cfg.Limits.ControlPerSecond), s.cfg.Limits.ControlBurst),
		peers:    make(map[netip.Addr]time.Duration),
		channels: make(map[uint16]struct{}),
		gone:     make(chan struct{}),
	}
	now := int64(s.since())
	r.heard.Store(now)
	r.used.Store(now)
	r.expires.Store(now + int64(f.cur.lifetime))
	acct.live++
	s.live[r] = struct{}{}
	s.used[usedTicket{c.session, f.stream}] = c.expires
	s.portMu.Lock()
	s.ports[r.public] = r
	s.portMu.Unlock()
	s.wg.Add(1) // until pion's goroutine has left ReadFrom
	s.log.Debug("relay allocation opened", "relayed", r.public, "stream", f.stream)
	return r, 0, nil
}

// kill stops an allocation at once. pion is told by closing the stream, or
// finds out when its lifetime ends; until then every request is refused.
func (s *Server) kill(r *relayed, why reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked(r, why)
}

func (s *Server) killLocked(r *relayed, why reason) {
	if r.dead.Swap(true) {
		return
	}
	s.count.refuse(why)
	s.release(r)
	s.ending[r] = struct{}{}
	s.log.Debug("relay allocation closed", "relayed", r.public, "reason", reasonNames[why])
	if r.front.stream {
		r.front.conn.Close()
	}
}

// retire takes an allocation away that pion has closed.
func (s *Server) retire(r *relayed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ending, r)
	if !r.dead.Swap(true) {
		s.release(r)
		s.log.Debug("relay allocation closed", "relayed", r.public, "reason", "client or lifetime")
	}
}

func (s *Server) release(r *relayed) {
	delete(s.live, r)
	r.account.live--
	s.portMu.Lock()
	delete(s.ports, r.public)
	s.portMu.Unlock()
	r.sock.Close()
}

func (s *Server) sweeper() {
	defer s.wg.Done()
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	renewed := s.since()
	for {
		select {
		case <-s.done:
			return
		case <-t.C:
		}
		if s.since()-renewed >= ownAddressesEvery {
			s.rule.own.renew()
			renewed = s.since()
		}
		s.sweep()
	}
}

// sweep closes what is idle or was not refreshed, and forgets what is over.
func (s *Server) sweep() {
	now := s.since()
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.live {
		limit := r.account.limits.Idle
		switch {
		case now >= time.Duration(r.expires.Load())-expiryMargin:
			s.killLocked(r, lapsed)
		case limit > 0 && now-time.Duration(r.used.Load()) >= limit:
			s.killLocked(r, idle)
		}
	}
	for t, expires := range s.used {
		if now >= expires {
			delete(s.used, t)
		}
	}
	for f := range s.fronts {
		f.forget(now - restBetween)
	}
}
