package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porchlight/agent/identity"
)

const (
	// MaxListeners is how many ports a Forwarder has open at once.
	MaxListeners = 64
	// MaxConnections is how many TCP connections it carries at once; what comes
	// above that is aborted.
	MaxConnections = 256
)

// Errors of Listen.
var (
	// ErrLocal says that a local address is not usable.
	ErrLocal = errors.New("not a local address")
	// ErrListeners says that MaxListeners is reached.
	ErrListeners = fmt.Errorf("at most %d forwards run at once; end one first", MaxListeners)
	// ErrClosed says that the Forwarder was closed.
	ErrClosed = errors.New("the forwarder is closed")
)

// Forwarder has ports of this device lead to services of others.
type Forwarder struct {
	dialer Dialer
	log    *slog.Logger
	idle   time.Duration

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	conns   atomic.Int64
	dropped atomic.Int64

	mu        sync.Mutex
	listeners int
}

// NewForwarder returns a Forwarder.
func NewForwarder(d Dialer, log *slog.Logger) *Forwarder {
	f := &Forwarder{dialer: d, log: log, idle: idleLimit}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Close ends all listeners and what they carry, and waits.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

// Dropped counts the packets that were dropped here since the beginning: too
// large ones, those of too many sources and, once their flow has ended, those
// that had to make room.
func (f *Forwarder) Dropped() int64 { return f.dropped.Load() }

// Listen takes connections ("tcp") or datagrams ("udp") at a local address and
// carries them to the service name of a device, until ctx ends; it returns
// where it listens. local is "" for 127.0.0.1 and the service's own port (or
// any port, where the service is a word), PORT for that port at 127.0.0.1, or
// ADDRESS:PORT. The device is asked first: the errors of Check are those of
// Listen too.
func (f *Forwarder) Listen(ctx context.Context, to identity.Address, network, name, local string) (netip.AddrPort, error) {
	at, err := parseLocal(local, name)
	if err != nil {
		return at, err
	}
	first, cancel := context.WithTimeout(ctx, openLimit)
	err = Check(first, f.dialer, to, network, name)
	cancel()
	if err != nil {
		return at, err
	}
	ctx, cancel = context.WithCancel(ctx)
	if err := f.begin(); err != nil {
		cancel()
		return at, err
	}
	stop := context.AfterFunc(f.ctx, cancel)
	l := listener{f: f, to: to, network: network, name: name}
	bound, run, err := l.open(ctx, at)
	if err != nil {
		stop()
		cancel()
		f.end()
		return at, explainBind(err, at)
	}
	go func() {
		defer f.end()
		defer cancel()
		defer stop()
		run()
	}()
	f.log.Info("forward: listening", "at", bound, "peer", to.Short(), "network", network, "name", name)
	return bound, nil
}

// begin counts one more listener.
func (f *Forwarder) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return ErrClosed
	}
	if f.listeners >= MaxListeners {
		return ErrListeners
	}
	f.listeners++
	f.running.Add(1)
	return nil
}

func (f *Forwarder) end() {
	f.mu.Lock()
	f.listeners--
	f.mu.Unlock()
	f.running.Done()
}

// listener is one local port.
type listener struct {
	f             *Forwarder
	to            identity.Address
	network, name string
}

// open binds the port; run then serves it until ctx ends.
func (l *listener) open(ctx context.Context, at netip.AddrPort) (bound netip.AddrPort, run func(), err error) {
	var lc net.ListenConfig
	if l.network == "udp" {
		conn, err := lc.ListenPacket(ctx, "udp", at.String())
		if err != nil {
			return at, nil, err
		}
		udp := conn.(*net.UDPConn)
		return udp.LocalAddr().(*net.UDPAddr).AddrPort(), func() { l.servePackets(ctx, udp) }, nil
	}
	lis, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return at, nil, err
	}
	tcp := lis.(*net.TCPListener)
	return tcp.Addr().(*net.TCPAddr).AddrPort(), func() { l.serve(ctx, tcp) }, nil
}

// acceptPause is how long to wait after an Accept that failed, as when the
// process has no descriptors left.
const acceptPause = 100 * time.Millisecond

// serve carries connections until ctx ends, and waits for them.
func (l *listener) serve(ctx context.Context, tcp *net.TCPListener) {
	defer context.AfterFunc(ctx, func() { tcp.Close() })()
	defer tcp.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.f.log.Warn("forward: accept", "err", err)
			pause(ctx, acceptPause)
			continue
		}
		if l.f.conns.Add(1) > MaxConnections {
			l.f.conns.Add(-1)
			l.f.log.Warn("forward: too many connections", "at", tcp.Addr(), "limit", MaxConnections)
			abortConn(conn)
			continue
		}
		conns.Go(func() {
			defer l.f.conns.Add(-1)
			l.carry(ctx, conn)
		})
	}
}

// carry connects one local connection; where that fails it is aborted.
func (l *listener) carry(ctx context.Context, conn *net.TCPConn) {
	opening, cancel := context.WithTimeout(ctx, openLimit)
	remote, err := Dial(opening, l.f.dialer, l.to, l.network, l.name)
	cancel()
	if err == nil {
		if stream, ok := remote.(half); ok {
			carry(ctx, conn, stream)
			return
		}
		remote.Close()
		err = errors.New("the connection has no halves")
	}
	if ctx.Err() == nil {
		l.f.log.Warn("forward: not connected", "peer", l.to.Short(), "err", err)
	}
	abortConn(conn)
}

// parseLocal turns what Listen is given into an address; port 0 is any.
func parseLocal(local, name string) (netip.AddrPort, error) {
	if local == "" {
		port, err := strconv.ParseUint(name, 10, 16)
		if err != nil {
			port = 0
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), nil
	}
	if !strings.Contains(local, ":") {
		local = net.JoinHostPort("127.0.0.1", local)
	}
	at, err := netip.ParseAddrPort(local)
	if err != nil {
		return at, fmt.Errorf("%q is %w: give PORT, or ADDRESS:PORT with an IP address", local, ErrLocal)
	}
	return at, nil
}

// explainBind says what to do about a port that cannot be opened.
func explainBind(err error, at netip.AddrPort) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen at %s: %w; choose another port, as in: porchlight forward PEER:PORT 8022", at, err)
	default:
		return fmt.Errorf("listen at %s: %w", at, err)
	}
}

// pause waits for a while, or for ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
