package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
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
		"-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log", "--simple-log",
		"--log-file", filepath.Join(dir, "log"), "--pidfile", filepath.Join(dir, "pid"),
		"--userdb", filepath.Join(dir, "db"),
		"--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", strconv.Itoa(port),
		"--lt-cred-mech", "--user", "porch:light", "--realm", "coturn.test", "--relay-threads", "1",
	}, extra...)
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
	for _, c := range []struct {
		name string
		args []string
	}{
		{"udp, channels", nil},
		{"udp, indications", []string{"-s"}},
		{"tcp, channels", []string{"-t"}},
		{"tcp, indications", []string{"-t", "-s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, Config{AllowPeer: anyPeer, Limits: Limits{Allocations: 1000, PerClient: 1000}})
			peer := echoPeer(t)
			tries := 0
			for late := time.Now().Add(25 * time.Second); time.Now().Before(late); {
				tries++
				out, err := runUclient(t, program, s, peer, c.args)
				st := s.Stats()
				if err != nil && (bytes.Contains(out, []byte("error 400")) || bytes.Contains(out, []byte("error 508"))) {
					continue
				}
				if err != nil || !bytes.Contains(out, []byte("tot_send_msgs=20, tot_recv_msgs=20")) ||
					st.PacketsToPeers < 20 || st.PacketsToClients < 20 {
					t.Errorf("%v\n%s\n%+v", err, out, st)
				}
				t.Logf("start %d: 20 packets there and back, refused %v", tries, st.Refused)
				return
			}
			t.Errorf("never without EVEN-PORT and a second allocation: %+v", s.Stats())
		})
	}
}

func runUclient(t *testing.T, program string, s *Server, peer netip.AddrPort, extra []string) ([]byte, error) {
	t.Helper()
	ticket := s.Ticket(Grant{Client: "coturn", Class: Friend})
	_, port, _ := net.SplitHostPort(ticket.UDP[0])
	if slices.Contains(extra, "-t") {
		_, port, _ = net.SplitHostPort(ticket.TCP[0])
	}
	args := append([]string{
		"-u", ticket.Username, "-w", string(ticket.Password), "-p", port, "-c",
		"-o", strings.Repeat("o", 124), // ORIGIN pads its first request, as our server asks
		"-n", "20", "-l", "1200", "-z", "5",
		"-e", peer.Addr().String(), "-r", strconv.Itoa(int(peer.Port())),
	}, extra...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, program, append(args, "127.0.0.1")...).CombinedOutput()
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
// refused (CVE-2026-27624): it shows that the request of our table opens what
// can be opened. That needs an IPv6 allocation there.
func TestTheMappedFormOpensCoturnButNotUs(t *testing.T) {
	addr := netip.MustParseAddrPort(startCoturn(t, "--relay-ip", "::1"))
	theirs, err := connect(within(t, patience), Ticket{Username: "porch", Password: "light"},
		Options{Network: "udp", KeepAlive: time.Minute, Logger: slog.New(slog.DiscardHandler)}, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	family6 := stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{2, 0, 0, 0}}
	if err := theirs.handshake(within(t, patience), family6); err != nil {
		t.Fatal(err)
	}
	ours := allocate(t, startServer(t, Config{}), Grant{Client: "a"}, "udp", nil)
	ask := func(a *Allocation, peer string) error {
		to := netip.AddrPortFrom(netip.MustParseAddr(peer), 4000)
		_, err := a.request(within(t, patience), typeCreatePermission, rawPeer(to))
		return err
	}
	if err := ask(theirs, "::1"); err == nil {
		t.Error("coturn admits ::1: its check is off, the control proves nothing")
	}
	if err := ask(theirs, "::ffff:127.0.0.1"); err != nil {
		t.Errorf("coturn refuses the mapped form: %v", err)
	}
	for _, peer := range []string{"::1", "::ffff:127.0.0.1"} {
		if err := ask(ours, peer); !errors.Is(err, ErrPeerRefused) {
			t.Errorf("ours, %s: %v", peer, err)
		}
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
