package dht

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Config is what a [Node] needs.
type Config struct {
	// Conn is the socket; the node closes it. If it is nil, Start listens at
	// ListenAddr, by default at ":0": IPv4 and IPv6, any port.
	Conn       net.PacketConn
	ListenAddr string
	// ReadOnly says whether the node only asks and serves nobody (BEP 43), now;
	// nil is never. Bootstrap returns literal addresses to begin with when
	// nobody is known. Both are called with the node locked: they must be quick
	// and not call the node.
	ReadOnly  func() bool
	Bootstrap func() []netip.AddrPort
	// Random gives 64 random bits that nobody can guess; nil is crypto/rand.
	Random func() uint64
	// Rate is how many queries may leave a second; 0 is DefaultRate.
	Rate int
	// Logger gets what the owner might want to know; nil is none.
	Logger *slog.Logger
}

// Node is a [Core] on a socket. Its methods are safe for concurrent use.
type Node struct {
	cfg  Config
	log  *slog.Logger
	conn net.PacketConn
	udp  *net.UDPConn // conn, if it is one

	mu     sync.Mutex
	core   *Core
	closed bool

	wake   chan struct{} // holds one: another look at the timer
	done   chan struct{}
	loops  sync.WaitGroup
	closer sync.Once
}

// New makes a node. It neither sends nor listens before Start.
func New(cfg Config) *Node {
	n := &Node{cfg: cfg, log: cfg.Logger, conn: cfg.Conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	return n
}

// cryptoRandom is the source of ids, transactions and tokens.
func cryptoRandom() uint64 {
	var b [8]byte
	_, _ = cryptorand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

// Start opens the socket and begins to look for the network. The node runs
// until Close; ctx bounds the start only.
func (n *Node) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	if n.core != nil {
		return errors.New("directory node was started before")
	}
	if n.conn == nil {
		addr := n.cfg.ListenAddr
		if addr == "" {
			addr = ":0"
		}
		conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
		if err != nil {
			return fmt.Errorf("listen for the directory at udp %s: %w", addr, err)
		}
		n.conn = conn
	}
	n.udp, _ = n.conn.(*net.UDPConn)
	random := n.cfg.Random
	if random == nil {
		random = cryptoRandom
	}
	v4, v6 := familiesOf(n.conn.LocalAddr())
	n.core = NewCore(CoreConfig{Start: time.Now(), Random: random, Send: n.send, ReadOnly: n.cfg.ReadOnly,
		Bootstrap: n.cfg.Bootstrap, IPv4: v4, IPv6: v6, Rate: n.cfg.Rate})
	n.loops.Go(n.read)
	n.loops.Go(n.keepTime)
	n.log.Debug("directory node listens", "addr", n.conn.LocalAddr().String())
	return nil
}

// familiesOf returns what a socket bound to a can reach. One bound to the
// unspecified IPv6 address serves both.
func familiesOf(a net.Addr) (v4, v6 bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return true, true
	}
	ip := canonical(u.AddrPort()).Addr()
	return ip.Is4() || ip.IsUnspecified(), ip.Is6()
}

// send runs inside the core.
func (n *Node) send(to netip.AddrPort, b []byte) error {
	var err error
	if n.udp != nil {
		_, err = n.udp.WriteToUDPAddrPort(b, to)
	} else {
		_, err = n.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	}
	return err
}

// read hands what arrives to the core until the socket is closed. Other errors
// pass: they are those of single packets, such as an ICMP answer.
func (n *Node) read() {
	buf := make([]byte, MaxDatagram+1)
	for failures := 0; ; {
		size, from, err := n.receive(buf)
		if n.isDone() || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failures++
			n.pause(failures)
			continue
		}
		failures = 0
		if n.with(func(c *Core, now time.Time) { c.Receive(now, from, buf[:size]) }) != nil {
			return
		}
	}
}

func (n *Node) receive(buf []byte) (int, netip.AddrPort, error) {
	if n.udp != nil {
		return n.udp.ReadFromUDPAddrPort(buf)
	}
	size, a, err := n.conn.ReadFrom(buf)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	if u, ok := a.(*net.UDPAddr); ok {
		return size, u.AddrPort(), nil
	}
	from, err := netip.ParseAddrPort(a.String())
	return size, from, err
}

// pause keeps a socket that fails again and again from using up the processor.
func (n *Node) pause(failures int) {
	if failures < 10 {
		return
	}
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.done:
	}
}

// keepTime calls the core when it wants to be called.
func (n *Node) keepTime() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-n.done:
			return
		case <-t.C:
			if !n.tick() {
				return
			}
		case <-n.wake:
		}
		n.mu.Lock()
		next := n.core.Next()
		n.mu.Unlock()
		t.Reset(max(time.Until(next), time.Millisecond))
	}
}

func (n *Node) tick() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.core.Tick(time.Now())
	}
	return !n.closed
}

// rearm makes keepTime look at the timer again.
func (n *Node) rearm() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Node) isDone() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// Close stops the node and waits until it has stopped. Operations that are
// running return ErrClosed.
func (n *Node) Close() error {
	var err error
	n.closer.Do(func() {
		n.mu.Lock()
		n.closed = true
		close(n.done)
		if n.conn != nil {
			err = n.conn.Close()
		}
		n.mu.Unlock()
	})
	n.loops.Wait()
	return err
}

// LocalAddr returns where the node listens, nil before Start.
func (n *Node) LocalAddr() net.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		return nil
	}
	return n.conn.LocalAddr()
}

// with runs f on the core, if the node is running.
func (n *Node) with(f func(c *Core, now time.Time)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.core == nil {
		return ErrClosed
	}
	f(n.core, time.Now())
	n.rearm()
	return nil
}

// do starts an operation and waits for its end. start gets the function that
// says that it has ended.
func (n *Node) do(ctx context.Context, start func(c *Core, now time.Time, ended func()) *Lookup) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	over := make(chan struct{})
	var l *Lookup
	if err := n.with(func(c *Core, now time.Time) { l = start(c, now, func() { close(over) }) }); err != nil {
		return err
	}
	select {
	case <-over:
		return nil
	case <-n.done:
		// Whoever holds the lock may be ending the operation; nobody will
		// afterwards.
		n.mu.Lock()
		defer n.mu.Unlock()
		return ErrClosed
	case <-ctx.Done():
	}
	if err := n.with(func(c *Core, now time.Time) { c.Cancel(now, l) }); err != nil {
		return err
	}
	return ctx.Err()
}

// Get looks for the item of a key with a seq of at least floor. enough is
// called with every valid item that is found and ends the search by true; nil
// never does. It is called with the node locked: it must be quick and not call
// the node. Get takes at most LookupTime. Errors: ErrNotFound, ErrNoNodes,
// ErrBusy, ErrClosed, that of ctx.
func (n *Node) Get(ctx context.Context, key [32]byte, salt []byte, floor int64, enough func(Item) bool) (Item, error) {
	var got Item
	var failed error
	err := n.do(ctx, func(c *Core, now time.Time, ended func()) *Lookup {
		return c.Get(now, GetRequest{Key: key, Salt: salt, Floor: floor, Enough: enough, Done: func(it Item, err error) {
			got, failed = it, err
			ended()
		}})
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return Item{}, fmt.Errorf("look up %x in the directory: %w", key[:4], err)
	}
	return got, nil
}

// Put stores an item on the nodes nearest to it and returns how many took it,
// as described in [PutRequest]. It takes at most LookupTime and WriteTime.
func (n *Node) Put(ctx context.Context, it Item) (stored int, err error) { return n.put(ctx, it, nil) }

// PutCas is Put on the condition that the item replaced has the seq cas.
func (n *Node) PutCas(ctx context.Context, it Item, cas int64) (stored int, err error) {
	return n.put(ctx, it, &cas)
}

func (n *Node) put(ctx context.Context, it Item, cas *int64) (int, error) {
	return n.count(ctx, "publish in the directory", func(c *Core, now time.Time, done func(int, error)) *Lookup {
		return c.Put(now, PutRequest{Item: it, Cas: cas, Done: done})
	})
}

// count runs an operation that ends with a number.
func (n *Node) count(ctx context.Context, what string, start func(c *Core, now time.Time, done func(int, error)) *Lookup) (int, error) {
	var number int
	var failed error
	err := n.do(ctx, func(c *Core, now time.Time, ended func()) *Lookup {
		return start(c, now, func(i int, e error) {
			number, failed = i, e
			ended()
		})
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if failed != nil {
		return number, fmt.Errorf("%s: %w", what, failed)
	}
	return number, nil
}

// GetImmutable looks for a value under its hash.
func (n *Node) GetImmutable(ctx context.Context, target [20]byte) ([]byte, error) {
	var value []byte
	var failed error
	err := n.do(ctx, func(c *Core, now time.Time, ended func()) *Lookup {
		return c.GetImmutable(now, target, func(v []byte, err error) {
			value, failed = v, err
			ended()
		})
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("look up %x in the directory: %w", target[:4], err)
	}
	return value, nil
}

// PutImmutable stores a value of at most 996 bytes under its hash,
// [ImmutableTarget], and returns how many nodes took it.
func (n *Node) PutImmutable(ctx context.Context, value []byte) (int, error) {
	return n.count(ctx, "publish in the directory", func(c *Core, now time.Time, done func(int, error)) *Lookup {
		return c.PutImmutable(now, value, done)
	})
}

// Announce says that we can be reached for infohash at port of the address
// that the nodes see, and returns how many nodes noted it. They forget it
// after half an hour.
func (n *Node) Announce(ctx context.Context, infohash [20]byte, port uint16) (int, error) {
	return n.count(ctx, "announce in the directory", func(c *Core, now time.Time, done func(int, error)) *Lookup {
		return c.Announce(now, infohash, port, done)
	})
}

// Peers asks who announced infohash: at most MaxPeers addresses, each as
// believable as a stranger.
func (n *Node) Peers(ctx context.Context, infohash [20]byte) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	var failed error
	err := n.do(ctx, func(c *Core, now time.Time, ended func()) *Lookup {
		return c.Peers(now, infohash, func(a []netip.AddrPort, err error) {
			all, failed = a, err
			ended()
		})
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("look up %x in the directory: %w", infohash[:4], err)
	}
	return all, nil
}

// Nodes returns up to MaxNodes addresses that are worth saving, the best first.
func (n *Node) Nodes() (out []netip.AddrPort) {
	_ = n.with(func(c *Core, _ time.Time) { out = c.Nodes() }) // none when closed
	return out
}

// Add gives addresses of nodes, see [Core.Add]. It does nothing before Start:
// what is known then belongs in Config.Bootstrap.
func (n *Node) Add(addrs ...netip.AddrPort) {
	_ = n.with(func(c *Core, now time.Time) { c.Add(now, addrs...) }) // nothing when closed
}

// Moved says that the network has changed, see [Core.Moved].
func (n *Node) Moved() {
	_ = n.with(func(c *Core, now time.Time) { c.Moved(now) }) // nothing when closed
}

// SetExternal says which addresses we have to others, see [Core.SetExternal].
func (n *Node) SetExternal(ips ...netip.Addr) {
	_ = n.with(func(c *Core, now time.Time) { c.SetExternal(now, ips...) }) // nothing when closed
}

// Stats returns what the node knows and has done.
func (n *Node) Stats() (s Stats) {
	_ = n.with(func(c *Core, _ time.Time) { s = c.Stats() }) // zero when closed
	return s
}
