package reach

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

// State is where the device stands.
type State struct {
	Verdict api.Verdict
	// Reachable says that strangers' packets get in: the device can
	// introduce others.
	Reachable  bool
	Checked    time.Time
	NAT        api.NAT
	Public     netip.AddrPort
	Candidates []ice.Candidate
}

// sight is what the last judgement saw.
type sight struct {
	verdict api.Verdict
	checked time.Time
	nat     api.NAT
	public  netip.AddrPort
}

// silentAfter is how many bindings in a row must stay unanswered before the
// network is said to carry no UDP.
const silentAfter = 1

// staleAfter is how many bindings in a row must stay unanswered before a mapped
// address is no candidate any more: the device may be elsewhere.
const staleAfter = 2

// patience is how long after the start a device may be without helpers before
// it says so.
const patience = 10 * time.Second

// State returns the present state.
func (k *Keeper) State() State {
	hosts := k.hosts()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := State{
		Verdict:    k.sight.verdict,
		Checked:    k.sight.checked,
		NAT:        k.sight.nat,
		Public:     k.sight.public,
		Candidates: hosts,
	}
	if len(hosts) == 0 {
		s.Verdict = api.NoNetwork
	}
	s.Reachable = s.Verdict == api.Public || s.Verdict == api.Forwarded
	for _, h := range k.sorted() {
		if !h.mapped.IsValid() || h.silent >= staleAfter || slices.ContainsFunc(s.Candidates, func(c ice.Candidate) bool { return c.Addr == h.mapped }) {
			continue
		}
		s.Candidates = append(s.Candidates, ice.Candidate{Kind: ice.Srflx, Addr: h.mapped})
	}
	return s
}

// judge draws the verdict anew and logs a change.
func (k *Keeper) judge() {
	hosts := k.hosts()
	k.mu.Lock()
	next := k.look(hosts)
	changed := next.verdict != k.sight.verdict || next.nat != k.sight.nat || next.public != k.sight.public
	if next.verdict == api.Checking && hasVerdict(k.sight.verdict) {
		// In doubt the old verdict stays.
		changed = false
	} else {
		k.sight = next
	}
	k.mu.Unlock()
	if changed {
		k.cfg.Logger.Info("reachability", "verdict", next.verdict, "public", next.public, "mapping", next.nat.Mapping, "filtering", next.nat.Filtering)
	}
}

// hasVerdict reports whether a verdict says something about reachability, and
// not only that nothing could be found out.
func hasVerdict(v api.Verdict) bool {
	return v != api.Checking && v != api.NoHelper && v != api.NoNetwork
}

// look draws a verdict from what the helpers saw; k.mu is held.
func (k *Keeper) look(hosts []ice.Candidate) sight {
	seen := sight{checked: time.Now(), nat: api.NAT{Mapping: "unknown", Filtering: "unknown"}}
	registered, tcp := 0, 0
	var mapped []netip.AddrPort
	for _, h := range k.sorted() {
		if !h.registered {
			continue
		}
		registered++
		if h.silent >= silentAfter && h.transport == "tcp" {
			tcp++
		}
		if h.mapped.IsValid() {
			mapped = append(mapped, h.mapped)
			seen.nat = merge(seen.nat, h.behaviour)
		}
	}
	mapped = oneFamily(mapped)
	if len(mapped) > 0 {
		seen.public = mapped[0]
		own := isOwn(mapped[0].Addr(), hosts)
		seen.nat = compareMappings(seen.nat, mapped, own)
	}
	seen.verdict = k.verdict(seen, hosts, registered, tcp, len(mapped))
	return seen
}

func (k *Keeper) verdict(seen sight, hosts []ice.Candidate, registered, tcp, mapped int) api.Verdict {
	switch {
	case len(hosts) == 0:
		return api.NoNetwork
	case k.cfg.Policy == Public:
		if seen.public.IsValid() && !isOwn(seen.public.Addr(), hosts) {
			return api.Forwarded
		}
		return api.Public
	case registered == 0:
		if k.sight.verdict == api.Checking && time.Since(k.began) < patience {
			return api.Checking
		}
		return api.NoHelper
	case tcp == registered:
		return api.UDPBlocked
	case mapped == 0:
		return api.Checking
	case seen.nat.Mapping == string(stun.None) && seen.nat.Filtering == string(stun.EndpointIndependent) && k.cfg.Policy == Auto:
		return api.Public
	case strings.HasPrefix(seen.nat.Mapping, "address"):
		return api.NATHard
	}
	return api.NATEasy
}

// merge takes over what one helper's behaviour tests found, where they found
// something: a helper with one IP address cannot tell every mapping apart.
func merge(n api.NAT, b stun.Behaviour) api.NAT {
	if b.Mapping != "" && b.Mapping != stun.Unknown && !b.MappingAtMost {
		n.Mapping = string(b.Mapping)
	}
	if b.Filtering != "" && b.Filtering != stun.Unknown {
		n.Filtering = string(b.Filtering)
	}
	return n
}

// oneFamily leaves the IPv4 addresses, or if there are none all: a socket's two
// families have two addresses without any router having chosen them.
func oneFamily(mapped []netip.AddrPort) []netip.AddrPort {
	is6 := func(m netip.AddrPort) bool { return !m.Addr().Is4() }
	if four := slices.DeleteFunc(slices.Clone(mapped), is6); len(four) > 0 {
		return four
	}
	return mapped
}

// compareMappings adds what several helpers' views tell (RFC 5780 §4.3): two
// addresses for one socket mean that the router chooses for each destination.
func compareMappings(n api.NAT, mapped []netip.AddrPort, own bool) api.NAT {
	same := true
	for _, m := range mapped[1:] {
		same = same && m == mapped[0]
	}
	switch {
	case own:
		n.Mapping = string(stun.None)
	case !same:
		n.Mapping = string(stun.AddressAndPortDependent)
	case len(mapped) > 1 && n.Mapping != string(stun.AddressAndPortDependent):
		n.Mapping = string(stun.EndpointIndependent)
	}
	return n
}
