package reach

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

const (
	// wanted is how many rendezvous a registration is kept at, of maxTended
	// that are tried.
	wanted    = 3
	maxTended = 16
	// maxRests is how many unwilling rendezvous are remembered.
	maxRests = 256

	// registerEvery renews a registration; it also tells a changed epoch.
	registerEvery = 30 * time.Second
	// bindEvery keeps the router's mapping alive: home routers forget an
	// idle one after 30 s at the earliest.
	bindEvery = 20 * time.Second
	bindLimit = 2 * time.Second

	retryFirst = time.Second
	retryLast  = 30 * time.Second
)

// Policy is the owner's word on reachability.
type Policy string

// The values of --reachability.
const (
	Auto    Policy = "auto"
	Public  Policy = "public"
	Private Policy = "private"
)

// Config is what a Keeper needs.
type Config struct {
	Device  *identity.Device
	Overlay *overlay.Overlay
	Mux     *stun.Mux
	Client  *introduce.Client
	// Links are the rendezvous to try: the owner's, then contacts'.
	Links func() []identity.Link
	// Listen is the address of the socket; if its host is unspecified, those
	// of the interfaces are candidates.
	Listen   netip.AddrPort
	Policy   Policy
	Loopback bool
	Logger   *slog.Logger
}

// Joiner is what a Keeper needs of who finds ways to devices.
type Joiner interface {
	// Remember keeps a link's hints.
	Remember(identity.Link)
	// KeepPlace takes a place at the relay that gave a ticket.
	KeepPlace(ctx context.Context, at identity.Address, t relay.Ticket, network string) error
}

// Keeper keeps one device reachable.
type Keeper struct {
	cfg     Config
	joiner  Joiner
	epoch   func() sealed.Nonce
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	helpers map[identity.Address]*helper
	rests   map[identity.Address]rest
	sight   sight
	ready   chan struct{} // closed after the first registration
	once    sync.Once
	began   time.Time
}

// helper is one rendezvous that is tended.
type helper struct {
	link       identity.Link
	registered bool
	claimed    bool // a registration is being asked for
	transport  string
	mapped     netip.AddrPort
	behaviour  stun.Behaviour
	discovered bool
	silent     int // bindings without answer, in a row
	seenAt     netip.AddrPort
}

// rest is the pause given to a rendezvous that wants nobody now.
type rest struct {
	until time.Time
	pause time.Duration
}

// at is where the rendezvous answers: where the session found it by UDP, or
// where its link says.
func (h *helper) at() netip.AddrPort {
	if h.seenAt.IsValid() {
		return h.seenAt
	}
	return h.link.At[0]
}

// New returns a Keeper that is not yet started.
func New(cfg Config) *Keeper {
	k := &Keeper{
		cfg:     cfg,
		helpers: map[identity.Address]*helper{},
		rests:   map[identity.Address]rest{},
		ready:   make(chan struct{}),
		began:   time.Now(),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.sight.verdict = api.Checking
	return k
}

// Use sets who finds ways to devices, and the epoch that rendezvous are told;
// before Start.
func (k *Keeper) Use(j Joiner, epoch func() sealed.Nonce) { k.joiner, k.epoch = j, epoch }

// Start begins to look for rendezvous.
func (k *Keeper) Start() { k.running.Go(k.run) }

// Close ends everything the Keeper started and waits for it.
func (k *Keeper) Close() error {
	k.cancel()
	k.running.Wait()
	return nil
}

// Ready is closed once the first registration stands.
func (k *Keeper) Ready() <-chan struct{} { return k.ready }

func (k *Keeper) run() {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		for _, link := range k.cfg.Links() {
			k.consider(link)
		}
		k.judge()
		select {
		case <-tick.C:
		case <-k.ctx.Done():
			return
		}
	}
}

// consider tends a rendezvous unless there are enough.
func (k *Keeper) consider(link identity.Link) {
	if len(link.At) == 0 || link.Address == k.cfg.Device.Address() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.helpers[link.Address] != nil || len(k.helpers) >= maxTended || k.count() >= wanted {
		return
	}
	if time.Now().Before(k.rests[link.Address].until) {
		return
	}
	h := &helper{link: link}
	k.helpers[link.Address] = h
	k.running.Go(func() { k.tend(h) })
}

// count is how many registrations stand; k.mu is held.
func (k *Keeper) count() (n int) {
	for _, h := range k.helpers {
		if h.registered {
			n++
		}
	}
	return n
}

// tend keeps the registration at one rendezvous, for as long as it is wanted.
func (k *Keeper) tend(h *helper) {
	pause := retryFirst
	for k.ctx.Err() == nil {
		began := time.Now()
		err := k.stay(h)
		k.set(func() { h.registered, h.claimed = false, false })
		if errors.Is(err, introduce.ErrUnwilling) {
			k.rest(h.link.Address, time.Now())
			break
		}
		if time.Since(began) > registerEvery {
			pause = retryFirst
		}
		k.cfg.Logger.Debug("rendezvous lost", "peer", h.link.Address.Short(), "err", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-k.ctx.Done():
		}
		pause = min(2*pause, retryLast)
		if k.enough() {
			break
		}
	}
	k.mu.Lock()
	delete(k.helpers, h.link.Address)
	k.mu.Unlock()
}

// rest has a rendezvous left alone for a while, longer each time.
func (k *Keeper) rest(a identity.Address, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for b, r := range k.rests {
		if now.Sub(r.until) > 2*retryLast {
			delete(k.rests, b) // no more asked, or willing since
		}
	}
	pause := min(max(2*k.rests[a].pause, retryFirst), retryLast)
	if len(k.rests) < maxRests {
		k.rests[a] = rest{until: now.Add(pause), pause: pause}
	}
}

// errEnough says that registrations stand, or are asked for, elsewhere.
var errEnough = errors.New("there are enough registrations")

// claim reserves one of the wanted registrations.
func (k *Keeper) claim(h *helper) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := 0
	for _, other := range k.helpers {
		if other != h && (other.registered || other.claimed) {
			taken++
		}
	}
	h.claimed = taken < wanted
	return h.claimed
}

func (k *Keeper) enough() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count() >= wanted
}

// stay holds a session to the rendezvous and renews the registration and the
// mapping until the session ends.
func (k *Keeper) stay(h *helper) error {
	k.joiner.Remember(h.link)
	session, err := k.cfg.Overlay.Session(k.ctx, h.link.Address)
	if err != nil {
		return err
	}
	if !k.claim(h) {
		return errEnough
	}
	transport := "udp"
	path := session.Peer().Path()
	if path.Kind != nat.KindDirect {
		path.Addr = netip.AddrPort{} // a relay's, which answers no STUN
	} else if path.Carrier != nil {
		transport = "tcp"
	}
	k.set(func() { h.transport, h.seenAt = transport, path.Addr })
	if err := k.register(h, transport); err != nil {
		return err
	}
	k.bind(h)
	register, bind := time.NewTicker(registerEvery), time.NewTicker(bindEvery)
	defer register.Stop()
	defer bind.Stop()
	for {
		select {
		case <-register.C:
			if err := k.register(h, transport); err != nil {
				return err
			}
		case <-bind.C:
			k.bind(h)
		case <-session.Done():
			return errors.New("the session ended")
		case <-k.ctx.Done():
			return k.ctx.Err()
		}
	}
}

func (k *Keeper) register(h *helper, network string) error {
	ctx, cancel := context.WithTimeout(k.ctx, 5*time.Second)
	defer cancel()
	r, err := k.cfg.Client.Register(ctx, h.link.Address, k.epoch())
	if err != nil {
		return err
	}
	k.set(func() { h.registered = true })
	k.once.Do(func() { close(k.ready) })
	if r.Ticket != nil {
		k.running.Go(func() {
			ctx, cancel := context.WithTimeout(k.ctx, 10*time.Second)
			defer cancel()
			if err := k.joiner.KeepPlace(ctx, h.link.Address, *r.Ticket, network); err != nil {
				k.cfg.Logger.Debug("no place at the relay", "peer", h.link.Address.Short(), "err", err)
			}
		})
	}
	return nil
}

// bind asks the rendezvous which address it sees, and once how the router
// behaves.
func (k *Keeper) bind(h *helper) {
	at := h.at()
	if !at.IsValid() {
		return
	}
	ctx, cancel := context.WithTimeout(k.ctx, bindLimit)
	mapped, _, err := k.cfg.Mux.Bind(ctx, at)
	cancel()
	if err != nil {
		k.set(func() { h.silent++ })
		return
	}
	k.set(func() { h.mapped, h.silent = mapped, 0 })
	if h.discovered {
		return
	}
	ctx, cancel = context.WithTimeout(k.ctx, 10*time.Second)
	defer cancel()
	if b, err := k.cfg.Mux.Discover(ctx, at); err == nil {
		k.set(func() { h.behaviour, h.discovered = b, true })
	}
}

// set changes a helper and judges anew.
func (k *Keeper) set(change func()) {
	k.mu.Lock()
	change()
	k.mu.Unlock()
	k.judge()
}

// Rendezvous implements join.Situation.
func (k *Keeper) Rendezvous() []identity.Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []identity.Address
	for _, h := range k.sorted() {
		if h.registered {
			all = append(all, h.link.Address)
		}
	}
	return all
}

// sorted returns the helpers in an order that does not change; k.mu is held.
func (k *Keeper) sorted() []*helper {
	return slices.SortedFunc(maps.Values(k.helpers), func(x, y *helper) int { return x.link.Address.Compare(y.link.Address) })
}

// Helpers describes the rendezvous for status and link.
func (k *Keeper) Helpers() []api.Helper {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := []api.Helper{}
	for _, h := range k.sorted() {
		helper := api.Helper{Address: h.link.Address.String(), Online: h.registered, Transport: h.transport}
		if s := k.cfg.Overlay.Current(h.link.Address); s != nil {
			helper.RTTMS = float64(s.RTT().Microseconds()) / 1000
		}
		all = append(all, helper)
	}
	return all
}

// Link returns the device's link with the hints of this moment.
func (k *Keeper) Link() identity.Link {
	link := identity.Link{Address: k.cfg.Device.Address()}
	state := k.State()
	if state.Reachable {
		// Public addresses only: not the home's, nor a carrier's (RFC 6598).
		public := ice.Filter{Loopback: k.cfg.Loopback}
		for _, c := range state.Candidates {
			if public.Allow(c.Addr) && len(link.At) < identity.MaxHints {
				link.At = append(link.At, c.Addr)
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.sorted() {
		if h.registered && len(link.Via) < identity.MaxHints {
			link.Via = append(link.Via, identity.Via{Address: h.link.Address, At: h.at()})
		}
	}
	return link
}

// Candidates implements join.Situation.
func (k *Keeper) Candidates() []ice.Candidate { return k.State().Candidates }

// NAT implements join.Situation.
func (k *Keeper) NAT() (mapping string, noUDP bool) {
	s := k.State()
	return s.NAT.Mapping, s.Verdict == api.UDPBlocked
}

// hosts are the candidates of this machine's own addresses.
func (k *Keeper) hosts() []ice.Candidate {
	if a := k.cfg.Listen; !a.Addr().IsUnspecified() {
		return []ice.Candidate{{Kind: ice.Host, Addr: a}}
	}
	hosts, err := ice.HostCandidates(k.cfg.Listen.Port(), k.cfg.Loopback)
	if err != nil {
		k.cfg.Logger.Debug("no interfaces", "err", err)
	}
	return hosts
}

// isOwn reports whether addr is one of this machine's.
func isOwn(addr netip.Addr, hosts []ice.Candidate) bool {
	return slices.ContainsFunc(hosts, func(c ice.Candidate) bool { return c.Addr.Addr() == addr })
}
