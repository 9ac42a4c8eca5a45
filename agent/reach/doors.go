package reach

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/nat/ice"
	"porchlight/nat/portmap"
)

const (
	// openEvery is how often a door is knocked at that was open: with
	// surelyAfter more, a closed one is noticed within two minutes even if
	// the last knock came just before.
	openEvery = 50 * time.Second
	// closedEvery is the same for doors that are closed.
	closedEvery = 2 * time.Minute
	// againAfter is the pause before a test is repeated in which a knock was
	// missed, until surely of them were in a row: then it is believed.
	againAfter = 5 * time.Second
	surely     = 2
	// liesAfter is how many missed knocks in a row show that a mapping leads
	// nowhere: routers may take a moment to open what they granted.
	liesAfter = 3
	// helperPause is how long no test is made after one could not be.
	helperPause = 10 * time.Second
)

// door is one way in from outside that is tested.
type door struct {
	network string // dialback.UDP or TCP
	family  int
	port    uint16
	mapped  bool // a mapping of ours leads here
	sure    bool // and the router says so of the address that helpers see
}

// proof is what knocks told about a door.
type proof struct {
	kind   api.Proof
	ip     netip.Addr // where the helper saw the device
	came   time.Time  // when the last knock came in
	strong time.Time  // when the last one of a stranger came in
	tested time.Time
	missed int // tests since in which none came
}

// open says whether strangers get in. A knock from an address that the device
// talks to shows it only together with the router's word.
func (p proof) open(d door) bool {
	return p.kind == api.Stranger || p.kind == api.SameAddress && d.sure
}

// after returns the proof after a test in which a knock came from an address,
// or none did.
func (p proof) after(from netip.AddrPort, met []netip.Addr, now time.Time) proof {
	p.tested = now
	if !from.IsValid() {
		p.missed++
		if p.missed >= surely {
			p.kind = api.Unproven
		}
		return p
	}
	p.missed, p.came = 0, now
	switch {
	case !slices.Contains(met, from.Addr().Unmap()):
		p.kind, p.strong = api.Stranger, now
	case p.kind == api.Unproven, now.Sub(p.strong) > metFor:
		p.kind = api.SameAddress
	}
	return p
}

// next is when the door is to be tested again.
func (p proof) next(d door) time.Time {
	switch {
	case p.tested.IsZero():
		return time.Time{}
	case p.missed > 0 && p.missed < surely, d.mapped && p.missed > 0 && p.missed < liesAfter:
		return p.tested.Add(againAfter)
	case p.kind != api.Unproven:
		return p.tested.Add(openEvery)
	}
	return p.tested.Add(closedEvery)
}

// doors lists what is to be tested in a family, the most promising first, as
// many as one test takes; k.mu is held.
func (k *Keeper) doors(f int, router portmap.State) []door {
	if !hasFamily(k.hosts, f) {
		return nil
	}
	seen := k.seen(f)
	var doors []door
	add := func(d door) {
		d.family = f
		if d.port != 0 && len(doors) < dialback.MaxPlaces && !slices.Contains(doors, d) {
			doors = append(doors, d)
		}
	}
	for _, network := range []string{dialback.UDP, dialback.TCP} {
		// A mapping at a router that is behind another leads to no door.
		if m, ok := mappingOf(router, network, f); ok && !shared(m.External.Addr()) {
			add(door{network: network, port: m.External.Port(), mapped: true, sure: k.credible(m)})
		} else if network == dialback.UDP && seen.IsValid() && !k.rotates(f) {
			add(door{network: network, port: seen.Port()})
		} else {
			add(door{network: network, port: k.cfg.Listen.Port()})
		}
	}
	// A port that somebody forwarded by hand is the device's own, whatever
	// port the router shows to helpers.
	if len(doors) > 0 && !doors[0].mapped {
		add(door{network: dialback.UDP, port: k.cfg.Listen.Port()})
	}
	return doors
}

// mappingOf returns the mapping for a transport and family.
func mappingOf(router portmap.State, network string, f int) (portmap.Mapping, bool) {
	for _, m := range router.Mappings {
		if m.Transport == network && family(m.External.Addr()) == f {
			return m, true
		}
	}
	return portmap.Mapping{}, false
}

// seen is the address that helpers see by a family; k.mu is held.
func (k *Keeper) seen(f int) netip.AddrPort {
	for _, h := range k.sorted() {
		if v := h.views[f]; h.registered && v.mapped.IsValid() && v.silent < staleAfter {
			return v.mapped
		}
	}
	return netip.AddrPort{}
}

// testDoors has somebody knock at the doors, again and again, from the first
// registration on.
func (k *Keeper) testDoors() {
	if k.cfg.Knocks == nil || k.cfg.Policy != Auto {
		k.set(func() { k.tested = true })
		return
	}
	select {
	case <-k.ready:
	case <-k.ctx.Done():
		return
	}
	for {
		wait := min(k.testFamily(0), k.testFamily(1))
		select {
		case <-time.After(wait):
		case <-k.retest:
		case <-k.ctx.Done():
			return
		}
	}
}

// testFamily tests the doors of one family if one of them is due, and returns
// how long it takes until the next is.
func (k *Keeper) testFamily(f int) time.Duration {
	router, now := k.router(), time.Now()
	k.mu.Lock()
	helper, at, ok := k.examiner(f)
	doors := k.doors(f, router)
	due := now.Add(closedEvery)
	for _, d := range doors {
		if next := k.proofs[d].next(d); next.Before(due) {
			due = next
		}
	}
	k.mu.Unlock()
	if !ok || len(doors) == 0 {
		return closedEvery
	}
	if wait := due.Sub(now); wait > 0 {
		return wait
	}
	was := k.test(helper, at, f, doors)
	k.set(func() { k.tested = true })
	if !was {
		return helperPause
	}
	return k.testAgain(f, doors)
}

// testAgain is how long it takes until the first door is due again.
func (k *Keeper) testAgain(f int, doors []door) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	wait := closedEvery
	for _, d := range doors {
		wait = min(wait, k.proofs[d].next(d).Sub(now))
	}
	return max(wait, againAfter)
}

// examiner is the helper to ask next: each in turn, so that no single one
// decides. If its session uses the other family, at is where it sees the device
// by this one; k.mu is held.
func (k *Keeper) examiner(f int) (helper identity.Address, at netip.AddrPort, ok bool) {
	var able []identity.Address
	ats := map[identity.Address]netip.AddrPort{}
	for _, h := range k.sorted() {
		v, a := h.views[f], h.link.Address
		switch {
		case !h.registered || !h.seenAt.IsValid() || h.transport == "udp" && !v.asked: // too early
		case family(h.seenAt.Addr()) == f:
			able = append(able, a)
		case v.mapped.IsValid() && v.silent == 0:
			able, ats[a] = append(able, a), v.mapped
		}
	}
	if len(able) == 0 {
		return helper, at, false
	}
	i := slices.IndexFunc(able, func(a identity.Address) bool { return a.Compare(k.last[f]) > 0 })
	k.last[f] = able[max(i, 0)]
	return k.last[f], ats[k.last[f]], true
}

// test has a helper test doors and notes what came of it. It reports whether
// there was a test.
func (k *Keeper) test(helper identity.Address, at netip.AddrPort, f int, doors []door) bool {
	places := make([]dialback.Place, len(doors))
	for i, d := range doors {
		places[i] = dialback.Place{Network: d.network, Port: d.port}
	}
	k.notePaths()
	met := k.met.list(time.Now())
	came := func(place int, from netip.AddrPort) {
		k.set(func() {
			d := doors[place]
			k.proofs[d] = k.proofs[d].after(from, met, time.Now())
		})
	}
	r, err := k.cfg.Knocks.Knock(k.ctx, helper, dialback.Question{Places: places, Met: met, At: at, Came: came})
	if k.ctx.Err() != nil {
		return false
	}
	if err == nil && r.IP.IsValid() && family(r.IP) != f {
		err = errors.New("the helper sees the device by the other family")
	}
	if err != nil {
		k.cfg.Logger.Debug("nobody knocked", "helper", helper.Short(), "err", err)
		return false
	}
	k.learn(doors, r, met)
	return true
}

// learn takes over what a test showed.
func (k *Keeper) learn(doors []door, r dialback.Result, met []netip.Addr) {
	now := time.Now()
	var lies []door
	k.set(func() {
		k.checked = now
		for i, d := range doors {
			if !r.From[i].IsValid() && i < len(r.Outcomes) && r.Outcomes[i] == dialback.Unable {
				continue
			}
			p := k.proofs[d].after(r.From[i], met, now)
			if r.IP.IsValid() {
				p.ip = r.IP
			}
			k.proofs[d] = p
			if d.mapped && p.missed > 0 && p.missed%liesAfter == 0 {
				lies = append(lies, d)
			}
			if d.mapped && p.missed == 0 {
				k.lied = false
			}
			k.cfg.Logger.Debug("door tested", "network", d.network, "port", d.port, "mapped", d.mapped,
				"from", r.From[i], "proof", p.kind, "missed", p.missed)
		}
		k.forgetDoors(now)
	})
	for _, d := range lies {
		k.distrust(d)
	}
}

// unsure has the doors of a family tested at once: the address outside changed.
func (k *Keeper) unsure(f int) {
	k.mu.Lock()
	for d, p := range k.proofs {
		if d.family == f {
			p.tested = time.Time{}
			k.proofs[d] = p
		}
	}
	k.mu.Unlock()
	poke(k.retest)
}

// forgetDoors drops what is known about doors that are tested no more; k.mu is
// held.
func (k *Keeper) forgetDoors(now time.Time) {
	maps.DeleteFunc(k.proofs, func(_ door, p proof) bool {
		return !p.tested.IsZero() && now.Sub(p.tested) > 2*closedEvery
	})
}

// distrust gives up a mapping that was granted and leads nowhere.
func (k *Keeper) distrust(d door) {
	m, ok := mappingOf(k.router(), d.network, d.family)
	if !ok || m.External.Port() != d.port {
		return
	}
	k.set(func() { k.lied = k.lied || d.network == dialback.UDP })
	k.cfg.Logger.Warn("the router opened a port, but nobody outside comes in",
		"method", m.Method, "network", d.network, "external", m.External)
	k.cfg.Mapper.Distrust(m)
}

// way is a door with its address outside.
type way struct {
	door
	proof
	at netip.AddrPort // no address if it is not known
}

// ways lists the doors of this moment, UDP first, IPv4 first; k.mu is held.
func (k *Keeper) ways(router portmap.State) []way {
	var ways []way
	for f := range 2 {
		for _, d := range k.doors(f, router) {
			p := k.proofs[d]
			ip := p.ip
			if !ip.IsValid() {
				ip = k.seen(f).Addr()
			}
			ways = append(ways, way{d, p, netip.AddrPortFrom(ip, d.port)})
		}
	}
	slices.SortStableFunc(ways, func(x, y way) int { return cmp.Compare(y.network, x.network) })
	return ways
}

// public says whether an address may be told to others as one to come in at.
func (k *Keeper) public(a netip.AddrPort) bool {
	return ice.Filter{Loopback: k.cfg.Loopback}.Allow(a)
}
