package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/spray"
	"porchlight/nat/stun"
)

// maxWays bounds how many devices are being reached at once.
const maxWays = 512

// ErrNoWay says that no way to a device was found.
var ErrNoWay = errors.New("no way to the device was found; it may be off, or its link may be old")

// Situation tells where this device stands at the moment.
type Situation interface {
	// Candidates are the device's own addresses, best first.
	Candidates() []ice.Candidate
	// Rendezvous are the devices a registration is kept at.
	Rendezvous() []identity.Address
	// Network is what is known about the routers in the way.
	Network() Network
	// Refresh asks the rendezvous how they see this device now, and lets them
	// know that it is there. It returns when they have answered, or ctx ends.
	Refresh(ctx context.Context)
}

// Network is what is known about the network around this device.
type Network struct {
	// Mapping is the router's behaviour in the words of nat/stun; NoUDP says
	// that UDP does not work at all.
	Mapping string
	NoUDP   bool
	// Public is where the shared socket is seen, IPv4 if there is any.
	Public netip.AddrPort
	// Servers answer STUN by UDP, and by TCP in frames at the same port.
	Servers []netip.AddrPort
	// TCP lists where connections come in from outside.
	TCP []netip.AddrPort
}

// Hints tells where a device was last known to be.
type Hints interface {
	Hints(identity.Address) (at []netip.AddrPort, via []identity.Via)
}

// Directory finds what a device published about itself.
type Directory interface {
	// Lookup takes seconds and asks many; it returns where the device is and
	// who introduces it.
	Lookup(ctx context.Context, a identity.Address) (at []netip.AddrPort, via []identity.Via, err error)
}

// Sessions is what a Joiner needs of the overlay.
type Sessions interface {
	Current(identity.Address) *overlay.Session
	Session(context.Context, identity.Address) (*overlay.Session, error)
}

// Config is what a Joiner needs.
type Config struct {
	Device     *identity.Device
	Socket     *nat.Socket
	Mux        *stun.Mux
	Introducer *introduce.Client
	Sessions   Sessions
	Situation  Situation
	Hints      Hints
	// Directory is asked where hints do not lead there at once; nil if there
	// is none.
	Directory Directory
	// Loopback allows loopback candidates, for agents on one machine.
	Loopback bool
	Logger   *slog.Logger
}

// Joiner finds and betters the ways of one device.
type Joiner struct {
	cfg     Config
	relays  *relays
	sprays  spray.Budget
	silence time.Duration // see the constant; before the first way
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	starting sync.Mutex
	closed   bool // nothing may be started any more

	mu    sync.Mutex
	ways  map[identity.Address]*way
	hints map[identity.Address]identity.Link // given with a call
	wrong map[netip.AddrPort]time.Time       // hints that led to others
	begun chan struct{}                      // closed and replaced when a way begins
	// refreshed is when we last looked whether our address outside changed.
	refreshed time.Time
}

// New returns a Joiner.
func New(cfg Config) *Joiner {
	j := &Joiner{
		cfg:     cfg,
		silence: silence,
		ways:    map[identity.Address]*way{},
		hints:   map[identity.Address]identity.Link{},
		wrong:   map[netip.AddrPort]time.Time{},
		begun:   make(chan struct{}),
	}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	j.relays = newRelays(j)
	return j
}

// Close gives up all attempts and waits for what it started.
func (j *Joiner) Close() error {
	j.starting.Lock()
	j.closed = true
	j.starting.Unlock()
	j.cancel()
	err := j.relays.close()
	j.running.Wait()
	return err
}

// errClosed says that the Joiner was closed.
var errClosed = errors.New("the search for devices has ended")

// start runs f in a goroutine that Close waits for; false after Close.
func (j *Joiner) start(f func()) bool {
	j.starting.Lock()
	defer j.starting.Unlock()
	if !j.closed {
		j.running.Go(f)
	}
	return !j.closed
}

// Remember keeps the hints of a link for the calls that follow.
func (j *Joiner) Remember(link identity.Link) {
	if len(link.At)+len(link.Via) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	old := j.hints[link.Address]
	j.keep(identity.Link{
		Address: link.Address,
		At:      merge(link.At, old.At),
		Via:     merge(link.Via, old.Via),
	})
}

// prepareLimit ends what a device asks before it is asked to call.
const prepareLimit = 5 * time.Second

// Prepare remembers a link and asks, of the rendezvous it names that we have a
// session with, what a call will need: the first one is then a round trip
// faster.
func (j *Joiner) Prepare(link identity.Link) {
	j.Remember(link)
	for _, v := range link.Via {
		if j.cfg.Sessions.Current(v.Address) == nil {
			continue
		}
		j.start(func() {
			ctx, cancel := context.WithTimeout(j.ctx, prepareLimit)
			defer cancel()
			if _, err := j.cfg.Introducer.Learn(ctx, v.Address, link.Address); err != nil {
				j.cfg.Logger.Debug("nothing learnt about a contact", "peer", link.Address.Short(), "err", err)
			}
		})
		return
	}
}

// suggest keeps where somebody's link says that a rendezvous is, behind what
// is known of it: a stranger's word must not displace the owner's.
func (j *Joiner) suggest(v identity.Via) {
	if !v.At.IsValid() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	link := j.hints[v.Address]
	link.Address = v.Address
	link.At = merge(link.At, []netip.AddrPort{v.At})
	j.keep(link)
}

// keep stores hints, if need be in place of any others; j.mu is held.
func (j *Joiner) keep(link identity.Link) {
	if _, known := j.hints[link.Address]; !known && len(j.hints) >= maxWays {
		for a := range j.hints {
			delete(j.hints, a)
			break
		}
	}
	j.hints[link.Address] = link
}

// merge returns the first MaxHints of both, each once.
func merge[T comparable](first, second []T) []T {
	var all []T
	for _, v := range slices.Concat(first, second) {
		if len(all) < identity.MaxHints && !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all
}

// hintsFor joins the hints of the contacts with those of the last link.
func (j *Joiner) hintsFor(to identity.Address) (at []netip.AddrPort, via []identity.Via) {
	at, via = j.cfg.Hints.Hints(to)
	j.mu.Lock()
	defer j.mu.Unlock()
	if link, ok := j.hints[to]; ok {
		at, via = slices.Concat(link.At, at), slices.Concat(link.Via, via)
	}
	var good []netip.AddrPort
	for _, a := range at {
		if time.Since(j.wrong[a]) > wrongFor && !slices.Contains(good, a) {
			good = append(good, a)
		}
	}
	return good, via
}

// wrongFor is how long a hint that led to another device is passed over.
const wrongFor = time.Minute

// Find implements overlay.Finder.
func (j *Joiner) Find(ctx context.Context, to identity.Address) (*nat.Peer, error) {
	peer := j.cfg.Socket.NewPeer()
	w, err := j.join(to, peer)
	if err != nil {
		peer.Close()
		return nil, err
	}
	w.call()
	at, via := j.hintsFor(to)
	searches := j.search(w, at, via)
	// Searches go on when the first way is found: a better one may follow.
	select {
	case <-w.found():
		return peer, nil
	case err := <-searches:
		if w.usable() {
			return peer, nil
		}
		j.Ended(to, peer)
		if err == nil {
			err = ErrNoWay
		}
		return nil, fmt.Errorf("reach %s: %w", to.Short(), err)
	case <-ctx.Done():
		j.Ended(to, peer)
		return nil, fmt.Errorf("reach %s: %w", to.Short(), ctx.Err())
	}
}

// searchLimit ends the searches of one call.
const searchLimit = 15 * time.Second

// introduceAfter is the head start of a hint that names the device itself.
const introduceAfter = 300 * time.Millisecond

// search starts all searches and sends one result when all have ended.
func (j *Joiner) search(w *way, at []netip.AddrPort, via []identity.Via) <-chan error {
	result := make(chan error, 1)
	started := j.start(func() {
		ctx, cancel := context.WithTimeout(j.ctx, searchLimit)
		defer cancel()
		var all sync.WaitGroup
		var hintErr, introErr, lookErr error
		all.Go(func() { lookErr = j.lookUp(ctx, w, at, via) })
		if len(at) > 0 {
			all.Go(func() { hintErr = j.tryHints(ctx, w, at) })
		}
		all.Go(func() {
			if len(at) > 0 {
				select {
				case <-time.After(introduceAfter):
				case <-w.found():
					if !j.atHome(at) {
						return
					}
				case <-ctx.Done():
				}
			}
			introErr = j.introduce(ctx, w, via)
		})
		all.Wait()
		result <- errors.Join(hintErr, introErr, lookErr)
	})
	if !started {
		result <- errClosed
	}
	return result
}

// atHome reports whether a hint is our own home's address outside: a router
// that turns packets back answers for a device that is nearer inside.
func (j *Joiner) atHome(at []netip.AddrPort) bool {
	home := j.cfg.Situation.Network().Public.Addr()
	return home.IsValid() && slices.ContainsFunc(at, func(a netip.AddrPort) bool { return a.Addr() == home })
}

// Adopt implements overlay.Finder.
func (j *Joiner) Adopt(from identity.Address, remote net.Addr) *nat.Peer {
	addr, ok := remote.(*net.UDPAddr)
	if !ok || addr == nil {
		// Nothing on our socket: the session goes without a path of ours.
		peer := j.cfg.Socket.NewPeer()
		j.join(from, peer)
		return peer
	}
	peer := j.cfg.Socket.Adopt(addr.AddrPort())
	w, err := j.join(from, peer)
	if err != nil {
		return peer
	}
	path := peer.Path()
	if path.Kind != nat.KindDirect {
		return peer
	}
	if path.Addr.IsValid() && j.relays.isRelayed(path.Addr) {
		// The first packet overtook the answer to our probe.
		path.Kind = nat.KindRelay
		peer.SetPath(path)
		w.note(route{path: path, local: "srflx", remote: describe("relay", path.Addr)})
		return peer
	}
	w.note(route{path: path, remote: describe("prflx", path.Addr)})
	return peer
}

// Ended implements overlay.Finder.
func (j *Joiner) Ended(with identity.Address, peer *nat.Peer) {
	j.mu.Lock()
	w := j.ways[with]
	unused, empty := true, false
	if w != nil {
		unused, empty = w.remove(peer)
	}
	if empty {
		delete(j.ways, with)
	}
	j.mu.Unlock()
	if unused {
		peer.Close()
	}
	if empty {
		w.end()
		j.relays.forget(w)
	}
}

// Wrong implements overlay.Finder: another device answered there.
func (j *Joiner) Wrong(to identity.Address, peer *nat.Peer) {
	addr := peer.Path().Addr
	j.mu.Lock()
	if w := j.ways[to]; w != nil {
		if !addr.IsValid() {
			addr = w.hint() // it answered over TCP
		}
		w.drop(peer.Path())
	}
	if addr.IsValid() {
		j.pass(addr, time.Now())
	}
	j.mu.Unlock()
	j.Ended(to, peer)
}

// pass has a hint passed over for a while; j.mu is held.
func (j *Joiner) pass(addr netip.AddrPort, now time.Time) {
	for a, at := range j.wrong {
		if now.Sub(at) > wrongFor || len(j.wrong) >= maxWays {
			delete(j.wrong, a)
		}
	}
	j.wrong[addr] = now
}

// join makes a peer follow the way to a device.
func (j *Joiner) join(to identity.Address, peer *nat.Peer) (*way, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w, err := j.way(to)
	if err == nil {
		w.add(peer)
	}
	return w, err
}

// hold keeps the way to a device, by a fresh peer if it has none.
func (j *Joiner) hold(to identity.Address) (w *way, peer *nat.Peer, fresh bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w, err = j.way(to); err == nil {
		peer, fresh = w.hold(j.cfg.Socket.NewPeer)
	}
	return w, peer, fresh, err
}

// way returns the way to a device, which has a peer from the moment j.mu is
// free again, so that it cannot end in between; j.mu is held.
func (j *Joiner) way(to identity.Address) (*way, error) {
	if w := j.ways[to]; w != nil {
		return w, nil
	}
	if len(j.ways) >= maxWays {
		return nil, fmt.Errorf("already reaching %d devices", maxWays)
	}
	w := newWay(to)
	if !j.start(func() { j.better(w) }) {
		return nil, errClosed
	}
	j.ways[to] = w
	close(j.begun)
	j.begun = make(chan struct{})
	return w, nil
}

// Info describes the way to a device at this moment.
type Info struct {
	// Path is "direct", "relay" or "".
	Path          string
	Local, Remote string
	Reason        api.Reason
	// Hopeless says that no direct way can exist as the routers are now.
	Hopeless bool
	// Changed is closed when any of this changes.
	Changed <-chan struct{}
}

// Info returns what is known about the way to a device.
func (j *Joiner) Info(to identity.Address) Info {
	j.mu.Lock()
	w, begun := j.ways[to], j.begun
	j.mu.Unlock()
	if w == nil {
		return Info{Changed: begun}
	}
	return w.info()
}
