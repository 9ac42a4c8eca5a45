package relay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v2"
)

// coturn names one of its programs. It belongs to the set-up of the tests.
func coturn(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v; install coturn: make setup", err)
	}
	return path
}

// echoPeer answers every datagram with itself, until the test ends.
func echoPeer(t testing.TB) netip.AddrPort {
	t.Helper()
	return echoPeerAt(t, loopback)
}

func echoPeerAt(t testing.TB, at netip.Addr) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startCoturn runs a coturn of our own on loopback and returns its address.
func startCoturn(t *testing.T, extra ...string) string {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	args := append([]string{
		"-n", "--no-cli", "--no-dtls", "--no-stdout-log", "--simple-log",
		"--log-file", filepath.Join(dir, "log"), "--pidfile", filepath.Join(dir, "pid"),
		"--userdb", filepath.Join(dir, "db"),
		"--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", strconv.Itoa(port),
		"--lt-cred-mech", "--user", "porch:light", "--realm", "coturn.test", "--relay-threads", "1",
	}, extra...)
	if !slices.Contains(args, "--cert") {
		args = append(args, "--no-tls")
	}
	cmd := exec.Command(coturn(t, "turnserver"), args...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("coturn: %s\n%s", out.Bytes(), log)
		}
	})
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	eventually(t, "coturn", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

func TestOurClientWorksWithCoturnAsServer(t *testing.T) {
	t.Parallel()
	addr := startCoturn(t, "--allow-loopback-peers")
	peer := echoPeer(t)
	ticket := Ticket{Username: "porch", Password: "light", UDP: []string{addr}, TCP: []string{addr}}
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			in := &inbox{}
			a, err := tryAllocate(t, ticket, network, in)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d round trips, relayed %v", a.RoundTrips(), a.RelayedAddr())
			if err := a.Permit(within(t, patience), peer.Addr()); err != nil {
				t.Fatal(err)
			}
			echo := func(size int) {
				out := bytes.Repeat([]byte{byte(size)}, size)
				if err := a.WriteTo(out, peer); err != nil {
					t.Fatal(err)
				}
				eventually(t, fmt.Sprintf("echo of %d bytes", size), func() bool { return in.got(out, peer) })
			}
			for _, size := range []int{1, 1280, 1400} {
				echo(size)
			}
			eventually(t, "bound channel", func() bool { return a.channelByNumber(firstChannel).bound.Load() })
			for _, size := range []int{2, 3, 5, 1281, MaxPayload} {
				echo(size)
			}
			if _, err := a.refresh(within(t, patience), defaultLifetime); err != nil {
				t.Error(err)
			}
		})
	}
	ticket.Password = "dark"
	if _, err := tryAllocate(t, ticket, "udp", nil); err == nil {
		t.Error("wrong password accepted")
	}
}

// coturn's client draws by lot whether it asks for EVEN-PORT (which we answer
// with 508) and whether it allocates twice with the same credentials (which a
// ticket does not allow: 400). It is started anew until it does neither, mostly
// at the first to fifth start.
func TestCoturnsClientWorksWithOurServer(t *testing.T) {
	program := coturn(t, "turnutils_uclient")
	rows := []struct {
		name      string
		args      []string
		way       Family
		relayedAs Family
	}{
		{"udp, channels", nil, IPv4, IPv4},
		{"udp, indications", []string{"-s"}, IPv4, IPv4},
		{"tcp, channels", []string{"-t"}, IPv4, IPv4},
		{"tcp, indications", []string{"-t", "-s"}, IPv4, IPv4},
		{"tls, channels", []string{"-t", "-S"}, IPv4, IPv4},
		{"udp, ipv6 to ipv6", []string{"-x"}, IPv6, IPv6},
		{"udp, ipv6 to ipv4", []string{"-X"}, IPv6, IPv4},
		{"udp, ipv4 to ipv6", []string{"-x", "-s"}, IPv4, IPv6},
		{"tls, ipv6 to ipv4", []string{"-t", "-S"}, IPv6, IPv4},
	}
	var wg sync.WaitGroup // all at once: the client mostly waits
	defer wg.Wait()
	for _, c := range rows {
		s := startDual(t, Config{AllowPeer: anyPeer, Limits: Limits{Allocations: 1000, PerClient: 1000}})
		at := loopback
		if c.relayedAs == IPv6 {
			at = loopback6
		}
		peer := echoPeerAt(t, at)
		wg.Go(func() {
			tries := 0
			for late := time.Now().Add(patience); time.Now().Before(late); {
				tries++
				out, err := runUclient(t, program, over(c.way, s.Ticket(Grant{Client: "coturn", Class: Friend})), peer, c.args)
				st := s.Stats()
				if err != nil && (bytes.Contains(out, []byte("error 400")) || bytes.Contains(out, []byte("error 508"))) {
					continue
				}
				if err != nil || !bytes.Contains(out, []byte("tot_send_msgs=10, tot_recv_msgs=10")) ||
					st.PacketsToPeers < 10 || st.PacketsToClients < 10 {
					t.Errorf("%s: %v\n%s\n%+v", c.name, err, out, st)
				}
				t.Logf("%s, start %d: 10 packets there and back, refused %v", c.name, tries, st.Refused)
				return
			}
			t.Errorf("%s: never without EVEN-PORT and a second allocation: %+v", c.name, s.Stats())
		})
	}
}

func runUclient(t *testing.T, program string, ticket Ticket, peer netip.AddrPort, extra []string) ([]byte, error) {
	t.Helper()
	at := ticket.UDP[0]
	switch {
	case slices.Contains(extra, "-S"):
		at = ticket.TLS[0]
	case slices.Contains(extra, "-t"):
		at = ticket.TCP[0]
	}
	host, port, _ := net.SplitHostPort(at)
	args := append([]string{
		"-u", ticket.Username, "-w", string(ticket.Password), "-p", port, "-c",
		"-o", strings.Repeat("o", 124), // ORIGIN pads its first request, as our server asks
		"-n", "10", "-l", "1200", "-z", "5",
		"-e", peer.Addr().String(), "-r", strconv.Itoa(int(peer.Port())),
	}, extra...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, program, append(args, host)...).CombinedOutput()
}

func TestPionsClientWorksWithOurServerOverTCP(t *testing.T) {
	s := startServer(t, Config{AllowPeer: anyPeer})
	peer := echoPeer(t)
	ticket := s.Ticket(Grant{Client: "pion"})
	conn, err := net.Dial("tcp", ticket.TCP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: ticket.TCP[0], Conn: turn.NewSTUNConn(conn),
		Username: ticket.Username, Password: string(ticket.Password), LoggerFactory: pionLog{s.log},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	relayed, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relayed.Close()
	for range 3 {
		if _, err := relayed.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(peer)); err != nil {
			t.Fatal(err)
		}
		relayed.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 100)
		if n, _, err := relayed.ReadFrom(b); err != nil || string(b[:n]) != "hello" {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
}

// Debian 12's coturn 4.6.1 admits ::ffff:127.0.0.1 where 127.0.0.1 and ::1 are
// refused (CVE-2026-27624): it shows that the requests of our table open what
// can be opened. The mapped form needs an IPv6 allocation there.
func TestTheMappedFormOpensCoturnButNotUs(t *testing.T) {
	t.Parallel()
	stock := Stock{URI: "turn:" + startCoturn(t, "--relay-ip", "::1"), Username: "porch", Password: "light"}
	server := startServer(t, Config{
		RelayIP: netip.MustParseAddr("44.128.0.1"), RelayIP6: netip.MustParseAddr("2a00:1450:4001::1"),
		Limits: Limits{ControlPerSecond: 1000, ControlBurst: 1000},
	})
	admittedBy := map[string][]string{}
	for _, family := range []Family{IPv4, IPv6} {
		theirs, err := AllocateStock(within(t, patience), stock, Options{Family: family})
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		ours, _ := allocateFamily(t, server, family)
		for name, a := range map[string]*Allocation{"coturn": theirs, "ours": ours} {
			for _, peer := range refusedPeers {
				if (netip.MustParseAddr(peer).Is4()) != (family == IPv4) {
					continue
				}
				to := netip.AddrPortFrom(netip.MustParseAddr(peer), 4000)
				if _, err := a.request(within(t, patience), typeCreatePermission, rawPeer(to)); err == nil {
					admittedBy[name] = append(admittedBy[name], peer)
				}
			}
		}
	}
	for _, name := range []string{"ours", "coturn"} {
		n := len(admittedBy[name])
		t.Logf("%-6s refuses %d of %d, admits %v", name, len(refusedPeers)-n, len(refusedPeers), admittedBy[name])
	}
	for _, peer := range []string{"127.0.0.1", "::1"} {
		if slices.Contains(admittedBy["coturn"], peer) {
			t.Errorf("coturn admits %s: its check is off, the control proves nothing", peer)
		}
	}
	if !slices.Contains(admittedBy["coturn"], "::ffff:127.0.0.1") {
		t.Error("coturn refuses the mapped form: the control proves nothing")
	}
	if len(admittedBy["ours"]) != 0 {
		t.Errorf("ours admits %v", admittedBy["ours"])
	}
}

// rawPeer writes XOR-PEER-ADDRESS in exactly the family given; the codec would
// shorten mapped addresses to IPv4.
type rawPeer netip.AddrPort

func (p rawPeer) AddTo(m *stun.Message) error {
	ap := netip.AddrPort(p)
	mask := append([]byte{0x21, 0x12, 0xA4, 0x42}, m.TransactionID[:]...)
	v := []byte{0, 1, byte(ap.Port()>>8) ^ 0x21, byte(ap.Port()) ^ 0x12}
	if ap.Addr().Is6() {
		v[1] = 2
	}
	for i, b := range ap.Addr().AsSlice() {
		v = append(v, b^mask[i])
	}
	m.Add(stun.AttrXORPeerAddress, v)
	return nil
}
