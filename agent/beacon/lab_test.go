//go:build !mips

// These tests use the kernel's list of interfaces, which user-mode emulation
// of big-endian MIPS does not translate.

package beacon

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"porchlight/agent/identity"
	"porchlight/nat/natlab"
)

// patience bounds everything a test waits for.
const patience = 20 * time.Second

// helperVariable turns the test's program into an agent that only has a
// beacon: its value is the number of its own device and of those it knows, and
// words of settings.
const helperVariable = "PORCHLIGHT_BEACON_HELPER"

// settings reads what the variable says.
func settings(fields []string) (devices []*identity.Device, cfg Config, find bool) {
	for _, f := range fields {
		n, err := strconv.Atoi(f)
		switch {
		case err == nil:
			devices = append(devices, device(byte(n)))
		case f == "loopback":
			cfg.Loopback = true
		case f == "invite":
			cfg.Invite = func() ([32]byte, bool) { return [32]byte{7}, true }
		case f == "find":
			find = true
		}
	}
	cfg.Device, cfg.Port, cfg.Known = devices[0], 4000, addresses(devices[1:]...)
	cfg.DHTPort = func() uint16 { return 6881 }
	return devices, cfg, find
}

// runHelper is that agent. It prints what it hears, as
// "heard DEVICE MILLISECONDS HINT…", and "quiet" after its first beacons, until
// its input ends.
func runHelper() bool {
	fields := strings.Fields(os.Getenv(helperVariable))
	if len(fields) == 0 {
		return false
	}
	devices, cfg, find := settings(fields)
	began := time.Now()
	var b *Beacon
	report := func(a identity.Address, hints []netip.AddrPort) {
		n := slices.IndexFunc(devices, func(d *identity.Device) bool { return d.Address() == a })
		line := fmt.Sprint("heard ", n, " ", time.Since(began).Milliseconds())
		for _, h := range hints {
			line += " " + h.String()
		}
		fmt.Println(line)
	}
	heard := make(chan identity.Address, 64)
	cfg.OnHeard = func(a identity.Address, _ bool) {
		select {
		case heard <- a:
		default:
		}
	}
	b = New(cfg)
	if err := b.Start(); err != nil {
		fmt.Println("failed", err)
		return true
	}
	defer b.Close()
	fmt.Println("started")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		bufio.NewReader(os.Stdin).ReadString('\n')
	}()
	if find {
		a, hints, err := b.Find(context.Background(), [32]byte{7})
		if err != nil {
			fmt.Println("failed", err)
		}
		report(a, hints)
	}
	// The second family's copy comes a moment later and is no beacon of its own.
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	last := map[identity.Address][]netip.AddrPort{}
	loud := true
	for {
		select {
		case <-ended:
			return true
		case <-heard:
		case <-again.C:
		}
		b.mu.Lock()
		quiet := b.plan.left == 0
		b.mu.Unlock()
		if loud && quiet {
			loud = false
			fmt.Println("quiet")
		}
		for _, d := range devices {
			hints := b.Hints(d.Address())
			if d.Address() != devices[0].Address() && hints != nil && !slices.Equal(last[d.Address()], hints) {
				last[d.Address()] = hints
				report(d.Address(), hints)
			}
		}
	}
}

// house makes a home of a kind with two devices, and cuts it off.
func cutOffHouse(t *testing.T, kind natlab.Kind) (a, b *natlab.Host) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root: run the same command with sudo")
	}
	lab, err := natlab.New(t.Context(), natlab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	if a, err = lab.Home("house", kind); err != nil {
		t.Fatal(err)
	}
	if b, err = lab.AddDevice(a, "upstairs"); err != nil {
		t.Fatal(err)
	}
	a.Cut(true)
	return a, b
}

// agent is a running helper.
type agent struct {
	lines chan string
}

// command makes commands, in a namespace or not.
type command func(ctx context.Context, name string, args ...string) *exec.Cmd

func startAgent(t *testing.T, in command, what string) *agent {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append(strings.Fields(os.Getenv("PORCHLIGHT_EXEC_PREFIX")), self)
	cmd := in(context.Background(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), helperVariable+"="+what)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &agent{lines: make(chan string, 64)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case a.lines <- s.Text():
			default: // nobody asks any more
			}
		}
	}()
	t.Cleanup(func() {
		input.Close()
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, ok := a.await(t, "started"); !ok {
		t.Fatal("the agent does not start")
	}
	return a
}

// await returns the first line that has all the words.
func (a *agent) await(t *testing.T, words ...string) (string, bool) {
	t.Helper()
	var seen []string
	for deadline := time.After(patience); ; {
		select {
		case line := <-a.lines:
			seen = append(seen, line)
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return line, true
			}
		case <-deadline:
			t.Errorf("nothing with %q in %q", words, seen)
			return "", false
		}
	}
}

// millis is how long after its start an agent heard.
func millis(t *testing.T, line string) int {
	t.Helper()
	f := strings.Fields(line)
	if len(f) < 3 {
		t.Fatalf("line %q", line)
	}
	n, err := strconv.Atoi(f[2])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDevicesOfACutOffHouseFindEachOther(t *testing.T) {
	a, b := cutOffHouse(t, natlab.IPv6Firewall)
	first := startAgent(t, a.Command, "1 2")
	// The second one comes while the first is in the middle of its silence.
	first.await(t, "quiet")
	began := time.Now()
	second := startAgent(t, b.Command, "2 1")
	for _, c := range []struct {
		who   *agent
		other *natlab.Host
	}{{second, a}, {first, b}} {
		line, ok := c.who.await(t, "heard 1", fmt.Sprint(c.other.Addr(), ":4000"), fmt.Sprint("[", c.other.Addr6(), "]:4000"), "[fe80::")
		if !ok {
			continue
		}
		took := time.Since(began).Milliseconds()
		if c.who == second {
			took = int64(millis(t, line))
		}
		t.Logf("after %d ms: %s", took, line)
		if took > 1000 && os.Getenv("PORCHLIGHT_EXEC_PREFIX") == "" {
			t.Errorf("it took %d ms; a second is promised", took)
		}
	}
}

func TestNewDeviceFindsItsInviterInACutOffHouse(t *testing.T) {
	a, b := cutOffHouse(t, natlab.PortRestricted)
	startAgent(t, a.Command, "1 3 invite")
	second := startAgent(t, b.Command, "2 1 find")
	if line, ok := second.await(t, "heard 1", fmt.Sprint(a.Addr(), ":4000")); ok {
		t.Log(line)
	}
}

func TestSeveralAgentsOnOneMachineHearEachOther(t *testing.T) {
	a, _ := cutOffHouse(t, natlab.PortRestricted)
	var agents []*agent
	for _, what := range []string{"1 2 3 loopback", "2 3 1 loopback", "3 1 2 loopback"} {
		agents = append(agents, startAgent(t, a.Command, what))
	}
	for _, g := range agents {
		g.await(t, "heard 1", fmt.Sprint(a.Addr(), ":4000"), "127.0.0.1:4000")
	}
}
