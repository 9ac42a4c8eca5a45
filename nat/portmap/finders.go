package portmap

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"porchlight/nat/portmap/igd"
	"porchlight/nat/portmap/pcp"
)

// finders are how the methods of one route are found. Each calls offer, which
// returns when everything wanted was asked for, and returns when there is
// nothing more to offer. Tests make their own.
type finders struct {
	pcp, natpmp, upnp func(ctx context.Context, r Route, offer func(*way)) error
}

// realFinders ask the network.
func (m *Mapper) realFinders() finders {
	return finders{pcp: m.findPCP, natpmp: m.findNATPMP, upnp: m.findUPnP}
}

func protocolNumber(transport string) uint8 {
	if transport == "tcp" {
		return pcp.TCP
	}
	return pcp.UDP
}

// findPCP offers PCP unseen: its question is the request.
func (m *Mapper) findPCP(_ context.Context, r Route, offer func(*way)) error {
	c := pcp.NewClient(r.Local.Addr(), netip.AddrPortFrom(r.Gateway, pcp.Port))
	w := &way{method: PCP, gateway: r.Gateway, local: r.Local.Addr(), lost: c.PCP.Lost}
	request := func(transport string, port, suggested uint16, d time.Duration) pcp.MapRequest {
		req := pcp.MapRequest{Nonce: m.nonce(w, transport, port), Protocol: protocolNumber(transport), Internal: port, Lifetime: d}
		req.Suggested = netip.AddrPortFrom(netip.IPv4Unspecified(), suggested)
		if w.v6() {
			req.Suggested = netip.AddrPortFrom(w.local, suggested)
		}
		return req
	}
	w.add = func(ctx context.Context, transport string, port, suggested uint16) (Mapping, error) {
		resp, err := c.Map(ctx, request(transport, port, suggested, m.pace.lease))
		if err != nil {
			m, _ := w.mapping(transport, port, netip.AddrPort{}, 0)
			return m, err
		}
		return w.mapping(transport, port, resp.External, resp.Lifetime)
	}
	w.remove = func(ctx context.Context, mp Mapping) error {
		_, err := c.Map(ctx, request(mp.Transport, mp.Internal.Port(), 0, 0))
		if w.v6() && errors.Is(err, pcp.NotAuthorized) {
			// miniupnpd 2.3.1 forgets whose a pinhole is when it is renewed: it
			// can be renewed again, but not removed. So the shortest lease.
			_, err = c.Map(ctx, request(mp.Transport, mp.Internal.Port(), mp.External.Port(), time.Second))
		}
		return err
	}
	w.check = func(ctx context.Context, _ []Mapping) error {
		if err := c.Announce(ctx); err != nil {
			return err
		}
		if c.PCP.Lost() {
			return errLost
		}
		return nil
	}
	offer(w)
	return nil
}

// nonce is constant for a mapping, so that it can be renewed and removed, and
// with [Config.Secret] also after a crash.
func (m *Mapper) nonce(w *way, transport string, port uint16) pcp.Nonce {
	h := hmac.New(sha256.New, m.secret[:])
	fmt.Fprintf(h, "porchlight pcp nonce %s %s %s %d", w.gateway, w.local, transport, port)
	return pcp.Nonce(h.Sum(nil))
}

// findNATPMP asks for the external address first, which changes nothing.
func (m *Mapper) findNATPMP(ctx context.Context, r Route, offer func(*way)) error {
	if r.Local.Addr().Is6() {
		return pcp.ErrUnsupported
	}
	c := pcp.NewClient(r.Local.Addr(), netip.AddrPortFrom(r.Gateway, pcp.Port))
	external, err := c.ExternalAddress(ctx)
	if err != nil {
		return err
	}
	if err := checkExternal(external, false); err != nil {
		return err
	}
	w := &way{method: NATPMP, gateway: r.Gateway, local: r.Local.Addr(), external: external, lost: c.NATPMP.Lost}
	w.add = func(ctx context.Context, transport string, port, suggested uint16) (Mapping, error) {
		got, granted, err := c.MapPort(ctx, protocolNumber(transport), port, suggested, m.pace.lease)
		mp, bad := w.mapping(transport, port, netip.AddrPortFrom(external, got), granted)
		if err != nil {
			return mp, err
		}
		return mp, bad
	}
	w.remove = func(ctx context.Context, mp Mapping) error {
		_, _, err := c.MapPort(ctx, protocolNumber(mp.Transport), mp.Internal.Port(), 0, 0)
		return err
	}
	w.check = func(ctx context.Context, _ []Mapping) error {
		now, err := c.ExternalAddress(ctx)
		if err != nil {
			return err
		}
		if c.NATPMP.Lost() || now != external {
			return errLost
		}
		return nil
	}
	offer(w)
	return nil
}

// findUPnP searches and offers the services of every router that describes
// itself, one after the other within a router.
func (m *Mapper) findUPnP(ctx context.Context, r Route, offer func(*way)) error {
	if r.Local.Addr().Is4() && isPublic(r.Local.Addr()) {
		return igd.ErrNoDevice
	}
	ifi, err := net.InterfaceByName(r.Interface)
	if err != nil {
		return fmt.Errorf("search for upnp routers: %w", err)
	}
	link := igd.Link{Local: r.Local, Gateway: r.Gateway, Interface: ifi}
	var mu sync.Mutex
	var failed error
	err = igd.Discover(ctx, link, m.log, func(d *igd.Device) {
		m.setRouter(d.Name, d.Addr == r.Gateway)
		for _, w := range upnpWays(ctx, d, r, m.pace.lease, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		}) {
			offer(w)
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// upnpWays are the usable services of a router for the family of the route.
func upnpWays(ctx context.Context, d *igd.Device, r Route, asked time.Duration, failed func(error)) []*way {
	var ways []*way
	if r.Local.Addr().Is6() {
		for _, f := range d.Firewalls {
			ways = append(ways, pinholeWay(f, d, r, asked))
		}
		return ways
	}
	if len(d.Services) == 0 {
		failed(igd.ErrNoDevice)
	}
	for _, s := range d.Services {
		external, err := s.ExternalAddress(ctx)
		if err == nil {
			err = checkExternal(external, false)
		}
		if err != nil {
			failed(err)
			continue
		}
		ways = append(ways, serviceWay(s, external, d, r, asked))
	}
	return ways
}

// serviceWay makes mappings by one WAN connection.
func serviceWay(s *igd.Service, external netip.Addr, d *igd.Device, r Route, asked time.Duration) *way {
	w := &way{method: IGD1, gateway: d.Addr, local: r.Local.Addr(), external: external}
	if s.Version == 2 {
		w.method = IGD2
	}
	w.add = func(ctx context.Context, transport string, port, suggested uint16) (Mapping, error) {
		want := igd.Mapping{Transport: transport, Internal: netip.AddrPortFrom(w.local, port), External: suggested, Lease: asked}
		got, err := s.Add(ctx, want)
		mp, bad := w.mapping(transport, port, netip.AddrPortFrom(external, got.External), got.Lease)
		if err != nil {
			return mp, err
		}
		return mp, bad
	}
	w.remove = func(ctx context.Context, mp Mapping) error {
		return s.Delete(ctx, igd.Mapping{Transport: mp.Transport, Internal: mp.Internal, External: mp.External.Port()})
	}
	w.check = func(ctx context.Context, held []Mapping) error {
		now, err := s.ExternalAddress(ctx)
		if err != nil {
			return err
		}
		if now != external {
			return errLost
		}
		for _, mp := range held {
			if err := checkEntry(ctx, s, mp); err != nil {
				return err
			}
		}
		return nil
	}
	return w
}

// checkEntry asks a router whether a mapping is there and leads to us. Routers
// that cannot say are believed.
func checkEntry(ctx context.Context, s *igd.Service, mp Mapping) error {
	real, err := s.Lookup(ctx, mp.Transport, mp.External.Port())
	var fault igd.Fault
	switch {
	case err == nil && real.Internal != mp.Internal, errors.Is(err, igd.NoSuchEntry):
		return errLost
	case errors.As(err, &fault), errors.Is(err, igd.ErrNonsense):
		return nil
	}
	return err
}

// pinholeWay opens pinholes. It remembers their numbers.
func pinholeWay(f *igd.Firewall, d *igd.Device, r Route, asked time.Duration) *way {
	w := &way{method: IGD2, gateway: d.Addr, local: r.Local.Addr()}
	var mu sync.Mutex
	ids := make(map[string]uint16) // by transport
	number := func(transport string) (uint16, bool) {
		mu.Lock()
		defer mu.Unlock()
		id, ok := ids[transport]
		return id, ok
	}
	w.add = func(ctx context.Context, transport string, port, _ uint16) (Mapping, error) {
		to := netip.AddrPortFrom(w.local, port)
		id, ok := number(transport)
		var err error
		if !ok || f.Extend(ctx, id, asked) != nil {
			id, err = f.Open(ctx, to, uint16(protocolNumber(transport)), asked)
		}
		mp, bad := w.mapping(transport, port, to, asked)
		if err != nil {
			return mp, err
		}
		mu.Lock()
		ids[transport] = id
		mu.Unlock()
		return mp, bad
	}
	w.remove = func(ctx context.Context, mp Mapping) error {
		id, ok := number(mp.Transport)
		if !ok {
			return nil
		}
		return f.Close(ctx, id)
	}
	w.check = func(ctx context.Context, held []Mapping) error {
		for _, mp := range held {
			id, ok := number(mp.Transport)
			if !ok {
				return errLost
			}
			if err := f.Check(ctx, id); errors.Is(err, igd.NoSuchPinhole) {
				return errLost
			} else if err != nil {
				return err
			}
		}
		return nil
	}
	return w
}
