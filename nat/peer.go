package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// maxSources is how many inbound UDP sources of one peer stay bound: the
// newest ones, so that packets still under way over an earlier path keep their
// constant address. Older ones are forgotten.
const maxSources = 8

// Kind is what a path is to its owner. It is told by the caller: a plain UDP
// address may well be the relayed address of a TURN allocation.
type Kind uint8

const (
	// KindNone: no path.
	KindNone Kind = iota
	// KindDirect: packets go to the peer's own (or its router's) address.
	KindDirect
	// KindRelay: packets go through a third device.
	KindRelay
)

// String gives the words of the status output: none, direct, relay.
func (k Kind) String() string {
	switch k {
	case KindDirect:
		return "direct"
	case KindRelay:
		return "relay"
	default:
		return "none"
	}
}

// A Carrier takes single packets to a peer by other means than the socket: a
// TURN allocation, a TCP connection. WritePacket must not block and must not
// keep b; an error means that this packet is lost.
type Carrier interface {
	WritePacket(b []byte) error
}

// A SegmentCarrier also takes several packets at once: b holds packets of size
// bytes, the last of which may be shorter, or one packet if size is 0. ecn are
// the two ECN bits of RFC 3168 §5. WriteSegments must not block and must not
// keep b; an error means that packets of b are lost, and all are counted so.
// [Side] is one.
type SegmentCarrier interface {
	Carrier
	WriteSegments(b []byte, size int, ecn uint8) error
}

// A Path is a way to a peer: either a UDP address or a carrier.
type Path struct {
	Kind    Kind
	Addr    netip.AddrPort
	Carrier Carrier
	// Proven says that Addr has answered something of ours. Having been heard
	// is less: a source can be forged. Carriers are proven by being there.
	Proven bool
}

// ErrPath says that a [Path] cannot be used: it has neither or both of address
// and carrier, no kind, or an address no datagram can go to.
var ErrPath = errors.New("unusable path")

func (p Path) check() error {
	switch {
	case p.Kind != KindDirect && p.Kind != KindRelay:
		return fmt.Errorf("%w: kind %d", ErrPath, p.Kind)
	case p.Carrier != nil && p.Addr.IsValid():
		return fmt.Errorf("%w: both address %v and carrier", ErrPath, p.Addr)
	case p.Carrier != nil:
		return nil
	case !p.Addr.IsValid() || p.Addr.Port() == 0 || p.Addr.Addr().IsUnspecified() || isAlias(p.Addr.Addr()):
		return fmt.Errorf("%w: address %v", ErrPath, p.Addr)
	}
	return nil
}

// A Peer is another device as quic-go sees it: one constant address, with a
// path beneath that may change at any time.
type Peer struct {
	socket *Socket
	alias  netip.AddrPort
	addr   *net.UDPAddr // alias in quic-go's form; never changed

	route   atomic.Pointer[route]
	out     gather
	closed  atomic.Bool
	adopted atomic.Bool
	count   peerCounters
	// carrierKind is the kind of the last carrier, for counting what it brings.
	carrierKind atomic.Uint32

	mu      sync.Mutex // orders changes of the path and of sources
	sources []*binding // oldest first
	owned   []owned    // closed with the peer
}

// owned is a carrier that the socket reads from.
type owned interface {
	Carrier
	shut() // ends it without waiting
}

// route is a Path with what writing over it found out.
type route struct {
	path    Path
	binding *binding // of path.Addr; nil for carriers
	noGSO   atomic.Bool
}

// binding says that datagrams from addr are a peer's.
type binding struct {
	peer *Peer
	addr netip.AddrPort
	kind atomic.Uint32
	// local is where the first datagram was sent to: replies leave from there,
	// or a host with several addresses would not match what the peer's router
	// lets in. Only the first counts, so that forged ones change nothing.
	local atomic.Pointer[localAddr]
	// moved says that the local address was forgotten: what quic-go remembers
	// from the session's beginning is then no better.
	moved atomic.Bool
}

type localAddr struct {
	addr    netip.Addr
	ifIndex uint32
}

// learn keeps the local address of the first datagram.
func (b *binding) learn(info controlInfo) {
	if info.local.IsValid() && b.local.Load() == nil {
		b.local.CompareAndSwap(nil, &localAddr{info.local, info.ifIndex})
	}
}

func (b *binding) localAddr() (netip.Addr, uint32) {
	if l := b.local.Load(); l != nil {
		return l.addr, l.ifIndex
	}
	return netip.Addr{}, 0
}

// forgetLocal leaves the local address to the next datagram, or to routing.
func (b *binding) forgetLocal() {
	b.moved.Store(true)
	b.local.Store(nil)
}

func (b *binding) received(n int) {
	b.peer.count.of(Kind(b.kind.Load())).got(n)
}

// peerTable finds peers by constant address, when writing, and by source
// address, when reading.
type peerTable struct {
	mu       sync.RWMutex
	aliases  map[netip.AddrPort]*Peer
	sources  map[netip.AddrPort]*binding
	last     uint64 // made-up addresses given out
	isSealed bool
}

func (t *peerTable) init() {
	t.aliases = make(map[netip.AddrPort]*Peer)
	t.sources = make(map[netip.AddrPort]*binding)
}

func (t *peerTable) at(alias netip.AddrPort) *Peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.aliases[alias]
}

func (t *peerTable) source(from netip.AddrPort) *binding {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sources[from]
}

// seal returns all peers for closing; later ones are born closed.
func (t *peerTable) seal() []*Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.isSealed = true
	var all []*Peer
	for _, p := range t.aliases {
		all = append(all, p)
	}
	return all
}

// NewPeer makes a peer with a constant address never used before and no path
// yet. Packets written to it are dropped until [Peer.SetPath].
func (s *Socket) NewPeer() *Peer {
	t := &s.peers
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	return s.addPeer(aliasAddr(t.last))
}

// addPeer makes the peer at alias; t.mu is held.
func (s *Socket) addPeer(alias netip.AddrPort) *Peer {
	p := &Peer{socket: s, alias: alias, addr: net.UDPAddrFromAddrPort(alias)}
	p.out.peer = p
	p.carrierKind.Store(uint32(KindRelay))
	if s.peers.isSealed {
		p.closed.Store(true)
		return p
	}
	s.peers.aliases[alias] = p
	return p
}

// Adopt gives the peer whose constant address is addr, the RemoteAddr of an
// incoming session. If there is none yet, addr is a real address, which
// becomes the constant address, and for now the direct path, of a new peer.
// Adopting an address of [Socket.AcceptFramed] keeps that peer alive when its
// TCP connection ends.
func (s *Socket) Adopt(addr netip.AddrPort) *Peer {
	addr = unmap(addr)
	t := &s.peers
	t.mu.Lock()
	p := t.aliases[addr]
	fresh := p == nil
	if fresh {
		p = s.addPeer(addr)
	}
	t.mu.Unlock()
	p.adopted.Store(true)
	if fresh && !isAlias(addr.Addr()) {
		// Fails only for a closed socket, and then the peer is closed too.
		_ = p.SetPath(Path{Kind: KindDirect, Addr: addr, Proven: true})
	}
	return p
}

// PeerAt returns the peer with that constant address, nil if there is none.
func (s *Socket) PeerAt(addr net.Addr) *Peer { return s.peers.at(addrPortOf(addr)) }

// Addr is the constant address, which quic-go shows as RemoteAddr and is to be
// given to Transport.Dial. It must not be changed.
func (p *Peer) Addr() *net.UDPAddr { return p.addr }

// Path is where packets go at the moment; Kind is KindNone if nowhere.
func (p *Peer) Path() Path {
	if r := p.route.Load(); r != nil {
		return r.path
	}
	return Path{}
}

// Proven reports whether the path is known to lead to somebody who answers. A
// session that begins over any other must prove its address first (RFC 9000
// §8.1), or this device could be made to flood whoever is there.
func (p *Peer) Proven() bool {
	path := p.Path()
	return path.Carrier != nil || path.Proven
}

// SetPath sends everything from now on over path, and binds its address as a
// source. Earlier sources stay bound, see [Peer.Accept]. Setting the same path
// again, after roaming, forgets which local address it used. The zero Path
// takes the path away: packets are dropped and counted. It fails with
// [ErrPath] or, after Close, with net.ErrClosed.
func (p *Peer) SetPath(path Path) error {
	if path == (Path{}) {
		p.route.Store(nil)
		return nil
	}
	path.Addr = unmapIfValid(path.Addr)
	if err := path.check(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &route{path: path}
	if path.Carrier == nil {
		b, err := p.bind(path.Addr, path.Kind)
		if err != nil {
			return err
		}
		b.local.Store(nil) // chosen anew: roaming may have been the reason
		if old := p.route.Load(); old != nil && old.binding == b {
			b.moved.Store(true)
		}
		r.binding = b
	} else {
		p.carrierKind.Store(uint32(path.Kind))
	}
	if p.closed.Load() {
		return net.ErrClosed
	}
	p.route.Store(r)
	return nil
}

func unmapIfValid(a netip.AddrPort) netip.AddrPort {
	if !a.IsValid() {
		return netip.AddrPort{}
	}
	return unmap(a)
}

// Accept shows datagrams from a further source as this peer's and leaves the
// outbound path alone. Both ends should accept what ICE validated before
// either end sends over it: a QUIC server takes a new source address for
// migration. Of each peer the newest eight sources are kept; a source bound to
// another peer changes hands.
func (p *Peer) Accept(from netip.AddrPort) error {
	from = unmap(from)
	if err := (Path{Kind: KindDirect, Addr: from}).check(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.bind(from, KindNone)
	return err
}

// bind makes addr the newest source, of the given kind if that is known, else
// of the kind it had, at first direct; p.mu is held.
func (p *Peer) bind(addr netip.AddrPort, kind Kind) (*binding, error) {
	if p.closed.Load() {
		return nil, net.ErrClosed
	}
	t := &p.socket.peers
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.sources[addr]
	if b == nil || b.peer != p {
		b = &binding{peer: p, addr: addr}
		t.sources[addr] = b
	}
	if kind != KindNone {
		b.kind.Store(uint32(kind))
	}
	p.sources = slices.DeleteFunc(p.sources, func(o *binding) bool { return o.addr == addr })
	p.sources = append(p.sources, b)
	p.forgetOldest(t)
	return b, nil
}

// forgetOldest keeps the number of sources within maxSources, sparing the one
// the path uses; p.mu and t.mu are held.
func (p *Peer) forgetOldest(t *peerTable) {
	if len(p.sources) <= maxSources {
		return
	}
	oldest := 0
	if r := p.route.Load(); r != nil && r.binding == p.sources[0] {
		oldest = 1
	}
	b := p.sources[oldest]
	if t.sources[b.addr] == b {
		delete(t.sources, b.addr)
	}
	p.sources = slices.Delete(p.sources, oldest, oldest+1)
}

// Inject hands in a packet that a carrier brought. b is copied. It never
// blocks: a packet that finds the queue full, is larger than [MaxPacket], or
// is no QUIC is dropped and counted. The only error is net.ErrClosed.
func (p *Peer) Inject(b []byte) error {
	if p.closed.Load() {
		return net.ErrClosed
	}
	s := p.socket
	switch {
	case classify(b) != protoQUIC:
		s.count.unknown.Add(1)
		return nil
	case len(b) > MaxPacket:
		p.count.tooLarge.Add(1)
		s.count.tooLarge.Add(1)
		return nil
	}
	if !s.inbox.push(p, b) {
		p.count.queueFull.Add(1)
		s.count.queueFull.Add(1)
		return nil
	}
	p.count.of(Kind(p.carrierKind.Load())).got(len(b))
	s.count.carrierIn.Add(1)
	if s.waiting.Load() {
		s.deadline.kick()
	}
	return nil
}

// Stats returns what went over this peer's paths so far.
func (p *Peer) Stats() PeerStats { return p.count.snapshot() }

// own closes c together with the peer and counts its goroutine; if the peer is
// closed already it ends c and returns false. Close seals the table of peers
// before it waits, and closes every peer in it, so none is counted too late.
func (p *Peer) own(c owned) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		c.shut()
		return false
	}
	p.owned = append(p.owned, c)
	p.socket.pumps.Add(1)
	return true
}

// disown forgets a carrier that has ended.
func (p *Peer) disown(c owned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owned = slices.DeleteFunc(p.owned, func(o owned) bool { return o == c })
	if r := p.route.Load(); r != nil && r.path.Carrier == Carrier(c) {
		p.route.Store(nil)
	}
}

// Close takes the path, all sources and the constant address away and closes
// the framed connections and side sockets of the peer. Close the session first:
// a real constant address would be written to directly again.
func (p *Peer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return nil
	}
	p.route.Store(nil)
	p.out.close()
	t := &p.socket.peers
	t.mu.Lock()
	for _, b := range p.sources {
		if t.sources[b.addr] == b {
			delete(t.sources, b.addr)
		}
	}
	if t.aliases[p.alias] == p {
		delete(t.aliases, p.alias)
	}
	t.mu.Unlock()
	p.sources = nil
	for _, c := range p.owned {
		c.shut()
	}
	p.owned = nil
	return nil
}
