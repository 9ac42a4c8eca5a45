package join

import (
	"net/netip"
	"slices"
	"sync"

	"porchlight/agent/api"
	"porchlight/agent/identity"
	"porchlight/nat"
)

// route is a path together with how people and status describe it.
type route struct {
	path          nat.Path
	local, remote string
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

	mu       sync.Mutex
	peers    []*nat.Peer
	route    route
	reason   api.Reason
	hopeless bool
	ready    chan struct{} // closed while there is a path
	changed  chan struct{} // closed and replaced at each change
	done     chan struct{}
	ended    bool
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

// add makes a peer follow the way.
func (w *way) add(peer *nat.Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.peers, peer) {
		return
	}
	w.peers = append(w.peers, peer)
	if w.route.path.Kind != nat.KindNone && peer.Path().Kind == nat.KindNone {
		peer.SetPath(w.route.path)
	}
}

// remove lets go of a peer and reports whether it was the last.
func (w *way) remove(peer *nat.Peer) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peers = slices.DeleteFunc(w.peers, func(p *nat.Peer) bool { return p == peer })
	if len(w.peers) > 0 || w.ended {
		return false
	}
	w.ended = true
	return true
}

func (w *way) end() { close(w.done) }

// first returns a peer of the way, nil if there is none.
func (w *way) first() *nat.Peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.peers) == 0 {
		return nil
	}
	return w.peers[0]
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

// use switches all peers to a route, unless it is a relay and there is a
// direct one. It reports whether it was taken.
func (w *way) use(r route) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.path.Kind == nat.KindRelay && w.route.path.Kind == nat.KindDirect {
		return false
	}
	for _, p := range w.peers {
		p.SetPath(r.path)
	}
	w.set(r)
	return true
}

// note records a route that the peers use already.
func (w *way) note(r route) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set(r)
}

func (w *way) set(r route) {
	if w.route.path.Kind == nat.KindNone {
		close(w.ready)
	}
	w.route = r
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
		w.route = route{}
		w.ready = make(chan struct{})
		w.reason = api.Trying
		w.announce()
	}
}

// explain records why there is no direct path.
func (w *way) explain(reason api.Reason, hopeless bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.route.path.Kind != nat.KindDirect {
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

// traffic sums what all peers of the way sent and received, in packets.
func (w *way) traffic() (sent, received int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		s := p.Stats()
		sent += s.Direct.TxPackets + s.Relay.TxPackets
		received += s.Direct.RxPackets + s.Relay.RxPackets
	}
	return sent, received
}
