package reach

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
	"porchlight/nat/ice"
	"porchlight/nat/portmap"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

const (
	// lookEvery is how often a Keeper looks for what nothing announces, and
	// lackEvery while registrations are lacking.
	lookEvery = 2 * time.Second
	lackEvery = 500 * time.Millisecond
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
	// Client registers; nil if nobody is registered at.
	Client *introduce.Client
	// Knocks has others knock at this device; nil if nobody can be asked.
	Knocks Knocks
	// Mapper keeps ports open at the router; nil if none is asked.
	Mapper Mapper
	// Links are the rendezvous to try: the owner's, then contacts'.
	Links func() []identity.Link
	// Met lists addresses that the device sent packets to lately, beside
	// those of sessions and helpers; nil if there are none.
	Met func() []netip.Addr
	// Listen is the address of the socket; if its host is unspecified, those
	// of the interfaces are candidates.
	Listen   netip.AddrPort
	Policy   Policy
	Loopback bool
	// Registered is told of each registration that stands, with where the
	// rendezvous is and what it said; nil if nobody asks. It must not block.
	Registered func(at identity.Link, r introduce.Registration)
	// Refused is told of what a full rendezvous said, under the same terms.
	Refused func(r introduce.Registration)
	Logger  *slog.Logger
}

// Joiner is what a Keeper needs of who finds ways to devices.
type Joiner interface {
	// Remember keeps a link's hints.
	Remember(identity.Link)
	// KeepPlace takes a place at the relay that gave a ticket.
	KeepPlace(ctx context.Context, at identity.Address, t relay.Ticket, network string) error
	// LosePlaces gives back the places over UDP: relays know them by a port
	// that is another now.
	LosePlaces()
}

// Knocks has somebody knock from outside; see [dialback.Client].
type Knocks interface {
	Knock(ctx context.Context, helper identity.Address, q dialback.Question) (dialback.Result, error)
}

// Mapper keeps ports open at the router.
type Mapper interface {
	// State is what is known about the router, Changed a channel that is
	// closed when that changes.
	State() portmap.State
	Changed() <-chan struct{}
	// Distrust says that a mapping was granted and leads nowhere.
	Distrust(portmap.Mapping)
	// Refresh makes all mappings anew: the network changed.
	Refresh()
}

// Keeper keeps one device reachable.
type Keeper struct {
	cfg     Config
	joiner  Joiner
	epoch   func() sealed.Nonce
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{} // has run look at once
	retest  chan struct{} // has the doors tested at once
	met     *met
	dial    dialer
	open    func(family int) stun.Opener
	carried func() int64  // bytes, by all sessions
	renew   time.Duration // registerEvery

	mu        sync.Mutex
	helpers   map[identity.Address]*helper
	rests     map[identity.Address]rest
	sight     sight
	pending   pending
	proofs    map[door]proof
	tested    bool                // the doors were tested, or could not be
	lied      bool                // a mapping led nowhere since the network last changed
	last      [2]identity.Address // who was asked last, by family
	outside   finding
	habits    habits
	hosts     []ice.Candidate
	served    time.Time     // when a registration last stood, or the start
	refreshed chan struct{} // closed and replaced when the network changes
	ready     chan struct{} // closed after the first registration
	began     time.Time     // when that was
	checked   time.Time     // when something was last found out
	// refreshing is closed when the Refresh that runs is done; nil if none does.
	refreshing chan struct{}
}

// New returns a Keeper that is not yet started.
func New(cfg Config) *Keeper {
	k := &Keeper{
		cfg:       cfg,
		wake:      make(chan struct{}, 1),
		retest:    make(chan struct{}, 1),
		met:       newMet(),
		dial:      dialTCP,
		renew:     registerEvery,
		helpers:   map[identity.Address]*helper{},
		rests:     map[identity.Address]rest{},
		proofs:    map[door]proof{},
		refreshed: make(chan struct{}),
		ready:     make(chan struct{}),
		served:    time.Now(),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.sight.verdict = api.Checking
	k.open, k.carried, k.habits = k.freshBy, k.carriedBytes, unstudied
	k.hosts = k.listHosts()
	return k
}

// Use sets who finds ways to devices, and the epoch that rendezvous are told;
// before Start.
func (k *Keeper) Use(j Joiner, epoch func() sealed.Nonce) { k.joiner, k.epoch = j, epoch }

// Start begins to look for rendezvous.
func (k *Keeper) Start() {
	k.running.Go(k.run)
	k.running.Go(k.watchMapper)
	k.running.Go(k.testDoors)
	k.running.Go(k.lookOutside)
	k.running.Go(k.study)
}

// Close takes leave of the rendezvous, ends everything the Keeper started and
// waits for it.
func (k *Keeper) Close() error {
	if k.ctx.Err() == nil && k.cfg.Client != nil {
		k.takeLeave()
	}
	k.cancel()
	k.running.Wait()
	return nil
}

// leaveLimit is how long the farewells may take, all together.
const leaveLimit = 300 * time.Millisecond

// takeLeave ends the registrations, so that whoever asks for the device is
// told at once that it is gone.
func (k *Keeper) takeLeave() {
	ctx, cancel := context.WithTimeout(k.ctx, leaveLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range k.Rendezvous() {
		all.Go(func() {
			if err := k.cfg.Client.Unregister(ctx, a); err != nil {
				k.cfg.Logger.Debug("no farewell", "peer", a.Short(), "err", err)
			}
		})
	}
	all.Wait()
}

// Ready is closed once the first registration stands.
func (k *Keeper) Ready() <-chan struct{} { return k.ready }

func (k *Keeper) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-k.wake:
		case <-k.ctx.Done():
			return
		}
		k.noticeHosts()
		k.notePaths()
		for _, link := range k.cfg.Links() {
			k.consider(link)
		}
		k.judge()
		if k.enough() {
			timer.Reset(lookEvery)
		} else {
			timer.Reset(lackEvery)
		}
	}
}

// poke leaves a token for whoever waits at a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Moved says that the network changed: addresses or routes. Everything is
// asked anew at once; what was known stays until something else is.
func (k *Keeper) Moved() {
	hosts := k.listHosts()
	k.mu.Lock()
	k.hosts = hosts
	for _, h := range k.helpers {
		h.rebind()
		poke(h.moved) // places at relays are bound to addresses of before
	}
	k.lied, k.outside = false, unasked
	k.forget()
	clear(k.rests)
	close(k.refreshed)
	k.refreshed = make(chan struct{})
	k.mu.Unlock()
	if k.cfg.Mapper != nil {
		k.cfg.Mapper.Refresh()
	}
	k.unsure(0)
	k.unsure(1)
	poke(k.wake)
}

// renewed returns a channel that is closed when the network changes.
func (k *Keeper) renewed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refreshed
}

// noticeHosts looks whether this machine's addresses are others than before.
func (k *Keeper) noticeHosts() {
	now := k.listHosts()
	k.mu.Lock()
	changed := !slices.Equal(now, k.hosts)
	k.mu.Unlock()
	if changed {
		k.cfg.Logger.Info("the addresses of this machine changed", "addresses", len(now))
		k.Moved()
	}
}

// listHosts are the candidates of this machine's own addresses.
func (k *Keeper) listHosts() []ice.Candidate {
	if a := k.cfg.Listen; !a.Addr().IsUnspecified() {
		return []ice.Candidate{{Kind: ice.Host, Addr: a}}
	}
	hosts, err := ice.HostCandidates(k.cfg.Listen.Port(), k.cfg.Loopback)
	if err != nil {
		k.cfg.Logger.Debug("no interfaces", "err", err)
	}
	return hosts
}

// watchMapper judges anew whenever the router's mappings change.
func (k *Keeper) watchMapper() {
	if k.cfg.Mapper == nil {
		return
	}
	for {
		changed := k.cfg.Mapper.Changed()
		k.judge()
		poke(k.retest)
		select {
		case <-changed:
		case <-k.ctx.Done():
			return
		}
	}
}

// router is what is known about the router at this moment.
func (k *Keeper) router() portmap.State {
	if k.cfg.Mapper == nil {
		return portmap.State{Settled: true}
	}
	return k.cfg.Mapper.State()
}
