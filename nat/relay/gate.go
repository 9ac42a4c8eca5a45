package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/turn/v2"
)

const (
	// inboundBuffer is what pion reads into; it drops what fills it.
	inboundBuffer = 1600
	// nonceRenewal is how often the server makes a nonce for tickets; pion
	// accepts one for an hour.
	nonceRenewal = 10 * time.Minute
	// minLifetime keeps pion's own expiry timers away from requests in
	// flight: its Allocation.Close races with AddPermission.
	minLifetime     = 60 // seconds
	maxLifetime     = 3600
	defaultLifetime = 600 // seconds, RFC 8656 §3.2
	// maxReadErrors ends a UDP socket that does nothing but fail.
	maxReadErrors = 100
)

var errUnsupported = errors.New("not offered by this relay")

// front stands between one UDP socket, or one TCP connection, and a pion
// server of its own. pion reads, answers and allocates on one goroutine per
// front, so cur describes the message being worked on without a lock.
type front struct {
	srv    *Server
	conn   net.PacketConn
	stream bool
	prefix netip.Prefix // of the client, for streams

	cur   current
	fails int

	mu       sync.Mutex
	relayed  map[netip.AddrPort]*relayed // by client address; ended ones stay for a while
	nonce    string
	nonceAge time.Time
}

// current is what the gate learnt about the message pion is working on.
type current struct {
	src       netip.AddrPort
	size      int
	msg       message
	lifetime  time.Duration
	family    Family // of the relayed address asked for
	code      uint16 // what an error is to say in place of pion's 508; 0: that
	claim     claim
	username  string
	key       []byte
	synthetic bool // our own, made to obtain a nonce
}

var _ net.PacketConn = (*front)(nil)

// serve hands the front to pion, which runs until the connection ends.
func (f *front) serve() error {
	_, err := turn.NewServer(turn.ServerConfig{
		Realm:         realm,
		AuthHandler:   f.authenticate,
		LoggerFactory: pionLog{f.srv.log},
		InboundMTU:    inboundBuffer,
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn:            f,
			RelayAddressGenerator: f,
			PermissionHandler:     f.permit,
		}},
	})
	if err != nil {
		return fmt.Errorf("start turn server: %w", err)
	}
	return nil
}

// ReadFrom returns the next message that pion may see.
func (f *front) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if n, due := f.nonceRequest(b); due {
			return n, &net.UDPAddr{IP: net.IPv4zero}, nil
		}
		n, addr, err := f.conn.ReadFrom(b)
		if err != nil {
			if f.transient(err) {
				continue
			}
			if !f.stream && !errors.Is(err, net.ErrClosed) {
				f.srv.log.Warn("relay stopped serving udp", "local", f.LocalAddr(), "err", err)
			}
			f.srv.ended(f)
			return 0, nil, fmt.Errorf("read from client: %w", err)
		}
		f.fails = 0
		if f.admit(b[:n], addr) {
			return n, addr, nil
		}
	}
}

// transient tells errors of one datagram from the end of the socket.
func (f *front) transient(err error) bool {
	if f.stream || errors.Is(err, net.ErrClosed) {
		return false
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return true
	}
	f.fails++
	return f.fails < maxReadErrors
}

// nonceRequest writes an Allocate request of our own into b when tickets need
// a fresh nonce: only pion can make one, and its answer passes WriteTo.
func (f *front) nonceRequest(b []byte) (n int, due bool) {
	if f.stream {
		return 0, false
	}
	f.mu.Lock()
	now := time.Now()
	due = f.nonceAge.IsZero() || now.Sub(f.nonceAge) >= nonceRenewal
	if due {
		f.nonceAge = now
	}
	f.mu.Unlock()
	if !due {
		return 0, false
	}
	f.conn.SetReadDeadline(now.Add(nonceRenewal))
	clear(b[:stunHeader])
	binary.BigEndian.PutUint16(b, typeAllocate)
	binary.BigEndian.PutUint32(b[4:], cookie)
	f.cur = current{synthetic: true}
	return stunHeader, true
}

// admit decides whether pion may see a message, and notes what it is.
func (f *front) admit(b []byte, addr net.Addr) bool {
	src, ok := addrPort(addr)
	if !ok {
		return false
	}
	r := f.find(src)
	if r == nil && !f.srv.unproven.allow(src.Addr(), f.srv.now()) {
		f.srv.count.refuse(unprovenRate)
		return false
	}
	f.cur = current{src: src, size: len(b)}
	if isChannelData(b) {
		_, _, err := parseChannelData(b)
		return f.admitData(r, err)
	}
	m, err := parseMessage(b)
	if err != nil {
		f.srv.count.refuse(malformed)
		return false
	}
	f.cur.msg = m
	if m.kind == typeSend {
		return f.admitData(r, nil)
	}
	return f.admitRequest(r, m)
}

func (f *front) admitData(r *relayed, err error) bool {
	if err != nil {
		f.srv.count.refuse(malformed)
		return false
	}
	if r == nil || r.dead.Load() {
		f.srv.count.refuse(noAllocation)
		return false
	}
	r.heard.Store(int64(f.srv.since()))
	return true
}

func (f *front) admitRequest(r *relayed, m message) bool {
	switch m.kind {
	case typeBinding, typeAllocate, typeRefresh, typeCreatePermission, typeChannelBind:
	default:
		f.srv.count.refuse(malformed)
		return false
	}
	if r != nil && !r.dead.Load() {
		if !r.control.AllowN(f.srv.now(), 1) {
			f.srv.count.refuse(controlRate)
			return false
		}
		r.heard.Store(int64(f.srv.since()))
	}
	seconds, given := m.lifetime()
	switch {
	case !given || seconds >= maxLifetime: // as pion has it
		seconds = defaultLifetime
	case seconds < minLifetime && (seconds > 0 || m.kind != typeRefresh):
		f.srv.count.refuse(unsupported)
		return false
	}
	f.cur.lifetime = time.Duration(seconds) * time.Second
	return true
}

// WriteTo sends what pion answers. Answers come on the reading goroutine,
// while cur is valid; indications and ChannelData come from relayed sockets.
func (f *front) WriteTo(b []byte, addr net.Addr) (int, error) {
	if len(b) >= stunHeader && b[0]&0xC0 == 0 {
		m := message{kind: binary.BigEndian.Uint16(b), raw: b}
		if m.isResponse() && !f.mayAnswer(m) {
			return len(b), nil
		}
	}
	return f.conn.WriteTo(b, addr)
}

// mayAnswer keeps every answer over UDP as short as what caused it, whoever
// may have sent that, and takes notice of what pion decided.
func (f *front) mayAnswer(m message) bool {
	if code := m.errorCode(); code == 401 || code == 438 {
		f.mu.Lock()
		f.nonce = string(m.attribute(attrNonce))
		f.mu.Unlock()
	} else if code == 400 && f.cur.key != nil {
		f.srv.count.refuse(badRequest)
	}
	if f.cur.synthetic {
		return false
	}
	if f.cur.code != 0 && m.kind == typeAllocate|classError {
		m.setErrorCode(f.cur.code)
	}
	if m.kind == typeAllocate|classSuccess || m.kind == typeRefresh|classSuccess && f.cur.lifetime > 0 {
		if r := f.find(f.cur.src); r != nil {
			r.expires.Store(int64(f.srv.since() + f.cur.lifetime))
		}
	}
	if !f.stream && len(m.raw) > f.cur.size {
		f.srv.count.refuse(shortRequest)
		return false
	}
	return true
}

// authenticate gives pion the key for a username, or refuses it. pion answers
// refusals with 400.
func (f *front) authenticate(username, _ string, _ net.Addr) ([]byte, bool) {
	r := f.find(f.cur.src)
	if r != nil {
		if r.username != username || r.dead.Load() {
			f.srv.count.refuse(wrongUser)
			return nil, false
		}
		f.cur.key = r.key
		return r.key, true
	}
	if f.cur.msg.kind != typeAllocate {
		f.srv.count.refuse(noAllocation)
		return nil, false
	}
	c, why, ok := f.srv.admitTicket(username, f.stream)
	if !ok {
		f.srv.count.refuse(why)
		return nil, false
	}
	f.cur.claim, f.cur.username = c, username
	f.cur.key = turn.GenerateAuthKey(username, realm, string(f.srv.mint.password(username)))
	return f.cur.key, true
}

// permit is asked for each CreatePermission and ChannelBind, after the request
// was authenticated.
func (f *front) permit(_ net.Addr, ip net.IP) bool {
	r := f.find(f.cur.src)
	if r == nil || r.dead.Load() {
		return false
	}
	peer, _ := netip.AddrFromSlice(ip)
	if !r.mayReach(peer) || !f.srv.rule.mayPermit(peer) {
		f.srv.count.refuse(peerAddress)
		return false
	}
	var channel uint16
	if v := f.cur.msg.attribute(attrChannelNumber); f.cur.msg.kind == typeChannelBind && len(v) == 4 {
		channel = binary.BigEndian.Uint16(v)
	}
	if !r.admitPeer(peer, channel) {
		f.srv.count.refuse(peers)
		return false
	}
	return true
}

// Validate is pion's question whether the generator of addresses is complete.
func (f *front) Validate() error { return nil }

// AllocateConn would serve RFC 6062.
func (f *front) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errUnsupported
}

// AllocatePacketConn opens the relayed socket for the request at hand, which
// has been authenticated. pion always asks for "udp4"; the family that the
// client wants stands in the request, which is still at hand.
func (f *front) AllocatePacketConn(string, int) (net.PacketConn, net.Addr, error) {
	why, err := f.supports(f.cur.msg)
	var r *relayed
	if err == nil {
		r, why, err = f.srv.open(f)
	}
	if err != nil {
		f.srv.count.refuse(why)
		f.cur.code = why.code()
		return nil, nil, err
	}
	f.mu.Lock()
	f.relayed[f.cur.src] = r
	f.mu.Unlock()
	if f.stream {
		f.conn.SetReadDeadline(time.Time{})
	}
	return r, net.UDPAddrFromAddrPort(r.public), nil
}

// supports notes which family of relayed address a request wants (RFC 8656
// §7.2), and refuses what is not offered here.
func (f *front) supports(m message) (reason, error) {
	transport, family := m.attribute(attrTransport), m.attribute(attrFamily)
	udp := len(transport) == 4 && transport[0] == 17
	if !udp || m.has(attrEvenPort) || m.has(attrReservation) {
		return unsupported, errUnsupported
	}
	f.cur.family = IPv4
	if len(family) > 0 {
		f.cur.family = Family(family[0])
	}
	known := f.cur.family == IPv4 || f.cur.family == IPv6
	if !known || !f.srv.side(f.cur.family).public.IsValid() {
		return noFamily, errUnsupported
	}
	return 0, nil
}

func (f *front) find(src netip.AddrPort) *relayed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.relayed[src]
}

// forget drops allocations that ended before a time, so that their address may
// allocate again. Not at once: pion deletes by address, and would take a new
// allocation for the old one.
func (f *front) forget(before time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for src, r := range f.relayed {
		if at := r.goneAt.Load(); at != 0 && time.Duration(at) < before {
			delete(f.relayed, src)
		}
	}
}

func (f *front) Close() error                       { return f.conn.Close() }
func (f *front) LocalAddr() net.Addr                { return f.conn.LocalAddr() }
func (f *front) SetDeadline(t time.Time) error      { return f.conn.SetDeadline(t) }
func (f *front) SetReadDeadline(t time.Time) error  { return f.conn.SetReadDeadline(t) }
func (f *front) SetWriteDeadline(t time.Time) error { return f.conn.SetWriteDeadline(t) }
