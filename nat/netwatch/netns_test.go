//go:build !mips

// These tests use netlink, which user-mode emulation of big-endian MIPS does
// not translate.

package netwatch

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds waiting for the kernel on a busy machine.
const patience = 10 * time.Second

// enterNamespace puts the test's thread into a network namespace of its own,
// with cables from "d0" to "d1" and from "v0" to "v1". The
// thread ends with the test, and the namespace with it.
func enterNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root: run the same command with sudo")
	}
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ipBatch(t, "link set lo up", "link add d0 type veth peer name d1", "link set d0 up", "link set d1 up", "addr add 192.168.1.9/24 dev d0",
		"addr add 3fff::9/64 dev d0 nodad", "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")
	awaitCarriers(t, 4)
}

// awaitCarriers waits for what the kernel does a little later.
func awaitCarriers(t *testing.T, want int) {
	t.Helper()
	k, err := openNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for deadline := time.Now().Add(patience); ; {
		if _, err := k.read(); err != nil {
			t.Fatal(err)
		}
		up := 0
		for _, flags := range k.links {
			if (link{flags: flags}).usable() {
				up++
			}
		}
		if up == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d interfaces are up", up, want)
		}
	}
}

// ipBatch runs ip commands in the namespace of the thread.
func ipBatch(t *testing.T, commands ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
}

func start(t *testing.T) *Watcher {
	t.Helper()
	w := New(Config{})
	w.Start()
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, ok := w.source.(*netlink); !ok {
		t.Fatal("the kernel is not heard")
	}
	return w
}

// until waits for a change after which the snapshot is as wanted.
func until(t *testing.T, w *Watcher, want func(Snapshot) bool) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case <-w.Changed():
			if want(w.Snapshot()) {
				return
			}
		case <-deadline:
			t.Fatalf("not reported; now %+v, counted %+v", w.Snapshot(), w.Counts())
		}
	}
}

func has(s Snapshot, addr string) bool {
	for _, a := range s.Addrs {
		if a == netip.MustParsePrefix(addr) {
			return true
		}
	}
	return false
}

func TestKernelTellsOfEachChange(t *testing.T) {
	for _, row := range []struct {
		name      string
		prepare   []string
		then      []string
		want      func(Snapshot) bool
		wantFirst func(Snapshot) bool
	}{
		{"an address comes", nil, []string{"addr add 10.0.0.9/8 dev d0"},
			func(s Snapshot) bool { return has(s, "10.0.0.9/8") }, func(s Snapshot) bool { return has(s, "3fff::9/64") }},
		{"an address goes", nil, []string{"addr del 192.168.1.9/24 dev d0"},
			func(s Snapshot) bool { return !has(s, "192.168.1.9/24") }, func(s Snapshot) bool { return has(s, "192.168.1.9/24") }},
		{"an IPv6 address comes", nil, []string{"addr add 3fff:1::9/64 dev d0 nodad"},
			func(s Snapshot) bool { return has(s, "3fff:1::9/64") }, nil},
		{"an IPv6 address is renumbered", []string{"addr add 3fff:1::9/64 dev d0 nodad"},
			[]string{"addr change 3fff:1::9/64 dev d0 preferred_lft 0", "addr add 3fff:2::9/64 dev d0 nodad"},
			func(s Snapshot) bool { return !has(s, "3fff:1::9/64") && has(s, "3fff:2::9/64") }, nil},
		{"a default route comes", nil, []string{"route add default via 192.168.1.1 metric 100"},
			func(s Snapshot) bool {
				return len(s.Routes) == 1 && s.Routes[0] == Route{netip.MustParseAddr("192.168.1.1"), "d0", 100}
			}, func(s Snapshot) bool { return len(s.Routes) == 0 }},
		{"a default route moves", []string{"route add default via 192.168.1.1"}, []string{"route replace default via 192.168.1.2"},
			func(s Snapshot) bool {
				return len(s.Gateways()) == 1 && s.Gateways()[0] == netip.MustParseAddr("192.168.1.2")
			}, func(s Snapshot) bool { return len(s.Routes) == 1 }},
		{"an IPv6 default route comes", nil, []string{"route add ::/0 via fe80::1 dev d0"},
			func(s Snapshot) bool {
				return len(s.Gateways()) == 1 && s.Gateways()[0] == netip.MustParseAddr("fe80::1%d0")
			}, nil},
		{"a default route without a gateway goes", []string{"route add default dev d0"}, []string{"route del default"},
			func(s Snapshot) bool { return len(s.Routes) == 0 }, func(s Snapshot) bool { return len(s.Routes) == 1 && len(s.Gateways()) == 0 }},
		{"one of two hops goes", []string{"route add default nexthop via 192.168.1.1 nexthop via 192.168.1.2"},
			[]string{"route replace default via 192.168.1.2"},
			func(s Snapshot) bool { return len(s.Routes) == 1 }, func(s Snapshot) bool { return len(s.Routes) == 2 }},
		{"an interface is switched off", []string{"route add default via 192.168.1.1"}, []string{"link set d0 down"},
			func(s Snapshot) bool { return len(s.Addrs) == 0 && len(s.Routes) == 0 }, nil},
		{"a cable is pulled", []string{"addr add 10.0.0.9/8 dev v0"}, []string{"link set v1 down"},
			func(s Snapshot) bool { return !has(s, "10.0.0.9/8") }, func(s Snapshot) bool { return has(s, "10.0.0.9/8") }},
		{"a cable is plugged in", []string{"link set v1 down", "addr add 10.0.0.9/8 dev v0"}, []string{"link set v1 up"},
			func(s Snapshot) bool { return has(s, "10.0.0.9/8") }, func(s Snapshot) bool { return !has(s, "10.0.0.9/8") }},
		{"an interface is gone", nil, []string{"link del d0"}, func(s Snapshot) bool { return len(s.Addrs) == 0 }, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			enterNamespace(t)
			if row.prepare != nil {
				ipBatch(t, row.prepare...)
			}
			if slices.Contains(row.prepare, "link set v1 down") {
				awaitCarriers(t, 2)
			}
			w := start(t)
			first := w.Snapshot()
			if row.wantFirst != nil && !row.wantFirst(first) {
				t.Errorf("at first %+v", first)
			}
			if row.want(first) {
				t.Fatalf("is so before: %+v", first)
			}
			ipBatch(t, row.then...)
			until(t, w, row.want)
		})
	}
}

// TestNoiseOfTheKernelIsNoSign makes noise, and then a change that shows that
// the noise has been heard: messages of one socket come in order.
func TestNoiseOfTheKernelIsNoSign(t *testing.T) {
	enterNamespace(t)
	w := start(t)
	ipBatch(t, "addr add 169.254.7.7/16 dev d0 scope link", "addr add fe80::77/64 dev d0 nodad",
		"route add 10.1.0.0/16 via 192.168.1.1", "route add 3fff:77::/32 via fe80::1 dev d0",
		"route add unreachable default metric 4000000", "neigh add 192.168.1.77 lladdr 02:00:00:00:00:07 dev d0",
		"link set d0 txqueuelen 77", "link set d0 mtu 1400", "link set d0 promisc on", "route del 10.1.0.0/16")
	ipBatch(t, "addr add 10.0.0.9/8 dev d0")
	until(t, w, func(s Snapshot) bool { return has(s, "10.0.0.9/8") })
	if c := w.Counts(); c.Signs != 1 || c.Changes != 1 || c.Looks != 2 {
		t.Errorf("counted %+v", c)
	}
}

// TestFlapIsLookedAtButNotReported takes an address away and gives it back.
func TestFlapIsLookedAtButNotReported(t *testing.T) {
	enterNamespace(t)
	w := start(t)
	ipBatch(t, "addr del 192.168.1.9/24 dev d0", "addr add 192.168.1.9/24 dev d0")
	for deadline := time.Now().Add(patience); w.Counts().Looks < 2; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not looked at: %+v", w.Counts())
		}
	}
	ipBatch(t, "addr add 10.0.0.9/8 dev d0")
	until(t, w, func(s Snapshot) bool { return has(s, "10.0.0.9/8") && has(s, "192.168.1.9/24") })
	if c := w.Counts(); c.Changes != 1 {
		t.Errorf("counted %+v", c)
	}
}

// TestOverrunOfTheKernelIsSurvived lets the kernel say more than the queue of
// the socket holds while nobody listens.
func TestOverrunOfTheKernelIsSurvived(t *testing.T) {
	enterNamespace(t)
	k, err := openNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	raw, err := k.events.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }); err != nil {
		t.Fatal(err)
	}
	var commands []string
	for i := range 200 {
		commands = append(commands, fmt.Sprintf("addr add 10.0.0.%d/8 dev d0", i+1))
	}
	ipBatch(t, commands...)
	overrun := false
	for range len(commands) {
		if err = k.wait(); errors.Is(err, errOverrun) {
			overrun = true
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !overrun {
		t.Error("200 addresses fit into the smallest queue")
	}
	s, err := k.read()
	if err != nil || !has(s, "10.0.0.200/8") || len(s.Addrs) != 202 {
		t.Errorf("%d addresses, %v", len(s.Addrs), err)
	}
	ipBatch(t, "addr del 10.0.0.200/8 dev d0")
	if err := k.events.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := k.wait(); err != nil {
		t.Errorf("after the overrun: %v", err)
	}
}

// TestPollSeesTheSame compares what is read without netlink.
func TestPollSeesTheSame(t *testing.T) {
	enterNamespace(t)
	ipBatch(t, "route add default via 192.168.1.1 metric 100", "route add ::/0 via fe80::1 dev d0")
	w := start(t)
	proc := "/proc/thread-self/net/" // of this thread's namespace
	var s Snapshot
	if err := errors.Join(readTable(proc+"route", s.parseRoutes), readTable(proc+"ipv6_route", s.parseRoutes6),
		readTable(proc+"if_inet6", s.parseAddresses6)); err != nil {
		t.Fatal(err)
	}
	if own := sourceTowardsInternet(); own != netip.MustParseAddr("192.168.1.9") {
		t.Errorf("source %v", own)
	}
	s.add(netip.MustParsePrefix("192.168.1.9/24"))
	s.order()
	if want := w.Snapshot(); !s.Equal(want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	enterNamespace(t)
	w := start(t)
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
}
