package join

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/nat"
)

// route is a path together with how people and status describe it.
type route struct {
	path          nat.Path
	local, remote string
	hint          netip.AddrPort // where the device was said to be, if that led here
}

func describe(kind string, addr netip.AddrPort) string {
	if !addr.IsValid() {
		return kind
	}
	return kind + " " + addr.String()
}

// way is the present way to one device and the socket's peers that use it.
type way struct {
	to identity.Address

	mu    sync.Mutex
	peers []use
	// began says that this device called, and so betters the way.
	began bool
	// chooses says that this side chooses among relays; else it replies by
	// the one that packets come by.
	chooses  bool
	attempts int // offers being answered
	// upgrading says that a better path is being looked for over the session.
	upgrading bool
	theirs    introduce.Offer // the other side's latest, for what it says of routers
	route     route
	lost      route     // what lose forgot
	heard     time.Time // when packets last came in, or the route began
	reason    api.Reason
	hopeless  bool
	ready     chan struct{} // closed while there is a path
	changed   chan struct{} // closed and replaced at each change
	done      chan struct{}
	ended     bool
}

// use is a peer and how many sessions and attempts hold it: a device that
// calls back over the path of our call comes in by the same peer.
type use struct {
	peer *nat.Peer
	held int
}

func newWay(to identity.Address) *way {
	return &way{
		to:      to,
		reason:  api.Trying,
		ready:   make(chan struct{}),
		changed: make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// add makes a peer follow the way; each add is undone by one remove.
func (w *way) add(peer *nat.Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.peers {
		if w.peers[i].peer == peer {
			w.peers[i].held++
			return
		}
	}
	w.peers = append(w.peers, use{peer, 1})
	if w.route.path.Kind != nat.KindNone && peer.Path().Kind == nat.KindNone {
		peer.SetPath(w.route.path)
	}
}

// hold keeps the way alive during an attempt: by its first peer, or by a fresh
// one, which the caller will then be seen as.
func (w *way) hold(fresh func() *nat.Peer) (peer *nat.Peer, isFresh bool) {
	if peer = w.first(); peer == nil {
		peer, isFresh = fresh(), true
	}
	w.add(peer)
	return peer, isFresh
}

// remove undoes one add and reports whether the peer, and the way, are now
// held by nobody.
func (w *way) remove(peer *nat.Peer) (unused, empty bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.peers, func(u use) bool { return u.peer == peer })
	if i < 0 {
		return true, false
	}
	if w.peers[i].held--; w.peers[i].held > 0 {
		return false, false
	}
	w.peers = slices.Delete(w.peers, i, i+1)
	if len(w.peers) == 0 {
		empty, w.ended = !w.ended, true
		return true, empty
	}
	// What comes from the path's address was shown as the peer that leaves.
	if w.route.path.Kind != nat.KindNone {
		w.peers[0].peer.SetPath(w.route.path)
	}
	return true, false
}

// over reports whether the way has ended.
func (w *way) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

func (w *way) end() { close(w.done) }

// first returns a peer of the way, nil if there is none.
func (w *way) first() *nat.Peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.peers) == 0 {
		return nil
	}
	return w.peers[0].peer
}

// hint returns the address by which the route was found, if it was a hint.
func (w *way) hint() netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.route.hint
}

// found returns a channel that is closed once there is a path.
func (w *way) found() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ready
}

func (w *way) usable() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.route.path.Kind != nat.KindNone
}

// direct reports whether there is a direct path that is known to work both ways.
func (w *way) direct() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	path := w.route.path
	return path.Kind == nat.KindDirect && (path.Proven || path.Carrier != nil)
}

// use switches all peers to a route, unless it is a relay and there is a
// route already. It reports whether it was taken.
func (w *way) use(r route) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.path.Kind == nat.KindRelay && w.route.path.Kind != nat.KindNone {
		return r == w.route
	}
	if r == w.route {
		return true // probes repeat what is known
	}
	for _, u := range w.peers {
		u.peer.SetPath(r.path)
	}
	w.set(r)
	return true
}

// asks notes whether this side chooses the way by a relay, and returns it.
func (w *way) asks(yes bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.chooses = yes
	return yes
}

// repliesBy reports whether packets that came through a place need no change:
// the way leads back there, is direct, or is ours to choose.
func (w *way) repliesBy(p *place, to netip.AddrPort) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chooses || w.route.path.Kind == nat.KindDirect {
		return true
	}
	c, ok := w.route.path.Carrier.(carrier)
	return ok && c.place == p && c.to == to
}

// replyBy makes the relay that packets came by the way back.
func (w *way) replyBy(r route) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.peers {
		u.peer.SetPath(r.path)
	}
	w.set(r)
}

// useCarrier switches the peers to a carrier that attach ties to the first of
// them, unless there is a direct route already: the socket's own is the best.
func (w *way) useCarrier(r route, attach func(*nat.Peer) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.route.path.Kind == nat.KindDirect || len(w.peers) == 0 {
		return errSlower
	}
	first := w.peers[0].peer
	if err := attach(first); err != nil {
		return err
	}
	for _, u := range w.peers[1:] {
		u.peer.SetPath(r.path)
	}
	w.set(r)
	return nil
}

// errSlower says that another path was found first.
var errSlower = errors.New("another path was faster")

// note records a route that a peer uses already, unless there is one.
func (w *way) note(r route) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.route.path.Kind == nat.KindNone {
		w.set(r)
	}
}

func (w *way) set(r route) {
	if w.route.path.Kind == nat.KindNone {
		close(w.ready)
	}
	w.route, w.lost, w.heard = r, route{}, time.Now()
	if r.path.Kind == nat.KindDirect {
		w.reason, w.hopeless = "", false
	}
	w.announce()
}

// lose forgets a route that carries nothing any more, so that a relayed one
// may take its place. The peers keep sending there until then.
func (w *way) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.route.path.Kind != nat.KindNone {
		w.route, w.lost = route{}, w.route
		w.ready = make(chan struct{})
		w.reason = api.Trying
		w.announce()
	}
}

// drop loses a path for good: it leads elsewhere.
func (w *way) drop(path nat.Path) {
	w.mu.Lock()
	same := w.route.path == path
	w.mu.Unlock()
	if same {
		w.lose()
		w.mu.Lock()
		w.lost = route{}
		w.mu.Unlock()
	}
}

// regain takes a lost route back, over which packets come again.
func (w *way) regain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.route.path.Kind == nat.KindNone && w.lost.path.Kind != nat.KindNone {
		for _, u := range w.peers {
			if u.peer.Path().Kind == nat.KindNone { // it came meanwhile
				u.peer.SetPath(w.lost.path)
			}
		}
		w.set(w.lost)
	}
}

// noteHeard records that packets came in.
func (w *way) noteHeard(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = now
}

// doubt loses a direct route that has brought nothing for a while: the other
// side makes an offer, so it may have lost its own, or says so.
func (w *way) doubt(now time.Time, lost bool) {
	w.mu.Lock()
	limit := doubtAfter
	if lost {
		limit = lostAfter
	}
	quiet := w.route.path.Kind == nat.KindDirect && now.Sub(w.heard) > limit
	w.mu.Unlock()
	if quiet {
		w.lose()
	}
}

// doubtAfter is how long a direct route may bring nothing before an offer of
// the other side casts doubt on it; lostAfter is that where the other side says
// that it has none. A route that another offer has just led to stays.
const (
	doubtAfter = 3 * time.Second
	lostAfter  = 300 * time.Millisecond
)

// begin counts an attempt to answer an offer; false if there are enough.
func (w *way) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts >= maxAttempts {
		return false
	}
	w.attempts++
	return true
}

func (w *way) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts--
}

// beginUpgrade reports whether no other search over the session is under way.
func (w *way) beginUpgrade() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.upgrading || w.ended {
		return false
	}
	w.upgrading = true
	return true
}

func (w *way) isUpgrading() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.upgrading
}

func (w *way) endUpgrade() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.upgrading = false
}

// noteTheirs keeps what the other side said of its network.
func (w *way) noteTheirs(o introduce.Offer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.theirs = o
}

// lastTheirs returns what the other side said of its network last.
func (w *way) lastTheirs() introduce.Offer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.theirs
}

// call notes that this device called.
func (w *way) call() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = true
}

func (w *way) called() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.began
}

// through reports whether packets go by way of a place.
func (w *way) through(p *place) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.route.path.Carrier.(carrier)
	return ok && c.place == p
}

// explain records why there is no direct path.
func (w *way) explain(reason api.Reason, hopeless bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.reason != reason || w.hopeless != hopeless
	if w.route.path.Kind != nat.KindDirect && changed {
		w.reason, w.hopeless = reason, hopeless
		w.announce()
	}
}

func (w *way) announce() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *way) info() Info {
	w.mu.Lock()
	defer w.mu.Unlock()
	info := Info{
		Local:    w.route.local,
		Remote:   w.route.remote,
		Reason:   w.reason,
		Hopeless: w.hopeless,
		Changed:  w.changed,
	}
	if w.route.path.Kind != nat.KindNone {
		info.Path = w.route.path.Kind.String()
	}
	return info
}

// traffic sums what all peers of the way sent, or tried to, and received, in
// packets.
func (w *way) traffic() (sent, received int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.peers {
		s := u.peer.Stats()
		sent += s.Direct.TxPackets + s.Relay.TxPackets + s.NoPath + s.CarrierRefused + s.WriteErrors
		received += s.Direct.RxPackets + s.Relay.RxPackets
	}
	return sent, received
}
