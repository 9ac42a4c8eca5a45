package relay

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"
)

// acceptPause is how long a listener rests after an error, such as too many
// open files.
const acceptPause = 100 * time.Millisecond

// accept takes connections from a listener; secure is nil for plain TCP.
func (s *Server) accept(l net.Listener, secure *tls.Config) {
	defer s.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !s.pause() {
				return
			}
			continue
		}
		s.welcome(c, secure)
	}
}

// pause waits before the next attempt to accept; false at the end.
func (s *Server) pause() bool {
	t := time.NewTimer(acceptPause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done:
		return false
	}
}

// welcome serves a connection if there is room for it. With TLS, the first
// read shakes hands, within the same deadline.
func (s *Server) welcome(c net.Conn, secure *tls.Config) {
	src, ok := addrPort(c.RemoteAddr())
	prefix := prefixOf(src.Addr())
	if !ok || !s.unproven.allow(src.Addr(), s.now()) {
		s.count.refuse(unprovenRate)
		c.Close()
		return
	}
	if !s.enter(prefix) {
		s.count.refuse(connections)
		c.Close()
		return
	}
	c.SetReadDeadline(time.Now().Add(s.cfg.Limits.SetUp))
	if secure != nil {
		c = tls.Server(c, secure)
	}
	if err := s.newFront(newStreamConn(c), true, prefix); err != nil {
		c.Close()
	}
}

func (s *Server) enter(p netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.conns {
		total += n
	}
	if s.closed || total >= s.cfg.Limits.Connections || s.conns[p] >= s.cfg.Limits.ConnectionsPerPrefix {
		return false
	}
	s.conns[p]++
	return true
}

// leave undoes enter; mu is held.
func (s *Server) leave(p netip.Prefix) {
	if s.conns[p]--; s.conns[p] <= 0 {
		delete(s.conns, p)
	}
}
