package join

import (
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"porchlight/nat/relay"
)

// coturn is one of Debian's on loopback, at a port that it keeps.
type coturn struct {
	at  string
	cmd *exec.Cmd
}

func newCoturn(t *testing.T) *coturn {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &coturn{at: l.Addr().String()}
	l.Close()
	c.start(t)
	t.Cleanup(c.kill)
	return c
}

func (c *coturn) start(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("turnserver")
	if err != nil {
		t.Fatalf("%v; install coturn: make setup", err)
	}
	dir, at := t.TempDir(), netip.MustParseAddrPort(c.at)
	c.cmd = exec.Command(program, "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log", "--simple-log",
		"--log-file", filepath.Join(dir, "log"), "--pidfile", filepath.Join(dir, "pid"), "--userdb", filepath.Join(dir, "db"),
		"--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", strconv.Itoa(int(at.Port())),
		"--lt-cred-mech", "--user", "porch:light", "--realm", "coturn.test", "--relay-threads", "1", "--allow-loopback-peers")
	c.cmd.Dir = dir
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	poll(t, "coturn", func() bool {
		conn, err := net.DialTimeout("tcp", c.at, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (c *coturn) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// stock is the server as a configuration names it.
func (c *coturn) stock(transport string) relay.Stock {
	return relay.Stock{URI: "turn:" + c.at + "?transport=" + transport, Username: "porch", Password: "light"}
}

// configuredAt returns where a device is reached at the owner's relay.
func (m *member) configuredAt() (at netip.AddrPort) {
	m.joiner.relays.mu.Lock()
	defer m.joiner.relays.mu.Unlock()
	if p := m.joiner.relays.others[configured]; p != nil {
		at = p.allocation.RelayedAddr()
	}
	return at
}

func (m *member) keepsStock(t *testing.T, server relay.Stock) {
	t.Helper()
	m.joiner.KeepStock(server)
	poll(t, "place at the configured relay", func() bool { return m.configuredAt().IsValid() })
}

func TestTwoMeetThroughAStockRelayAlone(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		for name, without := range map[string]int{"one without udp": 1, "both without udp": 2} {
			t.Run(name+" over "+transport, func(t *testing.T) {
				t.Parallel()
				server := newCoturn(t)
				r := newMember(t, 3, false)
				a, b := newMember(t, 1, false), newMember(t, 2, false)
				for i, m := range []*member{a, b} {
					m.register(t, r)
					m.keepsStock(t, server.stock(transport))
					m.situation.set(func(s *situation) { s.noUDP = i < without })
				}
				if err := a.echo(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				info := a.until(t, b, "relayed", isRelayed)
				if !strings.HasPrefix(info.Local, "relay "+a.configuredAt().String()) {
					t.Errorf("not by the configured relay: %+v", info)
				}
				u := a.startUpload(t, b)
				session := a.Current(b.Address())
				poll(t, "packets by the relay", func() bool { return session.Peer().Stats().Relay.TxPackets > 20 })
				u.end(t)
			})
		}
	}
}

func TestAPlaceAtAStockRelayIsTakenAnewAfterALoss(t *testing.T) {
	t.Parallel()
	server, m := newCoturn(t), newMember(t, 1, false)
	m.joiner.relays.stockFirst = 200 * time.Millisecond
	m.keepsStock(t, server.stock("tcp"))
	server.kill()
	poll(t, "loss", func() bool { return !m.configuredAt().IsValid() })
	server.start(t)
	poll(t, "place at the configured relay", func() bool { return m.configuredAt().IsValid() })
}

func TestAConfiguredRelayLeavesRoomForThoseOfRendezvous(t *testing.T) {
	t.Parallel()
	server, m := newCoturn(t), newMember(t, 1, false)
	m.keepsStock(t, server.stock("udp"))
	for seed := byte(3); seed < 3+maxAllocations; seed++ {
		m.register(t, newMember(t, seed, true))
	}
	m.joiner.relays.mu.Lock()
	kept, offered := len(m.joiner.relays.places), m.joiner.relays.offered()
	m.joiner.relays.mu.Unlock()
	if kept != maxAllocations || len(offered) != maxAllocations || offered[0].allocation.RelayedAddr() != m.configuredAt() {
		t.Errorf("%d places at rendezvous, %d offered", kept, len(offered))
	}
}

// deaf returns an address where UDP and TCP get no answer: refused, or silent.
func deaf(t *testing.T, silent bool) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		l.Close()
		return deaf(t, silent)
	}
	stop := func() { l.Close(); pc.Close() }
	if silent { // the kernel completes connections that nobody accepts
		t.Cleanup(stop)
	} else {
		stop()
	}
	return pc.LocalAddr().String()
}

func TestARelayIsReachedOverTLSWhereNothingElseGetsOut(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(map[bool]string{false: "refused", true: "silent"}[silent], func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server, err := relay.NewServer(relay.Config{
				TLS: []net.Listener{l}, RelayIP: netip.MustParseAddr("127.0.0.1"), AllowPeer: netip.Addr.IsLoopback,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { server.Close() })
			r := newMember(t, 3, false)
			a, b := newMember(t, 1, false), newMember(t, 2, false)
			blocked := deaf(t, silent)
			var keeping sync.WaitGroup
			for m, network := range map[*member]string{a: "udp", b: "tcp"} {
				m.register(t, r)
				m.situation.set(func(s *situation) { s.noUDP = true })
				m.joiner.relays.udpTime, m.joiner.relays.streamTime = 200*time.Millisecond, time.Second
				ticket := server.Ticket(relay.Grant{Client: m.Address().String(), Class: relay.Friend})
				ticket.UDP, ticket.TCP = []string{blocked}, []string{blocked}
				keeping.Go(func() {
					began := time.Now()
					if err := m.joiner.KeepPlace(t.Context(), r.Address(), ticket, network); err != nil {
						t.Error(err)
					}
					if took := time.Since(began); took > 3*time.Second {
						t.Errorf("from %s to tls in %v", network, took)
					}
				})
			}
			keeping.Wait()
			if err := a.echo(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			a.until(t, b, "relayed", isRelayed)
		})
	}
}

func TestNetworks(t *testing.T) {
	at := []string{"192.0.2.1:1"}
	for _, c := range []struct {
		ticket relay.Ticket
		first  string
		want   string
	}{
		{relay.Ticket{UDP: at, TCP: at, TLS: at}, "udp", "udp tcp tls"},
		{relay.Ticket{UDP: at, TCP: at, TLS: at}, "tcp", "tcp tls"},
		{relay.Ticket{UDP: at, TCP: at}, "udp", "udp tcp"},
		{relay.Ticket{TLS: at}, "udp", "tls"},
		{relay.Ticket{UDP: at}, "tcp", "tcp"}, // to say what is missing
		{relay.Ticket{}, "udp", "udp"},
	} {
		if got := strings.Join(networks(c.ticket, c.first), " "); got != c.want {
			t.Errorf("%+v from %s: %s, want %s", c.ticket, c.first, got, c.want)
		}
	}
}
