package portmap

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of every test network. Not the documentation blocks: miniupnpd
// refuses them.
const (
	lanRouter, lanDevice     = "192.168.1.1", "192.168.1.50"
	wanRouter, wanOutside    = "44.128.0.1", "44.128.0.2"
	lan6Router, lan6Device   = "3fff:1::1", "3fff:1::50"
	wan6Router, wan6Outside  = "3fff:2::1", "3fff:2::2"
	linkLocalRouter          = "fe80::1"
	udpPort, tcpPort         = 41641, 41642
	networkTable, upnpConfig = "porch", `ext_ifname=wan
ext_ifname6=wan
listening_ip=lan
http_port=0

min_lifetime=2
upnp_table_name=porch
upnp_nat_table_name=porch
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
uuid=11111111-2222-3333-4444-555555555555
manufacturer_name=Acme
model_name=Home Hub 7
allow 1-65535 192.168.1.0/24 1-65535
deny 0-65535 0.0.0.0/0 0-65535
`
)

var networks atomic.Int32

// network is a device, its router and a host outside.
type network struct {
	t                       *testing.T
	device, router, outside string
	dir                     string
	conf                    string
	daemon                  *exec.Cmd
}

func newNetwork(t *testing.T) *network { return buildNetwork(t, true) }

// startable tells whether this very program can be started, which user-mode
// emulators cannot do.
var startable = sync.OnceValue(func() error { return exec.Command(os.Args[0], "-test.list=^$").Run() })

// buildNetwork makes a network, with nobody outside if that does not matter:
// namespaces are slow to make.
func buildNetwork(t *testing.T, outside bool) *network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	prefix := fmt.Sprintf("porchmap-%d-%d-", os.Getpid(), networks.Add(1))
	if err := startable(); err != nil {
		t.Skip("emulated, a helper process cannot be started:", err)
	}
	n := &network{t: t, device: prefix + "dev", router: prefix + "rtr", outside: prefix + "out", dir: t.TempDir()}
	spaces := []string{n.device, n.router}
	if outside {
		spaces = append(spaces, n.outside)
	}
	n.run("netns add "+strings.Join(spaces, "\nnetns add ")+"\n", "ip", "-batch", "-")
	t.Cleanup(func() {
		c := exec.Command("ip", "-force", "-batch", "-")
		c.Stdin = strings.NewReader("netns delete " + strings.Join(spaces, "\nnetns delete ") + "\n")
		c.Run()
	})
	for _, ns := range spaces {
		n.inside(ns, func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		})
	}
	n.run(fmt.Sprintf(`link add lan type veth peer name eth0 netns %s
addr add %s/24 dev lan
addr add %s/64 dev lan
addr add %s/64 dev lan
link set lo up
link set lan up
`, n.device, lanRouter, linkLocalRouter, lan6Router), "ip", "-n", n.router, "-batch", "-")
	n.run(fmt.Sprintf("addr add %s/24 dev eth0\nlink set lo up\nlink set eth0 up\nroute add default via %s\n", lanDevice, lanRouter),
		"ip", "-n", n.device, "-batch", "-")
	if !outside {
		return n
	}
	n.run(fmt.Sprintf("link add wan type veth peer name eth0 netns %s\naddr add %s/24 dev wan\naddr add %s/64 dev wan\nlink set wan up\n",
		n.outside, wanRouter, wan6Router), "ip", "-n", n.router, "-batch", "-")
	n.run(fmt.Sprintf("addr add %s/24 dev eth0\naddr add %s/64 dev eth0\nlink set lo up\nlink set eth0 up\nroute add default via %s\n",
		wanOutside, wan6Outside, wan6Router), "ip", "-n", n.outside, "-batch", "-")
	n.inside(n.router, func() error {
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0)
	})
	n.flush()
	return n
}

// withIPv6 gives the device an address and a default route.
func (n *network) withIPv6() {
	n.run(fmt.Sprintf("addr add %s/64 dev eth0 nodad\n", lan6Device), "ip", "-n", n.device, "-batch", "-")
	n.run(fmt.Sprintf("route add default via %s dev eth0\n", linkLocalRouter), "ip", "-6", "-n", n.device, "-batch", "-")
}

// withoutPCPv6 drops PCP over IPv6, which miniupnpd speaks even if told not to.
func (n *network) withoutPCPv6() {
	n.run("insert rule inet porch input meta nfproto ipv6 udp dport 5351 drop\n", "ip", "netns", "exec", n.router, "nft", "-f", "-")
}

// flush loads the router's rules anew: nothing from outside gets in. The
// counter sees PCP requests of version 2.
func (n *network) flush() {
	n.run(`table inet porch {}
delete table inet porch
table inet porch {
 counter pcp { }
 chain miniupnpd { }
 chain prerouting_miniupnpd { }
 chain postrouting_miniupnpd { }
 chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan" accept; jump miniupnpd; }
 chain input { type filter hook input priority 0; policy accept; iifname "lan" udp dport 5351 @th,64,8 0x02 counter name pcp; ct state established,related accept; iifname "wan" meta l4proto { udp, tcp } drop; }
 chain pre { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
 chain post { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "wan" meta nfproto ipv4 masquerade; }
}`, "ip", "netns", "exec", n.router, "nft", "-f", "-")
}

// rules are what the router has in place now.
func (n *network) rules() string {
	return n.run("", "ip", "netns", "exec", n.router, "nft", "list", "table", "inet", networkTable)
}

func (n *network) run(stdin, name string, args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// inside runs f on a thread of the namespace; sockets made by f stay there.
func (n *network) inside(ns string, f func() error) {
	n.t.Helper()
	if err := within(ns, f); err != nil {
		n.t.Fatal(err)
	}
}

func within(ns string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(filepath.Join("/run/netns", ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- err
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// startDaemon runs miniupnpd on the router with lines added to its
// configuration.
func (n *network) startDaemon(lines string) {
	n.t.Helper()
	if !strings.Contains(lines, "secure_mode") {
		lines += "secure_mode=yes\n"
	}
	n.conf = filepath.Join(n.dir, "miniupnpd.conf")
	if err := os.WriteFile(n.conf, []byte(upnpConfig+lines), 0o600); err != nil {
		n.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(n.dir, "miniupnpd.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.daemon = exec.Command("ip", "netns", "exec", n.router, "miniupnpd", "-d", "-f", n.conf, "-P", filepath.Join(n.dir, "pid"))
	n.daemon.Stdout, n.daemon.Stderr = log, log
	if err := n.daemon.Start(); err != nil {
		n.t.Fatal(err)
	}
	daemon := n.daemon
	n.t.Cleanup(func() { stopProcess(daemon) })
	n.poll("miniupnpd listens", func() bool {
		out := n.run("", "ip", "netns", "exec", n.router, "ss", "-lun")
		return strings.Contains(out, ":1900") || strings.Contains(out, ":5351")
	})
}

// stopDaemon ends miniupnpd like a power cut.
func (n *network) stopDaemon() { stopProcess(n.daemon) }

func stopProcess(c *exec.Cmd) {
	c.Process.Kill()
	c.Wait()
}

// poll waits for ok.
func (n *network) poll(what string, ok func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(awaitLimit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			n.t.Fatalf("not within %v: %s", awaitLimit, what)
		}
		<-tick.C
	}
}

// enters reports whether a packet from outside comes back from the device.
func (n *network) enters(transport string, to netip.AddrPort) bool {
	var conn net.Conn
	err := within(n.outside, func() (err error) {
		conn, err = (&net.Dialer{Timeout: time.Second}).Dial(transport, to.String())
		return err
	})
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	conn.Write([]byte("light"))
	b := make([]byte, 5)
	_, err = io.ReadFull(conn, b)
	return err == nil && string(b) == "light"
}
