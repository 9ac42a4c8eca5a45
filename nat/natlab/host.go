package natlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Host is a machine in the lab: a public one, or the device of a home.
type Host struct {
	name   string
	kind   Kind
	ns     string
	addr   netip.Addr
	public netip.Addr
	link   *link
}

// Name is the name the host was made with.
func (h *Host) Name() string { return h.name }

// Kind is the kind of home; Public for public hosts.
func (h *Host) Kind() Kind { return h.kind }

// Addr is the host's own address, a private one behind a router.
func (h *Host) Addr() netip.Addr { return h.addr }

// Public is the address under which the internet sees the host.
func (h *Host) Public() netip.Addr { return h.public }

// Cut pulls the cable between the host (its router, its carrier) and the internet,
// or plugs it in again. Interfaces stay up; packets under way are lost too.
func (h *Host) Cut(pulled bool) { h.link.cut.Store(pulled) }

// Part makes the internet lose every packet between the public addresses of a and b,
// in both directions and those under way too, or ends that. Everybody else still
// reaches both: the two can meet at a relay, but not directly.
func (l *Lab) Part(a, b *Host, parted bool) { l.core.part(a.link, b.link, parted) }

// Host adds a public host.
func (l *Lab) Host(name string) (*Host, error) {
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.busy.Done()
	if err := l.claim(name); err != nil {
		return nil, fmt.Errorf("natlab: add host: %w", err)
	}
	h, err := l.publicHost(name, 1)
	if err != nil {
		return nil, fmt.Errorf("natlab: add host %s: %w", name, err)
	}
	return h, nil
}

// publicHost makes a host with n public addresses.
func (l *Lab) publicHost(name string, n int) (*Host, error) {
	addrs, err := l.publicAddrs(n)
	if err != nil {
		return nil, err
	}
	ns, err := l.namespace(name, false)
	if err != nil {
		return nil, err
	}
	k, err := l.uplink(name, ns, addrs)
	if err != nil {
		return nil, err
	}
	return &Host{name: name, kind: Public, ns: ns, addr: addrs[0], public: addrs[0], link: k}, nil
}

// uplink gives a namespace its TUN device into the core, with addresses and a
// default route.
func (l *Lab) uplink(name, ns string, addrs []netip.Addr) (*link, error) {
	var dev *os.File
	err := inNamespace(ns, func() (err error) {
		dev, err = openTUN("wan", l.opt.Loss == 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	// txqueuelen holds bursts until the forwarder has read them.
	commands := []string{"link set lo up", "link set wan mtu 1500 txqueuelen 4096 up"}
	for _, a := range addrs {
		commands = append(commands, fmt.Sprintf("addr add %s/32 dev wan", a))
	}
	commands = append(commands, fmt.Sprintf("route add default dev wan src %s", addrs[0]))
	if err := l.ip(ns, commands...); err != nil {
		dev.Close()
		return nil, err
	}
	exempt := name == probeName
	return l.core.attach(name, dev, exempt, addrs...), nil
}

// ip runs ip commands in a namespace.
func (l *Lab) ip(ns string, commands ...string) error {
	return run(l.ctx, strings.Join(commands, "\n")+"\n", "ip", "-n", ns, "-batch", "-")
}

// Home adds a device behind a router of kind k and returns the device. The first
// home of each kind in a process is measured before Home returns (Verify says how);
// the error tells what it measured as.
func (l *Lab) Home(name string, k Kind) (*Host, error) {
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.busy.Done()
	p, err := planOf(k)
	if err != nil {
		return nil, fmt.Errorf("natlab: add home %s: %w", name, err)
	}
	if err := l.claim(name); err != nil {
		return nil, fmt.Errorf("natlab: add home: %w", err)
	}
	h, err := l.home(name, p)
	if err != nil {
		return nil, fmt.Errorf("natlab: add %s home %s: %w", k, name, err)
	}
	h.kind = k
	if err := l.verifyOnce(h); err != nil {
		return nil, fmt.Errorf("natlab: add %s home %s: %w", k, name, err)
	}
	l.opt.Logger.Debug("home added", "name", name, "kind", string(k), "public", h.public, "address", h.addr)
	return h, nil
}

// home builds namespaces, cables and rules. The edge is the outermost router.
func (l *Lab) home(name string, p plan) (*Host, error) {
	if p.router == nil {
		return l.publicHost(name, 1)
	}
	public, err := l.publicAddrs(1)
	if err != nil {
		return nil, err
	}
	device, err := l.namespace(name, false)
	if err != nil {
		return nil, err
	}
	router, err := l.namespace(name+"-router", true)
	if err != nil {
		return nil, err
	}
	edge, wan := router, public[0].String()
	if p.carrier != nil {
		if edge, err = l.carrier(name, router, wan, p.carrier); err != nil {
			return nil, err
		}
		wan = carrierInner
	}
	k, err := l.uplink(name, edge, public)
	if err != nil {
		return nil, err
	}
	// Devices of different homes have different addresses, or dialling the other's
	// private one would reach the device itself. .1 is the router.
	own := netip.AddrFrom4([4]byte{192, 168, 1, public[0].As4()[2] + 1})
	if err := l.lan(router, device, "eth0", "192.168.1.1", own.String(), 24); err != nil {
		return nil, err
	}
	if err := l.rules(router, p.router(wan)); err != nil {
		return nil, err
	}
	return &Host{name: name, ns: device, addr: own, public: public[0], link: k}, nil
}

// The carrier's and the home router's addresses in the carrier's network (RFC 6598).
const carrierOuter, carrierInner = "100.64.0.1", "100.64.0.2"

// carrier puts a carrier's router in front of a home's; wan is its public address.
func (l *Lab) carrier(name, router, wan string, rules func(wan string) string) (ns string, err error) {
	if ns, err = l.namespace(name+"-carrier", true); err != nil {
		return "", err
	}
	if err := l.lan(ns, router, "wan", carrierOuter, carrierInner, 10); err != nil {
		return "", err
	}
	return ns, l.rules(ns, rules(wan))
}

// lan lays a cable from a router's lan port to another namespace.
func (l *Lab) lan(router, inner, innerPort, routerAddr, innerAddr string, bits int) error {
	err := l.ip(router,
		fmt.Sprintf("link add lan type veth peer name %s netns %s", innerPort, inner),
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev lan", routerAddr, bits),
		"link set lan up")
	if err != nil {
		return err
	}
	return l.ip(inner,
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev %s", innerAddr, bits, innerPort),
		fmt.Sprintf("link set %s up", innerPort),
		fmt.Sprintf("route add default via %s", routerAddr))
}

// rules loads nftables rules into a namespace.
func (l *Lab) rules(ns, rules string) error {
	return run(l.ctx, rules, "nsenter", "--net="+filepath.Join(netnsDir, ns), "--", "nft", "-f", "-")
}

// stopGrace is how long a command has between SIGTERM and SIGKILL when its context
// ends.
const stopGrace = 5 * time.Second

// inside prepares a command in a namespace. nsenter, unlike ip netns exec, leaves
// the mounts alone and with them the control groups.
func inside(ctx context.Context, ns string, command ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + filepath.Join(netnsDir, ns), "--"}, command...)...)
}

// Command prepares a command that runs on the host. When ctx ends it is sent
// SIGTERM, and killed 5 s later if it is still there.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := inside(ctx, h.ns, append([]string{name}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	return cmd
}

// Do runs f on a thread inside the host's namespace: sockets that f opens belong
// to the host. f must not start goroutines to open them.
func (h *Host) Do(f func() error) error { return inNamespace(h.ns, f) }

// literal refuses host names: looking them up would leave the thread.
func literal(addr string) error {
	if strings.HasPrefix(addr, ":") {
		return nil
	}
	_, err := netip.ParseAddrPort(addr)
	return err
}

// Dial connects from the host to addr, an IP address and port.
func (h *Host) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if err := literal(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	err = h.Do(func() (err error) {
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Listen listens on the host at addr, an IP address and port or ":port".
func (h *Host) Listen(ctx context.Context, network, addr string) (ln net.Listener, err error) {
	if err := literal(addr); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.name, err)
	}
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	err = h.Do(func() (err error) {
		ln, err = c.Listen(ctx, network, addr)
		return err
	})
	return ln, err
}

// ListenPacket opens a datagram socket on the host at addr, an IP address and port
// or ":port". For udp networks it is a *net.UDPConn.
func (h *Host) ListenPacket(ctx context.Context, network, addr string) (pc net.PacketConn, err error) {
	if err := literal(addr); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.name, err)
	}
	var c net.ListenConfig
	err = h.Do(func() (err error) {
		pc, err = c.ListenPacket(ctx, network, addr)
		return err
	})
	return pc, err
}
