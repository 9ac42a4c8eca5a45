package natlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// Renumber gives the home's connection another public address, as providers do over
// night: the outermost router's flows and NAT state are gone, and packets to the old
// address lead nowhere. IPv6 homes get another prefix, and their devices other
// addresses in it; a public host itself moves. miniupnpd is told.
func (h *Host) Renumber() error {
	err := h.event(func(m *home) error {
		next, err := m.lab.claimParties(1)
		if err != nil {
			return err
		}
		m.switchOff(true)
		defer m.switchOff(false)
		return m.renumber(next)
	})
	if err != nil {
		return fmt.Errorf("natlab: renumber %s: %w", h.name, err)
	}
	return nil
}

// renumber moves the home to party next.
func (m *home) renumber(next party) error {
	var before [][]netip.Prefix
	for _, d := range m.devices {
		before = append(before, m.given(d))
	}
	routerBefore, uplinkBefore := m.given(nil), m.uplink()
	m.party = next
	for _, d := range m.devices {
		m.number(d)
	}
	u := m.uplink()
	err := m.lab.ip(m.edge(), append(withdraw(uplinkBefore.own), u.commands()...)...)
	if err != nil {
		return err
	}
	if err := m.lab.move(m.link, u.addrs); err != nil {
		return err
	}
	if m.router == "" {
		return nil
	}
	if err := m.exchange(m.router, "lan", routerBefore, m.given(nil)); err != nil {
		return err
	}
	for i, d := range m.devices {
		if err := m.exchange(d.ns, d.dev, before[i], m.given(d)); err != nil {
			return err
		}
	}
	if err := m.forget(m.edge()); err != nil {
		return err
	}
	if m.mapper != nil && m.carrier == "" {
		m.mapper.signal(syscall.SIGUSR1)
	}
	return nil
}

// switchOff makes the home's cable dead, or alive again if it is not cut besides.
func (m *home) switchOff(off bool) {
	if m.link.down.Swap(off) != off {
		m.lab.darken(m.link)
	}
}

// move gives a link other addresses in the internet.
func (l *Lab) move(k *link, addrs []netip.Addr) error {
	if l.middle != nil {
		return l.middle.move(k, addrs)
	}
	l.core.move(k, addrs)
	return nil
}

// withdraw lists the ip commands that take addresses from the interface wan.
func withdraw(own []netip.Addr) (commands []string) {
	for _, a := range own {
		commands = append(commands, fmt.Sprintf("addr del %s/%d dev wan", a, a.BitLen()))
	}
	return commands
}

// given are the addresses in the party's networks that a device has on the LAN, or
// the router if the device is nil.
func (m *home) given(d *Host) (prefixes []netip.Prefix) {
	if m.router == "" {
		return nil
	}
	last := byte(1)
	if d != nil {
		last = d.seat
	}
	if m.plan.ipv4 == routed {
		prefixes = append(prefixes, netip.PrefixFrom(m.party.addr4(last), 24))
	}
	if m.has6() {
		prefixes = append(prefixes, netip.PrefixFrom(m.party.addr6(last), 64))
	}
	return prefixes
}

// exchange replaces addresses of an interface, and in devices the default routes.
func (m *home) exchange(ns, dev string, before, after []netip.Prefix) error {
	var commands []string
	for _, p := range before {
		commands = append(commands, fmt.Sprintf("addr del %s dev %s", p, dev))
	}
	for _, p := range after {
		commands = append(commands, addAddr(p, dev))
		if ns != m.router {
			commands = append(commands, m.routeVia(p.Addr(), dev))
		}
	}
	if len(commands) == 0 {
		return nil
	}
	return m.lab.ip(ns, commands...)
}

// FlushNAT makes the home's router, and the carrier if there is one, forget all
// flows and open ports, as some do under load. Mappings asked for by UPnP, NAT-PMP
// and PCP stay. On public hosts it does nothing.
func (h *Host) FlushNAT() error {
	err := h.event(func(m *home) error {
		var errs []error
		for _, ns := range []string{m.router, m.carrier} {
			if ns != "" {
				errs = append(errs, m.forget(ns))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("natlab: flush NAT of %s: %w", h.name, err)
	}
	return nil
}

// forget empties the NAT state of the router or the carrier.
func (m *home) forget(ns string) error {
	text := m.plan.router
	wan := m.wan()
	if ns == m.carrier {
		text, wan = m.plan.carrier, m.party.addr4(firstSeat).String()
	}
	if err := m.lab.rules(ns, reloaded(text(wan))); err != nil {
		return err
	}
	return flushConntrack(ns, 0)
}

// Reboot turns the home's router off and, after the time given or when ctx ends, on
// again; it returns when the router is up. Meanwhile devices see their cable
// unplugged and nothing passes. Afterwards the router remembers no flow and no
// mapping, and miniupnpd takes SOAP requests at another port. A carrier stays as it
// is. Public hosts have no router; that is an error.
func (h *Host) Reboot(ctx context.Context, down time.Duration) error {
	err := h.needRouter()
	if err == nil {
		err = h.event(func(m *home) error { return m.reboot(ctx, down) })
	}
	if err != nil {
		return fmt.Errorf("natlab: reboot router of %s: %w", h.name, err)
	}
	return nil
}

func (m *home) reboot(ctx context.Context, down time.Duration) error {
	m.switchOff(true)
	defer m.switchOff(false)
	if err := m.power("down"); err != nil {
		return err
	}
	if m.mapper != nil {
		m.mapper.stop()
	}
	timer := time.NewTimer(down)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-m.lab.ctx.Done():
		return ErrClosed
	}
	if err := m.lab.rules(m.router, "flush ruleset\n"+m.routerRules()); err != nil {
		return err
	}
	if err := flushConntrack(m.router, 0); err != nil {
		return err
	}
	if err := m.power("up"); err != nil {
		return err
	}
	m.switchOff(false)
	if m.mapper == nil {
		return nil
	}
	return m.mapper.start(m.lab.ctx)
}

// power sets the router's end of all devices' cables "up" or "down".
func (m *home) power(state string) error {
	var commands []string
	for _, d := range m.devices {
		commands = append(commands, fmt.Sprintf("link set %s %s", d.port, state))
	}
	return m.lab.ip(m.router, commands...)
}

// SwapLAN takes the device from one network interface to another, as from cable to
// Wi-Fi: the interface it has goes down and away; another comes up with other
// addresses and the default routes. Interfaces are called eth0 and wlan0 in turn.
// Public hosts have no LAN; that is an error.
func (h *Host) SwapLAN() error {
	err := h.needRouter()
	if err == nil {
		err = h.event(func(m *home) error { return m.swap(h) })
	}
	if err != nil {
		return fmt.Errorf("natlab: swap interface of %s: %w", h.name, err)
	}
	return nil
}

func (m *home) swap(h *Host) error {
	next := "wlan0"
	if h.dev == next {
		next = "eth0"
	}
	err := m.lab.ip(h.ns, fmt.Sprintf("link set %s down", h.dev), fmt.Sprintf("link del %s", h.dev))
	if err != nil {
		return err
	}
	if err := m.seat(h); err != nil {
		return err
	}
	m.number(h)
	return m.cable(h, next)
}

// MoveTo carries the device to the home that to is a device of: it is unplugged, and
// plugged in there, with other addresses behind another router. The interface goes
// down in between, as it does in a bag. It must not run beside other events of the
// same device.
func (h *Host) MoveTo(to *Host) error {
	if err := h.moveTo(to); err != nil {
		return fmt.Errorf("natlab: move %s to the home of %s: %w", h.name, to.name, err)
	}
	return nil
}

func (h *Host) moveTo(to *Host) error {
	if err := errors.Join(h.needRouter(), to.needRouter()); err != nil {
		return err
	}
	if h.home == to.home {
		return errors.New("it is there already")
	}
	err := h.event(func(m *home) error {
		m.devices = slices.DeleteFunc(m.devices, func(d *Host) bool { return d == h })
		return m.lab.ip(h.ns, fmt.Sprintf("link set %s down", h.dev), fmt.Sprintf("link del %s", h.dev))
	})
	if err != nil {
		return err
	}
	return to.event(func(m *home) error {
		h.home, h.kind = m, to.kind
		h.mu.Lock()
		h.addr, h.addr6, h.public = netip.Addr{}, netip.Addr{}, netip.Addr{}
		h.mu.Unlock()
		return m.settle(h)
	})
}

// event runs a change of h's home, one at a time, and keeps Close waiting.
func (h *Host) event(change func(*home) error) error {
	if err := h.home.lab.begin(); err != nil {
		return err
	}
	defer h.home.lab.busy.Done()
	h.home.mu.Lock()
	defer h.home.mu.Unlock()
	return change(h.home)
}
