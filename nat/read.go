package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/ipv4"
)

const (
	// maxDatagram is the largest UDP datagram, joined or not, in bytes.
	maxDatagram = 65535
	// groBatch and plainBatch are how many datagrams one system call reads.
	// A joined one needs a large buffer, but also holds up to 64 datagrams.
	groBatch   = 4
	plainBatch = 16
	// plainBuffer is the size of a buffer for one datagram that is not joined.
	// quic-go has no room for more than 1452 bytes; STUN is far smaller.
	plainBuffer = 2048
	// readOOB holds every control message quic-go and we switch on: TOS or
	// class, two kinds of packet info, segment size: 120 bytes on 64 bits.
	readOOB = 256
	// maxReadErrors is how many reads in a row may fail before the error is
	// taken for permanent. Errors of single datagrams (ICMP) must not end the
	// Transport; a broken descriptor must not spin for ever.
	maxReadErrors = 64
)

// received holds the datagrams read by the last system call, handed out one
// by one.
type received struct {
	msgs []ipv4.Message
	n    int // valid msgs
	next int // index of the message being handed out
	cur  datagrams
}

// init allocates the buffers. Pages of large ones cost memory only once the
// kernel has written to them.
func (r *received) init(gro bool) {
	count, size := plainBatch, plainBuffer
	if gro {
		count, size = groBatch, maxDatagram
	}
	r.msgs = make([]ipv4.Message, count)
	for i := range r.msgs {
		r.msgs[i].Buffers = [][]byte{make([]byte, size)}
		r.msgs[i].OOB = make([]byte, readOOB)
	}
}

// gro reports whether there is room for joined datagrams.
func (r *received) gro() bool { return len(r.msgs[0].Buffers[0]) == maxDatagram }

// datagrams are the segments left of one message, with what they share.
type datagrams struct {
	data    []byte
	segment int
	from    netip.AddrPort
	bound   *binding // nil: not a known source
	addr    net.Addr // what quic-go shall see
	oob     []byte
	oobBuf  [readOOB]byte
}

// cut splits the first segment off.
func (d *datagrams) cut() []byte {
	n := len(d.data)
	if d.segment > 0 {
		n = min(n, d.segment)
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

// ReadBatch fills ms with the next packets for QUIC and returns how many. It
// blocks until there is one, the deadline passes or the socket is closed.
// quic-go reads through it instead of the descriptor. flags are not used.
func (s *Socket) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	s.readMu.Lock()
	defer s.readMu.Unlock()
	for {
		if s.rx.empty() && s.sides.cur == nil {
			if err := s.fill(); err != nil {
				return 0, err
			}
		}
		n := s.takeReceived(ms)
		n += s.takeSides(ms[n:])
		n += s.takeInjected(ms[n:])
		if n > 0 {
			return n, nil
		}
	}
}

func (r *received) empty() bool { return len(r.cur.data) == 0 && r.next >= r.n }

// brought reports whether carriers or side sockets have packets waiting.
func (s *Socket) brought() bool { return !s.inbox.empty() || !s.sides.empty() }

// fill reads the next datagrams from the kernel. With injected packets waiting
// it does not block, so that neither source of packets starves the other.
func (s *Socket) fill() error {
	s.waiting.Store(true)
	defer s.waiting.Store(false)
	for failed := 0; ; {
		s.deadline.rearm()
		flags := 0
		if s.brought() {
			flags = syscall.MSG_DONTWAIT
		}
		n, err := s.batch.ReadBatch(s.rx.msgs, flags)
		if err == nil {
			s.rx.n, s.rx.next = n, 0
			return nil
		}
		switch {
		case s.isClosed() || errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.deadline.expired() {
				return err
			}
		case errors.Is(err, syscall.EAGAIN):
			return nil
		default:
			s.count.readErrors.Add(1)
			if failed++; failed >= maxReadErrors {
				return fmt.Errorf("read udp: %w", err)
			}
		}
		if s.brought() {
			return nil
		}
	}
}

// takeReceived moves segments into ms, giving STUN to its handler on the way.
func (s *Socket) takeReceived(ms []ipv4.Message) int {
	n := 0
	for n < len(ms) {
		if len(s.rx.cur.data) == 0 && !s.nextDatagram() {
			break
		}
		if s.deliver(&ms[n], s.rx.cur.cut()) {
			n++
		}
	}
	return n
}

// nextDatagram makes the next message current; false if there is none.
func (s *Socket) nextDatagram() bool {
	r := &s.rx
	for r.next < r.n {
		m := &r.msgs[r.next]
		r.next++
		if s.begin(&r.cur, m) {
			return true
		}
	}
	return false
}

// begin prepares the segments of one message: who sent them and what quic-go
// shall be told about that.
func (s *Socket) begin(d *datagrams, m *ipv4.Message) bool {
	d.from = addrPortOf(m.Addr)
	if m.N == 0 || !d.from.IsValid() || isAlias(d.from.Addr()) {
		s.count.unknown.Add(1)
		return false
	}
	info := parseControl(m.OOB[:m.NN])
	d.data, d.segment = m.Buffers[0][:m.N], info.segment
	d.oob = info.appendReceived(d.oobBuf[:0])
	d.addr = m.Addr
	if d.bound = s.peers.source(d.from); d.bound != nil {
		d.addr = d.bound.peer.addr
		d.bound.learn(info)
	}
	s.countRead(m.N, info.segment)
	return true
}

func (s *Socket) countRead(n, segment int) {
	s.count.reads.Add(1)
	if segment > 0 && segment < n {
		s.count.groReads.Add(1)
	}
}

// deliver puts one packet into m and reports whether it is one for QUIC.
func (s *Socket) deliver(m *ipv4.Message, b []byte) bool {
	d := &s.rx.cur
	switch classify(b) {
	case protoSTUN:
		s.giveSTUN(b, d.from)
		return false
	case protoUnknown:
		s.count.unknown.Add(1)
		return false
	}
	if !s.fillMessage(m, d, b) {
		return false
	}
	if d.bound != nil {
		d.bound.received(len(b))
	}
	return true
}

// fillMessage copies one packet of d into m; false if it is too large.
func (s *Socket) fillMessage(m *ipv4.Message, d *datagrams, b []byte) bool {
	if len(b) > len(m.Buffers[0]) {
		s.count.tooLarge.Add(1)
		return false
	}
	m.N = copy(m.Buffers[0], b)
	m.NN = copy(m.OOB, d.oob)
	m.Addr, m.Flags = d.addr, 0
	s.count.packets.Add(1)
	return true
}

func (s *Socket) giveSTUN(b []byte, from netip.AddrPort) {
	h := s.stun.Load()
	if h == nil {
		s.count.stunDropped.Add(1)
		return
	}
	s.count.stunIn.Add(1)
	(*h)(b, from)
}

// takeInjected moves packets that came by carriers into ms.
func (s *Socket) takeInjected(ms []ipv4.Message) int {
	n := 0
	for n < len(ms) {
		p, buf := s.inbox.pop()
		if buf == nil {
			break
		}
		m := &ms[n]
		if buf.n <= len(m.Buffers[0]) {
			m.N = copy(m.Buffers[0], buf.data[:buf.n])
			m.NN, m.Flags, m.Addr = 0, 0, p.addr
			s.count.packets.Add(1)
			n++
		} else {
			s.count.tooLarge.Add(1)
		}
		buf.release()
	}
	return n
}

// ReadMsgUDP reads one packet for QUIC with its control messages. Part of
// quic-go's OOBCapablePacketConn.
func (s *Socket) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	ms := []ipv4.Message{{Buffers: [][]byte{b}, OOB: oob}}
	if _, err := s.ReadBatch(ms, 0); err != nil {
		return 0, 0, 0, nil, err
	}
	udp, _ := ms[0].Addr.(*net.UDPAddr)
	return ms[0].N, ms[0].NN, 0, udp, nil
}

// ReadFrom reads one packet for QUIC. The address is a *net.UDPAddr.
func (s *Socket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, _, _, addr, err := s.ReadMsgUDP(b, nil)
	if err != nil {
		return 0, nil, err
	}
	return n, addr, nil
}
