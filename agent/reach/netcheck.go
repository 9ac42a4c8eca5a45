package reach

import (
	"net/netip"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/portmap"
)

// Netcheck describes the network around the device.
func (k *Keeper) Netcheck() api.Netcheck {
	s, now := k.State(), time.Now()
	n := api.Netcheck{
		Verdict:       s.Verdict,
		Doubt:         s.Doubt,
		CheckedUnixMS: unixMS(s.Checked),
		NAT:           s.NAT,
		UDP:           s.Public.IsValid(),
		Public:        text(s.Public),
		PublicIPv6:    text(s.Public6),
		UDPBlocked:    s.NoUDP,
		Captive:       s.Verdict == api.Captive,
		Candidates:    []string{},
		Helpers:       k.Helpers(),
		Doors:         k.describeDoors(),
		Ports:         k.describePorts(),
		Router:        describeRouter(k.router(), now),
	}
	for _, c := range s.Candidates {
		n.Candidates = append(n.Candidates, c.String())
	}
	return n
}

// describePorts tells what was found out about ports. Nothing is measured for
// it: there may be an answer later.
func (k *Keeper) describePorts() api.Ports {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := api.Ports{
		Rotates:   k.sight.rotates,
		Seen:      []int{},
		Hairpin:   k.habits.hairpin,
		LifetimeS: int(k.habits.lifetime.Seconds()),
	}
	found := false
	for _, h := range k.sorted() {
		v := h.views[0]
		if !h.registered || !v.discovered {
			continue
		}
		p.Preserved = v.behaviour.PortPreserved && (p.Preserved || !found)
		found = true
		if p.Delta == 0 {
			p.Delta = v.behaviour.PortDelta
		}
		for _, port := range v.behaviour.Ports {
			p.Seen = append(p.Seen, int(port))
		}
	}
	return p
}

func (k *Keeper) describeDoors() []api.Door {
	router := k.router()
	k.mu.Lock()
	defer k.mu.Unlock()
	doors := []api.Door{}
	for _, w := range k.ways(router) {
		d := api.Door{
			Transport:   w.network,
			Family:      [2]string{"ipv4", "ipv6"}[w.family],
			At:          w.at.String(),
			Mapped:      w.mapped,
			Reachable:   w.open(w.door),
			Proof:       w.kind,
			KnockUnixMS: unixMS(w.came),
			TestUnixMS:  unixMS(w.tested),
			Missed:      w.missed,
		}
		if !w.at.IsValid() {
			d.At = netip.AddrPortFrom(netip.IPv4Unspecified(), w.port).String()[len("0.0.0.0"):]
		}
		if k.cfg.Policy == Public {
			d.Reachable, d.Proof = true, api.OwnersWord
		}
		doors = append(doors, d)
	}
	return doors
}

func describeRouter(s portmap.State, now time.Time) api.Router {
	r := api.Router{Name: s.Router, Settled: s.Settled, Outcomes: map[string]string{}, Mappings: []api.Mapping{}}
	if s.Gateway.IsValid() {
		r.Address = s.Gateway.String()
	}
	for method, outcome := range s.Outcomes {
		r.Outcomes[string(method)] = string(outcome)
	}
	for _, m := range s.Mappings {
		left := int64(0)
		if !m.Expires.IsZero() {
			left = max(int64(m.Expires.Sub(now).Seconds()), 1)
		}
		r.Mappings = append(r.Mappings, api.Mapping{
			Method: string(m.Method), Transport: m.Transport,
			Internal: text(m.Internal), External: text(m.External), LeftS: left,
		})
	}
	return r
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func unixMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
