package spray

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"porchlight/nat/ice"
	"porchlight/nat/probe"
)

// Limits of one [Run].
const (
	// MaxRate is how many probes leave in a second at most, and the default.
	MaxRate = 500
	// MaxProbes is how many leave at all, and the default: with 256 open
	// ports it finds one in 99.9 of 100 cases.
	MaxProbes = 1750

	// openerRate is how many openers leave in a second. They end within our
	// own networks.
	openerRate = 2000
	// maxLinks is how many ways that one spray has hit are followed up.
	maxLinks = 32
)

// Times of one [Run].
const (
	// Linger is how long the side that chooses must keep its Run open after
	// Find has returned: so long it repeats its choice.
	Linger = 2 * time.Second

	// settle is what packets under way have after the last probe.
	settle = 1500 * time.Millisecond
	// secondPass is when the openers go out again, a little further, and
	// refresh is the pause after that, well below the 30 s after which
	// routers forget.
	secondPass = time.Second
	refresh    = 5 * time.Second
	// retry is the pause between two questions over a link that was hit.
	retry      = 100 * time.Millisecond
	maxRetries = 12
	// predictPause is between the openers and the first probes that arrive
	// when both sides predict: the other's openers must be out by then.
	predictPause = 60 * time.Millisecond
	// predictRounds is how often each socket probes then.
	predictRounds = 10
)

// openerTTL is how many routers an opener may pass, the first time and later:
// our own router and a carrier's, then one more. It must end before the other
// side's router: one that does not filter would take it for a flow of its own,
// and move the answer to another port.
var openerTTL = [2]int{3, 4}

// announcements are the pauses before the choice, told at once, is told again.
var announcements = []time.Duration{
	30 * time.Millisecond, 40 * time.Millisecond, 60 * time.Millisecond, 100 * time.Millisecond,
	150 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 400 * time.Millisecond, 500 * time.Millisecond,
}

// Errors of [New] and [Run.Find].
var (
	// ErrNoHit means that no way was found. The next step is to stay on the
	// relay, and another try when [Budget] allows it.
	ErrNoHit = errors.New("no probe came through")
	// ErrUsed means that Find was called a second time.
	ErrUsed = errors.New("one run is one attempt: make a new one")
	// ErrConfig means that a [Config] lacks what its plan needs.
	ErrConfig = errors.New("unusable spray configuration")
)

// Sender is the shared socket's way out: a *stun.Endpoint registered for
// Config.Ours.Ufrag, whose handler is [Run.Handle].
type Sender interface {
	Send(b []byte, to netip.AddrPort) error
}

// Config configures a [Run].
type Config struct {
	Plan
	// Ours and Theirs are the credentials that both sides know.
	Ours, Theirs probe.Credentials
	// Shared is needed by plans that spray.
	Shared Sender
	// Open opens further sockets, for plans that open; IPv4 or both
	// families, any port.
	Open Opener
	// Rate and Probes, if not 0, are lower limits than [MaxRate] and
	// [MaxProbes].
	Rate, Probes int
	// Accept decides whether Plan.Target may be sprayed; nil allows public
	// addresses only.
	Accept func(netip.AddrPort) bool
	// Logger gets what happened; nil is silence.
	Logger *slog.Logger
}

// Hit is a way that works in both directions.
type Hit struct {
	// Conn is the socket of ours, which now belongs to the caller; nil means
	// the shared one.
	Conn   *net.UDPConn
	Remote netip.AddrPort
	// Probes is how many packets we have sent to find it, openers included,
	// and Sockets how many further sockets were open.
	Probes, Sockets int
}

// opened are further sockets: all that a Run wants of the kernel, so that
// tests can let it run in a world of their own.
type opened interface {
	count() int
	send(socket int, b []byte, to netip.AddrPort) error
	setTTL(socket, ttl int) error
	revive(socket int) error
	take(socket int) (conn *net.UDPConn, ok bool)
	close() error
}

// Run is one attempt of one side. Its methods may be called concurrently.
type Run struct {
	cfg    Config
	wire   *wire
	ports  *ports
	log    *slog.Logger
	closed chan struct{}
	heard  chan struct{} // closed when our choice was acknowledged
	found  chan Hit      // holds one
	tasks  sync.WaitGroup
	// open makes further sockets; tests have sockets of their own.
	open func(n int, receive func(int, []byte, netip.AddrPort)) (opened, error)

	mu      sync.Mutex
	used    bool
	over    bool // nothing is looked for any more
	closing bool
	sockets opened
	live    []bool // sockets that were hit
	links   map[link]*contact
	known   bool // heard is closed
	probes  int
	counts  Counts
}

// contact is a link over which the other side was heard.
type contact struct {
	asked    int
	answered bool
}

// Counts says what became of the datagrams of a [Run].
type Counts struct {
	Foreign  int64 // dropped by a look at source, name or transaction id
	Forged   int64 // wrong key
	Answered int64 // questions answered
	Heard    int64 // answers to questions of ours
	Unsent   int64 // packets that the system refused
	Sent     int64 // openers and probes
}

// New makes a Run, which answers questions from now on. Errors wrap
// [ErrConfig] or [ErrCredentials].
func New(cfg Config) (*Run, error) {
	if cfg.Accept == nil {
		cfg.Accept = ice.Filter{}.Allow
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rate == 0 {
		cfg.Rate = MaxRate
	}
	if cfg.Probes == 0 {
		cfg.Probes = MaxProbes
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	w, err := newWire(cfg.Ours, cfg.Theirs)
	if err != nil {
		return nil, err
	}
	r := &Run{
		cfg: cfg, wire: w, log: cfg.Logger,
		closed: make(chan struct{}), heard: make(chan struct{}), found: make(chan Hit, 1),
		links: make(map[link]*contact),
	}
	if cfg.Sprays {
		r.ports = newPorts(cfg.Plan, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	}
	r.open = func(n int, receive func(int, []byte, netip.AddrPort)) (opened, error) {
		return openSockets(cfg.Open, n, receive)
	}
	return r, nil
}

func (cfg Config) check() error {
	switch {
	case cfg.Sprays == cfg.Opens:
		return fmt.Errorf("%w: no plan", ErrConfig)
	case cfg.Sprays && cfg.Shared == nil, cfg.Opens && cfg.Open == nil:
		return fmt.Errorf("%w: no sockets", ErrConfig)
	case cfg.Opens && (cfg.Sockets < MinSockets || cfg.Sockets > MaxSockets):
		return fmt.Errorf("%w: %d sockets", ErrConfig, cfg.Sockets)
	case cfg.Rate < 1 || cfg.Rate > MaxRate || cfg.Probes < 1 || cfg.Probes > MaxProbes:
		return fmt.Errorf("%w: %d probes at %d a second", ErrConfig, cfg.Probes, cfg.Rate)
	case !cfg.Target.Addr().Is4() || !cfg.Accept(cfg.Target):
		return fmt.Errorf("%w: %v is not to be sprayed", ErrConfig, cfg.Target)
	}
	return nil
}

// Find looks for a way until it has one, the plan is at its end (with the
// usual limits after 5.2 s) or ctx ends. It can be called once. Errors:
// [ErrNoHit], [ErrUsed], net.ErrClosed, and those of Config.Open.
func (r *Run) Find(ctx context.Context) (Hit, error) {
	if err := r.begin(); err != nil {
		return Hit{}, err
	}
	begun := time.Now()
	hit, err := r.search(ctx)
	r.log.Debug("spray ended", "method", r.cfg.Method, "opens", r.cfg.Opens, "remote", hit.Remote,
		"probes", r.sent(), "elapsed", time.Since(begun), "err", err)
	return hit, err
}

// begin opens the further sockets, once.
func (r *Run) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing:
		return net.ErrClosed
	case r.used:
		return ErrUsed
	}
	r.used = true
	if !r.cfg.Opens {
		return nil
	}
	sockets, err := r.open(r.cfg.Sockets, r.receive)
	if err != nil {
		r.over = true
		return err
	}
	r.sockets, r.live = sockets, make([]bool, sockets.count())
	return nil
}

// search sends until something is found.
func (r *Run) search(ctx context.Context) (Hit, error) {
	plan := r.schedule()
	ctx, cancel := context.WithTimeout(ctx, plan.limit)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case hit := <-r.found:
			return hit, r.finish()
		case <-ctx.Done():
			return r.giveUp(fmt.Errorf("%w of %d: %w", ErrNoHit, r.sent(), ctx.Err()))
		case <-r.closed:
			return r.giveUp(net.ErrClosed)
		case <-timer.C:
			timer.Reset(plan.step(time.Now()))
		}
	}
}

// giveUp ends the search; what was found in the last moment still counts.
func (r *Run) giveUp(reason error) (Hit, error) {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	err := r.finish()
	select {
	case hit := <-r.found:
		return hit, err
	default:
		return Hit{}, errors.Join(reason, err)
	}
}

// finish closes the further sockets that nobody needs.
func (r *Run) finish() error {
	if r.sockets == nil {
		return nil
	}
	return r.sockets.close()
}

// sent is how many packets have left.
func (r *Run) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.probes
}

// Counts returns what has been counted so far.
func (r *Run) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts
	counts.Sent = int64(r.probes)
	return counts
}

// Close ends everything and waits for it. A socket that Find has returned
// stays open.
func (r *Run) Close() error {
	r.mu.Lock()
	first := !r.closing
	r.closing, r.over = true, true
	if first {
		close(r.closed)
	}
	sockets := r.sockets
	r.mu.Unlock()
	var err error
	if sockets != nil {
		err = sockets.close()
	}
	r.tasks.Wait()
	return err
}
