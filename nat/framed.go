package nat

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// frameHeader is the length field before each packet, RFC 4571 §2.
	frameHeader = 2
	// maxUnsent is how many bytes a framed connection holds for a network that
	// is slower than the sender; further packets are dropped, which is how
	// QUIC's congestion control learns about it. About 50 ms at 10 Mbit/s.
	maxUnsent = 64 << 10
	// kernelUnsent is how many bytes more the kernel may hold.
	kernelUnsent = 32 << 10

	// DefaultFirstFrame and DefaultFrameIdle are the times an accepted
	// connection has for its first frame, and any connection between frames.
	// Sessions keep themselves alive at shorter intervals than the latter.
	DefaultFirstFrame = 5 * time.Second
	DefaultFrameIdle  = 60 * time.Second
)

var (
	// ErrTooLarge says that a packet is larger than [MaxPacket].
	ErrTooLarge = errors.New("packet too large for the path")
	// ErrQueueFull says that a packet was dropped because the network takes
	// them more slowly than they come.
	ErrQueueFull = errors.New("send queue full")
)

// FrameConfig tunes a framed connection. The zero value is fine.
type FrameConfig struct {
	// FirstFrame is how long the other end may take for its first frame:
	// default DefaultFirstFrame.
	FirstFrame time.Duration
	// Idle is how long the other end may take for each further frame, and this
	// end for getting rid of one: default DefaultFrameIdle.
	Idle time.Duration
	// HandleSTUN gets frames whose first byte is 0–3; WritePacket on f answers
	// them. It must not block and must not keep b. Default: they are dropped.
	HandleSTUN func(b []byte, f *Framed)
}

// Framed carries packets over a TCP connection, each behind its length in two
// bytes, big-endian (RFC 4571). It is a [Carrier].
type Framed struct {
	conn  net.Conn
	cfg   FrameConfig
	owner atomic.Pointer[Peer] // whose packets it brings, once it is pumped

	mu     sync.Mutex
	unsent []byte        // frames the writer has not taken yet
	wake   chan struct{} // holds one token when unsent is not empty

	dropped   atomic.Int64
	closeOnce sync.Once
	closeErr  error
	closed    chan struct{}
	written   chan struct{} // closed when the writer has ended
}

// NewFramed starts the sending side over conn, which it owns from now on. Call
// [Framed.Run] or [Peer.UseFramed] for the receiving side, and Close in the end.
func NewFramed(conn net.Conn, cfg FrameConfig) *Framed {
	if cfg.FirstFrame <= 0 {
		cfg.FirstFrame = DefaultFirstFrame
	}
	if cfg.Idle <= 0 {
		cfg.Idle = DefaultFrameIdle
	}
	f := &Framed{
		conn:    conn,
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
		written: make(chan struct{}),
	}
	limitUnsent(conn, kernelUnsent)
	go f.writeLoop()
	return f
}

// WritePacket queues one packet. It never blocks: the packet is dropped with
// [ErrQueueFull] when the network is too slow, with [ErrTooLarge] above
// [MaxPacket] bytes, and with net.ErrClosed after the end.
func (f *Framed) WritePacket(b []byte) error {
	select {
	case <-f.closed:
		return net.ErrClosed
	default:
	}
	if len(b) > MaxPacket {
		return ErrTooLarge
	}
	f.mu.Lock()
	if len(f.unsent)+frameHeader+len(b) > maxUnsent {
		f.mu.Unlock()
		f.dropped.Add(1)
		return ErrQueueFull
	}
	f.unsent = appendFrame(f.unsent, b)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}

// RemoteAddr is the other end of the connection.
func (f *Framed) RemoteAddr() net.Addr { return f.conn.RemoteAddr() }

// Dropped is how many packets found the send queue full.
func (f *Framed) Dropped() int64 { return f.dropped.Load() }

// appendFrame appends b, at most 65535 bytes, behind its length.
func appendFrame(to, b []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, uint16(len(b)))
	return append(to, b...)
}

// writeLoop sends what has gathered while the last write was under way, so
// that many small frames make few segments.
func (f *Framed) writeLoop() {
	defer close(f.written)
	var out []byte
	for {
		select {
		case <-f.closed:
			return
		case <-f.wake:
		}
		f.mu.Lock()
		out, f.unsent = f.unsent, out[:0]
		f.mu.Unlock()
		if len(out) == 0 {
			continue
		}
		_ = f.conn.SetWriteDeadline(time.Now().Add(f.cfg.Idle))
		if _, err := f.conn.Write(out); err != nil {
			f.shut()
			return
		}
	}
}

// Run reads frames and gives each packet to deliver, which must not keep it,
// until the connection ends or deliver fails, and closes the connection. The
// error says why it ended; it is nil when the other end closed between frames.
func (f *Framed) Run(deliver func(b []byte) error) error {
	defer f.Close()
	r := bufio.NewReaderSize(f.conn, 16<<10)
	var buf [MaxPacket]byte
	limit := f.cfg.FirstFrame
	for {
		if err := f.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return f.endOf(err)
		}
		b, err := readFrame(r, buf[:])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return f.endOf(err)
		}
		limit = f.cfg.Idle
		if classify(b) == protoSTUN {
			if f.cfg.HandleSTUN != nil {
				f.cfg.HandleSTUN(b, f)
			}
			continue
		}
		if len(b) == 0 {
			continue // RFC 4571 §2: a null packet
		}
		if err := deliver(b); err != nil {
			return f.endOf(err)
		}
	}
}

// endOf names our own closing as such.
func (f *Framed) endOf(err error) error {
	select {
	case <-f.closed:
		return net.ErrClosed
	default:
		return fmt.Errorf("read frame: %w", err)
	}
}

// readFrame reads one frame into buf. It returns io.EOF at the end between
// frames, io.ErrUnexpectedEOF within one and ErrTooLarge if buf is too small.
func readFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > len(buf) {
		return nil, fmt.Errorf("frame of %d bytes: %w", n, ErrTooLarge)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf[:n], nil
}

// shut ends the connection without waiting for the writer.
func (f *Framed) shut() {
	f.closeOnce.Do(func() {
		close(f.closed)
		f.closeErr = f.conn.Close()
	})
}

// Close ends the connection; frames still queued are lost. Calling it again
// returns the first result.
func (f *Framed) Close() error {
	f.shut()
	<-f.written
	return f.closeErr
}

// UseFramed makes f the peer's path and hands in what it brings, until it
// ends or the peer or the socket is closed. When it ends and still is the
// path, the peer has no path. The socket owns f from now on.
func (p *Peer) UseFramed(f *Framed, kind Kind) error {
	if err := p.SetPath(Path{Kind: kind, Carrier: f}); err != nil {
		f.Close()
		return err
	}
	p.start(f, func() {})
	return nil
}

// TakeFramed makes an accepted connection, which a frame has shown to come from
// p's device, the path of p. The peer it was accepted for is closed unless it
// was adopted. Call it from [FrameConfig.HandleSTUN] of that connection: no
// packet then goes astray in between.
func (p *Peer) TakeFramed(f *Framed, kind Kind) error {
	if err := p.SetPath(Path{Kind: kind, Carrier: f}); err != nil {
		return err
	}
	old := f.owner.Load()
	if old == p {
		return nil
	}
	p.mu.Lock()
	ended := p.closed.Load()
	if !ended {
		p.owned = append(p.owned, f)
		f.owner.Store(p)
	}
	p.mu.Unlock()
	if ended {
		return net.ErrClosed
	}
	old.disown(f)
	if !old.adopted.Load() {
		old.Close()
	}
	return nil
}

// AcceptFramed gives an incoming TCP connection a peer with a fresh constant
// address, from which QUIC packets in frames will seem to come. The peer is
// closed when the connection ends, unless [Socket.Adopt] was called for its
// address. How many connections there may be is the caller's business.
func (s *Socket) AcceptFramed(conn net.Conn, kind Kind, cfg FrameConfig) (*Peer, error) {
	p := s.NewPeer()
	f := NewFramed(conn, cfg)
	if err := p.SetPath(Path{Kind: kind, Carrier: f}); err != nil {
		f.Close()
		p.Close()
		return nil, err
	}
	p.start(f, func() {
		if !p.adopted.Load() {
			p.Close()
		}
	})
	return p, nil
}

// start pumps packets from f to p in a goroutine of the socket.
func (p *Peer) start(f *Framed, ended func()) {
	s := p.socket
	if !p.own(f) {
		f.Close()
		return
	}
	f.owner.Store(p)
	go func() {
		defer s.pumps.Done()
		err := f.Run(func(b []byte) error { return f.owner.Load().Inject(b) })
		s.log.Debug("framed connection ended", "remote", f.conn.RemoteAddr().String(), "err", err)
		f.owner.Load().disown(f)
		ended()
	}()
}
