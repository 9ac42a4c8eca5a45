package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
)

// ServerConfig configures a [Server]. The sockets must be bound to concrete
// addresses when there is more than one: their addresses are what the server
// tells about itself.
type ServerConfig struct {
	Primary net.PacketConn // required
	AltPort net.PacketConn // same IP, another port; optional
	AltIP   net.PacketConn // another IP, the port of Primary; optional
	AltBoth net.PacketConn // the IP of AltIP, the port of AltPort; optional

	Rate  float64 // answers a second per /24 or /56, default [DefaultRate]
	Burst int     // answers at once per /24 or /56, default [DefaultBurst]
}

// Server answers Binding requests after RFC 8489 and RFC 5780 §6. An answer
// is never larger than the request it answers; requests too short for any
// answer, malformed ones and those over the rate get nothing.
type Server struct {
	conns [4]net.PacketConn
	resp  *responder

	mu     sync.Mutex // orders Serve's Add before Close's Wait
	closed chan struct{}
	loops  sync.WaitGroup
}

// NewServer makes a server; [Server.Serve] runs it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Primary == nil {
		return nil, errors.New("stun server: no primary socket")
	}
	s := &Server{
		conns:  [4]net.PacketConn{cfg.Primary, cfg.AltPort, cfg.AltIP, cfg.AltBoth},
		closed: make(chan struct{}),
		resp:   &responder{limit: newLimiter(cfg.Rate, cfg.Burst)},
	}
	for i, pc := range s.conns {
		if pc == nil {
			continue
		}
		addr, err := localAddrPort(pc.LocalAddr())
		if err != nil {
			return nil, fmt.Errorf("stun server: %w", err)
		}
		s.resp.places[i].send = packetSender{pc}
		s.resp.setPublic(i, addr)
	}
	return s, nil
}

// Serve answers until [Server.Close], then returns nil. Call it once.
func (s *Server) Serve() error {
	if !s.begin() {
		return nil
	}
	for i, pc := range s.conns {
		if pc == nil {
			continue
		}
		s.loops.Go(func() {
			readLoop(pc, s.closed, func(b []byte, from netip.AddrPort) {
				if Check(b) == nil {
					s.resp.handle(b, from, i)
				}
			})
		})
	}
	s.loops.Done()
	<-s.closed
	s.loops.Wait()
	return nil
}

// begin counts Serve itself, so that Close waits for loops yet to start.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return false
	}
	s.loops.Add(1)
	return true
}

func (s *Server) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Close closes the sockets and waits until nothing reads them any more.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.isClosed() {
		close(s.closed)
		for _, pc := range s.conns {
			if pc != nil {
				_ = pc.Close()
			}
		}
	}
	s.mu.Unlock()
	s.loops.Wait()
	return nil
}

// Answered returns the number of answers sent so far.
func (s *Server) Answered() int64 { return s.resp.answered.Load() }

// sender is what an answer leaves by.
type sender interface {
	WriteSTUN(b []byte, to netip.AddrPort) error
}

// packetSender makes a sender of a plain socket.
type packetSender struct{ net.PacketConn }

func (p packetSender) WriteSTUN(b []byte, to netip.AddrPort) error {
	_, err := p.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

// readPause keeps a socket that fails at every read from spinning.
const readPause = 10 * time.Millisecond

// readLoop hands datagrams to handle until stop or until the socket is
// closed. The buffer is used again after handle returns.
func readLoop(pc net.PacketConn, stop <-chan struct{}, handle func([]byte, netip.AddrPort)) {
	buf := make([]byte, MaxMessage+1)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(readPause):
			}
			continue
		}
		if udp, ok := from.(*net.UDPAddr); ok {
			handle(buf[:n], canonical(udp.AddrPort()))
		}
	}
}

func localAddrPort(a net.Addr) (netip.AddrPort, error) {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("local address %v is not a UDP address", a)
	}
	return canonical(udp.AddrPort()), nil
}

// place is one of the four addresses of a server.
type place struct {
	send   sender
	public atomic.Pointer[netip.AddrPort]
}

func (p *place) address() netip.AddrPort {
	if a := p.public.Load(); a != nil {
		return *a
	}
	return netip.AddrPort{}
}

// responder is the server side without sockets. places is indexed by
// CHANGE-REQUEST flags shifted right by one, relative to the primary.
type responder struct {
	limit                     *limiter
	places                    [4]place
	answered, limited, silent atomic.Int64
}

func (r *responder) setPublic(i int, a netip.AddrPort) {
	if !usable(a) {
		r.places[i].public.Store(nil)
		return
	}
	r.places[i].public.Store(&a)
}

// handle answers a checked Binding request that came in at place i.
func (r *responder) handle(b []byte, from netip.AddrPort, i int) {
	if messageType(b) != bindingRequest || !usable(from) {
		r.silent.Add(1)
		return
	}
	if !r.limit.allow(from.Addr()) {
		r.limited.Add(1)
		return
	}
	out, by, to := r.reply(b, from, i)
	if out == nil || by.WriteSTUN(out, to) != nil {
		r.silent.Add(1)
		return
	}
	r.answered.Add(1)
}

// minResponsePort is the lowest port that RESPONSE-PORT may send an answer to:
// below are the services of a machine, not its clients.
const minResponsePort = 1024

// reply builds the answer and names the socket it must leave by and where it
// goes; nil when no truthful answer fits into the size of the request.
func (r *responder) reply(b []byte, from netip.AddrPort, i int) (out []byte, by sender, to netip.AddrPort) {
	place := i
	if v, ok := find(b, attrChangeRequest); ok {
		place = i ^ int(v[3]&(changeIP|changePort))>>1
	}
	to, refused := target(b, from)
	if r.places[place].send == nil {
		refused = append(refused, stun.AttrChangeRequest)
	}
	if len(refused) > 0 {
		return fit(b, refusal(b, refused...)), r.places[i].send, from
	}
	return fit(b, r.answers(b, from, i, place)...), r.places[place].send, to
}

// target says where the answer goes: back, or to the port that RESPONSE-PORT
// names (RFC 5780 §7.5), at the same address always. It is refused beside
// CHANGE-REQUEST, which no test needs, so that an answer differs from a plain
// one in one respect at most. PADDING is refused too: the answer would have to
// be as large as a fragmented packet.
func target(b []byte, from netip.AddrPort) (to netip.AddrPort, refused []stun.AttrType) {
	if _, ok := find(b, attrPadding); ok {
		refused = append(refused, stun.AttrPadding)
	}
	v, ok := find(b, attrResponsePort)
	if !ok {
		return from, refused
	}
	port := binary.BigEndian.Uint16(v)
	if _, both := find(b, attrChangeRequest); both || port < minResponsePort {
		return from, append(refused, stun.AttrResponsePort)
	}
	return netip.AddrPortFrom(from.Addr(), port), refused
}

// answers are the forms of the answer, the richest first.
func (r *responder) answers(b []byte, from netip.AddrPort, at, by int) []builder {
	var other, origin []stun.Setter
	if a := r.otherAddress(at); a.IsValid() {
		other = append(other, &stun.OtherAddress{IP: a.Addr().AsSlice(), Port: int(a.Port())})
	}
	if a := r.places[by].address(); a.IsValid() {
		origin = append(origin, &stun.ResponseOrigin{IP: a.Addr().AsSlice(), Port: int(a.Port())})
	}
	with := func(about ...stun.Setter) builder { return success(b, from, append(about, stun.Fingerprint)...) }
	return []builder{with(slices.Concat(other, origin)...), with(other...), with()}
}

// otherAddress is what OTHER-ADDRESS says: the place that differs in both
// (RFC 5780 §7.4), or, with one IP only, in the port.
func (r *responder) otherAddress(i int) netip.AddrPort {
	for _, change := range []int{3, 1} {
		if p := &r.places[i^change]; p.send != nil {
			return p.address()
		}
	}
	return netip.AddrPort{}
}
