package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"porchlight/agent/identity"
)

// MaxServiceName is the length of the longest service name, in bytes.
const MaxServiceName = 32

// headerLimit is how long a peer may take to name the service it wants.
const headerLimit = 10 * time.Second

// The first byte of the answer on a stream.
const (
	replyOK byte = iota
	replyNoService
	replyBusy
)

// Codes that end a direction of a stream early (RFC 9000 §19.4, §19.5).
const (
	codeDone    quic.StreamErrorCode = 0
	codeAborted quic.StreamErrorCode = 1
)

// Errors of a stream that the other device did not take.
var (
	ErrNoService = errors.New("the device does not offer this service")
	ErrBusy      = errors.New("the device is busy; try again later")
)

// Addr is a device's address as net.Addr.
type Addr struct{ identity.Address }

// Network names the overlay.
func (Addr) Network() string { return "porchlight" }

// Conn is a stream between two devices: a net.Conn whose ends are addresses.
type Conn struct {
	stream  *quic.Stream
	session *Session
	// dialed streams begin with the peer's reply byte, read with the first Read.
	reply    sync.Once
	awaiting bool
	refusal  error
	closed   sync.Once
	work     bool // set before anybody else has the stream
}

func newConn(stream *quic.Stream, s *Session, dialed bool) *Conn {
	s.streams.Add(1)
	return &Conn{stream: stream, session: s, awaiting: dialed}
}

// works notes that the stream is one that the session is for, unless its
// service is upkeep.
func (c *Conn) works(service string) {
	if slices.Contains(c.session.overlay.cfg.Upkeep, service) {
		return
	}
	c.work = true
	c.session.working.Add(1)
}

// Dial opens a stream to a service of a device. It does not wait for the
// other side's consent: a refusal is the error of the first Read.
func (o *Overlay) Dial(ctx context.Context, to identity.Address, service string) (net.Conn, error) {
	if err := checkService(service); err != nil {
		return nil, err
	}
	s, err := o.Session(ctx, to)
	if err != nil {
		return nil, err
	}
	stream, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a stream to %s: %w", to.Short(), err)
	}
	c := newConn(stream, s, true)
	c.works(service)
	if _, err := stream.Write(append([]byte{byte(len(service))}, service...)); err != nil {
		c.Close()
		return nil, fmt.Errorf("open a stream to %s: %w", to.Short(), err)
	}
	return c, nil
}

func checkService(name string) error {
	if len(name) == 0 || len(name) > MaxServiceName {
		return fmt.Errorf("a service name has 1 to %d bytes, %q has %d", MaxServiceName, name, len(name))
	}
	return nil
}

// readService reads which service the peer wants.
func (c *Conn) readService() (string, error) {
	c.stream.SetReadDeadline(time.Now().Add(headerLimit))
	defer c.stream.SetReadDeadline(time.Time{})
	var header [1 + MaxServiceName]byte
	if _, err := io.ReadFull(c.stream, header[:1]); err != nil {
		return "", err
	}
	n := int(header[0])
	if n == 0 || n > MaxServiceName {
		return "", fmt.Errorf("service name of %d bytes", n)
	}
	_, err := io.ReadFull(c.stream, header[1:1+n])
	return string(header[1 : 1+n]), err
}

func (c *Conn) refuse(code byte) {
	c.stream.Write([]byte{code})
	c.Close()
}

// Read reads from the peer; the first one of a dialled stream also learns
// whether the peer took it.
func (c *Conn) Read(b []byte) (int, error) {
	if c.awaiting {
		c.reply.Do(c.readReply)
		if c.refusal != nil {
			return 0, c.refusal
		}
	}
	return c.stream.Read(b)
}

func (c *Conn) readReply() {
	var reply [1]byte
	if _, err := io.ReadFull(c.stream, reply[:]); err != nil {
		c.refusal = err
		return
	}
	switch reply[0] {
	case replyOK:
	case replyNoService:
		c.refusal = ErrNoService
	case replyBusy:
		c.refusal = ErrBusy
	default:
		c.refusal = fmt.Errorf("the device answered with unknown code %d", reply[0])
	}
}

// Write writes to the peer.
func (c *Conn) Write(b []byte) (int, error) { return c.stream.Write(b) }

// CloseWrite tells the peer that nothing more comes; reading goes on.
func (c *Conn) CloseWrite() error { return c.stream.Close() }

// CloseRead tells the peer that no more is read; writing goes on.
func (c *Conn) CloseRead() error {
	c.stream.CancelRead(codeDone)
	return nil
}

// Abort ends both directions at once, and the peer's Read with an error: what
// was cut short must not look complete.
func (c *Conn) Abort() error {
	c.stream.CancelWrite(codeAborted)
	return c.Close()
}

// Close ends both directions; what was written is still delivered.
func (c *Conn) Close() error {
	c.closed.Do(func() {
		c.stream.CancelRead(codeDone)
		// A Write that is blocked would otherwise stay so, even when the
		// session dies.
		c.stream.SetWriteDeadline(time.Unix(1, 0))
		c.stream.Close()
		now := time.Now().UnixNano()
		if c.work {
			c.session.worked.Store(now)
			c.session.working.Add(-1)
		}
		c.session.used.Store(now)
		c.session.streams.Add(-1)
	})
	return nil
}

// LocalAddr is not known to a stream; the session's is told by status.
func (c *Conn) LocalAddr() net.Addr { return Addr{} }

// RemoteAddr is the device at the other end.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.session.with} }

// SetDeadline is that of net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline is that of net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline is that of net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }
