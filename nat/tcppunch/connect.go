package tcppunch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// openerTTL lets a first packet leave the own routers (a home's, a
	// carrier's) and die before it comes to the peer's.
	openerTTL = 4
	// defaultTTL gives a socket the system's own value back, ip(7).
	defaultTTL = -1

	// tcpSynRecv is TCP_SYN_RECV of linux/tcp_states.h.
	tcpSynRecv = 3
	// handshakeTime is how much longer an attempt may take once the peer's SYN
	// has come: breaking it off then would reset the peer's connection, whose
	// lost packets come again after 200 ms and 400 ms more.
	handshakeTime = 700 * time.Millisecond
)

// past is a deadline that ends waiting at once.
var past = time.Unix(1, 0)

// pending is a connection whose SYN has been sent.
type pending struct {
	file *os.File // the socket, known to the runtime's poller
}

// dial sends a SYN from a local port to an address, with the TTL given if it is
// not 0; all that follows has the usual one. The net package is no help here:
// it offers no moment between the SYN and the end of the handshake.
func dial(port uint16, to netip.AddrPort, ttl int) (*pending, error) {
	fd, err := boundSocket(port, to.Addr().Unmap().Is4())
	if err != nil {
		return nil, err
	}
	if ttl > 0 {
		if err := setTTL(fd, to, ttl); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("set ttl: %w", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	if ttl > 0 {
		if err := setTTL(fd, to, defaultTTL); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("set ttl: %w", err)
		}
	}
	return &pending{file: os.NewFile(uintptr(fd), "tcp")}, nil
}

// boundSocket opens a TCP socket at a local port, which it shares with others
// of this program. Port 0 has the kernel choose.
func boundSocket(port uint16, v4 bool) (int, error) {
	family, wild := unix.AF_INET6, netip.IPv6Unspecified()
	if v4 {
		family, wild = unix.AF_INET, netip.IPv4Unspecified()
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("open tcp socket: %w", err)
	}
	if !v4 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	err = errors.Join(err, sharePort(fd), unix.Bind(fd, sockaddr(netip.AddrPortFrom(wild, port))))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind tcp port %d: %w", port, err)
	}
	return fd, nil
}

// sharePort lets several sockets have one port: learning, connecting and
// listening happen at the same one, socket(7).
func sharePort(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

func setTTL(fd int, to netip.AddrPort, ttl int) error {
	if to.Addr().Unmap().Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// wait waits for the end of the handshake, for patience at most, longer only if
// the peer's SYN is here already. It closes the socket in any case but success.
func (p *pending) wait(ctx context.Context, patience time.Duration) (*net.TCPConn, error) {
	defer p.file.Close() // what it returns is a duplicate
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetWriteDeadline(past) })
	defer stop()
	err := p.finish(ctx, patience)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil && p.answered() {
		err = p.finish(ctx, handshakeTime)
	}
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(p.file)
	if err != nil {
		return nil, fmt.Errorf("use tcp socket: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

func (p *pending) finish(ctx context.Context, patience time.Duration) error {
	if err := p.file.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("wait for connection: %w", err)
	}
	if ctx.Err() != nil { // its end may have come before the deadline was set
		return ctx.Err()
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for connection: %w", err)
	}
	var outcome error
	err = raw.Write(func(fd uintptr) (done bool) {
		done, outcome = connected(int(fd))
		return done
	})
	if err := errors.Join(err, outcome); err != nil {
		return fmt.Errorf("wait for connection: %w", err)
	}
	return nil
}

// connected says whether a connection attempt has ended, and how, connect(2).
func connected(fd int) (bool, error) {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if errno != 0 {
		return true, syscall.Errno(errno)
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil
}

// answered says whether the peer's SYN has come.
func (p *pending) answered() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	state := uint8(0)
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return err == nil && state == tcpSynRecv
}

// abort ends a connection so that its addresses can be used again at once,
// instead of after TIME_WAIT.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// listen listens at a port that others of this program connect from.
func listen(ctx context.Context, port uint16, v4 bool) (*net.TCPListener, error) {
	network, wild := "tcp6", netip.IPv6Unspecified()
	if v4 {
		network, wild = "tcp4", netip.IPv4Unspecified()
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = sharePort(int(fd)) })
		return errors.Join(err, set)
	}}
	lc.SetMultipathTCP(false) // would not share the port with plain TCP
	l, err := lc.Listen(ctx, network, netip.AddrPortFrom(wild, port).String())
	if err != nil {
		return nil, fmt.Errorf("listen on tcp port %d: %w", port, err)
	}
	return l.(*net.TCPListener), nil
}

// closeAll closes descriptors.
func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// freePort finds a port that no socket has. A socket that may not share is
// asked for it, because one that may is also given shared ones.
func freePort() (uint16, error) {
	l, err := net.ListenTCP("tcp4", nil)
	if err != nil {
		return 0, fmt.Errorf("find a free tcp port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}
