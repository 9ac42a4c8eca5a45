package spray

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Numbers of the further sockets.
const (
	// quietBuffer is the kernel's receive buffer, in bytes, of a socket on
	// which nothing is expected but one probe: 256 of them, flooded, hold no
	// more than 2 MB. liveBuffer is that of a socket that was hit.
	quietBuffer = 4 << 10
	liveBuffer  = 208 << 10 // Linux' usual default

	defaultTTL = -1 // the system's, ip(7)
	readEvents = 16
)

// sockets are the further sockets of one spray, all read by one goroutine:
// 256 goroutines would cost 1–2 MB of stacks.
type sockets struct {
	conns   []*net.UDPConn
	raw     []syscall.RawConn
	receive func(socket int, b []byte, from netip.AddrPort)
	poll    *os.File // an epoll descriptor, itself watched by the runtime
	epoll   int
	reading sync.WaitGroup

	closing  sync.Once
	closeErr error

	mu     sync.Mutex
	taken  []bool
	closed bool
}

// openSockets opens up to n sockets and reads them: receive gets each
// datagram on one goroutine, and must not keep b. It is content with
// [MinSockets].
func openSockets(open Opener, n int, receive func(int, []byte, netip.AddrPort)) (*sockets, error) {
	s := &sockets{receive: receive}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll descriptor: %w", err)
	}
	s.poll, s.epoll = os.NewFile(uintptr(fd), "epoll"), fd
	for len(s.conns) < n {
		if err = s.add(open); err != nil {
			break
		}
	}
	if len(s.conns) < min(n, MinSockets) {
		return nil, errors.Join(fmt.Errorf("open %d sockets: %w", n, err), s.close())
	}
	s.taken = make([]bool, len(s.conns))
	watch, err := s.poll.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch sockets: %w", err), s.close())
	}
	s.reading.Go(func() { s.read(watch) })
	return s, nil
}

func (s *sockets) add(open Opener) error {
	conn, err := open()
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = errors.Join(conn.SetReadBuffer(quietBuffer), s.control(raw, unix.EPOLL_CTL_ADD, len(s.conns)))
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.conns, s.raw = append(s.conns, conn), append(s.raw, raw)
	return nil
}

// control adds a socket to the epoll set or removes it.
func (s *sockets) control(raw syscall.RawConn, op, socket int) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.EpollCtl(s.epoll, op, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(socket)})
	})
	return errors.Join(err, failed)
}

// read hands over datagrams until close. The epoll descriptor is readable
// when one of the sockets is, so the runtime can wait for it as for any other
// file, without a thread.
func (s *sockets) read(watch syscall.RawConn) {
	b := make([]byte, MaxProbe+1)
	events := make([]unix.EpollEvent, readEvents)
	_ = watch.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				return err != nil
			}
			for _, e := range events[:n] {
				s.readOne(int(e.Fd), b)
			}
			if s.isClosed() {
				return true
			}
		}
	})
}

// readOne reads one datagram, and no more: the one after it may already
// belong to whoever takes the socket.
func (s *sockets) readOne(socket int, b []byte) {
	var n int
	var from unix.Sockaddr
	var failed error
	err := s.raw[socket].Read(func(fd uintptr) bool {
		n, from, failed = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
		return true
	})
	if err != nil || failed != nil {
		return
	}
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		s.receive(socket, b[:n], netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)))
	case *unix.SockaddrInet6:
		s.receive(socket, b[:n], netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)))
	}
}

// count is how many sockets there are.
func (s *sockets) count() int { return len(s.conns) }

// send sends b from a socket, also from one that was taken.
func (s *sockets) send(socket int, b []byte, to netip.AddrPort) error {
	_, err := s.conns[socket].WriteToUDPAddrPort(b, to)
	return err
}

// setTTL sets how many routers IPv4 packets of a socket may pass.
func (s *sockets) setTTL(socket, ttl int) error {
	var failed error
	err := s.raw[socket].Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)
	})
	return errors.Join(err, failed)
}

// revive makes a socket that was hit an ordinary one.
func (s *sockets) revive(socket int) error {
	return errors.Join(s.setTTL(socket, defaultTTL), s.conns[socket].SetReadBuffer(liveBuffer))
}

// take ends the reading of a socket and gives it away. What has arrived and
// was not read yet stays for the new owner. It may be called from receive.
func (s *sockets) take(socket int) (conn *net.UDPConn, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.taken[socket] || s.control(s.raw[socket], unix.EPOLL_CTL_DEL, socket) != nil {
		return nil, false
	}
	s.taken[socket] = true
	return s.conns[socket], true
}

func (s *sockets) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// close closes the sockets that were not taken and waits for the reader. It
// must not be called from receive.
func (s *sockets) close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true // from here on taken stays as it is
		s.mu.Unlock()
		// Not under the lock: Close waits for the reader, which may want it.
		s.closeErr = s.poll.Close()
		s.reading.Wait()
		for i, conn := range s.conns {
			if s.taken == nil || !s.taken[i] {
				s.closeErr = errors.Join(s.closeErr, conn.Close())
			}
		}
	})
	return s.closeErr
}
