package spray

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/probe"
	natstun "porchlight/nat/stun"
	"porchlight/nat/stun/memnet"
)

const oneWay = 20 * time.Millisecond

var stunServer = netip.MustParseAddrPort("9.9.9.9:3478")

// weather is what the network does to packets.
type weather struct {
	loss, twice float64       // shares lost and doubled
	jitter      time.Duration // delayed by up to that, so packets overtake each other
}

// world is an internet in memory in which packets have a TTL.
type world struct {
	memory  memnet.Net
	weather weather

	mu     sync.Mutex
	random *rand.Rand
	low    bool // the packet being sent has a low TTL
	first  time.Time
	sent   []time.Duration // when packets towards other homes left
	lows   int
}

func newWorld(seed uint64, w weather) *world {
	m := &world{weather: w, random: rand.New(rand.NewPCG(seed, 1)), first: time.Now()}
	m.memory.Latency = oneWay
	m.memory.Drop = m.drop // called while m.mu is held by send
	return m
}

// drop decides about a packet that left a home. Samples are never lost.
func (m *world) drop(_ []byte, _, to netip.AddrPort) bool {
	if to == stunServer {
		return false
	}
	if m.low {
		m.lows++
		return true
	}
	m.sent = append(m.sent, time.Since(m.first))
	return m.random.Float64() < m.weather.loss
}

// send sends b from conn, now or later, once or twice.
func (m *world) send(conn *memnet.Conn, b []byte, to netip.AddrPort, low bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	times := 1
	if m.random.Float64() < m.weather.twice {
		times = 2
	}
	if low || m.weather.jitter == 0 {
		m.low = low
		err := conn.WriteSTUN(b, to)
		m.low = false
		if low {
			return err
		}
		times--
	}
	copied := append([]byte(nil), b...)
	for range times {
		time.AfterFunc(time.Duration(m.random.Int64N(int64(m.weather.jitter)+1)), func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			_ = conn.WriteSTUN(copied, to)
		})
	}
	return nil
}

// end is one side: a NAT, a shared socket and further ones.
type end struct {
	world *world
	nat   *memnet.NAT
	creds probe.Credentials
	conn  *memnet.Conn
	mux   *natstun.Mux
	plain chan netip.AddrPort // who sent what is not STUN
	tasks sync.WaitGroup
	next  uint16
	extra *extraSockets
}

func (m *world) end(name, public string, mapping memnet.Rule, ports memnet.PortChoice) *end {
	e := &end{
		world: m, next: 5000, plain: make(chan netip.AddrPort, 16),
		nat:   m.memory.NAT(netip.MustParseAddr(public), mapping, memnet.ByAddressAndPort, ports),
		creds: probe.Credentials{Ufrag: name, Pwd: "the password of " + name},
	}
	e.conn = e.socket()
	e.mux, _ = natstun.NewMux(e, natstun.Config{})
	e.tasks.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := e.conn.ReadFrom(b)
			if err != nil {
				return
			}
			addr := from.(*net.UDPAddr).AddrPort()
			if b[0] < 4 {
				e.mux.Handle(b[:n], addr)
			} else {
				e.plain <- addr
			}
		}
	})
	return e
}

// WriteSTUN and LocalAddr make an end the socket of its Mux.
func (e *end) WriteSTUN(b []byte, to netip.AddrPort) error { return e.world.send(e.conn, b, to, false) }
func (e *end) LocalAddr() net.Addr                         { return e.conn.LocalAddr() }

func (e *end) socket() *memnet.Conn {
	e.next++
	return e.nat.Host(netip.AddrPortFrom(netip.MustParseAddr("192.168.1.2"), e.next))
}

// mapping makes a fresh mapping, as any flow of the home does, and returns
// its port.
func (e *end) mapping(t *testing.T) netip.AddrPort {
	t.Helper()
	conn := e.socket()
	defer conn.Close()
	server := e.world.memory.Host(stunServer)
	defer server.Close()
	if err := conn.WriteSTUN([]byte{4}, stunServer); err != nil {
		t.Fatal(err)
	}
	_, from, err := server.ReadFrom(make([]byte, 1))
	if err != nil {
		t.Fatal(err)
	}
	return from.(*net.UDPAddr).AddrPort()
}

// side describes an end, by six samples if it is hard.
func (e *end) side(t *testing.T, mapping natstun.Dependence) Side {
	t.Helper()
	s := Side{Mapping: mapping, Sockets: MaxSockets}
	if !s.Hard() {
		s.Mapped = netip.AddrPortFrom(e.nat.Public(), e.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		return s
	}
	var mapped []netip.AddrPort
	for range sampleCount {
		mapped = append(mapped, e.mapping(t))
	}
	s, err := s.sampled(mapped)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (e *end) close() {
	e.conn.Close()
	if e.extra != nil {
		e.extra.close()
		for _, c := range e.extra.conns {
			c.Close()
		}
	}
	e.tasks.Wait()
	e.mux.Close()
}

// run makes the Run of an end, whose further sockets are in the world.
func (e *end) run(t *testing.T, plan Plan, theirs probe.Credentials) *Run {
	t.Helper()
	var r *Run
	endpoint, err := e.mux.Register(e.creds.Ufrag, func(b []byte, from netip.AddrPort) { r.Handle(b, from) })
	if err != nil {
		t.Fatal(err)
	}
	r, err = New(Config{
		Plan: plan, Ours: e.creds, Theirs: theirs, Shared: endpoint,
		Open: func() (*net.UDPConn, error) { return nil, errors.New("no real sockets here") },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.open = func(n int, receive func(int, []byte, netip.AddrPort)) (opened, error) {
		e.extra = newExtraSockets(e, n, receive)
		return e.extra, nil
	}
	return r
}

// extraSockets are further sockets in the world.
type extraSockets struct {
	end     *end
	conns   []*memnet.Conn
	reading sync.WaitGroup

	mu     sync.Mutex
	ttl    []int
	kept   int // the socket taken, or -1
	closed bool
}

func newExtraSockets(e *end, n int, receive func(int, []byte, netip.AddrPort)) *extraSockets {
	s := &extraSockets{end: e, ttl: make([]int, n), kept: -1}
	for i := range n {
		conn := e.socket()
		s.conns = append(s.conns, conn)
		s.reading.Go(func() {
			b := make([]byte, 2048)
			for !s.isTaken(i) {
				n, from, err := conn.ReadFrom(b)
				if err != nil {
					return
				}
				receive(i, b[:n], from.(*net.UDPAddr).AddrPort())
			}
		})
	}
	return s
}

func (s *extraSockets) count() int { return len(s.conns) }

func (s *extraSockets) send(socket int, b []byte, to netip.AddrPort) error {
	s.mu.Lock()
	low := s.ttl[socket] > 0
	s.mu.Unlock()
	return s.end.world.send(s.conns[socket], b, to, low)
}

func (s *extraSockets) setTTL(socket, ttl int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl[socket] = ttl
	return nil
}

func (s *extraSockets) revive(socket int) error { return s.setTTL(socket, defaultTTL) }

func (s *extraSockets) isTaken(socket int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept == socket
}

func (s *extraSockets) take(socket int) (*net.UDPConn, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.kept >= 0 {
		return nil, false
	}
	s.kept = socket
	return nil, true
}

func (s *extraSockets) close() error {
	s.mu.Lock()
	s.closed = true
	kept := s.kept
	s.mu.Unlock()
	for i, c := range s.conns {
		if i != kept {
			c.Close()
		} else {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // ends our reader only
		}
	}
	s.reading.Wait()
	if kept >= 0 {
		_ = s.conns[kept].SetReadDeadline(time.Time{})
	}
	return nil
}

// found is what both ends have.
type found struct {
	hits [2]Hit
	errs [2]error
	took time.Duration
}

// find runs both ends; a asks. The answerer starts when it has answered, the
// asker one way later.
func find(t *testing.T, a, b *end, sideA, sideB Side) found {
	t.Helper()
	planA, errA := Decide(sideA, sideB, true)
	planB, errB := Decide(sideB, sideA, false)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	runs := [2]*Run{a.run(t, planA, b.creds), b.run(t, planB, a.creds)}
	var f found
	begun := time.Now()
	var both sync.WaitGroup
	both.Go(func() { time.Sleep(oneWay); f.hits[0], f.errs[0] = runs[0].Find(t.Context()) })
	both.Go(func() { f.hits[1], f.errs[1] = runs[1].Find(t.Context()) })
	both.Wait()
	f.took = time.Since(begun)
	time.Sleep(Linger)
	for _, r := range runs {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	return f
}

// checkPair verifies that the hits are two ends of one way, by a datagram in
// each direction.
func checkPair(t *testing.T, a, b *end, f found) {
	t.Helper()
	a.sendPlain(f.hits[0])
	b.expectPlain(t, f.hits[1])
	b.sendPlain(f.hits[1])
	a.expectPlain(t, f.hits[0])
}

// hitConn is the socket of a hit: the shared one or the one taken.
func (e *end) hitConn() *memnet.Conn {
	if e.extra != nil && e.extra.kept >= 0 {
		return e.extra.conns[e.extra.kept]
	}
	return e.conn
}

func (e *end) sendPlain(hit Hit) {
	e.world.mu.Lock()
	defer e.world.mu.Unlock()
	e.world.weather = weather{}
	_ = e.hitConn().WriteSTUN([]byte{0x40}, hit.Remote)
}

func (e *end) expectPlain(t *testing.T, hit Hit) {
	t.Helper()
	from := make(chan netip.AddrPort, 1)
	conn := e.hitConn()
	if conn == e.conn {
		from = e.plain
	} else {
		e.tasks.Go(func() {
			b := make([]byte, 2048)
			for {
				_, addr, err := conn.ReadFrom(b)
				if err != nil {
					return
				}
				if b[0] == 0x40 {
					from <- addr.(*net.UDPAddr).AddrPort()
					return
				}
			}
		})
	}
	select {
	case addr := <-from:
		if addr != hit.Remote {
			t.Errorf("came from %v, the hit is %v", addr, hit.Remote)
		}
	case <-time.After(time.Second):
		t.Errorf("nothing arrives from %v", hit.Remote)
		conn.Close()
	}
}

// inWorld runs f in a bubble with two ends.
func inWorld(t *testing.T, seed uint64, w weather, a, b natKind, f func(t *testing.T, a, b *end)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newWorld(seed, w)
		ends := [2]*end{m.end("asker", "8.8.1.1", a.rule, a.ports), m.end("answerer", "8.8.2.2", b.rule, b.ports)}
		f(t, ends[0], ends[1])
		ends[0].close()
		ends[1].close()
	})
}

// natKind is a kind of NAT in memory.
type natKind struct {
	name    string
	mapping natstun.Dependence
	rule    memnet.Rule
	ports   memnet.PortChoice
}

var (
	easyNAT       = natKind{"easy", natstun.EndpointIndependent, memnet.Independent, memnet.Preserve}
	randomNAT     = natKind{"random", natstun.AddressAndPortDependent, memnet.ByAddressAndPort, memnet.Random}
	byAddressNAT  = natKind{"random by address", natstun.AddressDependent, memnet.ByAddress, memnet.Random}
	sequentialNAT = natKind{"sequential", natstun.AddressAndPortDependent, memnet.ByAddressAndPort, memnet.Sequential}
)
