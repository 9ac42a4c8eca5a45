package natlab

import (
	"context"
	"errors"
	"fmt"
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
	verifyAttempts = 2

	// silenceTimeout is how long UDP must stay unanswered to count as blocked.
	silenceTimeout = time.Second
)

// probe is the lab's STUN host with two addresses, made when it is first needed.
type probe struct {
	mu     sync.Mutex
	addr   netip.Addr
	server *stun.Server
	tcp    net.Listener
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

// Verify measures mapping and filtering of the NATs in front of h (RFC 5780 §4.3
// and §4.4) against the lab's own STUN servers, tries a TCP connection, and
// compares with what h's kind promises. The error says what differs. For
// UDPBlocked the promise is that UDP stays unanswered and TCP works; the behaviour
// returned is then empty.
func (l *Lab) Verify(ctx context.Context, h *Host) (stun.Behaviour, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	server, err := l.startProbe()
	if err != nil {
		return stun.Behaviour{}, fmt.Errorf("verify %s: %w", h.kind, err)
	}
	p, err := planOf(h.kind)
	if err != nil {
		return stun.Behaviour{}, err
	}
	b, err := l.measure(ctx, h, server, p)
	if err != nil {
		return b, fmt.Errorf("verify %s: %w", h.kind, err)
	}
	return b, nil
}

// measure does what Verify says. TCP waits for UDP, or its connection would take a
// port out of the row that a sequential router counts.
func (l *Lab) measure(ctx context.Context, h *Host, server netip.Addr, p plan) (stun.Behaviour, error) {
	b, err := measureUDP(ctx, h, server, p)
	if err != nil {
		return b, err
	}
	if err := tryTCP(ctx, h, server); err != nil {
		return b, fmt.Errorf("tcp: %w", err)
	}
	return b, nil
}

func measureUDP(ctx context.Context, h *Host, server netip.Addr, p plan) (stun.Behaviour, error) {
	pc, err := h.ListenPacket(ctx, "udp4", netip.AddrPortFrom(h.addr, 0).String())
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
	return b, compare(b, p, h.public)
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
	if b.PortDelta != p.step {
		return fmt.Errorf("mapped ports %v go in steps of %d, should be %d (0: no pattern)", b.Ports, b.PortDelta, p.step)
	}
	return nil
}

// tryTCP connects to the probe and reads the byte that it sends.
func tryTCP(ctx context.Context, h *Host, server netip.Addr) error {
	c, err := h.Dial(ctx, "tcp4", netip.AddrPortFrom(server, stunPort).String())
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

// startProbe makes the STUN host unless it is there, and returns its main address.
func (l *Lab) startProbe() (netip.Addr, error) {
	p := &l.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return p.addr, nil
	}
	if err := l.begin(); err != nil {
		return netip.Addr{}, err
	}
	defer l.busy.Done()
	h, err := l.publicHost(probeName, 2)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("add stun host: %w", err)
	}
	if err := p.serve(l.ctx, h); err != nil {
		return netip.Addr{}, fmt.Errorf("start stun servers: %w", err)
	}
	p.addr = h.addr
	return p.addr, nil
}

// serve opens the four sockets of RFC 5780 §6 and a TCP port.
func (p *probe) serve(ctx context.Context, h *Host) (err error) {
	var opened []interface{ Close() error }
	defer func() {
		if err != nil {
			for _, c := range opened {
				c.Close()
			}
		}
	}()
	first, second := h.link.addrs[0], h.link.addrs[1]
	var udp [4]net.PacketConn
	for i, a := range []netip.AddrPort{
		netip.AddrPortFrom(first, stunPort), netip.AddrPortFrom(first, stunAltPort),
		netip.AddrPortFrom(second, stunPort), netip.AddrPortFrom(second, stunAltPort),
	} {
		if udp[i], err = h.ListenPacket(ctx, "udp4", a.String()); err != nil {
			return err
		}
		opened = append(opened, udp[i])
	}
	tcp, err := h.Listen(ctx, "tcp4", netip.AddrPortFrom(first, stunPort).String())
	if err != nil {
		return err
	}
	opened = append(opened, tcp)
	server, err := stun.NewServer(stun.ServerConfig{
		Primary: udp[0], AltPort: udp[1], AltIP: udp[2], AltBoth: udp[3], Rate: 1000, Burst: 1000,
	})
	if err != nil {
		return err
	}
	p.server, p.tcp = server, tcp
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
	if p.server == nil {
		return nil
	}
	err := errors.Join(p.server.Close(), p.tcp.Close())
	p.served.Wait()
	return err
}
