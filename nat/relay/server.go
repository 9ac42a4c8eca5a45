package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Config describes a server. RelayIP and at least one of UDP and TCP are needed.
type Config struct {
	UDP []net.PacketConn // own sockets, not shared with QUIC: ChannelData collides with it; closed by Close
	TCP []net.Listener   // closed by Close

	RelayIP  netip.Addr // public IPv4 address peers see relayed packets come from
	ListenIP netip.Addr // IPv4 address relayed sockets bind; 0.0.0.0 if not set
	// MinPort and MaxPort bound the ports of relayed sockets, for a firewall
	// rule. Both 0: the kernel chooses.
	MinPort, MaxPort uint16
	// AdvertiseUDP and AdvertiseTCP go into tickets. Not set: RelayIP with the
	// ports of UDP and TCP, which is right where nothing maps ports.
	AdvertiseUDP, AdvertiseTCP []netip.AddrPort

	Secret Secret // tickets are signed with it; not set: a random one, tickets end with a restart anyway
	Limits Limits
	// AllowPeer admits IPv4 addresses that would be refused, own ones included:
	// loopback in a demonstration, private ones in a laboratory. Not set: none.
	AllowPeer func(netip.Addr) bool
	Logger    *slog.Logger     // not set: discards
	Now       func() time.Time // not set: time.Now; only differences count
}

const (
	sweepEvery        = 5 * time.Second
	ownAddressesEvery = time.Minute
	expiryMargin      = 10 * time.Second // we close that long before pion would
	restBetween       = 2 * time.Second  // before an address may allocate again
	silence           = time.Minute      // after which an allocation may be replaced: three keepalives
	acceptPause       = 100 * time.Millisecond
	// maxUsedTickets bounds the memory against replays; when full, nothing is
	// allocated until tickets expire.
	maxUsedTickets = 1024
	// maxAccounts bounds the accounts by client key; when full of keys with
	// traffic of the last 24 h, only known keys may allocate.
	maxAccounts = 1024
)

var (
	errServerClosed = errors.New("relay closed")
	errNoRoom       = errors.New("relay has no room")
)

type usedTicket struct {
	session sessionID
	stream  bool
}

// Server is a TURN server that serves holders of its own tickets.
type Server struct {
	cfg      Config
	log      *slog.Logger
	start    time.Time
	mint     *mint
	rule     peerRule
	unproven *prefixBuckets
	count    counters
	loop     netip.Addr // where relayed sockets reach one another

	mu       sync.Mutex
	accounts map[clientTag]*account
	live     map[*relayed]struct{}
	ending   map[*relayed]struct{} // dead, but pion holds them still
	used     map[usedTicket]time.Duration
	fronts   map[*front]struct{}
	conns    map[netip.Prefix]int
	closed   bool

	portMu sync.RWMutex
	ports  map[uint16]*relayed

	done chan struct{}
	wg   sync.WaitGroup
}

// NewServer starts serving. On error closing the sockets is left to the caller.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, start: cfg.Now(),
		rule:     peerRule{relayIP: cfg.RelayIP, allow: cfg.AllowPeer},
		unproven: newPrefixBuckets(cfg.Limits.UnprovenPerSecond, cfg.Limits.UnprovenBurst),
		loop:     cfg.ListenIP,
		accounts: make(map[clientTag]*account),
		live:     make(map[*relayed]struct{}),
		ending:   make(map[*relayed]struct{}),
		used:     make(map[usedTicket]time.Duration),
		fronts:   make(map[*front]struct{}),
		conns:    make(map[netip.Prefix]int),
		ports:    make(map[uint16]*relayed),
		done:     make(chan struct{}),
	}
	if s.loop.IsUnspecified() {
		s.loop = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	s.rule.own.fixed = []netip.Addr{cfg.RelayIP, cfg.ListenIP}
	s.rule.own.renew()
	s.mint = newMint([]byte(cfg.Secret), s.since)
	for _, pc := range cfg.UDP {
		if err := s.newFront(pc, false, netip.Prefix{}); err != nil {
			s.Close()
			return nil, err
		}
	}
	for _, l := range cfg.TCP {
		s.wg.Add(1)
		go s.accept(l)
	}
	s.wg.Add(1)
	go s.sweeper()
	return s, nil
}

func (c *Config) complete() error {
	if !c.ListenIP.IsValid() {
		c.ListenIP = netip.IPv4Unspecified()
	}
	switch {
	case len(c.UDP)+len(c.TCP) == 0:
		return errors.New("relay needs a udp socket or a tcp listener")
	case !c.RelayIP.Is4() || !c.ListenIP.Is4():
		return fmt.Errorf("relay addresses must be ipv4: public %v, bound %v", c.RelayIP, c.ListenIP)
	case c.MinPort > c.MaxPort || c.MinPort == 0 && c.MaxPort != 0:
		return fmt.Errorf("relay ports %d to %d are no range", c.MinPort, c.MaxPort)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.AdvertiseUDP == nil {
		for _, pc := range c.UDP {
			c.AdvertiseUDP = append(c.AdvertiseUDP, c.advertised(pc.LocalAddr()))
		}
	}
	if c.AdvertiseTCP == nil {
		for _, l := range c.TCP {
			c.AdvertiseTCP = append(c.AdvertiseTCP, c.advertised(l.Addr()))
		}
	}
	c.Limits = c.Limits.withDefaults()
	return nil
}

func (c *Config) advertised(a net.Addr) netip.AddrPort {
	local, _ := addrPort(a)
	return netip.AddrPortFrom(c.RelayIP, local.Port())
}

func (s *Server) now() time.Time       { return s.cfg.Now() }
func (s *Server) since() time.Duration { return s.cfg.Now().Sub(s.start) }

// Ticket makes a ticket for a grant.
func (s *Server) Ticket(g Grant) Ticket {
	username, password, ttl := s.mint.issue(g)
	t := Ticket{Username: username, Password: password, Realm: realm, Nonce: s.nonce(), ExpiresIn: ttl}
	for _, a := range s.cfg.AdvertiseUDP {
		t.UDP = append(t.UDP, a.String())
	}
	for _, a := range s.cfg.AdvertiseTCP {
		t.TCP = append(t.TCP, a.String())
	}
	return t
}

// nonce is a recent one of the only UDP socket. With several there is none,
// since each has its own and the client's choice is unknown.
func (s *Server) nonce() string {
	if len(s.cfg.UDP) != 1 {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.fronts {
		if !f.stream {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.nonce
		}
	}
	return ""
}

// Stats returns the counters and what is open now.
func (s *Server) Stats() Stats {
	st := s.count.snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Allocations = len(s.live)
	for _, n := range s.conns {
		st.Connections += n
	}
	return st
}

// Close ends all allocations and waits until nothing runs.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	fronts := make([]*front, 0, len(s.fronts))
	for f := range s.fronts {
		fronts = append(fronts, f)
	}
	s.mu.Unlock()
	for _, l := range s.cfg.TCP {
		l.Close()
	}
	for _, f := range fronts {
		f.Close()
	}
	s.wg.Wait()
	return nil
}

// newFront registers a connection and hands it to pion.
func (s *Server) newFront(pc net.PacketConn, stream bool, prefix netip.Prefix) error {
	f := &front{srv: s, conn: pc, stream: stream, prefix: prefix, relayed: make(map[netip.AddrPort]*relayed)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errServerClosed
	}
	s.fronts[f] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	if err := f.serve(); err != nil {
		s.ended(f)
		return err
	}
	return nil
}

// ended is called once per front, when its reading stops for good.
func (s *Server) ended(f *front) {
	f.conn.Close()
	s.mu.Lock()
	delete(s.fronts, f)
	if f.stream {
		s.leave(f.prefix)
	}
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Server) accept(l net.Listener) {
	defer s.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !s.pause() {
				return
			}
			continue
		}
		s.welcome(c)
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

// welcome serves a TCP connection if there is room for it.
func (s *Server) welcome(c net.Conn) {
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

// admitTicket reads the username of an Allocate request.
func (s *Server) admitTicket(username string, stream bool) (claim, reason, bool) {
	c, err := s.mint.read(username)
	switch {
	case errors.Is(err, errExpired):
		return c, expired, false
	case errors.Is(err, errOtherStart):
		return c, otherStart, false
	case err != nil:
		return c, forged, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.used[usedTicket{c.session, stream}]; twice {
		return c, replayed, false
	}
	return c, 0, true
}

// open makes the allocation for the request on f, within the limits.
func (s *Server) open(f *front) (*relayed, reason, error) {
	c, prefix := f.cur.claim, prefixOf(f.cur.src.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, allFull, errServerClosed
	}
	acct, why, ok := s.room(c, prefix)
	if !ok {
		return nil, why, fmt.Errorf("%w: %s", errNoRoom, reasonNames[why])
	}
	sock, err := listenRelayed(s.cfg.ListenIP, s.cfg.MinPort, s.cfg.MaxPort)
	if err != nil {
		return nil, noPort, err
	}
	local, _ := addrPort(sock.LocalAddr())
	r := &relayed{
		srv: s, front: f, sock: sock, prefix: prefix,
		public: netip.AddrPortFrom(s.cfg.RelayIP, local.Port()),
		claim:  c, username: f.cur.username, key: f.cur.key, account: acct,
		control:  rate.NewLimiter(rate.Limit(s.cfg.Limits.ControlPerSecond), s.cfg.Limits.ControlBurst),
		peers:    make(map[netip.Addr]time.Duration),
		channels: make(map[uint16]struct{}),
		gone:     make(chan struct{}),
	}
	now := int64(s.since())
	r.heard.Store(now)
	r.used.Store(now)
	r.expires.Store(now + int64(f.cur.lifetime))
	acct.live++
	s.live[r] = struct{}{}
	s.used[usedTicket{c.session, f.stream}] = c.expires
	s.portMu.Lock()
	s.ports[local.Port()] = r
	s.portMu.Unlock()
	s.wg.Add(1) // until pion's goroutine has left ReadFrom
	s.log.Debug("relay allocation opened", "relayed", r.public, "stream", f.stream)
	return r, 0, nil
}

// room checks the limits, and makes some by closing what the client left
// behind; mu is held.
func (s *Server) room(c claim, prefix netip.Prefix) (*account, reason, bool) {
	acct := s.accountFor(c)
	if acct == nil {
		return nil, allFull, false
	}
	if acct.spent(s.now(), 1) {
		return nil, quota, false
	}
	if acct.live >= s.cfg.Limits.PerClient && !s.replaceSilent(c.client) {
		return nil, perClient, false
	}
	samePrefix := 0
	for r := range s.live {
		if r.prefix == prefix {
			samePrefix++
		}
	}
	switch {
	case samePrefix >= s.cfg.Limits.PerPrefix:
		return nil, perPrefix, false
	case len(s.live) >= s.cfg.Limits.Allocations,
		len(s.ending) >= s.cfg.Limits.Allocations,
		len(s.used) >= maxUsedTickets:
		return nil, allFull, false
	}
	return acct, 0, true
}

// accountFor finds or makes the account of a client; mu is held.
func (s *Server) accountFor(c claim) *account {
	limits := s.cfg.Limits.class(c.class)
	acct := s.accounts[c.client]
	if acct != nil && (acct.limits == limits || acct.live > 0) {
		return acct
	}
	if acct == nil && len(s.accounts) >= maxAccounts {
		for tag, a := range s.accounts {
			if a.forgettable(s.now()) {
				delete(s.accounts, tag)
			}
		}
		if len(s.accounts) >= maxAccounts {
			return nil
		}
	}
	fresh := newAccount(limits, s.now())
	if acct != nil { // the class changed: the day's bytes remain
		fresh.since, fresh.bytes = acct.since, acct.bytes
	}
	s.accounts[c.client] = fresh
	return fresh
}

// replaceSilent closes one allocation of a client that has said nothing for a
// while: a device that restarted cannot close what it had. mu is held.
func (s *Server) replaceSilent(client clientTag) bool {
	for r := range s.live {
		if r.claim.client == client && s.since()-time.Duration(r.heard.Load()) >= silence {
			s.killLocked(r, replaced)
			return true
		}
	}
	return false
}

// kill stops an allocation at once. pion is told by closing the stream, or
// finds out when its lifetime ends; until then every request is refused.
func (s *Server) kill(r *relayed, why reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked(r, why)
}

func (s *Server) killLocked(r *relayed, why reason) {
	if r.dead.Swap(true) {
		return
	}
	s.count.refuse(why)
	s.release(r)
	s.ending[r] = struct{}{}
	s.log.Debug("relay allocation closed", "relayed", r.public, "reason", reasonNames[why])
	if r.front.stream {
		r.front.conn.Close()
	}
}

// retire takes an allocation away that pion has closed.
func (s *Server) retire(r *relayed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ending, r)
	if !r.dead.Swap(true) {
		s.release(r)
		s.log.Debug("relay allocation closed", "relayed", r.public, "reason", "client or lifetime")
	}
}

func (s *Server) release(r *relayed) {
	delete(s.live, r)
	r.account.live--
	s.portMu.Lock()
	delete(s.ports, r.public.Port())
	s.portMu.Unlock()
	r.sock.Close()
}

// inside maps a public address of another relayed socket of this server to
// where it can be reached from here, also where the router does not hairpin.
func (s *Server) inside(to netip.AddrPort) (netip.AddrPort, bool) {
	if to.Addr() != s.cfg.RelayIP {
		return to, false
	}
	s.portMu.RLock()
	_, ok := s.ports[to.Port()]
	s.portMu.RUnlock()
	return netip.AddrPortFrom(s.loop, to.Port()), ok
}

// outside is the reverse, for the source of a packet.
func (s *Server) outside(from netip.AddrPort) netip.AddrPort {
	if from.Addr() != s.loop {
		return from
	}
	s.portMu.RLock()
	defer s.portMu.RUnlock()
	if _, ok := s.ports[from.Port()]; ok {
		return netip.AddrPortFrom(s.cfg.RelayIP, from.Port())
	}
	return from
}

func (s *Server) sweeper() {
	defer s.wg.Done()
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	renewed := s.since()
	for {
		select {
		case <-s.done:
			return
		case <-t.C:
		}
		if s.since()-renewed >= ownAddressesEvery {
			s.rule.own.renew()
			renewed = s.since()
		}
		s.sweep()
	}
}

// sweep closes what is idle or was not refreshed, and forgets what is over.
func (s *Server) sweep() {
	now := s.since()
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.live {
		limit := r.account.limits.Idle
		switch {
		case now >= time.Duration(r.expires.Load())-expiryMargin:
			s.killLocked(r, lapsed)
		case limit > 0 && now-time.Duration(r.used.Load()) >= limit:
			s.killLocked(r, idle)
		}
	}
	for t, expires := range s.used {
		if now >= expires {
			delete(s.used, t)
		}
	}
	for f := range s.fronts {
		f.forget(now - restBetween)
	}
}
