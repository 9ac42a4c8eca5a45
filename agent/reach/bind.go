package reach

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

// keepBound asks the rendezvous again and again which address it sees, and
// once how the router behaves.
func (k *Keeper) keepBound(ctx context.Context, h *helper) {
	waited := false // as long as the flow may be silent
	for round := 0; ; round++ {
		k.bind(ctx, h)
		for f := range h.views {
			k.discover(ctx, h, f)
		}
		k.mu.Lock()
		wait, full := k.nextBinding(h, waited)
		k.mu.Unlock()
		if round < bindEarlies {
			wait, full = min(wait, bindEarly), false
		}
		select {
		case <-time.After(wait):
			waited = full
		case <-h.again:
			waited = false
		case <-ctx.Done():
			return
		}
	}
}

// nextBinding judges the last bindings and says when the next are due, and
// whether that is as late as may be. A binding that is not answered, and a port
// that is another than before, are signs that a mapping has ended; k.mu is held.
func (k *Keeper) nextBinding(h *helper, waited bool) (wait time.Duration, full bool) {
	var answered, lost, soon bool
	for f, v := range h.views {
		answered = answered || v.asked && v.silent == 0
		lost = lost || v.mapped.IsValid() && (v.silent > 0 || v.changed)
		soon = soon || v.silent > 0 && v.silent < bindTries || v.changed && !k.rotates(f)
	}
	switch {
	case lost:
		h.alive.Lost()
	case answered && waited:
		h.alive.Answered()
	}
	if soon {
		return bindAgain, false
	}
	return h.alive.Interval(), true
}

// bind asks the rendezvous by both families which address it sees.
func (k *Keeper) bind(ctx context.Context, h *helper) {
	var families sync.WaitGroup
	for f := range h.views {
		families.Go(func() { k.bindBy(ctx, h, f) })
	}
	families.Wait()
}

func (k *Keeper) bindBy(ctx context.Context, h *helper, f int) {
	k.mu.Lock()
	at, able := h.atBy(f), hasFamily(k.hosts, f)
	k.mu.Unlock()
	if !at.IsValid() || !able {
		k.set(func() { h.views[f] = view{} })
		return
	}
	k.met.note(at.Addr(), time.Now())
	limited, cancel := context.WithTimeout(ctx, bindLimit)
	defer cancel()
	mapped, _, err := k.cfg.Mux.Bind(limited, at)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return
	default:
		first := false
		k.set(func() {
			v := &h.views[f]
			first = !v.asked
			v.asked, v.silent, v.changed = true, v.silent+1, false
		})
		if first {
			poke(k.retest) // that much is known now
		}
		return
	}
	moved, another := false, false
	k.set(func() {
		v := &h.views[f]
		moved = v.mapped != mapped
		v.changed = moved && v.mapped.Addr() == mapped.Addr()
		another = v.changed && h.transport == "udp" && !k.rotates(f)
		v.rotation.Observe(at, mapped)
		v.asked, v.mapped, v.silent = true, mapped, 0
		k.checked = time.Now()
		if v.changed && k.rotates(f) {
			moved = false // that ports pass is no news there
		}
	})
	if moved {
		k.unsure(f)
	}
	if another {
		poke(h.moved)
	}
}

// discover asks a rendezvous that answers by a family how the router behaves,
// unless that is known.
func (k *Keeper) discover(ctx context.Context, h *helper, f int) {
	k.mu.Lock()
	at, v := h.atBy(f), h.views[f]
	k.mu.Unlock()
	if v.discovered || v.silent > 0 || !v.mapped.IsValid() || !at.IsValid() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, discoverLimit)
	defer cancel()
	if b, err := stun.DiscoverFresh(ctx, k.open(f), at); err == nil {
		k.set(func() { h.views[f].behaviour, h.views[f].discovered = b, true })
	}
}

// Refresh asks the rendezvous how they see this device now, and lets them know
// that it is there. It returns when all have answered, or ctx ends.
// Whoever asks meanwhile gets the same answer.
func (k *Keeper) Refresh(ctx context.Context) {
	k.mu.Lock()
	if running := k.refreshing; running != nil {
		k.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
		}
		return
	}
	done := make(chan struct{})
	k.refreshing = done
	var registered []*helper
	for _, h := range k.sorted() {
		if h.registered {
			registered = append(registered, h)
		}
	}
	k.mu.Unlock()
	var all sync.WaitGroup
	for _, h := range registered {
		all.Go(func() { k.bind(ctx, h) })
		all.Go(func() {
			if _, err := k.cfg.Client.Register(ctx, h.link.Address, k.epoch()); err != nil {
				k.cfg.Logger.Debug("rendezvous does not answer", "peer", h.link.Address.Short(), "err", err)
			}
		})
	}
	all.Wait()
	k.mu.Lock()
	k.refreshing = nil
	k.mu.Unlock()
	close(done)
}

// Servers lists where rendezvous answer STUN by UDP and, in frames, by TCP;
// IPv4 first.
func (k *Keeper) Servers() []netip.AddrPort {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []netip.AddrPort
	for f := range 2 {
		for _, h := range k.sorted() {
			if at := h.atBy(f); h.registered && at.IsValid() {
				all = append(all, at)
			}
		}
	}
	return all
}

// hasFamily says whether the machine has an address by which others outside
// are reached in a family.
func hasFamily(hosts []ice.Candidate, f int) bool {
	return slices.ContainsFunc(hosts, func(c ice.Candidate) bool {
		a := c.Addr.Addr()
		return family(a) == f && (f == 0 || !a.IsPrivate())
	})
}

// notePaths remembers where sessions lead.
func (k *Keeper) notePaths() {
	now := time.Now()
	if k.cfg.Overlay != nil {
		for _, a := range k.cfg.Overlay.Connected() {
			if s := k.cfg.Overlay.Current(a); s != nil {
				k.met.note(s.Peer().Path().Addr.Addr(), now)
			}
		}
	}
	if k.cfg.Met != nil {
		for _, a := range k.cfg.Met() {
			k.met.note(a, now)
		}
	}
}
