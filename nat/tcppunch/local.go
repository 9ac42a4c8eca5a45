package tcppunch

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

const (
	// MaxLocal is the largest encoded [Local] in bytes.
	MaxLocal = 200
	// MaxMapped is how many addresses of one end are named and tried.
	MaxMapped = 4
	// maxRTT is the longest round trip in milliseconds that an end may name.
	maxRTT = 2000
	// maxDelta is the largest step between mapped ports that counts as one.
	maxDelta = 32
)

var (
	// ErrHopeless says that the two routers cannot be brought to meet: one of
	// them maps every connection to a port nobody can foresee, or the two ends
	// have no address family in common. The way left is a relay.
	ErrHopeless = errors.New("tcp mappings cannot meet, a relay is needed")
	// ErrLocal says that a description is not one.
	ErrLocal = errors.New("malformed tcp description")
)

// Local describes how TCP connections of one end look from outside. It is made
// for the other end and goes there by a way that proves who sends it.
type Local struct {
	// Mapped are the addresses the end is seen at, the best first.
	Mapped []netip.AddrPort `json:"mapped"`
	// Mapping says what Mapped[0] depends on: stun.Unknown if one server only
	// was asked.
	Mapping stun.Dependence `json:"mapping"`
	// Last is the mapped port of the end's latest connection and Delta the step
	// to the next one; both 0 if Mapping does not depend on the destination or
	// no step was found.
	Last  uint16 `json:"last,omitempty"`
	Delta int    `json:"delta,omitempty"`
	// RTT is the round trip in milliseconds to the nearest server asked: it says
	// how long to wait for this end.
	RTT int `json:"rtt,omitempty"`
}

// ParseLocal reads what json.Marshal made of a Local. The error wraps ErrLocal.
func ParseLocal(b []byte) (Local, error) {
	if len(b) > MaxLocal {
		return Local{}, fmt.Errorf("%w: %d bytes, at most %d", ErrLocal, len(b), MaxLocal)
	}
	var l Local
	if err := json.Unmarshal(b, &l); err != nil {
		return Local{}, fmt.Errorf("%w: %w", ErrLocal, err)
	}
	return l, l.Validate()
}

// Validate refuses what no honest end says. It does not judge addresses: that is
// the filter's part.
func (l Local) Validate() error {
	switch {
	case len(l.Mapped) == 0 || len(l.Mapped) > MaxMapped:
		return fmt.Errorf("%w: %d addresses, 1 to %d wanted", ErrLocal, len(l.Mapped), MaxMapped)
	case slices.ContainsFunc(l.Mapped, func(a netip.AddrPort) bool { return !a.IsValid() || a.Port() == 0 }):
		return fmt.Errorf("%w: an address without a port", ErrLocal)
	case !slices.Contains(dependences, l.Mapping):
		return fmt.Errorf("%w: mapping %.40q", ErrLocal, l.Mapping)
	case l.Delta < -maxDelta || l.Delta > maxDelta:
		return fmt.Errorf("%w: delta %d, at most %d", ErrLocal, l.Delta, maxDelta)
	case l.RTT < 0 || l.RTT > maxRTT:
		return fmt.Errorf("%w: round trip %d ms, at most %d", ErrLocal, l.RTT, maxRTT)
	case l.Delta != 0 && (l.Last == 0 || !l.dependent()):
		return fmt.Errorf("%w: a delta from nowhere", ErrLocal)
	}
	return nil
}

var dependences = []stun.Dependence{stun.Unknown, stun.None, stun.EndpointIndependent,
	stun.AddressDependent, stun.AddressAndPortDependent}

// dependent says whether another destination sees another address. What is not
// known is taken for the usual router, which keeps it.
func (l Local) dependent() bool {
	return l.Mapping == stun.AddressDependent || l.Mapping == stun.AddressAndPortDependent
}

// hopeless says whether nobody can foresee where the end will be seen.
func (l Local) hopeless() bool { return l.dependent() && l.Delta == 0 }

// ahead returns the next n mapped ports of an end whose router counts. Ports
// beyond the range are left out: routers begin anew somewhere unknown.
func (l Local) ahead(n int) []netip.AddrPort {
	var out []netip.AddrPort
	for i := 1; i <= n; i++ {
		port := int(l.Last) + i*l.Delta
		if port >= 1024 && port <= math.MaxUint16 {
			out = append(out, netip.AddrPortFrom(l.Mapped[0].Addr(), uint16(port)))
		}
	}
	return out
}

// with puts the addresses that a router forwards first. Behind a router that
// depends on the destination they are the only ones worth naming.
func (l Local) with(forwarded []netip.AddrPort) Local {
	if len(forwarded) == 0 {
		return l
	}
	if l.dependent() {
		return Local{Mapped: slices.Clone(forwarded), Mapping: stun.EndpointIndependent, RTT: l.RTT}
	}
	all := slices.Clone(forwarded)
	for _, a := range l.Mapped {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	l.Mapped = all
	return l
}

// fitted drops the last addresses until the description is small enough.
func (l Local) fitted() Local {
	l.Mapped = l.Mapped[:min(len(l.Mapped), MaxMapped)]
	for len(l.Mapped) > 1 {
		b, err := json.Marshal(l)
		if err == nil && len(b) <= MaxLocal {
			break
		}
		l.Mapped = l.Mapped[:len(l.Mapped)-1]
	}
	return l
}

const (
	// window is how many ports are opened towards a router that counts: its end
	// makes other connections in between, too.
	window = 16
	// fan is how many connections the end behind such a router makes.
	fan = 8
)

// flow is one pair of addresses between which connections are tried. Flows with
// the same line leave from the same local port; line 0 is the learnt one.
type flow struct {
	line int
	to   netip.AddrPort
}

// plan decides who tries what. A router that keeps its mapping is met at the
// learnt address, one that counts at the next ports in turn; between two that
// count, the n-th connection of one meets the n-th of the other.
func plan(ours, theirs Local, filter ice.Filter) ([]flow, error) {
	if err := theirs.Validate(); err != nil {
		return nil, err
	}
	if ours.hopeless() || theirs.hopeless() {
		return nil, fmt.Errorf("%w: mappings %s and %s", ErrHopeless, ours.Mapping, theirs.Mapping)
	}
	targets := theirs.Mapped
	if theirs.dependent() {
		targets = theirs.ahead(window)
	}
	targets = slices.DeleteFunc(slices.Clone(targets), func(to netip.AddrPort) bool {
		return !filter.Allow(to) || !ours.hasFamily(to.Addr())
	})
	if len(targets) == 0 {
		return nil, fmt.Errorf("%w: no address of theirs may be tried", ErrHopeless)
	}
	return spread(targets, ours.dependent(), theirs.dependent()), nil
}

func spread(targets []netip.AddrPort, weCount, theyCount bool) []flow {
	var flows []flow
	switch {
	case weCount && theyCount:
		for i, to := range targets {
			flows = append(flows, flow{line: 1 + i, to: to})
		}
	case weCount:
		for i := range fan {
			flows = append(flows, flow{line: 1 + i, to: targets[0]})
		}
	default:
		for _, to := range targets {
			flows = append(flows, flow{to: to})
		}
	}
	return flows
}

func (l Local) hasFamily(a netip.Addr) bool {
	return slices.ContainsFunc(l.Mapped, func(m netip.AddrPort) bool {
		return m.Addr().Unmap().Is4() == a.Unmap().Is4()
	})
}
