package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/nat"
	"porchlight/nat/ice"
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
	// NAT is the behaviour of the router and whether UDP works at all.
	NAT() (mapping string, noUDP bool)
}

// Hints tells where a device was last known to be.
type Hints interface {
	Hints(identity.Address) (at []netip.AddrPort, via []identity.Via)
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
	// Loopback allows loopback candidates, for agents on one machine.
	Loopback bool
	Logger   *slog.Logger
}

// Joiner finds and betters the ways of one device.
type Joiner struct {
	cfg     Config
	relays  *relays
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	ways  map[identity.Address]*way
	hints map[identity.Address]identity.Link // given with a call
	wrong map[netip.AddrPort]time.Time       // hints that led to others
}

// New returns a Joiner.
func New(cfg Config) *Joiner {
	j := &Joiner{
		cfg:   cfg,
		ways:  map[identity.Address]*way{},
		hints: map[identity.Address]identity.Link{},
		wrong: map[netip.AddrPort]time.Time{},
	}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	j.relays = newRelays(j)
	return j
}

// Close gives up all attempts and waits for what it started.
func (j *Joiner) Close() error {
	j.cancel()
	err := j.relays.close()
	j.running.Wait()
	return err
}

// Remember keeps the hints of a link for the calls that follow.
func (j *Joiner) Remember(link identity.Link) {
	if len(link.At)+len(link.Via) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.hints) >= maxWays {
		clear(j.hints)
	}
	j.hints[link.Address] = link
}

// hintsFor joins the hints of the contacts with those of the last link.
func (j *Joiner) hintsFor(to identity.Address) (at []netip.AddrPort, via []identity.Via) {
	at, via = j.cfg.Hints.Hints(to)
	j.mu.Lock()
	defer j.mu.Unlock()
	if link, ok := j.hints[to]; ok {
		at, via = append(link.At[:len(link.At):len(link.At)], at...), append(link.Via[:len(link.Via):len(link.Via)], via...)
	}
	good := at[:0:0]
	for _, a := range at {
		if time.Since(j.wrong[a]) > wrongFor {
			good = append(good, a)
		}
	}
	return good, via
}

// wrongFor is how long a hint that led to another device is passed over.
const wrongFor = time.Minute

// Find implements overlay.Finder.
func (j *Joiner) Find(ctx context.Context, to identity.Address) (*nat.Peer, error) {
	w, err := j.way(to)
	if err != nil {
		return nil, err
	}
	peer := j.cfg.Socket.NewPeer()
	w.add(peer)
	at, via := j.hintsFor(to)
	searches := j.search(w, peer, at, via)
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
func (j *Joiner) search(w *way, peer *nat.Peer, at []netip.AddrPort, via []identity.Via) <-chan error {
	result := make(chan error, 1)
	j.running.Go(func() {
		ctx, cancel := context.WithTimeout(j.ctx, searchLimit)
		defer cancel()
		var all sync.WaitGroup
		var hintErr, introErr error
		if len(at) > 0 {
			all.Go(func() { hintErr = j.tryHints(ctx, w, peer, at) })
		}
		all.Go(func() {
			if len(at) > 0 {
				select {
				case <-time.After(introduceAfter):
				case <-w.found():
					return
				case <-ctx.Done():
				}
			}
			introErr = j.introduce(ctx, w, via)
		})
		all.Wait()
		result <- errors.Join(hintErr, introErr)
	})
	return result
}

// Adopt implements overlay.Finder.
func (j *Joiner) Adopt(from identity.Address, remote net.Addr) *nat.Peer {
	addr, _ := remote.(*net.UDPAddr)
	peer := j.cfg.Socket.Adopt(addr.AddrPort())
	w, err := j.way(from)
	if err != nil {
		return peer
	}
	w.add(peer)
	if path := peer.Path(); path.Kind == nat.KindDirect && !w.usable() {
		w.note(route{path: path, remote: describe("prflx", path.Addr)})
	}
	return peer
}

// Ended implements overlay.Finder.
func (j *Joiner) Ended(with identity.Address, peer *nat.Peer) {
	j.mu.Lock()
	w := j.ways[with]
	empty := w != nil && w.remove(peer)
	if empty {
		delete(j.ways, with)
	}
	j.mu.Unlock()
	peer.Close()
	if empty {
		w.end()
	}
}

// Wrong implements overlay.Finder: another device answered there.
func (j *Joiner) Wrong(to identity.Address, peer *nat.Peer) {
	path := peer.Path()
	if path.Addr.IsValid() {
		j.mu.Lock()
		if len(j.wrong) >= maxWays {
			clear(j.wrong)
		}
		j.wrong[path.Addr] = time.Now()
		j.mu.Unlock()
	}
	j.Ended(to, peer)
}

func (j *Joiner) way(to identity.Address) (*way, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w := j.ways[to]; w != nil {
		return w, nil
	}
	if len(j.ways) >= maxWays {
		return nil, fmt.Errorf("already reaching %d devices", maxWays)
	}
	w := newWay(to)
	j.ways[to] = w
	j.running.Go(func() { j.better(w) })
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
	w := j.ways[to]
	j.mu.Unlock()
	if w == nil {
		closed := make(chan struct{})
		close(closed)
		return Info{Changed: closed}
	}
	return w.info()
}
