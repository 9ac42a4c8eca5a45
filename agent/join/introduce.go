package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/stun"
	"porchlight/nat/tcppunch"
)

const (
	// iceLimit ends one search for a direct path.
	iceLimit = 6 * time.Second
	// lateLimit is how long the called side waits for a session to begin.
	lateLimit = 30 * time.Second
	// maxAttempts is how many offers of one device are answered at once: it
	// may come by several rendezvous, and look again meanwhile.
	maxAttempts = 8
	// maxVia is how many rendezvous one call asks.
	maxVia = 4
)

// introduce sends an offer by every rendezvous there is until one brings an
// answer, and follows it.
func (j *Joiner) introduce(ctx context.Context, w *way, via []identity.Via) error {
	rendezvous := j.rendezvous(w.to, via)
	if len(rendezvous) == 0 {
		return errors.New("no rendezvous is known that could introduce us")
	}
	return j.introduceBy(ctx, w, rendezvous)
}

// introduceBy sends an offer by each of the rendezvous, one after another,
// until one brings an answer.
func (j *Joiner) introduceBy(ctx context.Context, w *way, rendezvous []identity.Address) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan struct{})
	var once sync.Once
	errs := make([]error, len(rendezvous))
	var all sync.WaitGroup
	for i, r := range rendezvous {
		all.Go(func() {
			if i > 0 { // a head start for each before the next
				select {
				case <-time.After(time.Duration(i) * introduceAfter):
				case <-answered:
					return
				case <-ctx.Done():
				}
			}
			errs[i] = j.offer(ctx, w, r, func() { once.Do(func() { close(answered) }) })
		})
	}
	all.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

func (j *Joiner) rendezvous(to identity.Address, via []identity.Via) []identity.Address {
	var all []identity.Address
	seen := map[identity.Address]bool{to: true, j.cfg.Device.Address(): true}
	add := func(a identity.Address) {
		if !seen[a] && len(all) < maxVia {
			seen[a] = true
			all = append(all, a)
		}
	}
	for _, v := range via {
		j.suggest(v)
		add(v.Address)
	}
	for _, a := range j.cfg.Situation.Rendezvous() {
		add(a)
	}
	return all
}

// offer sends one offer by way of via and follows the answer to a path.
func (j *Joiner) offer(ctx context.Context, w *way, via identity.Address, answered func()) error {
	// The session comes first: an attempt holds ports of the mux meanwhile.
	if via != w.to {
		if _, err := j.cfg.Sessions.Session(ctx, via); err != nil {
			return fmt.Errorf("rendezvous %s: %w", via.Short(), err)
		}
	}
	attempt, err := j.newAttempt(w, true)
	if err != nil {
		return err
	}
	defer attempt.close()
	if attempt.second = via == w.to; attempt.second {
		attempt.bring(ctx, w.lastTheirs())
	}
	answer, err := j.cfg.Introducer.Offer(ctx, via, w.to, attempt.ours)
	if err != nil {
		return err
	}
	answered()
	return attempt.follow(ctx, answer, true)
}

// Answer implements introduce.Answerer: it starts to look for the caller
// before the answer leaves.
func (j *Joiner) Answer(ctx context.Context, from identity.Address, offer introduce.Offer) (introduce.Offer, error) {
	w, peer, fresh, err := j.hold(from)
	if err != nil {
		return introduce.Offer{}, err
	}
	if !w.begin() {
		j.Ended(from, peer)
		return introduce.Offer{}, fmt.Errorf("already answering %d offers of %s", maxAttempts, from.Short())
	}
	w.doubt(time.Now(), offer.Lost)
	attempt, err := j.newAttempt(w, false)
	if err == nil && offer.Second() {
		attempt.bring(ctx, offer)
	}
	if err == nil && !j.start(func() { j.follow(attempt, offer, peer, fresh) }) {
		attempt.close()
		err = errClosed
	}
	if err != nil {
		w.finish()
		j.Ended(from, peer)
		return introduce.Offer{}, err
	}
	return attempt.ours, nil
}

// follow looks for a caller and then gives it time to begin a session, for
// which a peer waits if there was none.
func (j *Joiner) follow(attempt *attempt, offer introduce.Offer, peer *nat.Peer, fresh bool) {
	ctx, cancel := context.WithTimeout(j.ctx, lateLimit)
	defer cancel()
	err := attempt.follow(ctx, offer, false)
	attempt.close()
	attempt.w.finish()
	if err != nil {
		j.cfg.Logger.Debug("no path to the caller", "peer", attempt.w.to.Short(), "err", err)
	}
	if fresh {
		<-ctx.Done()
	}
	j.Ended(attempt.w.to, peer)
}

// attempt is one exchange of offer and answer, from our side.
type attempt struct {
	j       *Joiner
	w       *way
	calling bool
	agent   *ice.Agent
	ours    introduce.Offer
	relay   *relayEnd
	punch   *tcppunch.Puncher // nil unless brought
	// turn ends our turn to spray; nil unless brought. busy says that it was
	// not ours.
	turn func(found bool, packets int)
	busy bool
	// second says that the exchange goes over the session and that we brought
	// what we have: nothing more can be tried after it.
	second bool
	// filter is known once the other side's candidates are.
	filter atomic.Pointer[ice.Filter]
}

// openFor is how long the called side leaves it to the caller to come first: a
// round trip of the caller's by way of a rendezvous, and some more.
const openFor = 500 * time.Millisecond

// newAttempt prepares one side of an exchange: the caller's or the called.
func (j *Joiner) newAttempt(w *way, calling bool) (*attempt, error) {
	candidates := j.cfg.Situation.Candidates()
	if len(candidates) > introduce.MaxCandidates {
		candidates = candidates[:introduce.MaxCandidates]
	}
	network := j.cfg.Situation.Network()
	a := &attempt{j: j, w: w, calling: calling}
	cfg := ice.Config{
		Mux:      j.cfg.Mux,
		Local:    candidates,
		OnRemote: a.heard,
		OnPair:   a.paired,
		Accept:   a.accept,
		Logger:   j.cfg.Logger,
	}
	if !calling && !dependent(network.Mapping) {
		// With a port for each destination the caller could not come first.
		cfg.OpenFor = openFor
	}
	agent, err := ice.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare to reach %s: %w", w.to.Short(), err)
	}
	a.agent = agent
	a.ours = introduce.Offer{
		ICE:     agent.Local(),
		Mapping: network.Mapping,
		NoUDP:   network.NoUDP,
		Lost:    calling && !w.usable(),
		TCPAt:   network.TCP[:min(len(network.TCP), introduce.MaxTCP)],
	}
	a.relay = j.relays.open(w, a.ours.ICE)
	a.ours.Relay = a.relay.addresses()
	return a, nil
}

// heard takes the source of a check that knew our password. The caller may use
// the pair before we do, so its packets are its own; and without any way yet
// they are answered there, though the source has proved nothing.
func (a *attempt) heard(from netip.AddrPort) {
	if peer := a.w.first(); peer != nil {
		peer.Accept(from)
	}
	if !a.calling && !a.w.usable() {
		r := directRoute(ice.Candidate{Kind: ice.Learnt, Addr: from})
		r.path.Proven = false
		a.w.use(r)
	}
}

// paired takes a pair that works. It is used at once: nomination would cost a
// round trip, and may still choose a better one.
func (a *attempt) paired(remote ice.Candidate) {
	if peer := a.w.first(); peer != nil {
		peer.Accept(remote.Addr)
	}
	if !a.w.direct() {
		a.w.use(directRoute(remote))
	}
}

// directRoute describes a pair of which only the far end is known so far.
func directRoute(remote ice.Candidate) route {
	return route{
		path:   nat.Path{Kind: nat.KindDirect, Addr: remote.Addr, Proven: true},
		local:  ice.Srflx,
		remote: remote.String(),
	}
}

// accept decides which candidates of the other side are checked: those that
// cannot turn this device into a scanner of its own network.
func (a *attempt) accept(addr netip.AddrPort) bool {
	filter := a.filter.Load()
	return filter != nil && filter.Allow(addr)
}

func (a *attempt) close() {
	a.agent.Close()
	a.relay.close()
	if a.punch != nil {
		a.punch.Close()
	}
	a.yield()
}

// yield ends our turn to spray, if it is ours, for others to have it.
func (a *attempt) yield() {
	if a.turn != nil {
		a.turn(true, 0) // does nothing if it has ended
	}
}

// follow looks for a relayed and a direct path to the other side at once.
func (a *attempt) follow(ctx context.Context, theirs introduce.Offer, calling bool) error {
	a.w.noteTheirs(theirs)
	if calling && needsHard(a.ours, theirs) && !a.second {
		a.j.goOn(a.w, a.headStart(theirs))
	}
	var all sync.WaitGroup
	var relayErr, directErr error
	relayCtx, stop := context.WithCancel(ctx)
	defer stop()
	all.Go(func() { relayErr = a.relay.follow(relayCtx, a.ours, theirs, calling) })
	all.Go(func() {
		if directErr = a.direct(ctx, theirs, calling); directErr == nil {
			stop()
		}
	})
	all.Wait()
	if directErr != nil && relayErr != nil {
		return errors.Join(directErr, relayErr)
	}
	return nil
}

// headStart is how long the first exchange may look for a direct path before
// the second one begins.
func (a *attempt) headStart(theirs introduce.Offer) time.Duration {
	if (a.ours.NoUDP || theirs.NoUDP) && len(a.ours.TCPAt)+len(theirs.TCPAt) == 0 {
		return 0
	}
	return hardAfter
}

// direct looks for a direct path by what both sides brought to the exchange.
func (a *attempt) direct(ctx context.Context, theirs introduce.Offer, calling bool) error {
	defer a.yield()
	switch {
	case !sameFamily(a.ours, theirs):
		a.w.explain(api.NoCommonIP, true)
		return fmt.Errorf("no direct path: %s", api.NoCommonIP)
	case a.ours.NoUDP || theirs.NoUDP:
		if err := a.dialTCP(ctx, theirs, calling); err == nil {
			return nil
		}
		if a.ours.TCP == nil || theirs.TCP == nil {
			return a.without(theirs)
		}
		return a.beyond(ctx, theirs, calling)
	case a.ours.Spray != nil && theirs.Spray != nil:
		return a.beyond(ctx, theirs, calling)
	case a.busy, a.second && needsHard(a.ours, theirs):
		a.w.explain(api.Busy, false)
		return fmt.Errorf("no direct path: %s", api.Busy)
	}
	return a.checks(ctx, theirs, calling)
}

// without explains that nothing can be tried for a direct path: for good if
// this was the second exchange.
func (a *attempt) without(theirs introduce.Offer) error {
	reason := verdict(a.ours, theirs)
	a.w.explain(reason, a.second)
	return fmt.Errorf("no direct path: %s", reason)
}

// checks looks for a direct path by ICE.
func (a *attempt) checks(ctx context.Context, theirs introduce.Offer, calling bool) error {
	a.w.explain(api.Trying, false)
	ctx, cancel := context.WithTimeout(ctx, iceLimit)
	defer cancel()
	filter := ice.FilterFor(a.ours.ICE.Candidates, theirs.ICE.Candidates)
	filter.Loopback = a.j.cfg.Loopback
	a.filter.Store(&filter)
	pair, err := a.agent.Connect(ctx, theirs.ICE, calling)
	if err != nil {
		if !needsHard(a.ours, theirs) {
			a.w.explain(verdict(a.ours, theirs), false)
		}
		return fmt.Errorf("no direct path: %w", err)
	}
	a.w.use(route{
		path:   nat.Path{Kind: nat.KindDirect, Addr: pair.Remote.Addr, Proven: true},
		local:  pair.Local.String(),
		remote: pair.Remote.String(),
	})
	a.linger()
	return nil
}

// lingerFor is how long an agent answers checks after its own side is done:
// the other side may still be checking.
const lingerFor = 3 * time.Second

func (a *attempt) linger() {
	select {
	case <-time.After(lingerFor):
	case <-a.j.ctx.Done():
	}
}

// dependent reports whether a router chooses a port for each destination.
func dependent(mapping string) bool {
	return mapping == string(stun.AddressDependent) || mapping == string(stun.AddressAndPortDependent)
}

// verdict says what a failed search means, given both ends' routers.
func verdict(ours, theirs introduce.Offer) api.Reason {
	switch {
	case ours.NoUDP:
		return api.UDPBlockedHere
	case theirs.NoUDP:
		return api.UDPBlockedThere
	case dependent(ours.Mapping) && dependent(theirs.Mapping):
		return api.BothRandom
	case !sameFamily(ours, theirs):
		return api.NoCommonIP
	}
	// Checks were answered by nobody: the next search starts from nothing.
	return api.NoDirect
}

// sameFamily reports whether the two sides have an IP version in common, or
// one of them told no address.
func sameFamily(ours, theirs introduce.Offer) bool {
	families := func(o introduce.Offer) (four, six bool) {
		for _, c := range o.ICE.Candidates {
			four, six = four || c.Addr.Addr().Is4(), six || c.Addr.Addr().Is6()
		}
		return four, six
	}
	four, six := families(ours)
	theirFour, theirSix := families(theirs)
	none := !four && !six || !theirFour && !theirSix
	return none || four && theirFour || six && theirSix
}
