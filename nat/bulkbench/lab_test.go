package bulkbench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	toolTimeout = 30 * time.Second
	netnsDir    = "/run/netns"
	// nsPrefix begins the names of our namespaces, then come process id and box.
	nsPrefix = "bulkbench-"

	deviceAddr  = "192.168.1.2" // of either device
	senderWAN   = "44.128.1.2"  // of the sender's router
	receiverWAN = "44.128.2.2"
	iperfPort   = "5201"
)

// rules make a router of the port-restricted kind: mappings do not depend on
// where to, ports are kept, and nothing comes in but answers from the same
// address and port. One port is forwarded for iperf3.
const rules = `
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "wan" masquerade
	}
	chain prerouting {
		type nat hook prerouting priority dstnat
		iifname "wan" meta l4proto { tcp, udp } th dport ` + iperfPort + ` dnat to ` + deviceAddr + `
	}
	chain input {
		type filter hook input priority filter
		iifname "wan" ct state established,related accept
		iifname "wan" drop
	}
	chain forward {
		type filter hook forward priority filter
		iifname "wan" ct state established,related accept
		iifname "wan" ct status dnat accept
		iifname "wan" drop
	}
}
`

// lab is two homes and what lies between.
type lab struct{ prefix string }

func (l *lab) ns(box string) string { return l.prefix + box }

var boxes = []string{"homea", "routera", "middle", "routerb", "homeb"}

// newLab builds the namespaces and removes them in the end.
func newLab(tb testing.TB) *lab {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("network namespaces need root")
	}
	removeStale(tb)
	l := &lab{prefix: fmt.Sprintf("%s%d-", nsPrefix, os.Getpid())}
	tb.Cleanup(func() {
		for _, box := range boxes {
			_ = run("", "ip", "netns", "delete", l.ns(box)) // gone is gone
		}
	})
	for _, box := range boxes {
		l.must(tb, "ip netns add "+l.ns(box))
		l.in(tb, box, "ip link set lo up")
	}
	l.join(tb, "homea", "eth0", deviceAddr, "routera", "lan", "192.168.1.1")
	l.join(tb, "routera", "wan", senderWAN, "middle", "neta", "44.128.1.1")
	l.join(tb, "middle", "netb", "44.128.2.1", "routerb", "wan", receiverWAN)
	l.join(tb, "routerb", "lan", "192.168.1.1", "homeb", "eth0", deviceAddr)
	for box, gateway := range map[string]string{
		"homea": "192.168.1.1", "homeb": "192.168.1.1", "routera": "44.128.1.1", "routerb": "44.128.2.1",
	} {
		l.in(tb, box, "ip route add default via "+gateway)
	}
	for _, box := range boxes[1:4] {
		l.in(tb, box, "sysctl -q -w net.ipv4.ip_forward=1")
	}
	for _, box := range []string{"routera", "routerb"} {
		if err := run(rules, "ip", "netns", "exec", l.ns(box), "nft", "-f", "-"); err != nil {
			tb.Fatal(err)
		}
	}
	return l
}

// join connects two boxes by a veth pair with an address at each end.
func (l *lab) join(tb testing.TB, box1, dev1, addr1, box2, dev2, addr2 string) {
	tb.Helper()
	l.must(tb, fmt.Sprintf("ip link add %s netns %s type veth peer name %s netns %s", dev1, l.ns(box1), dev2, l.ns(box2)))
	l.in(tb, box1, fmt.Sprintf("ip addr add %s/24 dev %s", addr1, dev1))
	l.in(tb, box2, fmt.Sprintf("ip addr add %s/24 dev %s", addr2, dev2))
	l.in(tb, box1, "ip link set up dev "+dev1)
	l.in(tb, box2, "ip link set up dev "+dev2)
}

func (l *lab) in(tb testing.TB, box, command string) {
	tb.Helper()
	l.must(tb, "ip netns exec "+l.ns(box)+" "+command)
}

func (l *lab) must(tb testing.TB, command string) {
	tb.Helper()
	args := strings.Fields(command)
	if err := run("", args[0], args[1:]...); err != nil {
		tb.Fatal(err)
	}
}

// command is a process in a box that dies with this one.
func (l *lab) command(ctx context.Context, box, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + filepath.Join(netnsDir, l.ns(box)), name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func run(stdin, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// removeStale removes namespaces of runs that were killed.
func removeStale(tb testing.TB) {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(netnsDir, nsPrefix+"*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range found {
		name := filepath.Base(path)
		pid, err := strconv.Atoi(strings.SplitN(strings.TrimPrefix(name, nsPrefix), "-", 2)[0])
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = run("", "ip", "netns", "delete", name)
		}
	}
}
