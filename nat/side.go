package nat

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// sideBatches is how many batches of datagrams a side socket may have on
	// their way to the reader: one being handed out, one being filled. Beyond
	// that datagrams wait in the kernel, which drops what finds no room.
	sideBatches = 2
	// sideBuffer is what a side socket asks the kernel to hold in each
	// direction, in bytes: 15 ms at 1 Gbit/s.
	sideBuffer = 2 << 20
)

// ErrSideTaken says that a [Side] was given to a second peer.
var ErrSideTaken = errors.New("side socket carries another peer's packets")

// SideConfig tunes a side socket. The zero value is fine.
type SideConfig struct {
	// HandleSTUN gets datagrams from the remote address whose first byte is
	// 0–3; [Side.WriteSTUN] answers them. It runs on the reading goroutine: it
	// must not block, must not keep b, and must not call Close. Default: they
	// are dropped.
	HandleSTUN func(b []byte, s *Side)
	// Logger gets the reason for an unexpected end. Default: none.
	Logger *slog.Logger
}

// Side is a further UDP socket that carries the packets of one peer, to and
// from one remote address: the one of many sockets that found a way through a
// NAT which gives each of them another port. It is a [SegmentCarrier], and as
// fast as the main socket: batches are read into buffers that are handed to
// the socket's reader as they are.
type Side struct {
	conn   *net.UDPConn
	batch  batchReader
	remote netip.AddrPort
	cfg    SideConfig

	free    chan *sideBatch // not on their way to the reader
	noGSO   atomic.Bool
	dropped atomic.Int64

	mu    sync.Mutex // orders UseSide and the end
	peer  atomic.Pointer[Peer]
	kind  atomic.Uint32
	isEnd bool

	closeOnce sync.Once
	closeErr  error
	closed    chan struct{}
	ended     chan struct{} // closed when the reading goroutine has ended
}

// NewSide starts reading from conn, which it owns from now on. Datagrams that
// do not come from remote are dropped, and so is QUIC before [Peer.UseSide].
// Call Close in the end.
func NewSide(conn *net.UDPConn, remote netip.AddrPort, cfg SideConfig) *Side {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Side{
		conn:   conn,
		batch:  ipv4.NewPacketConn(conn),
		remote: unmap(remote),
		cfg:    cfg,
		free:   make(chan *sideBatch, sideBatches),
		closed: make(chan struct{}),
		ended:  make(chan struct{}),
	}
	gro := s.setOptions() == nil
	for range sideBatches {
		b := &sideBatch{side: s}
		b.init(gro)
		s.free <- b
	}
	go s.run()
	return s
}

// setOptions asks for larger buffers, ECN marks and joined datagrams. The error
// says that the last is not to be had.
func (s *Side) setOptions() error {
	// What the owner's limits do not allow makes bulk slower, no more.
	_ = s.conn.SetReadBuffer(sideBuffer)
	_ = s.conn.SetWriteBuffer(sideBuffer)
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	// One of the two fails on a socket of one family.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
	})
	return enableGRO(raw)
}

// Remote is the address whose packets the side socket carries.
func (s *Side) Remote() netip.AddrPort { return s.remote }

// LocalAddr is the address of the socket, a *net.UDPAddr.
func (s *Side) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// Dropped is how many datagrams were read and not used: from other addresses,
// neither STUN nor QUIC, or before there was a peer.
func (s *Side) Dropped() int64 { return s.dropped.Load() }

// WritePacket sends one packet. An error means that it is lost.
func (s *Side) WritePacket(b []byte) error { return s.WriteSegments(b, 0, 0) }

// WriteSegments sends the packets of size bytes that b is made of with one
// system call, or one by one where the kernel will not split them.
func (s *Side) WriteSegments(b []byte, size int, ecn uint8) error {
	info := controlInfo{ecn: ecn & ecnMask, hasECN: ecn&ecnMask != 0}
	if size < len(b) && !s.noGSO.Load() {
		info.segment = size
	}
	if info.segment > 0 || size == 0 || size >= len(b) {
		err := s.sendmsg(b, info)
		if err == nil || info.segment == 0 || !isAny(err, noSegmentation) {
			return err
		}
		s.noGSO.Store(true)
		info.segment = 0
	}
	var errs error
	for one := range segments(b, size) {
		if err := s.sendmsg(one, info); err != nil {
			errs = err
		}
	}
	return errs
}

func (s *Side) sendmsg(b []byte, info controlInfo) error {
	buf := oobPool.Get().(*[128]byte)
	defer oobPool.Put(buf)
	oob := info.appendSent(buf[:0], s.remote.Addr().Is4())
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, oob, s.remote)
	return err
}

// WriteSTUN sends b, whose first byte is 0–3, to the remote address.
func (s *Side) WriteSTUN(b []byte) error {
	if classify(b) != protoSTUN {
		return ErrNotSTUN
	}
	if err := s.sendmsg(b, controlInfo{}); err != nil {
		return fmt.Errorf("send stun: %w", err)
	}
	return nil
}

// run reads until the socket is closed or broken.
func (s *Side) run() {
	defer close(s.ended)
	err := s.read()
	s.shut()
	s.mu.Lock()
	s.isEnd = true
	s.mu.Unlock()
	if err != nil {
		s.cfg.Logger.Warn("side socket ended", "remote", s.remote.String(), "err", err)
	}
	if p := s.peer.Load(); p != nil {
		p.disown(s)
		p.socket.pumps.Done()
	}
}

func (s *Side) read() error {
	for failed := 0; ; {
		var b *sideBatch
		select {
		case b = <-s.free:
		case <-s.closed:
			return nil
		}
		n, err := s.batch.ReadBatch(b.msgs, 0)
		switch {
		case err == nil:
			failed = 0
			b.n, b.next = n, 0
			s.hand(b)
			continue
		case s.isClosed():
			return nil
		}
		if failed++; failed >= maxReadErrors || errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("read udp: %w", err)
		}
		s.free <- b
	}
}

func (s *Side) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// hand gives STUN to its handler and the rest to the peer's socket.
func (s *Side) hand(b *sideBatch) {
	p, quic := s.peer.Load(), false
	for i := range b.msgs[:b.n] {
		m := &b.msgs[i]
		switch {
		case addrPortOf(m.Addr) != s.remote:
			s.dropped.Add(1)
			m.N = 0
		case !s.sort(m):
			m.N = 0
		case p == nil:
			s.dropped.Add(1)
		default:
			quic = true
		}
	}
	if !quic {
		s.free <- b
		return
	}
	b.peer = p
	p.socket.takeSide(b)
}

// sort gives the STUN packets of m to their handler and reports whether there
// are QUIC packets.
func (s *Side) sort(m *ipv4.Message) bool {
	quic := false
	for one := range segments(m.Buffers[0][:m.N], parseControl(m.OOB[:m.NN]).segment) {
		switch p := classify(one); {
		case p == protoQUIC:
			quic = true
		case p == protoSTUN && s.cfg.HandleSTUN != nil:
			s.cfg.HandleSTUN(one, s)
		default:
			s.dropped.Add(1)
		}
	}
	return quic
}

// shut ends the socket without waiting for the reading goroutine.
func (s *Side) shut() {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.closeErr = s.conn.Close()
	})
}

// Close closes the socket. Calling it again returns the first result.
func (s *Side) Close() error {
	s.shut()
	<-s.ended
	return s.closeErr
}

// UseSide makes s the peer's path and hands in what it brings, until it ends
// or the peer or the socket is closed. When it ends and still is the path, the
// peer has no path. The socket owns s from now on. Calling it again makes s the
// path again, after another was; with another peer it fails with [ErrSideTaken].
func (p *Peer) UseSide(s *Side, kind Kind) error {
	if err := s.bind(p, kind); err != nil {
		return err
	}
	if err := p.SetPath(Path{Kind: kind, Carrier: s}); err != nil {
		s.Close()
		return err
	}
	return nil
}

// bind makes p the peer whose packets s brings.
func (s *Side) bind(p *Peer, kind Kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch old := s.peer.Load(); {
	case s.isEnd:
		return net.ErrClosed
	case old != nil && old != p:
		return ErrSideTaken
	case old == nil && !p.own(s):
		return net.ErrClosed
	}
	s.kind.Store(uint32(kind))
	s.peer.Store(p)
	return nil
}

// sideBatch is what one system call on a side socket brought.
type sideBatch struct {
	received
	side *Side
	peer *Peer
}

// release gives the buffers back to the side socket.
func (b *sideBatch) release() { b.side.free <- b }

// sideQueue holds the batches on their way to the reader, oldest first: at most
// sideBatches of each side socket.
type sideQueue struct {
	mu    sync.Mutex
	items []*sideBatch
	// cur is the batch being handed out. It belongs to the holder of readMu.
	cur *sideBatch
}

func (q *sideQueue) push(b *sideBatch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, b)
}

func (q *sideQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
}

// pop takes the oldest batch out; nil if there is none.
func (q *sideQueue) pop() *sideBatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	b := q.items[0]
	n := copy(q.items, q.items[1:])
	q.items[n] = nil
	q.items = q.items[:n]
	return b
}

// takeSide queues a batch and wakes the reader once for all of it.
func (s *Socket) takeSide(b *sideBatch) {
	s.sides.push(b)
	if s.waiting.Load() {
		s.deadline.kick()
	}
}

// takeSides moves packets of side sockets into ms. It stops at the end of a
// batch, so that the kernel is asked for the main socket's in between.
func (s *Socket) takeSides(ms []ipv4.Message) int {
	if len(ms) == 0 {
		return 0
	}
	q := &s.sides
	if q.cur == nil {
		if q.cur = q.pop(); q.cur == nil {
			return 0
		}
	}
	b, n := q.cur, 0
	for n < len(ms) && !b.peer.closed.Load() {
		if len(b.cur.data) == 0 && !s.nextOfSide(b) {
			break
		}
		if s.deliverSide(b, &ms[n], b.cur.cut()) {
			n++
		}
	}
	if b.empty() || b.peer.closed.Load() {
		b.cur.data, q.cur = nil, nil
		b.release()
	}
	return n
}

// nextOfSide makes the next message of b current; false if there is none.
func (s *Socket) nextOfSide(b *sideBatch) bool {
	for b.next < b.n {
		m := &b.msgs[b.next]
		b.next++
		if m.N == 0 {
			continue // dropped when it was sorted
		}
		info := parseControl(m.OOB[:m.NN])
		b.cur.data, b.cur.segment = m.Buffers[0][:m.N], info.segment
		info.local = netip.Addr{}
		b.cur.oob = info.appendReceived(b.cur.oobBuf[:0])
		b.cur.addr = b.peer.addr
		s.countRead(m.N, info.segment)
		return true
	}
	return false
}

// deliverSide puts one packet into m and reports whether it is one for QUIC.
func (s *Socket) deliverSide(b *sideBatch, m *ipv4.Message, one []byte) bool {
	if classify(one) != protoQUIC {
		return false // dealt with when it was sorted
	}
	if !s.fillMessage(m, &b.cur, one) {
		return false
	}
	b.peer.count.of(Kind(b.side.kind.Load())).got(len(one))
	s.count.carrierIn.Add(1)
	return true
}
