package join

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/overlay"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/relay"
	"porchlight/nat/stun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// situation is what a test says about a device's network.
type situation struct {
	mu         sync.Mutex
	candidates []ice.Candidate
	rendezvous []identity.Address
	mapping    string
	noUDP      bool
	tcp        []netip.AddrPort
	refreshed  int
}

func (s *situation) set(change func(*situation)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *situation) Candidates() []ice.Candidate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.candidates)
}

func (s *situation) Rendezvous() []identity.Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rendezvous)
}

func (s *situation) Network() Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Network{Mapping: s.mapping, NoUDP: s.noUDP, TCP: s.tcp}
}

func (s *situation) Refresh(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshed++
}

type noHints struct{}

func (noHints) Hints(identity.Address) ([]netip.AddrPort, []identity.Via) { return nil, nil }

// member is one device on loopback.
type member struct {
	*overlay.Overlay
	device    *identity.Device
	socket    *nat.Socket
	mux       *stun.Mux
	joiner    *Joiner
	client    *introduce.Client
	server    *introduce.Server
	relay     *relay.Server
	situation *situation
	at        netip.AddrPort
	close     func()
}

func logger() *slog.Logger {
	if os.Getenv("JOIN_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newMember(t *testing.T, seed byte, withRelay bool) *member {
	t.Helper()
	log := logger().With("device", seed)
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{device: identity.FromSeed(bytes.Repeat([]byte{seed}, 32)), socket: socket}
	m.at = socket.LocalAddr().(*net.UDPAddr).AddrPort()
	m.situation = &situation{candidates: []ice.Candidate{{Kind: ice.Host, Addr: m.at}}}
	if m.mux, err = stun.NewMux(socket, stun.Config{Serve: true, Rate: 1000, Burst: 1000}); err != nil {
		t.Fatal(err)
	}
	socket.HandleSTUN(m.mux.Handle)
	m.Overlay = overlay.New(overlay.Config{Device: m.device, Socket: socket, Logger: log})
	m.client = introduce.NewClient(m.device, m.Overlay)
	m.joiner = New(Config{
		Device: m.device, Socket: socket, Mux: m.mux, Introducer: m.client, Sessions: m.Overlay,
		Situation: m.situation, Hints: noHints{}, Loopback: true, Logger: log,
	})
	if withRelay {
		m.relay = newRelay(t)
	}
	m.server = introduce.NewServer(introduce.Config{
		Device: m.device, Sessions: m.Overlay, Answerer: m.joiner,
		Welcome: func(identity.Address) bool { return true },
		Willing: func() bool { return true },
		Ticket:  m.ticket,
		Logger:  log,
	})
	m.Use(m.joiner)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.Serve(introduce.Service, m.server); err != nil {
		t.Fatal(err)
	}
	m.serveEcho(t)
	m.close = sync.OnceFunc(func() {
		m.joiner.Close()
		m.Overlay.Close()
		m.mux.Close()
		socket.Close()
		if m.relay != nil {
			m.relay.Close()
		}
	})
	t.Cleanup(m.close)
	return m
}

func newRelay(t *testing.T) *relay.Server {
	t.Helper()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	s, err := relay.NewServer(relay.Config{
		UDP: []net.PacketConn{udp}, RelayIP: loopback, ListenIP: loopback, AllowPeer: netip.Addr.IsLoopback,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (m *member) ticket(a identity.Address) *relay.Ticket {
	if m.relay == nil {
		return nil
	}
	ticket := m.relay.Ticket(relay.Grant{Client: a.String(), Class: relay.Friend})
	return &ticket
}

// serveEcho answers each byte on "echo", and with the hash of all on "hash".
func (m *member) serveEcho(t *testing.T) {
	t.Helper()
	for service, answer := range map[string]func(net.Conn){
		"echo": func(c net.Conn) { io.Copy(c, c) },
		"hash": func(c net.Conn) {
			h := sha256.New()
			io.Copy(h, c)
			c.Write(h.Sum(nil))
		},
	} {
		l, err := m.Listen(service)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); answer(c) }()
			}
		}()
	}
}

// register keeps a registration, and a place if there is one, at r.
func (m *member) register(t *testing.T, r *member) {
	t.Helper()
	m.joiner.Remember(identity.Link{Address: r.Address(), At: []netip.AddrPort{r.at}})
	registration, err := m.client.Register(t.Context(), r.Address(), m.server.Epoch())
	if err != nil {
		t.Fatal(err)
	}
	m.situation.set(func(s *situation) { s.rendezvous = []identity.Address{r.Address()} })
	if registration.Ticket != nil {
		if err := m.joiner.KeepPlace(t.Context(), r.Address(), *registration.Ticket, "udp"); err != nil {
			t.Fatal(err)
		}
	}
}

// three returns two devices and a rendezvous with a relay at which both are
// registered.
func three(t *testing.T) (a, b, r *member) {
	t.Helper()
	r = newMember(t, 3, true) // first, so that it ends last
	a, b = newMember(t, 1, false), newMember(t, 2, false)
	a.register(t, r)
	b.register(t, r)
	return a, b, r
}

// knows gives a hint about where another device is.
func (m *member) knows(other *member, at netip.AddrPort) {
	m.joiner.Remember(identity.Link{Address: other.Address(), At: []netip.AddrPort{at}})
}

// echo sends a byte to another device and waits for it to come back.
func (m *member) echo(ctx context.Context, to *member) error {
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	c, err := m.Dial(ctx, to.Address(), "echo")
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if _, err := c.Write([]byte{7}); err != nil {
		return err
	}
	var b [1]byte
	_, err = io.ReadFull(c, b[:])
	return err
}

// until waits for the way to another device to be as wanted.
func (m *member) until(t *testing.T, to *member, what string, ok func(Info) bool) Info {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		info := m.joiner.Info(to.Address())
		if ok(info) {
			return info
		}
		select {
		case <-info.Changed:
		case <-limit:
			t.Fatalf("not %s after 20 s: %+v", what, info)
		}
	}
}

func isDirect(i Info) bool  { return i.Path == "direct" }
func isRelayed(i Info) bool { return i.Path == "relay" }

// upload is a stream that is written to until end is called.
type upload struct {
	stop chan struct{}
	done chan error
}

// startUpload sends to the service "hash" of another device.
func (m *member) startUpload(t *testing.T, to *member) *upload {
	t.Helper()
	c, err := m.Dial(t.Context(), to.Address(), "hash")
	if err != nil {
		t.Fatal(err)
	}
	u := &upload{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		defer c.Close()
		u.done <- u.send(c)
	}()
	return u
}

func (u *upload) send(c net.Conn) error {
	c.SetDeadline(time.Now().Add(40 * time.Second))
	h := sha256.New()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	block := make([]byte, 500)
	for n := byte(0); ; n++ {
		select {
		case <-tick.C:
		case <-u.stop:
			c.(*overlay.Conn).CloseWrite()
			got, err := io.ReadAll(c)
			if err == nil && !bytes.Equal(got, h.Sum(nil)) {
				err = fmt.Errorf("hash %x, want %x", got, h.Sum(nil))
			}
			return err
		}
		for i := range block {
			block[i] = n + byte(i)
		}
		h.Write(block)
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
}

// end closes the stream and checks that all arrived.
func (u *upload) end(t *testing.T) {
	t.Helper()
	close(u.stop)
	if err := <-u.done; err != nil {
		t.Errorf("the stream broke: %v", err)
	}
}

// wire is a UDP forwarder that can be cut, in front of one address.
type wire struct {
	at  netip.AddrPort
	cut func()
}

func newWire(t *testing.T, to netip.AddrPort) *wire {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{at: front.LocalAddr().(*net.UDPAddr).AddrPort()}
	var mu sync.Mutex
	var caller netip.AddrPort
	isCut := false
	w.cut = func() { mu.Lock(); isCut = true; mu.Unlock() }
	var all sync.WaitGroup
	pump := func(read func([]byte) (int, netip.AddrPort, error), write func([]byte, netip.AddrPort)) {
		all.Go(func() {
			b := make([]byte, 2000)
			for {
				n, from, err := read(b)
				if err != nil {
					return
				}
				mu.Lock()
				if from.IsValid() {
					caller = from
				}
				to, drop := caller, isCut
				mu.Unlock()
				if !drop {
					write(b[:n], to)
				}
			}
		})
	}
	pump(front.ReadFromUDPAddrPort, func(b []byte, _ netip.AddrPort) { back.Write(b) })
	pump(
		func(b []byte) (int, netip.AddrPort, error) { n, err := back.Read(b); return n, netip.AddrPort{}, err },
		func(b []byte, to netip.AddrPort) { front.WriteToUDPAddrPort(b, to) },
	)
	t.Cleanup(func() { front.Close(); back.Close(); all.Wait() })
	return w
}
