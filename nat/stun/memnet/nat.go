package memnet

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Rule is what a mapping or a filter depends on (RFC 4787 §4.1, §5).
type Rule int

// The rules.
const (
	Independent Rule = iota
	ByAddress
	ByAddressAndPort
)

// PortChoice is how a NAT picks the public port of a new mapping.
type PortChoice int

// The choices.
const (
	Preserve   PortChoice = iota // the local port, else the next free one
	Sequential                   // the last one plus one
	Random                       // uniform over 1024–65535
)

// NAT is a home router. Its exported fields are set before traffic.
type NAT struct {
	// Lifetime is how long a mapping lives after the last packet from inside
	// (RFC 4787 REQ-5, REQ-6); 0 is for ever.
	Lifetime time.Duration
	// Rotate is how long a mapping lives in all, as with carriers that change
	// ports under a flow; 0 is for ever.
	Rotate time.Duration
	// Hairpin lets one inside socket reach another at its public address. The
	// packet comes from the sender's public address (RFC 4787 REQ-9).
	Hairpin bool
	// OpenInput makes an unwanted packet take the port it was sent to, as a
	// masquerading Linux router without a filter on its own input does: what
	// is sent to the same remote endpoint afterwards leaves by another port,
	// and so does then what is sent to new ones.
	OpenInput bool

	net                *Net
	public             netip.Addr
	mapping, filtering Rule
	choice             PortChoice

	mu    sync.Mutex
	homes map[netip.AddrPort]*Conn
	out   map[flow]uint16
	in    map[uint16]*binding
	reply map[flow]uint16 // answers to what came in by a forwarded port
	stray map[stray]bool  // unwanted packets that have taken a port
	last  uint16
}

// stray is an unwanted packet: its source, and the public port it came to.
type stray struct {
	from netip.AddrPort
	port uint16
}

// flow is a local socket together with the part of the remote endpoint that
// the mapping depends on.
type flow struct {
	conn   *Conn
	remote netip.AddrPort
}

type binding struct {
	conn  *Conn
	asked map[netip.AddrPort]bool // by what the filter depends on; nil: forwarded
	born  time.Time
	used  time.Time
}

// over says whether a mapping has come to its end.
func (r *NAT) over(b *binding) bool {
	if b.asked == nil {
		return false
	}
	return r.Lifetime > 0 && time.Since(b.used) >= r.Lifetime || r.Rotate > 0 && time.Since(b.born) >= r.Rotate
}

func newNAT(n *Net, public netip.Addr, mapping, filtering Rule, choice PortChoice) *NAT {
	return &NAT{
		net: n, public: public, mapping: mapping, filtering: filtering, choice: choice,
		homes: make(map[netip.AddrPort]*Conn),
		out:   make(map[flow]uint16),
		in:    make(map[uint16]*binding),
		reply: make(map[flow]uint16),
		stray: make(map[stray]bool),
		last:  40000,
	}
}

// Public is the router's address on the Net.
func (r *NAT) Public() netip.Addr { return r.public }

// Host opens a socket in the home.
func (r *NAT) Host(addr netip.AddrPort) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := newConn(r.net, r, addr)
	r.homes[addr] = c
	return c
}

// Map forwards a public port to a socket for everybody, as a port mapping
// protocol would; answers to what came in by it leave by it.
func (r *NAT) Map(port uint16, c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in[port] = &binding{conn: c}
}

func (r *NAT) neighbour(to netip.AddrPort) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.homes[to]
}

func (rule Rule) key(remote netip.AddrPort) netip.AddrPort {
	switch rule {
	case Independent:
		return netip.AddrPort{}
	case ByAddress:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return remote
}

func (r *NAT) outbound(c *Conn, to netip.AddrPort) (netip.AddrPort, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port, ok := r.reply[flow{c, to}]; ok {
		return netip.AddrPortFrom(r.public, port), true
	}
	f := flow{c, r.mapping.key(to)}
	port, ok := r.current(f)
	if r.OpenInput {
		if earlier, again := r.current(flow{c, to}); again {
			port, ok = earlier, true
		} else if r.stray[stray{to, port}] {
			ok = false
		}
	}
	if !ok {
		if port, ok = r.choose(c.local.Port()); !ok {
			return netip.AddrPort{}, false
		}
		r.out[f] = port
		r.in[port] = &binding{conn: c, asked: make(map[netip.AddrPort]bool), born: time.Now()}
	}
	if r.OpenInput {
		r.out[flow{c, to}] = port
	}
	b := r.in[port]
	b.used = time.Now()
	b.asked[r.filtering.key(to)] = true
	return netip.AddrPortFrom(r.public, port), true
}

// current is the public port of a flow, unless its mapping is over.
func (r *NAT) current(f flow) (uint16, bool) {
	port, ok := r.out[f]
	if !ok {
		return 0, false
	}
	if b := r.in[port]; b == nil || b.conn != f.conn || r.over(b) {
		return 0, false
	}
	return port, true
}

// choose finds a free public port; r.mu is held.
func (r *NAT) choose(local uint16) (uint16, bool) {
	next := local
	if r.choice == Sequential {
		next = r.last + 1
	}
	for range 65536 {
		if r.choice == Random {
			next = uint16(1024 + rand.IntN(65536-1024))
		}
		if b, taken := r.in[next]; (!taken || r.over(b)) && next != 0 {
			r.last = next
			return next, true
		}
		next++
	}
	return 0, false
}

func (r *NAT) inbound(from netip.AddrPort, port uint16) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.in[port]
	switch {
	case b != nil && b.asked == nil: // a forwarded port
		r.reply[flow{b.conn, from}] = port
	case b == nil || r.over(b) || !b.asked[r.filtering.key(from)]:
		if r.OpenInput {
			r.stray[stray{from, port}] = true
		}
		return nil
	}
	return b.conn
}
