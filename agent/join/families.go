package join

import (
	"net/netip"

	"porchlight/agent/introduce"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
)

// families are IP versions.
type families struct{ four, six bool }

func (f *families) add(a netip.Addr) {
	f.four = f.four || a.Unmap().Is4()
	f.six = f.six || !a.Unmap().Is4()
}

func (f families) has(a netip.Addr) bool {
	if a.Unmap().Is4() {
		return f.four
	}
	return f.six
}

func (f families) family(which relay.Family) bool {
	if which == relay.IPv4 {
		return f.four
	}
	return f.six
}

func (f families) meets(g families) bool { return f.four && g.four || f.six && g.six }

// relayed says of which IP versions a device's places are.
func relayed(o introduce.Offer) (f families) {
	for _, a := range o.Relay {
		f.add(a.Addr())
	}
	return f
}

// sendsBy says by which IP versions a device can send UDP to the internet, as
// far as its offer tells: none of its addresses stands for both. A private one
// proves nothing where another is known to lead out: a home without IPv4 often
// has it inside.
func sendsBy(o introduce.Offer) families {
	if o.NoUDP {
		return families{}
	}
	if len(o.ICE.Candidates) == 0 {
		return families{true, true}
	}
	var out, inside families
	for _, c := range o.ICE.Candidates {
		a := c.Addr.Addr().Unmap()
		if c.Kind == ice.Host && (a.IsPrivate() || a.IsLinkLocalUnicast()) {
			inside.add(a)
		} else {
			out.add(a)
		}
	}
	if out == (families{}) {
		return inside
	}
	return out
}

// relaysIn says of which IP versions a ticket's relay has addresses: it is
// asked at those that it relays from.
func relaysIn(t relay.Ticket) (f families) {
	for _, list := range [][]string{t.UDP, t.TCP, t.TLS} {
		for _, text := range list {
			if at, err := netip.ParseAddrPort(text); err == nil {
				f.add(at.Addr())
			}
		}
	}
	return f
}

// lack notes that a device could not be met at a relay, since its IP version
// and that of our places are not the same: the next ticket of a relay that has
// both is used for a place where they are.
func (r *relays) lack(ours, theirs introduce.Offer) {
	have, want := relayed(ours), sendsBy(theirs)
	for _, a := range theirs.Relay {
		want.add(a.Addr())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.cross != 0:
	case want.six && !have.six && have.four:
		r.cross = relay.IPv6
	case want.four && !have.four && have.six:
		r.cross = relay.IPv4
	}
}
