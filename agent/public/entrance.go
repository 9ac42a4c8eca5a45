package public

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

const (
	// tlsHandshake is the first byte of every TLS connection (RFC 8446 §5.1).
	// A frame cannot begin with it: it would be longer than [nat.MaxPacket].
	tlsHandshake = 0x16
	// maxHanded is how many TLS connections wait for the relay to take them.
	maxHanded = 8
)

// openEntrance accepts sessions and TLS for the relay at a TCP port. What a
// connection is for shows in its first byte, so that one port will do.
func (h *Host) openEntrance(at netip.AddrPort) error {
	listener, err := listen(h.ctx, "tcp", at)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return listener.Close()
	}
	h.listeners = append(h.listeners, listener)
	h.running.Go(func() { h.accept(listener) })
	return nil
}

func (h *Host) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or the like: others may close some.
			select {
			case <-time.After(lookEvery):
				continue
			case <-h.ctx.Done():
				return
			}
		}
		if h.framed.Add(1) > maxFramed {
			h.framed.Add(-1)
			conn.Close()
			continue
		}
		counted := &countedConn{TCPConn: conn.(*net.TCPConn), count: &h.framed}
		h.running.Go(func() { h.welcome(counted) })
	}
}

// welcome waits for the first byte of a connection and hands it on.
func (h *Host) welcome(conn *countedConn) {
	stop := context.AfterFunc(h.ctx, func() { conn.Close() })
	first, err := peek(conn.TCPConn)
	if !stop() || err != nil {
		conn.Close()
		return
	}
	if first == tlsHandshake {
		conn.release() // the relay has limits of its own
		if secure := h.secure.Load(); secure == nil || !secure.give(conn.TCPConn) {
			conn.Close()
		}
		return
	}
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if _, err := h.cfg.Socket.AcceptFramed(conn, nat.KindDirect, nat.FrameConfig{HandleSTUN: h.handler(from)}); err != nil {
		conn.Close()
	}
}

// peek waits for the first byte of a connection and leaves it there.
func peek(conn *net.TCPConn) (byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(nat.DefaultFirstFrame)); err != nil {
		return 0, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			if failed != syscall.EINTR {
				return failed != syscall.EAGAIN
			}
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("wait for the first byte: %w", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return b[0], conn.SetReadDeadline(time.Time{})
}

// handoff is a listener that gets its connections from the entrances.
type handoff struct {
	at    net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// newHandoff returns nil where there is no entrance. Tickets name the port of
// the last one.
func (h *Host) newHandoff() *handoff {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.listeners) == 0 {
		return nil
	}
	at := h.listeners[len(h.listeners)-1].Addr()
	return &handoff{at: at, conns: make(chan net.Conn, maxHanded), done: make(chan struct{})}
}

// give queues a connection; false, and it stays the caller's, if there are
// enough already.
func (f *handoff) give(conn net.Conn) bool {
	select {
	case f.conns <- conn:
	default:
		return false
	}
	select {
	case <-f.done:
		f.drain()
	default:
	}
	return true
}

func (f *handoff) drain() {
	for {
		select {
		case conn := <-f.conns:
			conn.Close()
		default:
			return
		}
	}
}

// Accept implements net.Listener.
func (f *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-f.conns:
		return conn, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (f *handoff) Addr() net.Addr { return f.at }

// Close implements net.Listener.
func (f *handoff) Close() error {
	f.once.Do(func() { close(f.done) })
	f.drain()
	return nil
}

// handler takes the STUN datagrams of one connection, which come one by one.
func (h *Host) handler(from netip.AddrPort) func([]byte, *nat.Framed) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	left := maxAnswers
	return func(b []byte, f *nat.Framed) {
		if stun.Check(b) != nil {
			return
		}
		respond := h.cfg.RespondSTUN
		if _, err := probe.Asked(b); err == nil {
			if respond = h.cfg.Knocks; respond == nil || !answer(f, b, respond(b, from)) {
				if h.cfg.Asked != nil {
					h.cfg.Asked(b, f)
				}
			}
			return
		}
		if respond != nil && left > 0 {
			left--
			answer(f, b, respond(b, from))
		}
	}
}

// answer sends an answer unless there is none or it is larger than the
// question; it reports whether there is one.
func answer(f *nat.Framed, question, answer []byte) bool {
	if len(answer) > 0 && len(answer) <= len(question) {
		f.WritePacket(answer)
	}
	return len(answer) > 0
}

// countedConn takes itself off a count when it is closed or released. It still
// is a syscall.Conn, by which the socket keeps the kernel's queue short.
type countedConn struct {
	*net.TCPConn
	count *atomic.Int64
	once  sync.Once
}

func (c *countedConn) release() { c.once.Do(func() { c.count.Add(-1) }) }

func (c *countedConn) Close() error {
	c.release()
	return c.TCPConn.Close()
}
