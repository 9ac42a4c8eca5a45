package tcppunch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"porchlight/nat/probe"
)

// The caps of one Punch.
const (
	// MaxSYNs is how many connection attempts are made.
	MaxSYNs = 100
	// PunchTime is how long it may take. The asking end gives up lastWord
	// earlier, so that its nomination finds the answering end.
	PunchTime = 5 * time.Second
	lastWord  = time.Second
	// MaxStrangers is how many incoming connections are heard at once; more
	// are closed unheard.
	MaxStrangers = 8
)

const (
	// openerWait is when the answering end's second packet leaves, at the
	// earliest. It is longer than an answer takes to the asking end, which
	// begins then, and that end's packet back.
	openerWait = 250 * time.Millisecond
	// patience is how long the first SYN of a flow may stay unanswered until
	// another is sent, or one and a half times the round trip if that is more;
	// each further one has half as much more, up to maxPatience. From 1 s on the
	// kernel sends it again itself. Up to a third is added at random.
	patience    = 300 * time.Millisecond
	maxPatience = 1500 * time.Millisecond
	// firstPace and pace are the least times between SYNs of one flow while
	// somebody refuses them, in the first quickly attempts and later.
	firstPace = 25 * time.Millisecond
	pace      = 50 * time.Millisecond
	quickly   = 10
)

var (
	// ErrUnreached says that no connection of the peer's came about in time.
	ErrUnreached = errors.New("tcp punching reached nobody")
	// ErrBusy says that the Puncher is punching already.
	ErrBusy = errors.New("tcp puncher is busy")
)

// Puncher is one end of a connection to be: a local port whose mapping is known
// and kept. Make it with [Prepare]; its methods may be called at the same time.
type Puncher struct {
	cfg   Config
	port  uint16
	local Local
	kept  []*net.TCPConn // to servers: the mapping lives as long as they

	syns atomic.Int64

	mu      sync.Mutex
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	busy    bool
	closed  bool
	running sync.WaitGroup
}

// Prepare learns from public devices how a local TCP port looks from outside. It
// takes LearnTime at most, and a round trip more than a connection where two
// servers agree. The connection to a server stays open until Close. The error
// wraps ErrNoServer if nobody answered.
func Prepare(ctx context.Context, cfg Config) (*Puncher, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Servers = usable(cfg)
	if len(cfg.Servers) == 0 {
		return nil, fmt.Errorf("%w: none to ask", ErrNoServer)
	}
	port := cfg.Port
	if port == 0 {
		free, err := freePort()
		if err != nil {
			return nil, err
		}
		port = free
	}
	l := &learner{cfg: cfg, port: port}
	if err := l.learn(ctx); err != nil {
		return nil, fmt.Errorf("learn tcp mapping of port %d: %w", port, err)
	}
	p := &Puncher{cfg: cfg, port: port, local: l.describe()}
	for _, s := range l.samples {
		if s.local.Port() == port {
			p.kept = append(p.kept, s.conn)
		} else {
			s.conn.Close() // it has shown how the router counts
		}
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// usable returns the servers that may be asked.
func usable(cfg Config) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range cfg.Servers {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if cfg.Filter.Allow(s) && !slices.Contains(out, s) && len(out) < MaxServers {
			out = append(out, s)
		}
	}
	return out
}

// Local is what the other end must know.
func (p *Puncher) Local() Local {
	l := p.local
	l.Mapped = slices.Clone(l.Mapped)
	return l
}

// Port is the local TCP port.
func (p *Puncher) Port() uint16 { return p.port }

// SYNs is how many connection attempts Punch has made so far.
func (p *Puncher) SYNs() int { return int(p.syns.Load()) }

// Close ends a Punch under way and lets the mapping go. A connection that Punch
// has returned lives on.
func (p *Puncher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.cancel()
	kept := p.kept
	p.kept = nil
	p.mu.Unlock()
	p.running.Wait()
	for _, c := range kept {
		c.Close()
	}
	return nil
}

// begin keeps Close waiting until p.end.
func (p *Puncher) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return net.ErrClosed
	case p.busy:
		return ErrBusy
	}
	p.busy = true
	p.running.Add(1)
	return nil
}

func (p *Puncher) end() {
	p.mu.Lock()
	p.busy = false
	p.mu.Unlock()
	p.running.Done()
}

// Punch connects to the end that theirs describes and proves with ours and them
// that it is the one meant. Both ends call it. The answering end (asking false)
// must call it before its answer leaves, the asking end when the answer has
// come: the first packet of the answering end opens its own router and is not
// meant to arrive.
//
// The connection returned is the one the peer's Punch returns; nothing was read
// from it beyond the greeting, so packets in frames may follow
// (nat.NewFramed). An asking end that has returned can be wrong about the other
// in one case, when the connection breaks at that moment.
//
// Errors: ErrHopeless if it need not be tried, ErrUnreached after PunchTime or
// MaxSYNs, ErrLocal, ErrBusy, net.ErrClosed, and the context's.
func (p *Puncher) Punch(ctx context.Context, theirs Local, ours, them probe.Credentials, asking bool) (net.Conn, error) {
	flows, err := plan(p.local, theirs, p.cfg.Filter)
	if err != nil {
		return nil, err
	}
	if err := p.begin(); err != nil {
		return nil, err
	}
	defer p.end()
	r := p.newRun(ctx, greeter{ours: ours, them: them, asking: asking}, theirs)
	defer r.stop()
	if err := r.start(flows); err != nil {
		return nil, err
	}
	select {
	case c := <-r.won:
		return c, nil
	case <-r.ctx.Done():
	}
	r.stop() // who has won by then is in r.won
	select {
	case c := <-r.won:
		return c, nil
	default:
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("punch tcp: %w", err)
	}
	if p.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	return nil, fmt.Errorf("%w: %d attempts", ErrUnreached, r.spent.Load())
}

// run is one Punch under way.
type run struct {
	p      *Puncher
	greet  greeter
	ctx    context.Context
	cancel context.CancelFunc
	begun  time.Time
	rtt    time.Duration // to the peer, by way of the servers: at least as long

	tries     sync.WaitGroup
	listeners []*net.TCPListener
	lines     map[int]uint16 // local ports
	reserved  []int          // descriptors that hold them

	spent  atomic.Int64
	heard  atomic.Int64  // strangers at the moment
	chosen atomic.Bool   // a nomination is made
	taken  atomic.Bool   // a connection is in won, or was
	won    chan net.Conn // holds one
}

func (p *Puncher) newRun(ctx context.Context, g greeter, theirs Local) *run {
	r := &run{
		p: p, greet: g, begun: time.Now(),
		rtt:   time.Duration(p.local.RTT+theirs.RTT) * time.Millisecond,
		lines: map[int]uint16{0: p.port}, won: make(chan net.Conn, 1),
	}
	r.greet.choose = func() (func(), bool) {
		return func() { r.chosen.Store(false) }, r.chosen.CompareAndSwap(false, true)
	}
	limit := PunchTime
	if g.asking {
		limit -= lastWord
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	stop := context.AfterFunc(p.ctx, cancel)
	r.ctx, r.cancel = ctx, func() { stop(); cancel() }
	return r
}

// start begins to listen and to connect.
func (r *run) start(flows []flow) error {
	for _, f := range flows {
		if err := r.reserve(f); err != nil {
			return err
		}
	}
	if !r.p.local.dependent() {
		r.listen()
	}
	for _, f := range flows {
		r.tries.Go(func() { r.try(r.lines[f.line], f.to) })
	}
	return nil
}

// reserve finds a local port for the line of a flow and holds it.
func (r *run) reserve(f flow) error {
	if r.lines[f.line] != 0 {
		return nil
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	fd, err := boundSocket(port, f.to.Addr().Unmap().Is4())
	if err != nil {
		return err
	}
	r.reserved = append(r.reserved, fd)
	r.lines[f.line] = port
	return nil
}

// listen takes what comes in when no attempt is under way at that moment, and
// what comes to a port that the router forwards. Without it attempts must meet.
func (r *run) listen() {
	for _, v4 := range []bool{true, false} {
		if !slices.ContainsFunc(r.p.local.Mapped, func(a netip.AddrPort) bool { return a.Addr().Is4() == v4 }) {
			continue
		}
		l, err := listen(r.ctx, r.p.port, v4)
		if err != nil {
			r.p.cfg.Logger.Debug("tcp punching does not listen", "port", r.p.port, "err", err)
			continue
		}
		r.listeners = append(r.listeners, l)
		r.tries.Go(func() { r.accept(l) })
	}
}

// stop ends everything but the connection in r.won. It may be called again.
func (r *run) stop() {
	r.cancel()
	for _, l := range r.listeners {
		l.Close()
	}
	r.tries.Wait()
	closeAll(r.reserved)
	r.listeners, r.reserved = nil, nil
}

// accept hears incoming connections until the listener is closed.
func (r *run) accept(l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		if r.heard.Add(1) > MaxStrangers {
			r.heard.Add(-1)
			abort(conn)
			continue
		}
		r.tries.Go(func() {
			defer r.heard.Add(-1)
			r.settle(conn, false)
		})
	}
}

// try connects from a port to an address again and again.
func (r *run) try(port uint16, to netip.AddrPort) {
	for round := 0; r.ctx.Err() == nil; round++ {
		if r.spent.Add(1) > MaxSYNs {
			r.spent.Add(-1)
			return
		}
		r.p.syns.Add(1)
		next := time.Now().Add(paceOf(round))
		conn, err := r.connect(port, to, round)
		if err == nil {
			err = r.settle(conn, true)
		}
		if err == nil {
			return
		}
		r.p.cfg.Logger.Debug("tcp punching goes on", "to", to, "round", round, "err", err)
		if r.opening(round) {
			next = r.begun.Add(max(openerWait, r.rtt))
		}
		r.pause(next)
	}
}

// opening says that a round is the one whose SYN is not meant to arrive. Until
// the next one only what comes in counts: a packet that arrived before the peer
// has begun would spoil the mapping of a router without a filter.
func (r *run) opening(round int) bool { return round == 0 && !r.greet.asking }

func (r *run) connect(port uint16, to netip.AddrPort, round int) (*net.TCPConn, error) {
	ttl, wait := 0, patienceOf(round, r.rtt)
	if r.opening(round) {
		ttl, wait = openerTTL, max(openerWait, r.rtt)
	}
	p, err := dial(port, to, ttl)
	if err != nil {
		return nil, err
	}
	return p.wait(r.ctx, wait)
}

// patienceOf is how long the SYN of a round may stay unanswered.
func patienceOf(round int, rtt time.Duration) time.Duration {
	d := max(patience, rtt+rtt/2)
	for ; round > 0 && d < maxPatience; round-- {
		d += d / 2
	}
	d = min(d, maxPatience)
	return d + rand.N(d/3)
}

// paceOf is the least time from one SYN to the next, with a fifth of chance, so
// that two ends do not stay out of step.
func paceOf(round int) time.Duration {
	d := pace
	if round < quickly {
		d = firstPace
	}
	return d + rand.N(d/5)
}

func (r *run) pause(until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.ctx.Done():
	}
}

// settle greets over a connection and delivers it, or closes it. A stranger has
// greetTime, the peer until the end of the run: its packets may get lost.
func (r *run) settle(conn *net.TCPConn, connected bool) error {
	expire := func() { _ = conn.SetDeadline(past) }
	stop := context.AfterFunc(r.ctx, expire)
	stranger := time.AfterFunc(greetTime, expire)
	g := r.greet
	g.proved = func() error {
		if !stranger.Stop() {
			return errStranger // and the deadline is past
		}
		return nil
	}
	err := g.greet(conn, connected)
	stranger.Stop()
	if !stop() {
		err = errors.Join(err, r.ctx.Err()) // the deadline may be past
	}
	if err == nil && !r.taken.CompareAndSwap(false, true) {
		err = errNotChosen
	}
	if err == nil {
		r.won <- conn
		return nil
	}
	abort(conn)
	return err
}
