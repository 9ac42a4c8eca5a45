package portmap

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"porchlight/nat/portmap/igd"
	"porchlight/nat/portmap/pcp"
)

// maxLease is what is believed of a lease; a router that grants 2^31 s is
// asked again every half day all the same.
const maxLease = 24 * time.Hour

// errLost says that a router has forgotten a mapping, or has moved.
var errLost = errors.New("router has lost the mapping")

// way is one method at one router. Tests make their own.
type way struct {
	method  Method
	gateway netip.Addr
	// local is the address of this device that mappings lead to.
	local netip.Addr
	// external is the router's outside address if it is known before anything
	// is asked for.
	external netip.Addr
	// order is the place of the route among those of its family.
	order int

	// add makes or renews the mapping for the transport to port at local,
	// with the external port suggested, 0 for any. With an error, what was
	// tried last comes back too.
	add func(ctx context.Context, transport string, port, suggested uint16) (Mapping, error)
	// remove ends a mapping.
	remove func(ctx context.Context, m Mapping) error
	// check asks whether the mappings stand: nil, errLost, or no answer.
	check func(ctx context.Context, held []Mapping) error
	// lost reports, once, that an answer to add told of a restart; may be nil.
	lost func() bool
}

func (w *way) v6() bool { return w.local.Is6() }

// mapping fills in what all methods have in common and refuses impossible
// external addresses.
func (w *way) mapping(transport string, port uint16, external netip.AddrPort, granted time.Duration) (Mapping, error) {
	m := Mapping{
		Method:    w.method,
		Transport: transport,
		Internal:  netip.AddrPortFrom(w.local, port),
		External:  external,
		Gateway:   w.gateway,
		Lifetime:  min(granted, maxLease),
	}
	if m.Lifetime > 0 {
		m.Expires = time.Now().Add(m.Lifetime)
	}
	err := checkExternal(external.Addr(), w.v6())
	if err == nil && external.Port() == 0 {
		err = errAddress
	}
	return m, err
}

// rank orders the methods, best first.
func rank(m Method) int {
	switch m {
	case PCP:
		return 0
	case NATPMP:
		return 1
	case IGD2:
		return 2
	}
	return 3
}

// outcome classifies an error of a way; unclear ones are otherwise.
func outcome(err error, otherwise Outcome) Outcome {
	var result pcp.Result
	var natpmp pcp.NATPMPResult
	var fault igd.Fault
	switch {
	case err == nil:
		return Granted
	case errors.Is(err, pcp.ErrSilent), errors.Is(err, pcp.ErrUnsupported), errors.Is(err, igd.ErrNoDevice):
		return Silent
	case errors.Is(err, pcp.ErrNonsense), errors.Is(err, igd.ErrNonsense), errors.Is(err, errAddress),
		errors.Is(err, igd.ErrNoReply):
		return Broken
	case errors.As(err, &result), errors.As(err, &natpmp), errors.As(err, &fault), errors.Is(err, igd.ErrForbidden):
		return Refused
	}
	return otherwise
}

// weight orders outcomes: of several routers the best one tells.
func weight(o Outcome) int {
	switch o {
	case Granted:
		return 5
	case Offered:
		return 4
	case Refused:
		return 3
	case Broken:
		return 2
	case Silent:
		return 1
	}
	return 0
}
