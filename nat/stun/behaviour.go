package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Dependence says what a NAT's mapping or filter depends on, in the words of
// RFC 4787 §4.1 and §5.
type Dependence string

// The values of [Dependence], weakest first.
const (
	Unknown                 Dependence = "unknown"
	None                    Dependence = "none" // no translation: the mapped address is the local one
	EndpointIndependent     Dependence = "endpoint-independent"
	AddressDependent        Dependence = "address-dependent"
	AddressAndPortDependent Dependence = "address-and-port-dependent"
)

// Behaviour is what RFC 5780 §4.3 and §4.4 tell about the NATs between one
// socket and a server, taken together as if they were one.
type Behaviour struct {
	Local  netip.AddrPort // the address we sent from
	Mapped netip.AddrPort // the address the server saw first
	RTT    time.Duration  // round trip to the server's primary address

	Mapping Dependence
	// MappingAtMost is true when the servers at hand could not separate
	// Mapping from the next weaker value.
	MappingAtMost bool

	// Filtering is never None: without translation a firewall can still
	// filter, and without any the value is EndpointIndependent.
	Filtering Dependence
	// FilteringAtMost is true when the server has no second IP, so that
	// Filtering is the strongest value that fits what was seen.
	FilteringAtMost bool

	PortPreserved bool // the mapped port is the local one
	// Ports are the mapped ports in the order they were made, one per
	// distinct destination.
	Ports []uint16
	// PortDelta is the step between successive Ports if it was the same
	// each time and not 0, over at least three ports; otherwise 0.
	PortDelta int
}

// Times of the discovery.
const (
	// filterWait is how long a filtering test listens at least. It must
	// outlast three sendings and a long round trip.
	filterWait = 1200 * time.Millisecond
	// mappingWait is how long one mapping test may take.
	mappingWait = 3 * time.Second
)

// ErrTooFewServers means that [Mux.Mapping] had fewer than two answers to
// compare.
var ErrTooFewServers = errors.New("mapping needs answers from two stun servers")

// prober runs the tests over one client.
type prober struct {
	client *client
	local  func(to netip.AddrPort) netip.AddrPort
	fresh  Opener // for the filtering test; nil: the socket of client
}

// discover runs all tests. With fresh sockets, what is tested for its mapping
// gets no strays. Without, the filtering tests come first, before anything is
// sent to the server's other addresses: a packet of ours would open the filter
// that is being tested.
func (p prober) discover(ctx context.Context, server netip.AddrPort) (Behaviour, error) {
	server = canonical(server)
	first, rtt, err := p.ask(ctx, server)
	if err != nil {
		return Behaviour{}, err
	}
	local := p.local(server)
	b := Behaviour{
		Local: local, Mapped: first.mapped, RTT: rtt, Mapping: Unknown, Filtering: Unknown,
		PortPreserved: first.mapped.Port() == local.Port(),
		Ports:         []uint16{first.mapped.Port()},
	}
	if other := canonical(first.other); otherUsable(server, other) {
		if p.fresh == nil {
			p.filtering(ctx, &b, server, other)
			p.mapping(ctx, &b, server, other)
		} else {
			p.mapping(ctx, &b, server, other)
			err = p.filteringFresh(ctx, &b, server, other)
		}
	}
	if b.Mapped == local {
		b.Mapping, b.MappingAtMost = None, false
	}
	b.PortDelta = portDelta(b.Ports)
	return b, errors.Join(ctx.Err(), err)
}

// filteringFresh is filtering on a socket that has sent nothing yet.
func (p prober) filteringFresh(ctx context.Context, b *Behaviour, server, other netip.AddrPort) error {
	return onFresh(p.fresh, func(_ net.PacketConn, c *client) error {
		q := prober{client: c}
		if _, _, err := q.ask(ctx, server); err != nil {
			return nil // no mapping, no verdict
		}
		q.filtering(ctx, b, server, other)
		return nil
	})
}

func (p prober) ask(ctx context.Context, server netip.AddrPort) (answer, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, mappingWait)
	defer cancel()
	return p.client.ask(ctx, server, server, 0)
}

// otherUsable refuses an OTHER-ADDRESS that could not be the server's: a
// server must not make us send anywhere it likes. A second IP of the same
// family stays a matter of trust, at one unanswered request each.
func otherUsable(server, other netip.AddrPort) bool {
	a, b := server.Addr(), other.Addr()
	if !usable(other) || other.Port() == server.Port() || a.Is4() != b.Is4() {
		return false
	}
	return b.IsLoopback() == a.IsLoopback() && b.IsPrivate() == a.IsPrivate() && !b.IsLinkLocalUnicast()
}

// filtering is RFC 5780 §4.4, tests II and III at once: both requests go to
// the primary address, only the places they are answered from differ.
func (p prober) filtering(ctx context.Context, b *Behaviour, server, other netip.AddrPort) {
	otherIP := other.Addr() != server.Addr()
	if p.client.openedTowards(func(a netip.AddrPort) bool {
		return a != server && (a.Addr() == server.Addr() || a.Addr() == other.Addr())
	}) {
		return // a pass would prove nothing
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(outer, max(filterWait, 6*b.RTT))
	defer cancel()

	var both, port error
	var tests sync.WaitGroup
	if otherIP {
		tests.Go(func() {
			_, _, both = p.askAway(ctx, server, other, changeIP|changePort)
			if both == nil {
				cancel() // the weakest filter: the other test adds nothing
			}
		})
	}
	tests.Go(func() {
		_, _, port = p.askAway(ctx, server, netip.AddrPortFrom(server.Addr(), other.Port()), changePort)
		if port == nil && !otherIP {
			cancel()
		}
	})
	tests.Wait()
	if outer.Err() != nil {
		return // silence for lack of time is no filter
	}
	b.Filtering, b.FilteringAtMost = filterVerdict(otherIP, both, port)
}

// askAway asks to be answered from another address. An answer that does not
// come through may be a stray at the router.
func (p prober) askAway(ctx context.Context, server, from netip.AddrPort, change byte) (answer, time.Duration, error) {
	p.client.noteStray(from, true)
	a, rtt, err := p.client.ask(ctx, server, from, change)
	if err == nil {
		p.client.noteStray(from, false)
	}
	return a, rtt, err
}

// filterVerdict reads the outcome: nil is an answer, ErrNoAnswer a filter,
// anything else a server that did not do what was asked.
func filterVerdict(otherIP bool, both, port error) (Dependence, bool) {
	silent := func(err error) bool { return errors.Is(err, ErrNoAnswer) }
	switch {
	case otherIP && both == nil:
		return EndpointIndependent, false
	case otherIP && !silent(both):
		return Unknown, false
	case port == nil:
		return AddressDependent, !otherIP
	case silent(port):
		return AddressAndPortDependent, false
	}
	return Unknown, false
}

// mapping is RFC 5780 §4.3, tests II and III. A NAT that depends on the
// endpoint is asked from all four destinations, for the port delta. A second
// port proves nothing once we have sent to where a stray came from.
func (p prober) mapping(ctx context.Context, b *Behaviour, server, other netip.AddrPort) {
	if other.Addr() == server.Addr() {
		second, ok := p.mappedAt(ctx, b, other)
		switch {
		case ok && second == b.Mapped:
			b.Mapping, b.MappingAtMost = AddressDependent, true
		case ok && p.client.extraPorts() == 0:
			b.Mapping = AddressAndPortDependent
		}
		return
	}
	beside := netip.AddrPortFrom(other.Addr(), server.Port())
	second, ok := p.mappedAt(ctx, b, beside)
	switch {
	case !ok:
		return
	case second == b.Mapped:
		b.Mapping = EndpointIndependent
		return
	case p.client.extraPorts() > 0:
		return
	}
	third, ok := p.mappedAt(ctx, b, other)
	switch {
	case !ok:
		b.Mapping, b.MappingAtMost = AddressAndPortDependent, true
	case third == second:
		b.Mapping = AddressDependent
	default:
		b.Mapping = AddressAndPortDependent
		p.mappedAt(ctx, b, netip.AddrPortFrom(server.Addr(), other.Port()))
	}
}

// mappedAt asks one more destination and notes the port.
func (p prober) mappedAt(ctx context.Context, b *Behaviour, to netip.AddrPort) (netip.AddrPort, bool) {
	a, _, err := p.ask(ctx, to)
	if err != nil {
		return netip.AddrPort{}, false
	}
	b.Ports = append(b.Ports, a.mapped.Port())
	return a.mapped, true
}

// mappingOf compares what several plain servers saw (no OTHER-ADDRESS is
// needed). They are asked in order, so that port deltas mean something.
func (p prober) mappingOf(ctx context.Context, servers []netip.AddrPort) (Behaviour, error) {
	b := Behaviour{Mapping: Unknown, Filtering: Unknown}
	seen := make(map[netip.AddrPort]netip.AddrPort)
	var lastErr error
	for _, server := range servers {
		server = canonical(server)
		if _, again := seen[server]; again {
			continue
		}
		a, rtt, err := p.ask(ctx, server)
		if err != nil {
			lastErr = err
			continue
		}
		if len(seen) == 0 {
			b.Local, b.Mapped, b.RTT = p.local(server), a.mapped, rtt
			b.PortPreserved = a.mapped.Port() == b.Local.Port()
		}
		seen[server] = a.mapped
		b.Ports = append(b.Ports, a.mapped.Port())
	}
	if len(seen) < 2 {
		return b, errors.Join(ErrTooFewServers, lastErr)
	}
	b.Mapping, b.MappingAtMost = p.compare(seen)
	if b.Mapped == b.Local {
		b.Mapping, b.MappingAtMost = None, false
	}
	b.PortDelta = portDelta(b.Ports)
	return b, nil
}

// compare judges what was seen. More ports than strays explain prove that the
// mapping depends; hosts that saw the same one prove that it does not.
func (p prober) compare(seen map[netip.AddrPort]netip.AddrPort) (Dependence, bool) {
	verdict, atMost := compareMappings(seen)
	extra := p.client.extraPorts()
	if verdict == EndpointIndependent || extra == 0 {
		return verdict, atMost
	}
	hosts := make(map[netip.AddrPort]netip.Addr)
	for server, mapped := range seen {
		if first, again := hosts[mapped]; again && first != server.Addr() {
			return EndpointIndependent, false
		}
		hosts[mapped] = server.Addr()
	}
	if len(hosts) > 1+extra {
		return verdict, atMost
	}
	return Unknown, false
}

// compareMappings judges destinations and the addresses they saw.
func compareMappings(seen map[netip.AddrPort]netip.AddrPort) (Dependence, bool) {
	hosts := make(map[netip.Addr]netip.AddrPort)
	mapped := make(map[netip.AddrPort]bool)
	repeated := false // one host was asked at two ports
	for server, m := range seen {
		mapped[m] = true
		first, again := hosts[server.Addr()]
		if again && first != m {
			return AddressAndPortDependent, false
		}
		repeated = repeated || again
		hosts[server.Addr()] = m
	}
	switch {
	case len(hosts) == 1:
		return AddressDependent, true
	case len(mapped) == 1:
		return EndpointIndependent, false
	case repeated:
		return AddressDependent, false
	}
	return AddressAndPortDependent, true
}

// portDelta returns the constant step of at least three ports, else 0.
func portDelta(ports []uint16) int {
	if len(ports) < 3 {
		return 0
	}
	step := int(ports[1]) - int(ports[0])
	for i := 2; i < len(ports); i++ {
		if int(ports[i])-int(ports[i-1]) != step {
			return 0
		}
	}
	return step
}

// localAddress names the address a socket sends from. A socket bound to the
// wildcard is told by the routing table: connecting a UDP socket sends
// nothing.
func localAddress(bound net.Addr) func(netip.AddrPort) netip.AddrPort {
	return func(to netip.AddrPort) netip.AddrPort {
		addr, err := localAddrPort(bound)
		if err != nil || !addr.Addr().IsUnspecified() {
			return addr
		}
		probe, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return addr
		}
		defer probe.Close()
		routed, err := localAddrPort(probe.LocalAddr())
		if err != nil {
			return addr
		}
		return netip.AddrPortFrom(routed.Addr(), addr.Port())
	}
}

// DiscoverOn runs the tests of RFC 5780 over a socket of its own. It reads pc
// until it returns and expires pc's read deadline to stop; everything but the
// answers is dropped. Use a fresh socket: one that has sent to the server's
// other addresses before has opened the filter under test.
//
// Besides errors of the first request ([ErrNoAnswer], [ErrRefused]) it
// returns the context's error together with what was found so far.
func DiscoverOn(ctx context.Context, pc net.PacketConn, server netip.AddrPort) (Behaviour, error) {
	return discoverOn(ctx, pc, server, nil)
}

// DiscoverFresh is [DiscoverOn] with two sockets of open, one for the mapping
// and one for the filter. So it also tells the mapping of a router without a
// filter of its own from a server with one IP only.
func DiscoverFresh(ctx context.Context, open Opener, server netip.AddrPort) (Behaviour, error) {
	pc, err := open()
	if err != nil {
		return Behaviour{}, fmt.Errorf("discover nat behaviour: %w", err)
	}
	defer pc.Close()
	return discoverOn(ctx, pc, server, open)
}

func discoverOn(ctx context.Context, pc net.PacketConn, server netip.AddrPort, fresh Opener) (b Behaviour, err error) {
	err = onSocket(pc, func(c *client) (err error) {
		b, err = prober{c, localAddress(pc.LocalAddr()), fresh}.discover(ctx, server)
		return err
	})
	if err != nil {
		return b, fmt.Errorf("discover nat behaviour: %w", err)
	}
	return b, nil
}
