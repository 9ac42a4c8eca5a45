package reach

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/stun"
)

const (
	// wanted is how many rendezvous a registration is kept at, of maxTended
	// that are tried.
	wanted    = 3
	maxTended = 16
	// maxRests is how many unwilling rendezvous are remembered.
	maxRests = 256
	// headStart is how long an attempt may take before another rendezvous is
	// tried beside it.
	headStart = time.Second

	// registerEvery renews a registration. It also tells a changed epoch, and
	// shows that a rendezvous was restarted. It is just below the keep-alive of
	// a session, which it saves: see the comment of the package.
	registerEvery = 14 * time.Second
	registerLimit = 5 * time.Second
	// placeEvery is how often a ticket is used to keep a place at the relay.
	placeEvery = 25 * time.Second
	placeLimit = 10 * time.Second
	// A binding that was not answered, or told another port, is repeated after
	// bindAgain, until bindTries of them were not answered.
	bindAgain = 3 * time.Second
	// bindEarly is when the first bindings are repeated, bindEarlies times: a
	// carrier that moves running flows should be known before somebody calls.
	bindEarly   = 4 * time.Second
	bindEarlies = 2
	bindTries   = 3
	bindLimit   = 2 * time.Second
	// discoverLimit is how long behaviour discovery may take.
	discoverLimit = 10 * time.Second

	// A rendezvous that is gone is called again after 1, 2, 4 and then every
	// 8 s; one that wants nobody is left alone for up to 30 s.
	retryFirst = time.Second
	retryLast  = 8 * time.Second
	restLast   = 30 * time.Second
)

// helper is one rendezvous that is tended. Keeper.mu guards it.
type helper struct {
	link       identity.Link
	registered bool
	claimed    bool      // a registration is being asked for
	tried      time.Time // when the present attempt began; zero in pauses
	transport  string
	seenAt     netip.AddrPort
	views      [2]view       // by family: IPv4, IPv6
	again      chan struct{} // has it asked for bindings at once
	moved      chan struct{} // says that it sees another port than before
	alive      stun.Keepalive
}

// view is how a helper sees the socket by one IP family.
type view struct {
	asked      bool
	mapped     netip.AddrPort
	silent     int  // bindings without answer, in a row
	changed    bool // the last one told another port than the one before
	rotation   stun.Rotation
	behaviour  stun.Behaviour
	discovered bool
}

// family is the index of an address's family in helper.views.
func family(a netip.Addr) int {
	if a.Unmap().Is4() {
		return 0
	}
	return 1
}

func newHelper(link identity.Link) *helper {
	return &helper{link: link, again: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
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

// atBy is where the rendezvous answers by one family; invalid if it does not.
func (h *helper) atBy(f int) netip.AddrPort {
	if h.seenAt.IsValid() && family(h.seenAt.Addr()) == f {
		return h.seenAt
	}
	for _, a := range h.link.At {
		if family(a.Addr()) == f {
			return a
		}
	}
	return netip.AddrPort{}
}

// mute says that the helper answers no STUN by UDP although it was asked.
func (h *helper) mute() bool {
	asked := false
	for _, v := range h.views {
		if v.asked && v.silent < silentAfter {
			return false
		}
		asked = asked || v.asked
	}
	return asked
}

// rebind has all bindings and tests made anew; Keeper.mu is held.
func (h *helper) rebind() {
	for f := range h.views {
		h.views[f].discovered, h.views[f].rotation = false, stun.Rotation{}
	}
	poke(h.again)
}

// consider tends a rendezvous unless there are enough.
func (k *Keeper) consider(link identity.Link) {
	if len(link.At) == 0 || link.Address == k.cfg.Device.Address() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.helpers[link.Address] != nil || len(k.helpers) >= maxTended || k.hopeful(now) >= wanted {
		return
	}
	if now.Before(k.rests[link.Address].until) {
		return
	}
	h := newHelper(link)
	h.tried = now
	h.alive.Learned(k.habits.lifetime)
	k.helpers[link.Address] = h
	k.running.Go(func() { k.tend(h) })
}

// hopeful counts the registrations that stand, and the attempts that are too
// young to be given up; k.mu is held.
func (k *Keeper) hopeful(now time.Time) (n int) {
	for _, h := range k.helpers {
		if h.registered || !h.tried.IsZero() && now.Sub(h.tried) < headStart {
			n++
		}
	}
	return n
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
		renewed, began := k.renewed(), time.Now()
		k.set(func() { h.tried = began })
		err := k.stay(h)
		k.set(func() { h.registered, h.claimed, h.tried = false, false, time.Time{} })
		poke(k.wake)
		if errors.Is(err, introduce.ErrUnwilling) {
			k.rest(h.link.Address, time.Now())
			break
		}
		if time.Since(began) > k.renew || k.cfg.Overlay.Current(h.link.Address) != nil {
			// While there is a session, a request tells soonest whether the
			// rendezvous was restarted.
			pause = retryFirst
		}
		k.cfg.Logger.Debug("rendezvous lost", "peer", h.link.Address.Short(), "err", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-renewed:
			pause = retryFirst
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
		if now.Sub(r.until) > 2*restLast {
			delete(k.rests, b) // no more asked, or willing since
		}
	}
	pause := min(max(2*k.rests[a].pause, retryFirst), restLast)
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
	for _, at := range h.link.At {
		k.met.note(at.Addr(), time.Now())
	}
	session, err := k.cfg.Overlay.Session(k.ctx, h.link.Address)
	if err != nil {
		return err
	}
	if !k.claim(h) {
		return errEnough
	}
	transport, at := reachedBy(session.Peer().Path())
	k.set(func() { h.transport, h.seenAt = transport, at })
	placed, err := k.register(h, transport, time.Time{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(k.ctx)
	var binding sync.WaitGroup
	defer binding.Wait()
	defer cancel()
	binding.Go(func() { k.keepBound(ctx, h) })
	tick := time.NewTicker(k.renew)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if placed, err = k.register(h, transport, placed); err != nil {
				return err
			}
		case <-h.moved:
			// A relay knows its clients by their ports: places over UDP are lost.
			k.joiner.LosePlaces()
			if k.unsteady() {
				transport = "tcp"
			}
			if placed, err = k.register(h, transport, time.Time{}); err != nil {
				return err
			}
		case <-session.Done():
			return errors.New("the session ended")
		case <-k.ctx.Done():
			return k.ctx.Err()
		}
	}
}

// reachedBy says by what a path leads to a rendezvous, and where it answers; a
// relay on the way answers no STUN.
func reachedBy(path nat.Path) (transport string, at netip.AddrPort) {
	framed, ok := path.Carrier.(*nat.Framed)
	switch {
	case path.Kind != nat.KindDirect:
		return "udp", netip.AddrPort{}
	case path.Carrier == nil:
		return "udp", path.Addr
	case ok:
		if tcp, ok := framed.RemoteAddr().(*net.TCPAddr); ok {
			at = tcp.AddrPort()
			at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		}
	}
	return "tcp", at
}

// register registers and, now and then, takes the place at the relay that this
// gives. It returns when that was.
func (k *Keeper) register(h *helper, network string, placed time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(k.ctx, registerLimit)
	defer cancel()
	r, err := k.cfg.Client.RegisterEvery(ctx, h.link.Address, k.epoch(), k.renew, k.Link().At...)
	if err != nil {
		if len(r.Others) > 0 && k.cfg.Refused != nil {
			k.cfg.Refused(r)
		}
		return placed, err
	}
	var at netip.AddrPort
	k.set(func() {
		at = h.at()
		h.registered, k.served = true, time.Now()
		if k.began.IsZero() {
			k.began = k.served
			close(k.ready)
		}
	})
	if k.cfg.Registered != nil {
		k.cfg.Registered(identity.Link{Address: h.link.Address, At: []netip.AddrPort{at}}, r)
	}
	if r.Ticket == nil || time.Since(placed) < placeEvery {
		return placed, nil
	}
	k.running.Go(func() {
		ctx, cancel := context.WithTimeout(k.ctx, placeLimit)
		defer cancel()
		if err := k.joiner.KeepPlace(ctx, h.link.Address, *r.Ticket, network); err != nil {
			k.cfg.Logger.Debug("no place at the relay", "peer", h.link.Address.Short(), "err", err)
		}
	})
	return time.Now(), nil
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
