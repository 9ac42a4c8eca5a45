package spray

import (
	"net/netip"
	"time"
)

// maxBurst is how many packets leave at once when a timer was late. More than
// that is not made up for.
const maxBurst = 8

// never is longer than any spray.
const never = time.Hour

// stream sends one packet after the other. fire sends the next one and says
// how long to wait after it; never ends the stream.
type stream struct {
	next time.Time
	fire func() time.Duration
}

// schedule is all that one Run sends of its own accord.
type schedule struct {
	streams []*stream
	limit   time.Duration
}

// schedule makes the streams of the plan.
func (r *Run) schedule() *schedule {
	now, gap := time.Now(), time.Second/time.Duration(r.cfg.Rate)
	s := &schedule{}
	add := func(after time.Duration, fire func() time.Duration) {
		s.streams = append(s.streams, &stream{now.Add(after), fire})
	}
	add(retry, r.askAgain)
	if r.cfg.Sprays {
		add(r.cfg.headStart(), func() time.Duration { return r.probe(gap) })
	}
	switch {
	case r.cfg.Method == Predict:
		n := r.sockets.count()
		opening := time.Duration(n) * time.Second / openerRate
		rounds := min(predictRounds*n, r.cfg.Probes)
		add(0, r.openInTurn(false))
		add(opening+predictPause, r.probeInTurn(rounds, gap))
		s.limit = opening + predictPause + time.Duration(rounds)*gap + settle
	case r.cfg.Opens:
		add(0, r.openInTurn(true))
	}
	if r.cfg.Method != Predict {
		s.limit = headStartAnswering + time.Duration(r.cfg.Probes)*gap + settle
	}
	return s
}

// step sends what is due and returns how long to wait.
func (s *schedule) step(now time.Time) time.Duration {
	wait := time.Second
	for _, t := range s.streams {
		for range maxBurst {
			if t.next.After(now) {
				break
			}
			t.next = t.next.Add(t.fire())
		}
		if t.next.Before(now) {
			t.next = now
		}
		wait = min(wait, t.next.Sub(now))
	}
	return max(wait, time.Millisecond)
}

// probe tries the next port from the shared socket.
func (r *Run) probe(gap time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	port := r.ports.port()
	if port == 0 || r.probes >= r.cfg.Probes {
		return never
	}
	r.ask(link{shared, netip.AddrPortFrom(r.cfg.Target.Addr(), port)}, false)
	return gap
}

// openInTurn sends each quiet socket's opener, and again if it shall.
func (r *Run) openInTurn(again bool) func() time.Duration {
	pass, socket := 0, 0
	return func() time.Duration {
		if socket == r.sockets.count() {
			pass, socket = pass+1, 0
		}
		r.opener(socket, openerTTL[min(pass, 1)])
		socket++
		switch {
		case socket < r.sockets.count():
			return time.Second / openerRate
		case !again:
			return never
		case pass == 0:
			return secondPass
		}
		return refresh
	}
}

// opener makes our NAT expect the other side at a socket. It is a question,
// in case that it arrives after all. The TTL is set under the lock, so that a
// socket that was hit keeps its usual one.
func (r *Run) opener(socket, ttl int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[socket] {
		return
	}
	if err := r.sockets.setTTL(socket, ttl); err != nil {
		r.log.Debug("spray opener not sent", "err", err)
		return
	}
	to := r.cfg.Target
	if r.cfg.Method == Predict {
		to = r.aim(socket)
	}
	r.ask(link{socket, to}, false)
}

// aim is where a socket looks for the other side when both predict.
func (r *Run) aim(socket int) netip.AddrPort {
	return netip.AddrPortFrom(r.cfg.Target.Addr(), predicted(r.cfg.Plan, socket))
}

// probeInTurn sends the probes of all sockets, round after round.
func (r *Run) probeInTurn(count int, gap time.Duration) func() time.Duration {
	n := 0
	return func() time.Duration {
		if n == count {
			return never
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		socket := n % r.sockets.count()
		if n < r.sockets.count() && !r.live[socket] {
			_ = r.sockets.setTTL(socket, defaultTTL)
		}
		r.ask(link{socket, r.aim(socket)}, false)
		n++
		return gap
	}
}

// askAgain repeats the questions that have followed a hit.
func (r *Run) askAgain() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l, c := range r.links {
		if !c.answered && c.asked < maxRetries {
			c.asked++
			r.ask(l, false)
		}
	}
	return retry
}
