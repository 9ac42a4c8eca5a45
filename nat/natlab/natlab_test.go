package natlab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain lets more tests run at the same time than there are processors: they wait
// for packets most of the time.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "6")
	goleak.VerifyTestMain(m)
}

// patience bounds every wait for something that should happen.
const patience = 10 * time.Second

// silence is how long something must not happen: five round trips.
const silence = 200 * time.Millisecond

func newLab(t testing.TB, o Options) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l, err := New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("see %s/%s.*: %v", os.TempDir(), t.Name(), l.Dump("", t.Name()))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func mustHome(t testing.TB, l *Lab, name string, k Kind) *Host {
	t.Helper()
	h, err := l.Home(name, k)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func listenUDP(t testing.TB, h *Host, port uint16) *net.UDPConn {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(h.Addr(), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

func sendTo(t testing.TB, c *net.UDPConn, to netip.Addr, port uint16, text string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(to, port)); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram, or "" if none comes in time.
func receive(t testing.TB, c *net.UDPConn, wait time.Duration) (string, netip.AddrPort) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 2048)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(b[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// receiveBut returns the next datagram that is not late: where a machine stalls, what
// a closed router should have dropped may come when it is open.
func receiveBut(t testing.TB, c *net.UDPConn, late string) (got string) {
	t.Helper()
	for got = late; got == late; {
		got, _ = receive(t, c, patience)
	}
	return got
}

func TestEveryKindMeasuresAsItPromises(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	type outcome struct {
		kind Kind
		text string
		err  error
	}
	outcomes := make(chan outcome)
	few := make(chan struct{}, 8) // at a time, or answers come too late
	for _, k := range Kinds() {
		go func() {
			few <- struct{}{}
			defer func() { <-few }()
			h, err := l.Home(string(k), k)
			if err != nil {
				outcomes <- outcome{k, "", err}
				return
			}
			b, err := l.Verify(context.Background(), h) // Home may have known the kind already
			outcomes <- outcome{k, fmt.Sprintf("mapping %s, filtering %s, ports %v", b.Mapping, b.Filtering, b.Ports), err}
		}()
	}
	for range Kinds() {
		if o := <-outcomes; o.err != nil {
			t.Errorf("%s: %v", o.kind, o.err)
		} else {
			t.Logf("%s: %s", o.kind, o.text)
		}
	}
}

func TestVerifyRefusesARouterThatIsNotItsKind(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	for _, tc := range []struct {
		real, claimed Kind
		want          string
	}{
		{PortRestricted, FullCone, "filtering is address-and-port-dependent, should be endpoint-independent"},
		{PortRestricted, Symmetric, "mapping is endpoint-independent, should be address-and-port-dependent"},
		{PortRestricted, UDPBlocked, "udp is not blocked"},
		{Symmetric, SymmetricSequential, "should be 1"},
		{UDPBlocked, PortRestricted, "no answer"},
	} {
		t.Run(string(tc.real+" as "+tc.claimed), func(t *testing.T) {
			t.Parallel()
			h := mustHome(t, l, string(tc.real[:4]+"-"+tc.claimed[:5]), tc.real)
			h.kind = tc.claimed
			if _, err := l.Verify(context.Background(), h); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestPortRestrictedHomesPunchThrough(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	alice, bob := twoHomes(t, l)
	a, b := listenUDP(t, alice, 5000), listenUDP(t, bob, 5000)
	sendTo(t, a, bob.Public(), 5000, "opener")
	if got, _ := receive(t, b, silence); got != "" {
		t.Fatalf("bob's router let %q in", got)
	}
	start := time.Now()
	sendTo(t, b, alice.Public(), 5000, "hello")
	got, from := receive(t, a, patience)
	if want := netip.AddrPortFrom(bob.Public(), 5000); got != "hello" || from != want {
		t.Fatalf("got %q from %v, want it from %v", got, from, want)
	}
	sendTo(t, a, bob.Public(), 5000, "hello yourself")
	if got := receiveBut(t, b, "opener"); got != "hello yourself" {
		t.Fatalf("got %q", got)
	}
	if rtt := time.Since(start); rtt < 40*time.Millisecond {
		t.Errorf("there and back in %v", rtt)
	}
}

func TestTCPOpensSimultaneously(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	alice, bob := twoHomes(t, l)
	a, z := punchTCP(t, alice, bob)
	defer a.Close()
	defer z.Close()
	start := time.Now()
	go z.Write([]byte("x"))
	if _, err := io.ReadFull(a, make([]byte, 1)); err != nil || time.Since(start) < 19*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestRoundTripIsTwiceTheLatency(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	server, err := l.Host("server")
	if err != nil {
		t.Fatal(err)
	}
	home := mustHome(t, l, "home", CGNAT)
	s, c := listenUDP(t, server, 7), listenUDP(t, home, 0)
	for range 5 {
		start := time.Now()
		sendTo(t, c, server.Public(), 7, "there")
		_, from := receive(t, s, patience)
		sendTo(t, s, from.Addr(), from.Port(), "back")
		if got, _ := receive(t, c, patience); got != "back" || time.Since(start) < 38*time.Millisecond {
			t.Errorf("%q after %v", got, time.Since(start))
		}
		if from.Addr() != home.Public() {
			t.Errorf("came from %v, want %v", from, home.Public())
		}
	}
}

func TestPrivateAddressesLeadNowhere(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	alice, bob := twoHomes(t, l)
	lan := netip.MustParsePrefix("192.168.1.0/24")
	if !lan.Contains(alice.Addr()) || !lan.Contains(bob.Addr()) || alice.Addr() == bob.Addr() {
		t.Fatalf("addresses %v and %v", alice.Addr(), bob.Addr())
	}
	a, b := listenUDP(t, alice, 5000), listenUDP(t, bob, 5000)
	a.WriteToUDPAddrPort([]byte("over the fence"), netip.AddrPortFrom(bob.Addr(), 5000))
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	if c, err := alice.Dial(ctx, "tcp4", netip.AddrPortFrom(bob.Addr(), 5001).String()); err == nil {
		c.Close()
		t.Error("connected to a private address of another home")
	}
	if got, _ := receive(t, b, silence); got != "" {
		t.Errorf("bob got %q", got)
	}
}

func TestCutHostIsAloneUntilPluggedIn(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	one, err := l.Host("one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.Host("two")
	if err != nil {
		t.Fatal(err)
	}
	a, b := listenUDP(t, one, 9), listenUDP(t, two, 9)
	two.Cut(true)
	sendTo(t, a, two.Public(), 9, "lost")
	sendTo(t, b, one.Public(), 9, "lost too")
	if got, _ := receive(t, b, silence); got != "" {
		t.Errorf("got %q through a cut cable", got)
	}
	if got, _ := receive(t, a, silence); got != "" {
		t.Errorf("got %q out of a cut cable", got)
	}
	two.Cut(false)
	sendTo(t, a, two.Public(), 9, "there again")
	if got, _ := receive(t, b, patience); got != "there again" {
		t.Errorf("got %q", got)
	}
	if s := l.Stats(); s.Cut != 2 || s.Packets < 3 {
		t.Errorf("%+v", s)
	}
}

func TestPartedHostsReachOnlyOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	third, err := l.Host("third")
	if err != nil {
		t.Fatal(err)
	}
	one, two := mustHome(t, l, "one", FullCone), mustHome(t, l, "two", CGNAT)
	a, b, c := listenUDP(t, one, 9), listenUDP(t, two, 9), listenUDP(t, third, 9)
	sendTo(t, b, third.Public(), 9, "here I am")
	_, at := receive(t, c, patience) // the carrier full cone, the router behind it not
	sendTo(t, b, one.Public(), 9, "opener")
	receive(t, a, silence)
	l.Part(two, one, true)
	sendTo(t, a, at.Addr(), at.Port(), "lost")
	if got, _ := receive(t, b, silence); got != "" {
		t.Errorf("got %q although parted", got)
	}
	sendTo(t, b, one.Public(), 9, "lost too")
	if got, _ := receive(t, a, silence); got != "" {
		t.Errorf("got %q although parted", got)
	}
	sendTo(t, c, at.Addr(), at.Port(), "from a third")
	if got, _ := receive(t, b, patience); got != "from a third" {
		t.Errorf("got %q", got)
	}
	l.Part(one, two, false)
	sendTo(t, a, at.Addr(), at.Port(), "together")
	if got, _ := receive(t, b, patience); got != "together" {
		t.Errorf("got %q", got)
	}
	if s := l.Stats(); s.Parted < 2 || s.Cut != 0 { // more if the opener was still under way
		t.Errorf("%+v", s)
	}
}

// A packet with a low TTL opens the own router and never reaches the other one.
func TestLowTTLOpensOnlyTheOwnRouter(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	alice, bob := mustHome(t, l, "alice", OpenInput), mustHome(t, l, "bob", OpenInput)
	a, b := listenUDP(t, alice, 5000), listenUDP(t, bob, 5000)
	setTTL(t, a, 3)
	sendTo(t, a, bob.Public(), 5000, "opener")
	waitFor(t, "the opener to die", func() bool { return l.Stats().TTL == 1 })
	sendTo(t, b, alice.Public(), 5000, "in")
	got, from := receive(t, a, patience)
	if want := netip.AddrPortFrom(bob.Public(), 5000); got != "in" || from != want {
		t.Errorf("got %q from %v, want %v", got, from, want)
	}
}

func setTTL(t *testing.T, c *net.UDPConn, ttl int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl) })
	if err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestDumpIsReadable(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{Dir: t.TempDir()})
	alice, bob := mustHome(t, l, "alice", FullCone), mustHome(t, l, "bob", PortRestricted)
	a, b := listenUDP(t, alice, 5000), listenUDP(t, bob, 5001)
	sendTo(t, b, alice.Public(), 5000, "refused: no mapping yet")
	sendTo(t, a, bob.Public(), 5001, "hello")
	if got, _ := receive(t, b, patience); got != "hello" {
		t.Fatalf("got %q", got)
	}
	if err := l.Dump("", t.Name()+"/odd name"); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(l.opt.Dir, t.Name()+"-odd-name")
	out, err := exec.Command("tcpdump", "-n", "-r", base+".pcap").CombinedOutput()
	if want := bob.Public().String() + ".5001 > " + alice.Public().String() + ".5000: UDP, length 23"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("tcpdump: %v, no %q in\n%s", err, want, out)
	}
	for file, wants := range map[string][]string{
		".mmd": {"as alice " + alice.Public().String(), "as bob " + bob.Public().String(), "UDP 5000→5001"},
		".txt": {"forwarder:", "-alice-router: nft list ruleset", "dnat ip to udp dport map @cone"},
	} {
		text, err := os.ReadFile(base + file)
		for _, want := range wants {
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%s: %v, no %q in\n%s", file, err, want, text)
			}
		}
	}
}

func TestCommandRunsInsideAndEndsOnCancel(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	home := mustHome(t, l, "home", PortRestricted)
	out, err := home.Command(context.Background(), "ip", "-4", "-o", "address").Output()
	if err != nil || !strings.Contains(string(out), home.Addr().String()) {
		t.Errorf("%v: %s", err, out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := home.Command(ctx, "sh", "-c", `trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pipe, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	cancel()
	rest, _ := io.ReadAll(pipe)
	if cmd.Wait(); string(rest) != "asked\n" || cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("%q, %v", rest, cmd.ProcessState)
	}
}

func TestLabsLiveSideBySide(t *testing.T) {
	t.Parallel()
	one, two := newLab(t, Options{}), newLab(t, Options{Latency: -1})
	h1, err := one.Host("same")
	if err != nil {
		t.Fatal(err)
	}
	h2, err := two.Host("same")
	if err != nil {
		t.Fatal(err)
	}
	if h1.Public() != h2.Public() {
		t.Errorf("addresses %v and %v", h1.Public(), h2.Public())
	}
	listenUDP(t, h1, 5000)
	listenUDP(t, h2, 5000)
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := h2.Command(context.Background(), "true").CombinedOutput(); err != nil {
		t.Errorf("the other lab: %v %s", err, out)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	home, mapped := mustHome(t, l, "home", CGNAT), mustHome(t, l, "mapped", UPnP)
	daemon, folder := mapped.home.mapper.cmd.Process.Pid, l.dir
	if startTime(daemon) == "" {
		t.Fatal("miniupnpd does not run")
	}
	polite := home.Command(context.Background(), "sleep", "1000")
	stubborn := home.Command(context.Background(), "sh", "-c", `trap '' TERM; echo ready; while :; do sleep 0.1; done`)
	pipe, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(polite.Start(), stubborn.Start()); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(pipe, make([]byte, len("ready\n")))
	if found := namespacesOf(t, l.prefix+"home*"); len(found) != 3 {
		t.Errorf("namespaces %v", found)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	polite.Wait()
	stubborn.Wait()
	for _, c := range []*exec.Cmd{polite, stubborn} {
		if s := c.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() {
			t.Errorf("%v: %v", c.Args, c.ProcessState)
		}
	}
	if left := namespacesOf(t, l.prefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if startTime(daemon) != "" {
		t.Error("miniupnpd still runs")
	}
	if _, err := os.Stat(folder); folder == "" || !os.IsNotExist(err) {
		t.Errorf("folder %q: %v", folder, err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := l.Host("late"); !errors.Is(err, ErrClosed) {
		t.Errorf("host in a closed lab: %v", err)
	}
}

func namespacesOf(t *testing.T, prefix string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	h, err := l.Host("host")
	if err != nil {
		t.Fatal(err)
	}
	tooLong := strings.Repeat("a", 25)
	for _, name := range []string{"", "Upper", "1st", "a b", "a;b", tooLong, "host", probeName} {
		if _, err := l.Host(name); err == nil {
			t.Errorf("host %q was accepted", name)
		}
	}
	if _, err := l.Host(tooLong[:24]); err != nil {
		t.Error(err)
	}
	if _, err := l.Home("home", "carrier-pigeon"); err == nil || !strings.Contains(err.Error(), string(Symmetric)) {
		t.Errorf("unknown kind: %v", err)
	}
	if _, err := h.Dial(context.Background(), "tcp", "example.org:80"); err == nil {
		t.Error("a name was dialled")
	}
	for _, share := range []float64{-0.1, 1, math.NaN()} {
		for _, o := range []Options{{Loss: share}, {Reorder: share}} {
			if _, err := New(context.Background(), o); err == nil {
				t.Errorf("%+v was accepted", o)
			}
		}
	}
	if err := l.startProbe(); err != nil { // takes two addresses itself
		t.Fatal(err)
	}
	l.parties = maxParties - 1
	last, err := l.Home("last", UDPBlocked)
	if err != nil || last.Addr().String() != "192.168.1.254" {
		t.Errorf("last home: %v, %v", last, err)
	}
	if _, err := l.Host("one-more"); err == nil {
		t.Error("one host too many was accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dead, err := New(ctx, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	if _, err := dead.Host("host"); !errors.Is(err, context.Canceled) {
		t.Errorf("host with a dead context: %v", err)
	}
}
