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
	"sync"
	"syscall"
	"time"
)

// Host is a machine in the lab: a public one, or the device of a home.
type Host struct {
	name string
	kind Kind
	ns   string
	link *link
	home *home

	// Guarded by home.mu.
	dev, port string // its interface, and the router's port that it is plugged into
	seat, lan byte   // last bytes of its addresses in the party's network and in 192.168.1.0/24

	mu     sync.Mutex // guards the addresses
	addr   netip.Addr
	addr6  netip.Addr
	public netip.Addr
}

// Name is the name the host was made with.
func (h *Host) Name() string { return h.name }

// Kind is the kind of home; Public for public hosts.
func (h *Host) Kind() Kind { return h.kind }

// Addr is the host's own IPv4 address, a private one behind a router that
// translates. It is not valid for IPv6Only.
func (h *Host) Addr() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr
}

// Public is the IPv4 address under which the internet sees the host. It is not valid
// for IPv6Only.
func (h *Host) Public() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.public
}

// Addr6 is the host's IPv6 address, not valid if it has none: only Public,
// StatefulFirewall, IPv6Firewall and IPv6Only have.
func (h *Host) Addr6() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr6
}

// Public6 is the IPv6 address under which the internet sees the host: Addr6, as
// nothing translates IPv6.
func (h *Host) Public6() netip.Addr { return h.Addr6() }

// Cut pulls the cable between the host (its router, its carrier) and the internet,
// or plugs it in again. Interfaces stay up; packets under way are lost too.
func (h *Host) Cut(pulled bool) {
	h.link.cut.Store(pulled)
	h.home.lab.darken(h.link)
}

// darken lets the middle know that a link's state has changed; the forwarder looks
// at it with every packet.
func (l *Lab) darken(k *link) {
	if l.middle != nil {
		l.middle.darken(k)
	}
}

// Delay sets the one-way delay of the host's (its home's) own cable; between two
// parties it is the sum of both. By default each is half of Options.Latency.
// Packets under way keep theirs. Labs with Options.Direct cannot delay.
func (h *Host) Delay(d time.Duration) error {
	if h.home.lab.middle != nil {
		return errDirect
	}
	h.link.delay.Store(int64(max(0, d)))
	return nil
}

// Limit sets the capacity of the host's (its home's) cable in bits per second, in
// each direction; 0, the default, is no limit. A packet that would wait longer than
// 250 ms is dropped. Labs with Options.Direct have no limits.
func (h *Host) Limit(bitsPerSecond int64) error {
	if h.home.lab.middle != nil {
		return errDirect
	}
	h.link.up.limit(max(0, bitsPerSecond))
	h.link.toward.limit(max(0, bitsPerSecond))
	return nil
}

// needRouter refuses public hosts.
func (h *Host) needRouter() error {
	if h.home == nil || h.home.router == "" {
		return fmt.Errorf("%s is a public host and has no router", h.name)
	}
	return nil
}

// Part makes the internet lose every packet between the public addresses of a and b,
// in both directions and those under way too, or ends that. Everybody else still
// reaches both: the two can meet at a relay, but not directly.
func (l *Lab) Part(a, b *Host, parted bool) {
	if l.middle != nil {
		l.middle.part(a.link, b.link, parted)
		return
	}
	l.core.part(a.link, b.link, parted)
}

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

// publicHost makes a host with n public addresses of each family.
func (l *Lab) publicHost(name string, n int) (*Host, error) {
	first, err := l.claimParties(n)
	if err != nil {
		return nil, err
	}
	m := &home{lab: l, name: name, plan: plans[Public], party: first}
	h := &Host{name: name, kind: Public, home: m, seat: firstSeat}
	m.devices, m.seats = []*Host{h}, 1
	m.number(h)
	if h.ns, err = l.namespace(name, false, m.has6()); err != nil {
		return nil, err
	}
	u := m.uplink()
	for i := 1; i < n; i++ {
		u.networks(first + party(i))
	}
	u.own = u.addrs
	if m.link, err = l.uplink(u); err != nil {
		return nil, err
	}
	h.link = m.link
	return h, nil
}

// uplink is a namespace's interface "wan" into the internet.
type uplink struct {
	name, ns string
	own      []netip.Addr // the interface's addresses
	addrs    []netip.Addr // one in each network that the internet routes here
	v4, v6   bool         // default routes wanted
	behind   byte         // last byte of the edge's address in the party's IPv4 network
	direct   bool         // to the middle, which has addresses
}

// networks adds those of a party.
func (u *uplink) networks(p party) {
	if u.v4 {
		u.addrs = append(u.addrs, p.addr4(firstSeat))
	}
	if u.v6 {
		u.addrs = append(u.addrs, p.addr6(firstSeat))
	}
}

// commands give the interface its addresses and default routes.
func (u *uplink) commands() (commands []string) {
	source := ""
	for _, a := range u.own {
		commands = append(commands, addAddr(netip.PrefixFrom(a, a.BitLen()), "wan"))
		if a.Is4() && source == "" {
			source = " src " + a.String()
		}
	}
	via4, via6 := "", ""
	if u.direct {
		via4, via6 = "via "+gateway4+" ", "via "+gateway6+" "
	}
	if u.v4 && u.direct {
		commands = append(commands, "route replace "+gateway4+" dev wan scope link")
	}
	if u.v4 {
		commands = append(commands, "route replace 0.0.0.0/0 "+via4+"dev wan"+source)
	}
	if u.v6 {
		commands = append(commands, "route replace ::/0 "+via6+"dev wan")
	}
	return commands
}

// uplink gives a namespace its cable into the internet, with addresses and default
// routes.
func (l *Lab) uplink(u uplink) (*link, error) {
	if l.middle != nil {
		return l.middle.plug(u)
	}
	var dev *os.File
	err := inNamespace(u.ns, func() (err error) {
		dev, err = openTUN("wan", l.opt.offload())
		return err
	})
	if err != nil {
		return nil, err
	}
	commands := []string{"link set lo up"}
	if u.v6 {
		// No link-local address: nobody at the other end speaks neighbour discovery.
		commands = append(commands, "link set wan addrgenmode none")
	}
	// txqueuelen holds bursts until the forwarder has read them.
	commands = append(commands, "link set wan mtu 1500 txqueuelen 4096 up")
	if err := l.ip(u.ns, append(commands, u.commands()...)...); err != nil {
		dev.Close()
		return nil, err
	}
	return l.core.attach(u.name, dev, u.name == probeName, u.addrs...), nil
}

// ip runs ip commands in a namespace.
func (l *Lab) ip(ns string, commands ...string) error {
	return run(l.ctx, strings.Join(commands, "\n")+"\n", "ip", "-n", ns, "-batch", "-")
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
