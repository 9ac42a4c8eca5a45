package reach

import (
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/nat/ice"
	"porchlight/nat/portmap"
)

// State is where the device stands.
type State struct {
	Verdict api.Verdict
	// Doubt says that the verdict is being checked again.
	Doubt bool
	// Reachable says that strangers get in, UDP and TCP by what: the device
	// can introduce others.
	Reachable, UDP, TCP bool
	// Open says that strangers reach every port of the device and not only
	// those that a router leads to it: it can relay for others.
	Open bool
	// NoUDP says that helpers are reached by TCP only.
	NoUDP bool
	// Rotates says that the router moves living flows to other ports, so that
	// no address that helpers see holds: a relay, or TCP, is the way.
	Rotates bool
	Checked time.Time
	NAT     api.NAT
	// Public and Public6 are where helpers see the socket by IPv4 and by
	// IPv6; Public is the IPv6 address if there is no other.
	Public, Public6 netip.AddrPort
	Candidates      []ice.Candidate
}

// State returns the present state.
func (k *Keeper) State() State {
	router := k.router()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := State{
		Verdict: k.sight.verdict,
		Doubt:   k.sight.doubt,
		UDP:     k.sight.udp,
		TCP:     k.sight.tcp,
		Open:    k.sight.open,
		NoUDP:   k.sight.noUDP,
		Rotates: k.sight.rotates,
		Checked: k.sight.checked,
		NAT:     k.sight.nat,
		Public:  k.sight.public[0],
		Public6: k.sight.public[1],
	}
	s.Reachable = rank(s.Verdict) == 3 && k.cfg.Policy != Private
	if !s.Public.IsValid() {
		s.Public = s.Public6
	}
	s.Candidates = k.candidates(router)
	return s
}

// candidates lists addresses for offers: the machine's own, mapped ones, and
// what helpers saw, if that holds; k.mu is held.
func (k *Keeper) candidates(router portmap.State) []ice.Candidate {
	all := slices.Clone(k.hosts)
	add := func(kind string, a netip.AddrPort) {
		if !slices.ContainsFunc(all, func(c ice.Candidate) bool { return c.Addr == a }) {
			all = append(all, ice.Candidate{Kind: kind, Addr: a})
		}
	}
	if !k.lied {
		for _, m := range router.Mappings {
			if m.Transport == dialback.UDP && k.credible(m) {
				add(ice.Mapped, m.External)
			}
		}
	}
	for _, h := range k.sorted() {
		for f, v := range h.views {
			if v.mapped.IsValid() && v.silent < staleAfter && !k.rotates(f) {
				add(ice.Srflx, v.mapped)
			}
		}
	}
	return all
}

// credible says whether a mapping may lead here from outside: its address is
// one that helpers see, or nobody has seen any yet; k.mu is held.
func (k *Keeper) credible(m portmap.Mapping) bool {
	f, unseen := family(m.External.Addr()), true
	for _, h := range k.helpers {
		if v := h.views[f]; h.registered && v.mapped.IsValid() {
			if v.mapped.Addr() == m.External.Addr() {
				return k.public(m.External)
			}
			unseen = false
		}
	}
	return unseen && k.public(m.External)
}

// Candidates implements join.Situation.
func (k *Keeper) Candidates() []ice.Candidate { return k.State().Candidates }

// TCPCandidates lists where framed TCP connections are accepted from outside:
// doors that a knock showed open, and mappings that nothing speaks against.
func (k *Keeper) TCPCandidates() []netip.AddrPort {
	router := k.router()
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []netip.AddrPort
	add := func(a netip.AddrPort) {
		if k.public(a) && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if k.cfg.Policy == Private {
		return nil
	}
	for _, w := range k.ways(router) {
		if w.network == dialback.TCP && (w.open(w.door) || w.sure && w.missed < surely) {
			add(w.at)
		}
	}
	if k.cfg.Policy == Public {
		for f := range k.sight.public {
			add(netip.AddrPortFrom(k.sight.public[f].Addr(), k.cfg.Listen.Port()))
		}
	}
	return all
}

// Link returns the device's link with the hints of this moment.
func (k *Keeper) Link() identity.Link {
	link := identity.Link{Address: k.cfg.Device.Address()}
	state, router := k.State(), k.router()
	k.mu.Lock()
	defer k.mu.Unlock()
	if state.Reachable {
		link.At = k.hints(state, router)
	}
	for _, h := range k.sorted() {
		if h.registered && len(link.Via) < identity.MaxHints {
			link.Via = append(link.Via, identity.Via{Address: h.link.Address, At: h.at()})
		}
	}
	return link
}

// hints lists where strangers get in: never the home's own addresses, nor a
// carrier's (RFC 6598); k.mu is held.
func (k *Keeper) hints(state State, router portmap.State) []netip.AddrPort {
	var at []netip.AddrPort
	add := func(a netip.AddrPort) {
		if k.public(a) && !slices.Contains(at, a) && len(at) < identity.MaxHints {
			at = append(at, a)
		}
	}
	var open [2]bool
	for _, w := range k.ways(router) {
		if w.open(w.door) {
			open[w.family] = true
			add(w.at)
		}
	}
	for _, c := range state.Candidates {
		if open[family(c.Addr.Addr())] && state.Open || k.cfg.Policy == Public {
			add(c.Addr)
		}
	}
	return at
}
