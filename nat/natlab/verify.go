package natlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"porchlight/nat/stun"
)

const (
	// probeName is the host that the lab measures with.
	probeName = "stun"

	// stunPort and stunAltPort are the two ports of each STUN address; TCP
	// connections are taken at stunPort.
	stunPort, stunAltPort = 3478, 3479

	// verifyTimeout bounds one measurement; on a free machine it takes 1.4 s, on one
	// with ten others at work and an emulated processor 10 s.
	verifyTimeout = 30 * time.Second

	// verifyAttempts is how often Home measures before it gives up: answers that a
	// busy machine delays look like filtered ones.
	verifyAttempts = 3

	// hairpinWait is how long a packet may take to come back from the own router.
	hairpinWait = 2 * time.Second

	// silenceTimeout is how long UDP must stay unanswered to count as blocked.
	silenceTimeout = 2 * time.Second
)

// probe is the lab's STUN host with two addresses, made when it is first needed.
type probe struct {
	mu     sync.Mutex
	addr   netip.Addr // IPv4
	addr6  netip.Addr // not valid in a kernel without IPv6
	open   []io.Closer
	served sync.WaitGroup
}

// verified are the kinds that were measured in this process. The rules of a kind
// do not differ between labs, so once is enough.
var verified struct {
	sync.Mutex
	kinds map[Kind]bool
}

// verifyOnce measures h unless its kind was measured before.
func (l *Lab) verifyOnce(h *Host) error {
	verified.Lock()
	done := verified.kinds[h.kind]
	verified.Unlock()
	if done {
		return nil
	}
	var err error
	for range verifyAttempts {
		if _, err = l.Verify(l.ctx, h); err == nil || l.ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	verified.Lock()
	defer verified.Unlock()
	if verified.kinds == nil {
		verified.kinds = make(map[Kind]bool)
	}
	verified.kinds[h.kind] = true
	return nil
}

// Verify measures mapping and filtering of the NATs and firewalls in front of h (RFC
// 5780 §4.3 and §4.4) against the lab's own STUN servers, over IPv4 and IPv6 where
// the kind has them, tries TCP connections, and compares with what h's kind promises.
// The error says what differs. The behaviour returned is that of IPv4, of IPv6 for
// IPv6Only, and empty for UDPBlocked, whose promise is that UDP stays unanswered and
// TCP works. A PortRotating carrier leaves its ports alone meanwhile.
func (l *Lab) Verify(ctx context.Context, h *Host) (stun.Behaviour, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	if err := l.startProbe(); err != nil {
		return stun.Behaviour{}, fmt.Errorf("verify %s: %w", h.kind, err)
	}
	p, err := planOf(h.kind)
	if err != nil {
		return stun.Behaviour{}, err
	}
	if h.home != nil && h.home.rotation != nil {
		h.home.rotation.pass.Lock()
		defer h.home.rotation.pass.Unlock()
	}
	b, err := l.measure(ctx, h, p)
	if err != nil {
		return b, fmt.Errorf("verify %s: %w", h.kind, err)
	}
	return b, nil
}

// measure does what Verify says, the families at the same time. TCP waits for UDP,
// or its connection would take a port out of the row that a sequential router
// counts.
func (l *Lab) measure(ctx context.Context, h *Host, p plan) (b stun.Behaviour, err error) {
	six := make(chan error, 1)
	var b6 stun.Behaviour
	go func() {
		if !h.Addr6().IsValid() {
			six <- nil
			return
		}
		p6 := plan{mapping: untranslated, filtering: p.filtering6()}
		var err error
		b6, err = measureFamily(ctx, h, h.Addr6(), h.Public6(), l.probe.addr6, p6)
		if err != nil {
			err = fmt.Errorf("ipv6: %w", err)
		}
		six <- err
	}()
	if p.ipv4 != absent {
		b, err = measureFamily(ctx, h, h.Addr(), h.Public(), l.probe.addr, p)
	}
	err = errors.Join(err, <-six)
	if p.ipv4 == absent {
		b = b6
	}
	if err == nil && p.gateway != noGateway {
		err = h.awaitGateway(ctx, p.gateway, func() error { return nil })
	}
	return b, err
}

func measureFamily(ctx context.Context, h *Host, own, public, server netip.Addr, p plan) (stun.Behaviour, error) {
	b, err := measureUDP(ctx, h, own, public, server, p)
	if err != nil {
		return b, err
	}
	if err := tryTCP(ctx, h, server); err != nil {
		return b, fmt.Errorf("tcp: %w", err)
	}
	return b, nil
}

func measureUDP(ctx context.Context, h *Host, own, public, server netip.Addr, p plan) (stun.Behaviour, error) {
	pc, err := h.ListenPacket(ctx, "udp", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		return stun.Behaviour{}, err
	}
	defer pc.Close()
	to := netip.AddrPortFrom(server, stunPort)
	if p.mapping == "" {
		return stun.Behaviour{}, expectSilence(ctx, pc, to)
	}
	b, err := stun.DiscoverOn(ctx, pc, to)
	if err != nil {
		return b, err
	}
	if err := compare(b, p, public); err != nil {
		return b, err
	}
	if p.hairpin && !turnsBack(ctx, h, pc, b.Mapped, hairpinWait) {
		return b, fmt.Errorf("packets to %v don't come back", b.Mapped)
	}
	return b, nil
}

// turnsBack sends packets from a second socket of h to mapped, the public address of
// pc, until one arrives from there or the wait is over.
func turnsBack(ctx context.Context, h *Host, pc net.PacketConn, mapped netip.AddrPort, wait time.Duration) bool {
	second, err := h.ListenPacket(ctx, "udp4", netip.AddrPortFrom(h.Addr(), 0).String())
	if err != nil {
		return false
	}
	defer second.Close()
	b := make([]byte, 64)
	for deadline := time.Now().Add(wait); time.Now().Before(deadline) && ctx.Err() == nil; {
		second.WriteTo([]byte("hairpin"), net.UDPAddrFromAddrPort(mapped))
		pc.SetReadDeadline(time.Now().Add(wait / 4))
		n, from, err := pc.ReadFrom(b)
		if err == nil && string(b[:n]) == "hairpin" {
			return from.(*net.UDPAddr).AddrPort().Addr().Unmap() == mapped.Addr()
		}
	}
	return false
}

// expectSilence returns an error if the server answers by UDP.
func expectSilence(ctx context.Context, pc net.PacketConn, to netip.AddrPort) error {
	short, cancel := context.WithTimeout(ctx, silenceTimeout)
	defer cancel()
	b, err := stun.DiscoverOn(short, pc, to)
	switch {
	case err == nil || b.Mapped.IsValid():
		return fmt.Errorf("udp is not blocked: mapped to %v", b.Mapped)
	case !errors.Is(err, stun.ErrNoAnswer):
		return err
	}
	return ctx.Err()
}

// compare tells how a measurement differs from the plan.
func compare(b stun.Behaviour, p plan, public netip.Addr) error {
	if string(b.Mapping) != p.mapping || b.MappingAtMost {
		return fmt.Errorf("mapping is %s, should be %s", b.Mapping, p.mapping)
	}
	if string(b.Filtering) != p.filtering || b.FilteringAtMost {
		return fmt.Errorf("filtering is %s, should be %s", b.Filtering, p.filtering)
	}
	if b.Mapped.Addr() != public {
		return fmt.Errorf("public address is %v, should be %v", b.Mapped.Addr(), public)
	}
	if p.moved && b.PortPreserved {
		return fmt.Errorf("port %d was kept, should not be", b.Mapped.Port())
	}
	if b.PortDelta != p.step {
		return fmt.Errorf("mapped ports %v go in steps of %d, should be %d (0: no pattern)", b.Ports, b.PortDelta, p.step)
	}
	return nil
}

// tryTCP connects to the probe and reads the byte that it sends.
func tryTCP(ctx context.Context, h *Host, server netip.Addr) error {
	c, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(server, stunPort).String())
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetReadDeadline(deadline)
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// startProbe makes the STUN host unless it is there.
func (l *Lab) startProbe() error {
	p := &l.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addr.IsValid() {
		return nil
	}
	if err := l.begin(); err != nil {
		return err
	}
	defer l.busy.Done()
	h, err := l.publicHost(probeName, 2)
	if err != nil {
		return fmt.Errorf("add stun host: %w", err)
	}
	first := h.home.party
	err = p.serve(l.ctx, h, first.addr4(firstSeat), (first + 1).addr4(firstSeat))
	if err == nil && h.Addr6().IsValid() {
		err = p.serve(l.ctx, h, first.addr6(firstSeat), (first + 1).addr6(firstSeat))
	}
	if err != nil {
		return fmt.Errorf("start stun servers: %w", errors.Join(err, p.shut()))
	}
	p.addr, p.addr6 = h.Addr(), h.Addr6()
	return nil
}

// serve opens the four sockets of RFC 5780 §6 and a TCP port.
func (p *probe) serve(ctx context.Context, h *Host, first, second netip.Addr) (err error) {
	var udp [4]net.PacketConn
	for i, a := range []netip.AddrPort{
		netip.AddrPortFrom(first, stunPort), netip.AddrPortFrom(first, stunAltPort),
		netip.AddrPortFrom(second, stunPort), netip.AddrPortFrom(second, stunAltPort),
	} {
		if udp[i], err = h.ListenPacket(ctx, "udp", a.String()); err != nil {
			return err
		}
		p.open = append(p.open, udp[i])
	}
	tcp, err := h.Listen(ctx, "tcp", netip.AddrPortFrom(first, stunPort).String())
	if err != nil {
		return err
	}
	p.open = append(p.open, tcp)
	server, err := stun.NewServer(stun.ServerConfig{
		Primary: udp[0], AltPort: udp[1], AltIP: udp[2], AltBoth: udp[3], Rate: 1000, Burst: 1000,
	})
	if err != nil {
		return err
	}
	p.open = append(p.open[:len(p.open)-len(udp)-1], tcp, server) // the server closes its sockets
	p.served.Go(func() { server.Serve() })
	p.served.Go(func() { greet(tcp) })
	return nil
}

// greet sends one byte over each connection and closes it.
func greet(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Write([]byte{'.'})
		c.Close()
	}
}

func (p *probe) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shut()
}

// shut closes what is open. The caller holds p.mu.
func (p *probe) shut() error {
	var errs []error
	for _, c := range p.open {
		errs = append(errs, c.Close())
	}
	p.open = nil
	p.served.Wait()
	return errors.Join(errs...)
}
