package app

import (
	"context"
	"crypto/sha1"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/fx"

	"porchlight/agent/contacts"
	"porchlight/agent/dht"
	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
	"porchlight/agent/reach"
	"porchlight/agent/record"
	"porchlight/nat"
)

const (
	// enoughRendezvous is how many registrations are enough not to look for
	// more, and lackAfter how long too few may last before strangers are asked.
	enoughRendezvous = 2
	lackAfter        = 4 * time.Second
	// lookFirst and lookLast bound the pause between two searches.
	lookFirst = 8 * time.Second
	lookLast  = 10 * time.Minute
	// maxAsked is how many friends one search looks up, maxMet how many
	// strangers it calls.
	maxAsked = 6
	maxMet   = 3
	// announceEvery is how often a rendezvous says in the DHT that it is one:
	// nodes forget after half an hour (BEP 5).
	announceEvery = 22 * time.Minute
	searchLimit   = 20 * time.Second
)

// meetingPlace is the infohash under which rendezvous announce themselves
// (BEP 5): nothing but a name that all agree on.
var meetingPlace = sha1.Sum([]byte("porchlight rendezvous 1"))

// introducers lists friends that introduce others, by what they published.
type introducers struct {
	mu   sync.Mutex
	list func() []identity.Link
}

func newIntroducers() *introducers {
	return &introducers{list: func() []identity.Link { return nil }}
}

func (i *introducers) links() []identity.Link {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.list()
}

// scout looks for rendezvous when there are too few: friends that can be one,
// and strangers that announce themselves.
type scout struct {
	home    *household
	dir     *directory.Directory
	node    *dht.Node
	keeper  *reach.Keeper
	fellows *reach.Fellows
	overlay *overlay.Overlay
	joiner  *join.Joiner
	port    uint16
	log     *slog.Logger

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func startScout(lc fx.Lifecycle, home *household, dir *directory.Directory, node *dht.Node, keeper *reach.Keeper, fellows *reach.Fellows,
	o *overlay.Overlay, joiner *join.Joiner, socket *nat.Socket, known *introducers, log *slog.Logger) {
	s := &scout{home: home, dir: dir, node: node, keeper: keeper, fellows: fellows, overlay: o, joiner: joiner, port: socket.Port(), log: log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	known.mu.Lock()
	known.list = s.friends
	known.mu.Unlock()
	lc.Append(fx.StartStopHook(
		func() { s.running.Go(s.search); s.running.Go(s.announce) },
		func() { s.cancel(); s.running.Wait() },
	))
}

// friends lists devices of contacts that published that they introduce others.
func (s *scout) friends() (links []identity.Link) {
	for _, p := range s.home.peers() {
		if r, ok := s.dir.Cached(p.Address); ok && r.Flags&record.Introduces != 0 && len(r.At) > 0 {
			if c, known := s.home.book.Get(p.Address); known && c.Role != contacts.None {
				links = append(links, identity.Link{Address: p.Address, At: r.At})
			}
		}
	}
	return links
}

// pause waits; false at the end.
func (s *scout) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.ctx.Done():
		return false
	}
}

// search looks whenever registrations are lacking, less often the longer it is
// in vain.
func (s *scout) search() {
	wait := lookFirst
	for s.pause(lackAfter) {
		if len(s.keeper.Rendezvous()) >= enoughRendezvous {
			wait = lookFirst
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, searchLimit)
		s.lookUpFriends(ctx)
		if len(s.keeper.Rendezvous()) < enoughRendezvous {
			s.meetStrangers(ctx)
		}
		cancel()
		if !s.pause(wait - wait/8 + rand.N(wait/4)) {
			return
		}
		wait = min(2*wait, lookLast)
	}
}

// lookUpFriends has the directory find some friends: the keeper then sees which
// of them introduce others.
func (s *scout) lookUpFriends(ctx context.Context) {
	devices := s.home.addresses()
	rand.Shuffle(len(devices), func(i, j int) { devices[i], devices[j] = devices[j], devices[i] })
	var all sync.WaitGroup
	for _, d := range devices[:min(len(devices), maxAsked)] {
		all.Go(func() { s.dir.Lookup(ctx, d) })
	}
	all.Wait()
}

// meetStrangers calls devices that announce themselves as rendezvous.
func (s *scout) meetStrangers(ctx context.Context) {
	if s.node == nil {
		return
	}
	peers, err := s.node.Peers(ctx, meetingPlace)
	if err != nil {
		s.log.Debug("no rendezvous found", "err", err)
		return
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	met := 0
	for _, at := range peers {
		if met == maxMet || ctx.Err() != nil {
			return
		}
		if !s.callable(at) {
			continue
		}
		met++
		who, err := s.overlay.Meet(ctx, at)
		if err != nil {
			s.log.Debug("nobody at an announced address", "at", at, "err", err)
			continue
		}
		s.fellows.Suggest(identity.Via{Address: who, At: at})
	}
}

// callable says whether a stranger's word may make this device call there.
func (s *scout) callable(at netip.AddrPort) bool {
	a := at.Addr().Unmap()
	public := s.keeper.State().Public.Addr()
	return a.IsGlobalUnicast() && !a.IsPrivate() && at.Port() != 0 && a != public
}

// announce says that this device is a rendezvous, while it is one.
func (s *scout) announce() {
	if s.node == nil {
		return
	}
	for s.pause(lackAfter) {
		if !servesTable(s.keeper) {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, searchLimit)
		n, err := s.node.Announce(ctx, meetingPlace, s.port)
		cancel()
		s.log.Debug("announced as rendezvous", "nodes", n, "err", err)
		if err == nil && !s.pause(announceEvery) {
			return
		}
	}
}
