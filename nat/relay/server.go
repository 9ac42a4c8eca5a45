package relay

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

var errServerClosed = errors.New("relay closed")

// Server is a TURN server that serves holders of its own tickets.
type Server struct {
	cfg      Config
	log      *slog.Logger
	start    time.Time
	mint     *mint
	rule     *peerRule
	unproven *prefixBuckets
	count    counters
	sides    [2]side // by Family, from IPv4

	mu       sync.Mutex
	accounts map[clientTag]*account
	live     map[*relayed]struct{}
	ending   map[*relayed]struct{} // dead, but pion holds them still
	used     map[usedTicket]time.Duration
	fronts   map[*front]struct{}
	conns    map[netip.Prefix]int
	closed   bool

	portMu sync.RWMutex
	ports  map[netip.AddrPort]*relayed // by public address

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
		sides:    [2]side{newSide(cfg.RelayIP, cfg.ListenIP), newSide(cfg.RelayIP6, cfg.ListenIP6)},
		rule:     newPeerRule(cfg),
		unproven: newPrefixBuckets(cfg.Limits.UnprovenPerSecond, cfg.Limits.UnprovenBurst),
		accounts: make(map[clientTag]*account),
		live:     make(map[*relayed]struct{}),
		ending:   make(map[*relayed]struct{}),
		used:     make(map[usedTicket]time.Duration),
		fronts:   make(map[*front]struct{}),
		conns:    make(map[netip.Prefix]int),
		ports:    make(map[netip.AddrPort]*relayed),
		done:     make(chan struct{}),
	}
	s.mint = newMint([]byte(cfg.Secret), s.since)
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	s.wg.Add(1)
	go s.sweeper()
	return s, nil
}

// listen begins to serve all sockets and listeners.
func (s *Server) listen() error {
	for _, pc := range s.cfg.UDP {
		if err := s.newFront(pc, false, netip.Prefix{}); err != nil {
			return err
		}
	}
	for _, l := range s.cfg.TCP {
		s.wg.Add(1)
		go s.accept(l, nil)
	}
	for _, l := range s.cfg.TLS {
		s.wg.Add(1)
		go s.accept(l, serverTLS(s.cfg.Certificate))
	}
	return nil
}

func (s *Server) now() time.Time       { return s.cfg.Now() }
func (s *Server) since() time.Duration { return s.cfg.Now().Sub(s.start) }

// Ticket makes a ticket for a grant.
func (s *Server) Ticket(g Grant) Ticket {
	username, password, ttl := s.mint.issue(g)
	t := Ticket{Username: username, Password: password, Realm: realm, ExpiresIn: ttl}
	for _, a := range s.cfg.AdvertiseUDP {
		t.UDP = append(t.UDP, a.String())
		t.Nonces = append(t.Nonces, s.nonceFor(a.Addr()))
	}
	for _, a := range s.cfg.AdvertiseTCP {
		t.TCP = append(t.TCP, a.String())
	}
	for _, a := range s.cfg.AdvertiseTLS {
		t.TLS = append(t.TLS, a.String())
	}
	if len(t.TLS) > 0 {
		t.Pin = pinOf(s.cfg.Certificate.Certificate[0])
	}
	return t
}

// nonceFor is a recent nonce of the UDP socket that is asked at an address.
// Each socket has its own; where two take the same IP version, nobody knows
// which of them the address leads to.
func (s *Server) nonceFor(a netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var only *front
	for f := range s.fronts {
		local, _ := addrPort(f.LocalAddr())
		if f.stream || !takes(local.Addr(), f.conn, a.Is4()) {
			continue
		}
		if only != nil {
			return ""
		}
		only = f
	}
	if only == nil {
		return ""
	}
	only.mu.Lock()
	defer only.mu.Unlock()
	return only.nonce
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
	for _, l := range slices.Concat(s.cfg.TCP, s.cfg.TLS) {
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
