package tcppunch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

const (
	// MaxServers is how many servers are asked at most. The rest of
	// Config.Servers is not looked at.
	MaxServers = 4
	// LearnTime bounds Prepare where servers answer within half of it. With
	// slower ones it takes twice as long as the first answer did, and with none
	// SlowLearnTime: the kernel sends a lost SYN again after 1 s. Behind a router
	// that depends on the destination there are two such rounds.
	LearnTime     = 500 * time.Millisecond
	SlowLearnTime = 1500 * time.Millisecond
	// minSteps is how many mapped ports must follow each other for the next one
	// to be foreseen, and spareSteps how many more are asked for, as some may be
	// lost.
	minSteps   = 4
	spareSteps = 2
	// maxSkipped is how many frames a server may send before its answer.
	maxSkipped = 3
)

// ErrNoServer says that no server told an address. The next step is to name
// other public devices, or to look whether TCP to them is blocked, too.
var ErrNoServer = errors.New("no server told the tcp mapping")

// Config is what [Prepare] needs.
type Config struct {
	// Servers are public devices that answer framed Binding requests over TCP
	// (by [stun.Answer]). With one only, Mapping stays stun.Unknown; three tell
	// ports that are counted up sooner than two.
	Servers []netip.AddrPort
	// Port is the local TCP port; 0 lets the kernel choose. No other socket may
	// have it, unless it shares it (SO_REUSEPORT).
	Port uint16
	// External are addresses that a router forwards to Port. They are named to
	// the other end before those learnt.
	External []netip.AddrPort
	// Filter says which addresses may be connected to; the zero value: public
	// ones.
	Filter ice.Filter
	// Logger is told of attempts at debug level; default none.
	Logger *slog.Logger
}

// sample is what one connection to a server has shown.
type sample struct {
	turn   int // the number of the connection in the order of SYNs
	server netip.AddrPort
	local  netip.AddrPort
	mapped netip.AddrPort
	rtt    time.Duration
	conn   *net.TCPConn
}

// learner asks servers and keeps what they say.
type learner struct {
	cfg     Config
	port    uint16
	turns   int
	samples []sample // ordered by turn
	failed  error    // the last connection that told nothing
}

// ask sends SYNs to servers one after the other, so that their order is that of
// the mappings, and gathers answers until enough says so, until all have
// answered, or until the rest has had its time.
func (l *learner) ask(ctx context.Context, port func() uint16, servers []netip.AddrPort, enough func() bool) {
	ctx, cancel := context.WithTimeout(ctx, SlowLearnTime)
	defer cancel()
	type answer struct {
		sample
		err error
	}
	answers := make(chan answer, len(servers))
	waiting, begun := 0, time.Now()
	for _, server := range servers {
		p, err := dial(port(), server, 0)
		if err != nil {
			l.failed = err
			continue
		}
		a := answer{sample: sample{turn: l.turns, server: server}}
		l.turns++
		waiting++
		go func() {
			a.err = a.learn(ctx, p)
			answers <- a
		}()
	}
	var late *time.Timer
	for ; waiting > 0; waiting-- {
		a := <-answers
		if a.err != nil {
			l.failed = fmt.Errorf("ask %s: %w", a.server, a.err)
			l.cfg.Logger.Debug("tcp mapping not told", "server", a.server, "err", a.err)
			continue
		}
		l.samples = append(l.samples, a.sample)
		slices.SortFunc(l.samples, func(a, b sample) int { return a.turn - b.turn })
		if enough() {
			cancel() // the rest comes back at once
		}
		if late == nil {
			took := time.Since(begun)
			late = time.AfterFunc(max(LearnTime, 2*took)-took, cancel)
			defer late.Stop()
		}
	}
}

// learn waits for the connection and asks over it. The connection stays open,
// because the mapping lives as long as it, or is closed with an error.
func (s *sample) learn(ctx context.Context, p *pending) error {
	begun := time.Now()
	conn, err := p.wait(ctx, SlowLearnTime)
	if err != nil {
		return err
	}
	s.rtt = time.Since(begun)
	_ = conn.SetDeadline(time.Now().Add(SlowLearnTime))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	s.mapped, err = query(conn)
	if !stop() {
		err = errors.Join(err, ctx.Err()) // the deadline may be past
	}
	if err != nil {
		conn.Close()
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	s.local = conn.LocalAddr().(*net.TCPAddr).AddrPort()
	s.local = netip.AddrPortFrom(s.local.Addr().Unmap().WithZone(""), s.local.Port())
	s.conn = conn
	return nil
}

// query asks once and reads the answer.
func query(conn io.ReadWriter) (netip.AddrPort, error) {
	request, id := stun.Request()
	if err := writeFrames(conn, request); err != nil {
		return netip.AddrPort{}, err
	}
	for range maxSkipped + 1 {
		b, err := readFrame(conn)
		if err != nil {
			return netip.AddrPort{}, err
		}
		if mapped, err := stun.ParseMapped(b, id); err == nil {
			return mapped, nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("%w: %d frames and no answer", errFrame, maxSkipped+1)
}

// of returns the samples of one family.
func of(samples []sample, v4 bool) []sample {
	return slices.DeleteFunc(slices.Clone(samples), func(s sample) bool { return s.server.Addr().Is4() != v4 })
}

// agreed returns the address that two servers at different addresses have seen
// the port at. A router that depends on the destination shows no two the same,
// so two outvote one that lies.
func agreed(samples []sample, port uint16) (sample, bool) {
	for i, a := range samples {
		for _, b := range samples[:i] {
			if a.mapped == b.mapped && a.server.Addr() != b.server.Addr() && a.local.Port() == port && b.local.Port() == port {
				return a, true
			}
		}
	}
	return sample{}, false
}

// judge describes one family; ok is false if nothing was learnt of it.
func judge(samples []sample, port uint16, turns int) (l Local, ok bool) {
	if len(samples) == 0 {
		return Local{}, false
	}
	s, same := agreed(samples, port)
	switch {
	case same && s.mapped == s.local:
		return Local{Mapped: []netip.AddrPort{s.mapped}, Mapping: stun.None}, true
	case same:
		return Local{Mapped: []netip.AddrPort{s.mapped}, Mapping: stun.EndpointIndependent}, true
	case len(samples) == 1:
		return Local{Mapped: []netip.AddrPort{samples[0].mapped}, Mapping: stun.Unknown}, true
	}
	l = Local{Mapped: []netip.AddrPort{samples[0].mapped}, Mapping: stun.AddressAndPortDependent}
	if delta := step(samples); delta != 0 {
		last := samples[len(samples)-1]
		l.Delta = delta
		l.Last = uint16(int(last.mapped.Port()) + delta*(turns-1-last.turn))
	}
	return l, true
}

// step returns the distance between the mapped ports of successive connections,
// 0 if they do not all go one way in small steps. Connections of others in
// between make some steps longer, so it is what all are multiples of.
func step(samples []sample) int {
	if len(samples) < minSteps {
		return 0
	}
	delta := 0
	for i := 1; i < len(samples); i++ {
		a, b := samples[i-1], samples[i]
		ports := int(b.mapped.Port()) - int(a.mapped.Port())
		if ports == 0 || ports > maxDelta || ports < -maxDelta || (ports < 0) != (delta < 0) && i > 1 {
			return 0
		}
		if a.mapped.Addr() != b.mapped.Addr() {
			return 0
		}
		delta = common(delta, ports)
	}
	return delta
}

// common is the greatest common divisor, with the sign of b.
func common(a, b int) int {
	x, y := max(a, -a), max(b, -b)
	for x != 0 {
		x, y = y%x, x
	}
	if b < 0 {
		return -y
	}
	return y
}

// describe puts both families together: the one that can be met goes first, and
// Mapping and Delta are its.
func (l *learner) describe() Local {
	four, ok4 := judge(of(l.samples, true), l.port, l.turns)
	six, ok6 := judge(of(l.samples, false), l.port, l.turns)
	first, second := four, six
	if !ok4 || ok6 && four.dependent() && !six.dependent() {
		first, second, ok6 = six, four, ok4
	}
	if ok6 && !second.dependent() && !first.dependent() {
		first.Mapped = append(first.Mapped, second.Mapped...)
	}
	first.RTT = l.rtt()
	return first.with(l.cfg.External).fitted()
}

// rtt is the shortest round trip to a server in milliseconds.
func (l *learner) rtt() int {
	nearest := maxRTT * time.Millisecond
	for _, s := range l.samples {
		nearest = min(nearest, s.rtt)
	}
	return int(nearest / time.Millisecond)
}

// settled says that nothing more needs to be learnt.
func (l *learner) settled() bool {
	_, four := agreed(of(l.samples, true), l.port)
	return four && !slices.ContainsFunc(l.cfg.Servers, func(a netip.AddrPort) bool { return a.Addr().Is6() })
}

// learn asks all servers from the port and, if the router depends on the
// destination, some again from other ports, to see whether it counts.
func (l *learner) learn(ctx context.Context) error {
	l.ask(ctx, func() uint16 { return l.port }, l.cfg.Servers, l.settled)
	if len(l.samples) == 0 {
		return fmt.Errorf("%w: %w", ErrNoServer, l.failed)
	}
	if four := of(l.samples, true); len(four) > 1 && !l.settled() && step(four) == 0 {
		again := make([]netip.AddrPort, max(0, minSteps-len(four))+spareSteps)
		for i := range again {
			again[i] = four[i%len(four)].server
		}
		l.ask(ctx, func() uint16 { return 0 }, again, func() bool { return step(of(l.samples, true)) != 0 })
	}
	return nil
}
