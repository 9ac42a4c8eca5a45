package reach

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/nat/ice"
	"porchlight/nat/portmap"
	"porchlight/nat/stun"
)

const (
	// silentAfter is how many bindings in a row must stay unanswered before
	// the network is said to carry no UDP.
	silentAfter = 1
	// staleAfter is how many bindings in a row must stay unanswered before a
	// mapped address is no candidate any more: the device may be elsewhere.
	staleAfter = 2
	// patience is how long a device may be without helpers, after the start or
	// the last registration, before it says so.
	patience = 10 * time.Second
	// sureAfter is how long worse news must stay the same until it is told.
	sureAfter = 8 * time.Second
)

// evidence is everything that a verdict follows from.
type evidence struct {
	policy     Policy
	hosts      []ice.Candidate
	registered int
	framed     int  // of them, reached by TCP while UDP is silent
	web        bool // and all of them at port 443
	public     [2]netip.AddrPort
	nat        api.NAT
	rotates    bool
	ways       []way
	router     portmap.State
	tested     bool
	lied       bool
	outside    finding
	waiting    bool // too early to say that there is no helper
}

// verdict judges.
func (e evidence) verdict() api.Verdict {
	switch {
	case len(e.hosts) == 0:
		return api.NoNetwork
	case e.policy == Public && e.public[0].IsValid() && !e.own(0):
		return api.Forwarded
	case e.policy == Public:
		return api.Public
	case e.registered == 0:
		return e.alone()
	}
	if v := e.reachable(); v != "" {
		return v
	}
	switch {
	case e.framed == e.registered && e.web:
		return api.WebOnly
	case e.framed == e.registered:
		return api.UDPBlocked
	case !e.seen() || !e.tested && e.policy == Auto:
		return api.Checking
	}
	return e.helped()
}

func (e evidence) seen() bool { return e.public[0].IsValid() || e.public[1].IsValid() }

// own says whether the address that helpers see by a family is one of this
// machine's.
func (e evidence) own(f int) bool { return isOwn(e.public[f].Addr(), e.hosts) }

// alone is the verdict without helpers.
func (e evidence) alone() api.Verdict {
	if e.waiting {
		return api.Checking
	}
	switch e.outside {
	case portal:
		return api.Captive
	case forbidden:
		return api.Blocked
	case silence:
		if m, ok := mappingOf(e.router, dialback.UDP, 0); !ok || shared(m.External.Addr()) {
			return api.NoInternet
		}
	}
	return api.NoHelper
}

// reachable is the verdict if strangers get in, else "".
func (e evidence) reachable() api.Verdict {
	var four, six, mapped, own bool
	for _, w := range e.ways {
		if w.open(w.door) {
			four, six = four || w.family == 0, six || w.family == 1
			mapped = mapped || w.family == 0 && w.mapped
			own = own || w.family == 0 && isOwn(w.at.Addr(), e.hosts)
		}
	}
	switch {
	case own:
		return api.Public
	case mapped:
		return api.Mapped
	case four:
		return api.Forwarded
	case six:
		return api.IPv6Only
	}
	return ""
}

// helped is the verdict if helpers have to introduce callers: what stands in
// the way, the most useful to know first.
func (e evidence) helped() api.Verdict {
	m, mapped := mappingOf(e.router, dialback.UDP, 0)
	outer := m.External.Addr()
	switch {
	case mapped && carrier.Contains(outer), e.carried():
		return api.CGNAT
	case mapped && outer.IsPrivate() && outer != e.public[0].Addr():
		return api.DoubleNAT
	case e.lied:
		return api.MapLies
	case !mapped && e.refused():
		return api.Refused
	case e.rotates, strings.HasPrefix(e.nat.Mapping, "address"):
		return api.NATHard
	}
	return api.NATEasy
}

// carrier is what a provider puts between its own NAT and its customers.
var carrier = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// shared says whether an address is seen by nobody on the internet.
func shared(a netip.Addr) bool {
	return !a.IsValid() || a.IsPrivate() || carrier.Contains(a) || a.IsLinkLocalUnicast() || a.IsUnspecified()
}

// carried says whether the provider's shared addresses begin at this machine.
// Private networks of other makers use the same block, so it counts only if
// there is no other IPv4 address.
func (e evidence) carried() bool {
	any4 := false
	for _, c := range e.hosts {
		if a := c.Addr.Addr(); a.Is4() && !a.IsLoopback() {
			if !carrier.Contains(a) {
				return false
			}
			any4 = true
		}
	}
	return any4
}

// refused says whether the router understands the wish for a mapping and all
// it does is refuse.
func (e evidence) refused() bool {
	if !e.router.Settled {
		return false
	}
	refused := false
	for _, o := range e.router.Outcomes {
		if o == portmap.Granted {
			return false
		}
		refused = refused || o == portmap.Refused
	}
	return refused
}

// rank orders verdicts by how bad the news is: 3 people get in, 2 they are
// introduced, 1 nobody gets in, 0 nothing is known.
func rank(v api.Verdict) int {
	switch v {
	case api.Public, api.Forwarded, api.Mapped, api.IPv6Only:
		return 3
	case api.Checking:
		return 0
	case api.NoHelper, api.NoInternet, api.Captive, api.Blocked, api.NoNetwork, api.Private:
		return 1
	}
	return 2
}

// sight is what the last judgement saw.
type sight struct {
	verdict     api.Verdict
	doubt       bool
	checked     time.Time
	nat         api.NAT
	public      [2]netip.AddrPort
	udp, tcp    bool // strangers get in
	noUDP, open bool
	rotates     bool
}

// pending is worse news that is not yet believed.
type pending struct {
	verdict api.Verdict
	since   time.Time
}

// settle decides what of a new judgement is told. Better news is told at once.
// Where nothing could be found out, and until worse news has stayed the same
// for a while, the old verdict stands, in doubt.
func (old sight) settle(next sight, p pending, now time.Time) (sight, pending) {
	doubted := old
	doubted.doubt = true
	switch {
	case rank(old.verdict) <= 1 && next.verdict != api.Checking, rank(old.verdict) == 0:
		return next, pending{}
	case next.verdict == api.Checking:
		if rank(old.verdict) == 1 { // that nobody helped is no verdict to keep
			return next, pending{}
		}
		return doubted, pending{}
	case rank(next.verdict) >= rank(old.verdict):
		return next, pending{}
	case p.verdict == "" || rank(p.verdict) != rank(next.verdict):
		return doubted, pending{next.verdict, now}
	case now.Sub(p.since) < sureAfter:
		return doubted, p
	}
	return next, pending{}
}

// news is the part of a sight of which a change is worth a line in the log.
func (old sight) news() sight {
	n := sight{verdict: old.verdict, nat: old.nat, udp: old.udp, tcp: old.tcp, rotates: old.rotates}
	if !old.rotates {
		n.public = old.public
	}
	return n
}

// judge draws the verdict anew and logs a change.
func (k *Keeper) judge() {
	router, now := k.router(), time.Now()
	k.mu.Lock()
	old := k.sight
	k.sight, k.pending = old.settle(k.look(router, now), k.pending, now)
	s := k.sight
	k.mu.Unlock()
	if s.news() != old.news() {
		k.cfg.Logger.Info("reachability", "verdict", s.verdict, dialback.UDP, s.udp, "tcp", s.tcp,
			"public", s.public[0], "mapping", s.nat.Mapping, "filtering", s.nat.Filtering, "rotates", s.rotates)
	}
}

// look judges what is known; k.mu is held.
func (k *Keeper) look(router portmap.State, now time.Time) sight {
	e := k.gather(router, now)
	s := sight{
		verdict: e.verdict(), checked: k.checked, nat: e.nat, public: e.public,
		noUDP: e.registered > 0 && e.framed == e.registered, rotates: e.rotates,
	}
	for _, w := range e.ways {
		if w.open(w.door) {
			s.udp, s.tcp = s.udp || w.network == dialback.UDP, s.tcp || w.network == dialback.TCP
		}
		s.doubt = s.doubt || w.kind != api.Unproven && w.missed > 0
		if w.kind == api.Stranger && w.family == 0 && !w.mapped && w.network == dialback.UDP {
			s.nat.Filtering = string(stun.EndpointIndependent)
		}
	}
	if rank(s.verdict) == 1 { // by looking just now
		s.checked = now
	}
	told := e.policy == Public && rank(s.verdict) == 3
	s.udp, s.tcp = s.udp || told, s.tcp || told
	s.open = told || s.verdict == api.Public
	return s
}

// gather collects the evidence; k.mu is held.
func (k *Keeper) gather(router portmap.State, now time.Time) evidence {
	e := evidence{
		policy: k.cfg.Policy, hosts: k.hosts, router: router, lied: k.lied, outside: k.outside,
		// A test that takes too long must not hold up what is known anyway.
		tested:  k.tested || !k.began.IsZero() && now.Sub(k.began) > patience,
		waiting: now.Sub(k.served) < patience,
		ways:    k.ways(router),
		web:     true,
	}
	var views [2][]netip.AddrPort
	for _, h := range k.sorted() {
		if !h.registered {
			continue
		}
		e.registered++
		if h.transport == "tcp" && h.mute() {
			e.framed++
			e.web = e.web && !slices.ContainsFunc(h.link.At, func(a netip.AddrPort) bool { return a.Port() != httpsPort })
		}
		for f, v := range h.views {
			if v.mapped.IsValid() {
				views[f] = append(views[f], v.mapped)
			}
		}
	}
	for f := range views {
		if len(views[f]) > 0 {
			e.public[f] = views[f][0]
		}
	}
	f := 0
	if len(views[0]) == 0 {
		f = 1
	}
	e.nat, e.rotates = k.natOf(f, views[f])
	return e
}

// httpsPort is the port that even narrow networks let out.
const httpsPort = 443

// natOf describes the router by what all helpers found by one family. Where
// ports pass, views of different times tell nothing about the mapping; k.mu is
// held.
func (k *Keeper) natOf(f int, mapped []netip.AddrPort) (nat api.NAT, rotates bool) {
	nat = api.NAT{Mapping: string(stun.Unknown), Filtering: string(stun.Unknown)}
	for _, h := range k.sorted() {
		if h.registered && h.views[f].mapped.IsValid() {
			nat = merge(nat, h.views[f].behaviour)
		}
	}
	if rotates = k.rotates(f); rotates {
		nat.Mapping = string(stun.Unknown)
	} else if len(mapped) > 0 {
		nat = compareMappings(nat, mapped, isOwn(mapped[0].Addr(), k.hosts))
	}
	return nat, rotates
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

// compareMappings adds what several helpers' views tell (RFC 5780 §4.3): two
// addresses for one socket mean that the router chooses for each destination.
// The same address for two helpers means that it does not, even if one helper's
// second port saw another: a router that does not filter keeps a place for the
// packet that the helper sent from there, and so has to choose another port
// for the answer to it.
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
	case len(mapped) > 1:
		n.Mapping = string(stun.EndpointIndependent)
	}
	return n
}

// isOwn reports whether addr is one of this machine's.
func isOwn(addr netip.Addr, hosts []ice.Candidate) bool {
	return slices.ContainsFunc(hosts, func(c ice.Candidate) bool { return c.Addr.Addr() == addr })
}
