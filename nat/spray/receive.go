package spray

import (
	"net/netip"
	"time"
)

// Handle takes one datagram that came to the shared socket. It fits
// stun.Mux.Register: it does not block and does not keep b. After Find it
// still answers until Close, as the other side may miss an answer.
func (r *Run) Handle(b []byte, from netip.AddrPort) {
	r.receive(shared, b, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
}

func (r *Run) receive(socket int, b []byte, from netip.AddrPort) {
	l, what := link{socket, from}, foreign
	var reply []byte
	if from.Addr() == r.cfg.Target.Addr() {
		what, reply = r.wire.read(b, l)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return
	}
	switch what {
	case foreign:
		r.counts.Foreign++
	case forged:
		r.counts.Forged++
	case question, chosen:
		r.counts.Answered++
		r.questioned(l, what == chosen, reply)
	case answer:
		r.counts.Heard++
		r.answered(l)
	case chosenAnswer:
		if !r.known {
			r.known = true
			close(r.heard)
		}
	}
}

// questioned answers, and asks back when the link is new; r.mu is held. The
// choice of the other side ends the search: it has heard an answer of ours.
func (r *Run) questioned(l link, choice bool, reply []byte) {
	r.wake(l.socket)
	r.send(l, reply)
	if choice && !r.cfg.Chooses {
		r.settleOn(l)
		return
	}
	if c := r.follow(l); c != nil && c.asked == 0 && !c.answered {
		c.asked++
		r.ask(l, false)
	}
}

// answered notes that a link works in both directions; r.mu is held.
func (r *Run) answered(l link) {
	r.wake(l.socket)
	if c := r.follow(l); c != nil {
		c.answered = true
	}
	if r.cfg.Chooses {
		r.settleOn(l)
	}
}

// follow returns the contact of a link, or nil if there are too many or none
// is needed any more; r.mu is held.
func (r *Run) follow(l link) *contact {
	c := r.links[l]
	if c == nil && len(r.links) < maxLinks && !r.over {
		c = new(contact)
		r.links[l] = c
	}
	return c
}

// wake gives a socket that was hit the usual TTL and buffer; r.mu is held.
func (r *Run) wake(socket int) {
	if socket == shared || r.live[socket] {
		return
	}
	r.live[socket] = true
	if err := r.sockets.revive(socket); err != nil {
		r.log.Debug("spray socket keeps its low ttl", "err", err)
	}
}

// settleOn makes l the hit; r.mu is held.
func (r *Run) settleOn(l link) {
	if r.over {
		return
	}
	hit := Hit{Remote: l.remote, Probes: r.probes}
	if r.sockets != nil {
		hit.Sockets = r.sockets.count()
	}
	if l.socket != shared {
		conn, ok := r.sockets.take(l.socket)
		if !ok {
			return
		}
		hit.Conn = conn
	}
	r.over = true
	if r.cfg.Chooses {
		r.ask(l, true) // at once, so that Find never returns before it
		r.tasks.Go(func() { r.announce(l) })
	}
	r.found <- hit
}

// announce tells the other side again what was chosen, until it answers or
// all announcements are out.
func (r *Run) announce(l link) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, pause := range announcements {
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-r.heard:
			return
		case <-r.closed:
			return
		}
		r.mu.Lock()
		r.ask(l, true)
		r.mu.Unlock()
	}
}

// ask sends a question over l; r.mu is held.
func (r *Run) ask(l link, choice bool) {
	b, err := r.wire.ask(l, choice)
	if err != nil {
		r.log.Debug("spray question not made", "err", err)
		return
	}
	r.probes++
	r.send(l, b)
}

// send sends b over l; r.mu is held. A packet that cannot leave is a lost one.
func (r *Run) send(l link, b []byte) {
	var err error
	if l.socket == shared {
		err = r.cfg.Shared.Send(b, l.remote)
	} else {
		err = r.sockets.send(l.socket, b, l.remote)
	}
	if err != nil {
		r.counts.Unsent++
	}
}
