package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

const (
	// MaxOfCaller is how many TCP connections, and how many UDP flows, one
	// device has open here at once.
	MaxOfCaller = 64
	// MaxOpen is how many of both there are in all.
	MaxOpen = 256
	// dialLimit is how long a target may take to accept a connection.
	dialLimit = 5 * time.Second
	// recheckEvery is how often it is asked again who may.
	recheckEvery = 500 * time.Millisecond
	// idleLimit ends a UDP flow without packets (RFC 4787 REQ-5).
	idleLimit = 2 * time.Minute
	// quietLimit is how long a UDP flow must have been without packets to make
	// room for another.
	quietLimit = 5 * time.Second
)

// Config is what a Server needs.
type Config struct {
	Table *Table
	// Allows says whether a device is among those who may.
	Allows func(caller identity.Address, who []string) bool
	Logger *slog.Logger
}

// Server connects callers with what this device exposes.
type Server struct {
	cfg     Config
	idle    time.Duration // of a UDP flow
	dial    time.Duration // of a TCP target
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	dropped atomic.Int64

	mu       sync.Mutex
	open     []*use // the oldest first
	watching bool
}

// use is one connection or flow of a caller.
type use struct {
	caller  identity.Address
	service Exposed
	ctx     context.Context
	cancel  context.CancelFunc
	last    lastPacket // of a flow
}

func (u *use) udp() bool { return u.service.Network == "udp" }

// lastPacket is when a flow had its last packet, by the monotonic clock.
type lastPacket struct {
	began time.Time
	after atomic.Int64 // nanoseconds
}

func (l *lastPacket) touch() { l.after.Store(int64(time.Since(l.began))) }

// quiet is how long the flow has been without packets.
func (l *lastPacket) quiet() time.Duration {
	return time.Since(l.began) - time.Duration(l.after.Load())
}

// NewServer returns a Server.
func NewServer(cfg Config) *Server {
	s := &Server{cfg: cfg, idle: idleLimit, dial: dialLimit}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close ends everything that is carried, and waits.
func (s *Server) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// Open counts the connections and flows that are carried now.
func (s *Server) Open() (connections, flows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count(func(u *use) bool { return !u.udp() }), s.count((*use).udp)
}

// Dropped counts the packets that were dropped here, since the Server began:
// too large ones, and, once their flow has ended, those that had to make room.
func (s *Server) Dropped() int64 { return s.dropped.Load() }

// Handle answers one stream of Service and carries it until it ends.
func (s *Server) Handle(conn net.Conn) {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer conn.Close()
	stream, ok := conn.(*overlay.Conn)
	if !ok {
		return
	}
	stop := context.AfterFunc(s.ctx, func() { stream.Abort() })
	defer stop()
	stream.SetReadDeadline(time.Now().Add(askLimit))
	q, err := readQuestion(stream)
	stream.SetReadDeadline(time.Time{})
	if err != nil {
		s.cfg.Logger.Debug("forward: not understood", "peer", callerOf(stream).Short(), "err", err)
		stream.Abort()
		return
	}
	s.answer(stream, q)
}

func callerOf(conn net.Conn) identity.Address {
	a, _ := conn.RemoteAddr().(overlay.Addr)
	return a.Address
}

// answer answers a question and, if that is yes, carries what follows.
func (s *Server) answer(stream *overlay.Conn, q question) {
	reply := func(a answer) { stream.Write([]byte{byte(a)}) }
	caller := callerOf(stream)
	service, ok := s.allowed(caller, q.network, q.name)
	if !ok {
		s.cfg.Logger.Debug("forward: not offered", "peer", caller.Short(), "network", q.network, "name", q.name)
		reply(answerNotOffered)
		return
	}
	if q.only {
		reply(answerYes)
		return
	}
	u := s.begin(caller, service)
	if u == nil {
		reply(answerBusy)
		return
	}
	defer s.end(u)
	ctx, cancel := context.WithTimeout(u.ctx, s.dial)
	var d net.Dialer
	target, err := d.DialContext(ctx, service.Network, service.Target.String())
	cancel()
	if err != nil {
		s.cfg.Logger.Debug("forward: no answer", "target", service.Target, "err", err)
		reply(whyNot(err))
		return
	}
	defer target.Close()
	if tcp, ok := target.(*net.TCPConn); ok {
		reply(answerYes)
		carry(u.ctx, stream, tcp)
		return
	}
	// The packets begin before the yes: the caller's first must find them.
	packets, err := stream.Packets()
	if err != nil {
		return
	}
	reply(answerYes)
	s.carryPackets(u, packets, target)
}

func whyNot(err error) answer {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return answerRefused
	}
	return answerSilent
}

// allowed finds what a caller asks for. What is not there and what is for
// others take the same way out.
func (s *Server) allowed(caller identity.Address, network, name string) (Exposed, bool) {
	e, ok := s.cfg.Table.find(network, name)
	return e, ok && s.cfg.Allows(caller, e.To)
}

// begin counts one more; nil if there are too many.
func (s *Server) begin(caller identity.Address, service Exposed) *use {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &use{caller: caller, service: service, last: lastPacket{began: time.Now()}}
	if !s.room(u) || s.ctx.Err() != nil {
		return nil
	}
	u.ctx, u.cancel = context.WithCancel(s.ctx)
	s.open = append(s.open, u)
	if !s.watching {
		s.watching = true
		s.running.Go(s.watch)
	}
	return u
}

// room makes sure that one more may begin: of flows, the caller's own that has
// been quiet the longest may have to go.
func (s *Server) room(u *use) bool {
	if len(s.open) >= MaxOpen {
		return false
	}
	same := func(other *use) bool { return other.caller == u.caller && other.udp() == u.udp() }
	if s.count(same) < MaxOfCaller {
		return true
	}
	if !u.udp() {
		return false
	}
	var quietest *use
	for _, other := range s.open {
		if same(other) && (quietest == nil || other.last.quiet() > quietest.last.quiet()) {
			quietest = other
		}
	}
	if quietest.last.quiet() < quietLimit {
		return false
	}
	quietest.cancel()
	s.drop(quietest)
	return true
}

func (s *Server) count(which func(*use) bool) (n int) {
	for _, u := range s.open {
		if which(u) {
			n++
		}
	}
	return n
}

func (s *Server) end(u *use) {
	u.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(u)
}

func (s *Server) drop(u *use) {
	s.open = slices.DeleteFunc(s.open, func(other *use) bool { return other == u })
}

// watch ends what is no longer offered to its caller, while there is anything.
func (s *Server) watch() {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		open := slices.Clone(s.open)
		s.watching = len(open) > 0
		s.mu.Unlock()
		if len(open) == 0 {
			return
		}
		s.recheck(open)
	}
}

func (s *Server) recheck(open []*use) {
	for _, u := range open {
		now, ok := s.allowed(u.caller, u.service.Network, u.service.Name)
		if !ok || now.Target != u.service.Target {
			s.cfg.Logger.Info("forward: ended, no longer offered", "peer", u.caller.Short(),
				"network", u.service.Network, "name", u.service.Name)
			u.cancel()
		}
	}
}
