package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// MaxPacket is the size of the largest packet that crosses, in bytes: what
// Ethernet with jumbo frames holds.
const MaxPacket = 9000

// frameHeader is the length in front of a packet on the stream, in bytes.
const frameHeader = 2

// Errors of packets.
var (
	ErrPacketSize = fmt.Errorf("a packet has at most %d bytes", MaxPacket)
	errHasPackets = errors.New("the stream carries packets already")
)

// Packets carries datagrams beside a stream: a net.Conn, and a net.PacketConn
// of one peer, of which every Read and Write is one packet of 0 to [MaxPacket]
// bytes. Packets may be lost and may overtake each other; none comes twice.
//
// The id of the stream, a varint (RFC 9000 §16), comes first in each QUIC
// datagram (RFC 9221 §5), the packet follows: as in RFC 9297 §2.1, but with the
// whole id, since either end opens streams here. A packet too large for a QUIC
// datagram, about 1,150 bytes, goes over the stream, behind its length in two
// bytes, the higher first. The packets end when the stream does.
type Packets struct {
	conn     *Conn
	id       []byte
	in, out  *Queue
	deadline deadline

	once sync.Once
	done chan struct{}
	err  error // why, once done is closed
}

var (
	_ net.Conn       = (*Packets)(nil)
	_ net.PacketConn = (*Packets)(nil)
)

// Packets turns the stream into one that carries packets. What the two ends
// had to agree upon must have been read; what remains to be written may be
// until the first packet is. Packets that came earlier were dropped.
func (c *Conn) Packets() (*Packets, error) {
	id := uint64(c.stream.StreamID())
	p := &Packets{
		conn: c,
		id:   quicvarint.Append(nil, id),
		in:   NewQueue(),
		out:  NewQueue(),
		done: make(chan struct{}),
	}
	if !c.session.flows.add(id, p) {
		return nil, errHasPackets
	}
	if !c.session.overlay.begin(p.receive) || !c.session.overlay.begin(p.send) {
		p.end(ErrClosed)
		return nil, ErrClosed
	}
	return p, nil
}

// begin runs f beside everything else that Close waits for; false says that
// the overlay is closed.
func (o *Overlay) begin(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return false
	}
	o.running.Go(f)
	return true
}

// receive takes large packets from the stream until it ends.
func (p *Packets) receive() {
	for {
		b, err := readFrame(p.conn)
		if err != nil {
			p.end(err)
			return
		}
		p.in.Put(b)
	}
}

// readFrame reads one packet from a stream; io.EOF says that it has ended.
func readFrame(r io.Reader) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(header[:]))
	if n > MaxPacket {
		return nil, fmt.Errorf("%w, the peer sends %d", ErrPacketSize, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("a packet cut short: %w", err)
	}
	return b, nil
}

// send hands queued packets to the session. While the path is congested it
// waits there, and the queue drops what gets too old.
func (p *Packets) send() {
	for {
		b, ok := p.out.Get()
		if !ok {
			select {
			case <-p.out.Ready():
				continue
			case <-p.done:
				return
			}
		}
		if err := p.transmit(b); err != nil {
			p.end(err)
			return
		}
	}
}

// transmit sends one packet, which has the id in front.
func (p *Packets) transmit(b []byte) error {
	err := p.conn.session.conn.SendDatagram(b)
	var large *quic.DatagramTooLargeError
	if !errors.As(err, &large) {
		return err
	}
	b = b[len(p.id):]
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, frameHeader+len(b)), uint16(len(b)))
	_, err = p.conn.Write(append(frame, b...))
	return err
}

func (p *Packets) end(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
		p.conn.session.flows.remove(p)
		p.conn.Close()
	})
}

// Read reads one packet; what b has no room for is lost. The error is io.EOF
// when the peer has ended the packets, os.ErrDeadlineExceeded at the deadline,
// net.ErrClosed after Close.
func (p *Packets) Read(b []byte) (int, error) {
	for {
		if packet, ok := p.in.Get(); ok {
			return copy(b, packet), nil
		}
		select {
		case <-p.in.Ready():
		case <-p.deadline.passed():
			return 0, errDeadline
		case <-p.done:
			if packet, ok := p.in.Get(); ok {
				return copy(b, packet), nil
			}
			return 0, p.err
		}
	}
}

// Write queues one packet and never waits; see [Queue] for what is dropped.
func (p *Packets) Write(b []byte) (int, error) {
	select {
	case <-p.done:
		return 0, p.err
	default:
	}
	if len(b) > MaxPacket {
		return 0, ErrPacketSize
	}
	packet := append(make([]byte, 0, len(p.id)+len(b)), p.id...)
	p.out.Put(append(packet, b...))
	return len(b), nil
}

// ReadFrom is Read; all packets are from the peer.
func (p *Packets) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := p.Read(b)
	return n, p.RemoteAddr(), err
}

// WriteTo is Write; all packets go to the peer.
func (p *Packets) WriteTo(b []byte, _ net.Addr) (int, error) { return p.Write(b) }

// Close ends the packets and their stream.
func (p *Packets) Close() error {
	p.end(net.ErrClosed)
	return nil
}

// Dropped counts the packets that the queues on this side dropped.
func (p *Packets) Dropped() int64 { return p.in.Dropped() + p.out.Dropped() }

// LocalAddr is that of the stream.
func (p *Packets) LocalAddr() net.Addr { return p.conn.LocalAddr() }

// RemoteAddr is the device at the other end.
func (p *Packets) RemoteAddr() net.Addr { return p.conn.RemoteAddr() }

// SetDeadline is SetReadDeadline: Write does not wait.
func (p *Packets) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadDeadline is that of net.Conn.
func (p *Packets) SetReadDeadline(t time.Time) error {
	p.deadline.set(t)
	return nil
}

// SetWriteDeadline does nothing: Write does not wait.
func (p *Packets) SetWriteDeadline(time.Time) error { return nil }

// flows are the streams of a session that carry packets, by id: never more
// than there are streams.
type flows struct {
	mu     sync.Mutex
	all    map[uint64]*Packets
	strays atomic.Int64
}

func (f *flows) add(id uint64, p *Packets) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[uint64]*Packets{}
	}
	if f.all[id] != nil {
		return false
	}
	f.all[id] = p
	return true
}

func (f *flows) remove(p *Packets) {
	id, _, _ := quicvarint.Parse(p.id)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, id)
}

// deliver gives one QUIC datagram to its stream. Nothing is kept for a stream
// that is not known: its packets are strays, counted.
func (f *flows) deliver(b []byte) {
	var p *Packets
	id, n, err := quicvarint.Parse(b)
	if err == nil {
		f.mu.Lock()
		p = f.all[id]
		f.mu.Unlock()
	}
	if p == nil {
		f.strays.Add(1)
		return
	}
	p.in.Put(b[n:])
}

// receivePackets deals out a session's datagrams until it ends.
func (s *Session) receivePackets() {
	for {
		b, err := s.conn.ReceiveDatagram(s.conn.Context())
		if err != nil {
			return
		}
		s.flows.deliver(b)
	}
}

// Strays counts the datagrams of a session that belonged to no stream, as late
// ones do.
func (s *Session) Strays() int64 { return s.flows.strays.Load() }
