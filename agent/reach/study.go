package reach

import (
	"context"
	"net"
	"net/netip"
	"time"

	"porchlight/nat/stun"
)

const (
	// studyAfter is how long a network must stay the same before the router is
	// studied: whoever has just arrived has better things to do. studyEvery is
	// how often there is a look whether something is left to be found out.
	studyAfter = 10 * time.Second
	studyEvery = time.Minute
	// hairpinTries is how many helpers are asked in vain until hairpin stays
	// unknown, and hairpinLimit how long one test may take.
	hairpinTries = 3
	hairpinLimit = 10 * time.Second
	// quietFor is how many looks in a row must see at most quietBytes more
	// carried before a lifetime is measured.
	quietFor   = 3
	quietBytes = 256 << 10
	// lifetimeEvery is how often a lifetime is measured, lifetimeAgain the
	// pause after a helper that could not be of use.
	lifetimeEvery = 24 * time.Hour
	lifetimeAgain = time.Hour
	// lifetimeFrom and lifetimeTo bound what is asked: a longer life than two
	// minutes would make no keep-alive longer (stun.MaxKeepalive). That takes
	// two probes, about three minutes, and some twenty packets.
	lifetimeFrom  = 30 * time.Second
	lifetimeTo    = 2 * time.Minute
	lifetimeLimit = 15 * time.Minute
)

// habits is what was measured of the present network's router.
type habits struct {
	hairpin  string        // as api.Ports has it
	lifetime time.Duration // 0 unless measured
}

var unstudied = habits{hairpin: "unknown"}

// study measures each network that the device comes to.
func (k *Keeper) study() {
	select {
	case <-k.ready:
	case <-k.ctx.Done():
		return
	}
	for k.ctx.Err() == nil {
		network := k.renewed()
		ctx, cancel := context.WithCancel(k.ctx)
		k.running.Go(func() {
			select {
			case <-network:
				cancel()
			case <-ctx.Done():
			}
		})
		k.studyNetwork(ctx, network)
		cancel()
	}
}

// studyNetwork measures one network's router, with sockets of its own, by
// helpers in turn, until ctx ends.
func (k *Keeper) studyNetwork(ctx context.Context, network <-chan struct{}) {
	var hairpins, lifetimes, quiet int
	var due time.Time
	carried := k.carried()
	for wait := studyAfter; pause(ctx, wait); wait = studyEvery {
		before := carried
		if carried = k.carried(); carried-before > quietBytes {
			quiet = 0
		} else {
			quiet++
		}
		server, ok := k.examined(hairpins + lifetimes)
		switch {
		case !ok:
		case hairpins < hairpinTries:
			if hairpins++; k.learnHairpin(ctx, network, server) {
				hairpins = hairpinTries
			}
		case quiet >= quietFor && !time.Now().Before(due):
			lifetimes++
			due = time.Now().Add(lifetimeAgain)
			if k.learnLifetime(ctx, network, server) {
				due = time.Now().Add(lifetimeEvery)
			}
		}
	}
}

// pause waits and says whether ctx still stands.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// examined is one of the helpers that answer by UDP, by IPv4 if any does so, a
// different one each turn; none where every port passes, since there is
// nothing to be learnt about them.
func (k *Keeper) examined(turn int) (server netip.AddrPort, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for f := range 2 {
		var able []netip.AddrPort
		for _, h := range k.sorted() {
			v, at := h.views[f], h.atBy(f)
			if h.registered && v.mapped.IsValid() && v.silent == 0 && at.IsValid() {
				able = append(able, at)
			}
		}
		if len(able) > 0 && !k.rotates(f) {
			return able[turn%len(able)], true
		}
	}
	return netip.AddrPort{}, false
}

// learnHairpin finds out whether the router turns packets back.
func (k *Keeper) learnHairpin(ctx context.Context, network <-chan struct{}, server netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, hairpinLimit)
	defer cancel()
	f := family(server.Addr())
	k.mu.Lock()
	seen := k.seen(f).Addr()
	k.mu.Unlock()
	k.met.note(seen, time.Now()) // the test sends there
	turned, err := stun.Hairpin(ctx, k.open(f), server)
	if err != nil {
		k.cfg.Logger.Debug("hairpin not tested", "server", server, "err", err)
		return false
	}
	return k.note(network, func() { k.habits.hairpin = map[bool]string{true: "yes", false: "no"}[turned] })
}

// learnLifetime measures how long the router keeps the mapping of a silent
// flow, and has the bindings made accordingly. What it was known to survive
// counts even if the helper went away before the end.
func (k *Keeper) learnLifetime(ctx context.Context, network <-chan struct{}, server netip.AddrPort) bool {
	limited, cancel := context.WithTimeout(ctx, lifetimeLimit)
	defer cancel()
	lifetime, err := stun.Lifetime(limited, k.open(family(server.Addr())), server, lifetimeFrom, lifetimeTo)
	k.cfg.Logger.Debug("mapping lifetime measured", "server", server, "lifetime", lifetime, "err", err)
	if err != nil && lifetime == 0 {
		return false
	}
	return k.note(network, func() {
		k.habits.lifetime = lifetime
		for _, h := range k.helpers {
			h.alive.Learned(lifetime)
		}
	})
}

// note takes over what was measured of a network, unless the device has left it.
func (k *Keeper) note(network <-chan struct{}, what func()) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if network != k.refreshed {
		return false
	}
	what()
	return true
}

// forget forgets the router's habits: the network changed; k.mu is held.
func (k *Keeper) forget() {
	k.habits = unstudied
	for _, h := range k.helpers {
		h.alive.Learned(0)
	}
}

// unsteady says whether the router moves living IPv4 flows to other ports.
func (k *Keeper) unsteady() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rotates(0)
}

// rotates says whether the router moves living flows to other ports, so that no
// address that helpers see by this family holds; k.mu is held.
func (k *Keeper) rotates(f int) bool {
	for _, h := range k.helpers {
		if h.registered && h.views[f].rotation.Rotates() {
			return true
		}
	}
	return false
}

// carriedBytes is how much all sessions have carried.
func (k *Keeper) carriedBytes() (n int64) {
	if k.cfg.Overlay == nil {
		return 0
	}
	for _, a := range k.cfg.Overlay.Connected() {
		if s := k.cfg.Overlay.Current(a); s != nil {
			sent, received := s.Traffic()
			n += sent + received
		}
	}
	return n
}

// freshBy opens sockets for tests of their own, so that neither what those send
// nor what strays in disturbs a flow.
func (k *Keeper) freshBy(f int) stun.Opener {
	host := k.cfg.Listen.Addr()
	if host.IsUnspecified() {
		host = [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[f]
	}
	return func() (net.PacketConn, error) {
		return net.ListenUDP([2]string{"udp4", "udp6"}[f], net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
	}
}
