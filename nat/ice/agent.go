package ice

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v2"

	natstun "porchlight/nat/stun"
)

// OpenerTTL is how many routers an opener passes: a home's and its carrier's.
const OpenerTTL = 4

// maxSources is how many sources of authenticated checks one Agent answers.
// A peer that owns the password could otherwise make us check any number of
// spoofed sources.
const maxSources = 32

// Errors of [Agent.Connect] and [New].
var (
	// ErrNoLocal means that Config.Local has no address to use.
	ErrNoLocal = errors.New("ice: no local address: is any network interface up?")
	// ErrNoPair means that no direct path was found in time. The next step
	// is to go on over a relay and to try again later.
	ErrNoPair = errors.New("ice: no direct path found")
	// ErrUsed means that Connect was called a second time.
	ErrUsed = errors.New("ice: one agent is one attempt: make a new one")
)

// Config configures an [Agent].
type Config struct {
	// Mux is the STUN side of the shared socket.
	Mux *natstun.Mux
	// Local is what is signalled: addresses of interfaces
	// ([HostCandidates]), what STUN saw, and port mappings.
	Local []Candidate
	// OnRemote, if set, is called once for each source of a check that knew
	// our password, as soon as it is heard, also before Connect. It runs
	// while the socket is being read and must not block.
	OnRemote func(netip.AddrPort)
	// OnPair, if set, is called once for each address that answered a check
	// of ours: packets go there and back. It is told one round trip before
	// Connect returns, which waits for the pair to be nominated, and runs
	// while the socket is being read.
	OnPair func(remote Candidate)
	// OpenFor is how long from Connect on checks to an address that has not
	// been heard are mere openers: they pass our own router and die on the
	// way ([OpenerTTL]). A router that does not filter what comes in gives
	// the port away to an early packet, so the called side opens and lets
	// the caller begin. Default: 0, all checks go the whole way.
	OpenFor time.Duration
	// Accept decides which signalled candidates are checked, usually
	// [Filter.Allow]; nil is that of the zero Filter.
	Accept func(netip.AddrPort) bool
	// Logger gets what happened; nil is silence.
	Logger *slog.Logger
}

// Agent is one attempt at finding a direct path. Its methods may be called
// concurrently.
type Agent struct {
	cfg      Config
	local    Description
	endpoint *natstun.Endpoint
	engine   engine
	pacer    *pacer
	ownKey   stun.MessageIntegrity
	closing  sync.Once
	closeErr error

	mu      sync.Mutex
	used    bool
	opened  time.Time // when openers end
	peerKey stun.MessageIntegrity
	sources map[netip.AddrPort]bool
	seenAs  map[netip.AddrPort]netip.AddrPort // by whom → our address
	remote  []Candidate
}

// engine is an ICE implementation with two pipes to the world.
type engine interface {
	// put hands over a checked and authenticated message, which is kept.
	put(b []byte, from netip.AddrPort)
	// connect runs the checks until a pair is selected or ctx ends.
	connect(ctx context.Context, remote Description, controlling bool) (netip.AddrPort, time.Duration, error)
	// close ends everything and waits for it.
	close() error
}

// New makes an agent that already hears checks; what arrives before Connect
// waits, [pipeLength] messages at most. An answerer knows the offer, so it
// calls New and starts Connect before it sends its answer.
func New(cfg Config) (*Agent, error) {
	if cfg.Accept == nil {
		cfg.Accept = Filter{}.Allow
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		cfg: cfg,
		local: Description{
			Ufrag: rand.Text()[:8], Pwd: rand.Text(),
			Candidates: slices.Clone(cfg.Local[:min(len(cfg.Local), MaxCandidates)]),
		},
		pacer:   newPacer(time.Now),
		sources: make(map[netip.AddrPort]bool),
		seenAs:  make(map[netip.AddrPort]netip.AddrPort),
	}
	a.ownKey = stun.NewShortTermIntegrity(a.local.Pwd)
	var err error
	if a.engine, err = newEngine(a.local, a.send, cfg.Logger); err != nil {
		return nil, err
	}
	if a.endpoint, err = cfg.Mux.Register(a.local.Ufrag, a.receive); err != nil {
		return nil, errors.Join(fmt.Errorf("register ice agent: %w", err), a.engine.close())
	}
	return a, nil
}

// Local returns what the peer must be told.
func (a *Agent) Local() Description {
	d := a.local
	d.Candidates = slices.Clone(d.Candidates)
	return d
}

// Connect runs the checks and returns the selected pair. Exactly one side
// should control: the one that receives the answer. It fails with
// [ErrNoPair] when ctx ends, [ErrDescription], [ErrUsed], or net.ErrClosed.
// Whatever it returns, checks go on until [Agent.Close].
func (a *Agent) Connect(ctx context.Context, remote Description, controlling bool) (Pair, error) {
	if err := remote.Validate(); err != nil {
		return Pair{}, err
	}
	remote.Candidates = a.admit(remote.Candidates)
	if err := a.begin(remote); err != nil {
		return Pair{}, err
	}
	selected, rtt, err := a.engine.connect(ctx, remote, controlling)
	if err != nil {
		return Pair{}, fmt.Errorf("%w among %d candidates: %w", ErrNoPair, len(remote.Candidates), err)
	}
	pair := Pair{Local: a.localSeenBy(selected), Remote: named(remote.Candidates, selected), RTT: rtt}
	a.cfg.Logger.Debug("ice pair selected", "local", pair.Local, "remote", pair.Remote, "rtt", rtt)
	return pair, nil
}

func (a *Agent) begin(remote Description) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used {
		return ErrUsed
	}
	a.used = true
	a.opened = time.Now().Add(a.cfg.OpenFor)
	a.peerKey = stun.NewShortTermIntegrity(remote.Pwd)
	a.remote = remote.Candidates
	return nil
}

// admit returns the candidates that may be checked, best first.
func (a *Agent) admit(candidates []Candidate) []Candidate {
	var out []Candidate
	for _, c := range candidates {
		c.Addr = canonical(c.Addr)
		own := slices.ContainsFunc(a.local.Candidates, func(o Candidate) bool { return o.Addr == c.Addr })
		again := slices.ContainsFunc(out, func(o Candidate) bool { return o.Addr == c.Addr })
		if len(out) < MaxCandidates && possible(c.Addr) && !own && !again && a.cfg.Accept(c.Addr) {
			out = append(out, c)
		}
	}
	if dropped := len(candidates) - len(out); dropped > 0 {
		a.cfg.Logger.Debug("ice candidates not used", "count", dropped)
	}
	slices.SortStableFunc(out, func(x, y Candidate) int { return int(rank(y)) - int(rank(x)) })
	return out
}

// receive takes a message from the Mux: a check for our ufrag or the answer
// to a check of ours. Only what proves the right password goes on.
func (a *Agent) receive(b []byte, from netip.AddrPort) {
	m := &stun.Message{Raw: slices.Clone(b)}
	if m.Decode() != nil || !possible(from) {
		return
	}
	switch m.Type {
	case stun.BindingRequest:
		if a.ownKey.Check(m) != nil || !a.admitSource(from) {
			return
		}
		a.pacer.heard(from)
	case stun.BindingSuccess:
		if !a.admitAnswer(m, from) {
			return
		}
		a.pacer.answered(from)
	default:
		return // an error ends nothing: the check is repeated
	}
	a.engine.put(slices.Clone(b), from)
}

// admitSource counts sources, and tells about new ones.
func (a *Agent) admitSource(from netip.AddrPort) bool {
	a.mu.Lock()
	known := a.sources[from]
	if !known {
		if len(a.sources) >= maxSources {
			a.mu.Unlock()
			return false
		}
		a.sources[from] = true
	}
	a.mu.Unlock()
	if !known && a.cfg.OnRemote != nil {
		a.cfg.OnRemote(from)
	}
	return true
}

// admitAnswer verifies an answer, notes how the peer sees us and tells about
// a new pair.
func (a *Agent) admitAnswer(m *stun.Message, from netip.AddrPort) bool {
	known, ok := a.noteAnswer(m, from)
	if ok && !known && a.cfg.OnPair != nil {
		a.cfg.OnPair(named(a.remote, from))
	}
	return ok
}

func (a *Agent) noteAnswer(m *stun.Message, from netip.AddrPort) (known, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var mapped stun.XORMappedAddress
	if a.peerKey == nil || a.peerKey.Check(m) != nil || mapped.GetFrom(m) != nil {
		return false, false
	}
	addr, ok := netip.AddrFromSlice(mapped.IP)
	if !ok {
		return false, false
	}
	_, known = a.seenAs[from]
	a.seenAs[from] = netip.AddrPortFrom(addr.Unmap(), uint16(mapped.Port))
	return known, true
}

// send takes a message from the engine.
func (a *Agent) send(b []byte, to netip.AddrPort) error {
	if !isRequest(b) {
		return a.endpoint.Send(b, to)
	}
	if !a.pacer.allow(to) {
		return nil
	}
	if a.opening(to) {
		return a.endpoint.SendTTL(b, to, OpenerTTL)
	}
	return a.endpoint.Send(b, to)
}

// opening says whether a check to an address is to be a mere opener.
func (a *Agent) opening(to netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.sources[to] && time.Now().Before(a.opened)
}

// isRequest looks at the class bits of a message of the engine's.
func isRequest(b []byte) bool { return len(b) > 1 && b[0]&1 == 0 && b[1]&0x10 == 0 }

// localSeenBy names our address as the peer at remote sees it.
func (a *Agent) localSeenBy(remote netip.AddrPort) Candidate {
	a.mu.Lock()
	seen := a.seenAs[remote]
	a.mu.Unlock()
	return named(a.local.Candidates, seen)
}

func named(candidates []Candidate, addr netip.AddrPort) Candidate {
	for _, c := range candidates {
		if c.Addr == addr {
			return c
		}
	}
	return Candidate{Kind: Learnt, Addr: addr}
}

// Close ends the attempt: checks are no longer answered, a Connect in
// progress fails, and nothing of the agent is running when Close returns.
func (a *Agent) Close() error {
	a.closing.Do(func() {
		a.closeErr = errors.Join(a.endpoint.Close(), a.engine.close())
	})
	return a.closeErr
}
