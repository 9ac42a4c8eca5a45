package natlab

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// The two ends of each party's cable into the middle, alike for all of them: the
// party asks for gateway4 by ARP and for gateway6 by neighbour discovery.
const (
	gateway4          = "169.254.1.1"
	gateway6, behind6 = "fe80::1", "fe80::2"
)

// middle is the internet of labs with Options.Direct: one namespace whose kernel
// routes between the parties' cables.
type middle struct {
	lab *Lab
	ns  string

	mu     sync.Mutex
	links  []*link
	filter bool // the table for cuts is there
}

// newMiddle makes the namespace.
func (l *Lab) newMiddle() (m *middle, err error) {
	m = &middle{lab: l}
	if m.ns, err = l.namespace(middleName, true, l.ipv6); err != nil {
		return nil, err
	}
	return m, l.ip(m.ns, "link set lo up")
}

// middleName is the name of the namespace in the middle.
const middleName = "middle"

// plug lays a cable from a party's namespace to the middle.
func (m *middle) plug(u uplink) (*link, error) {
	m.mu.Lock()
	k := &link{name: u.name, index: len(m.links), addrs: u.addrs, behind: u.behind}
	m.links = append(m.links, k)
	m.mu.Unlock()
	inner := []string{
		"link set lo up",
		fmt.Sprintf("link add %s type veth peer name wan netns %s", port(k), u.ns),
		fmt.Sprintf("addr add %s/32 dev %s", gateway4, port(k)),
	}
	if m.lab.ipv6 {
		inner = append(inner, fmt.Sprintf("link set %s addrgenmode none", port(k)),
			fmt.Sprintf("addr add %s/64 dev %s nodad", gateway6, port(k)))
	}
	if err := m.lab.ip(m.ns, append(inner, fmt.Sprintf("link set %s up", port(k)))...); err != nil {
		return nil, err
	}
	outer := []string{"link set lo up"}
	if u.v6 {
		outer = append(outer, "link set wan addrgenmode none", fmt.Sprintf("addr add %s/64 dev wan nodad", behind6))
	}
	if err := m.lab.ip(u.ns, append(append(outer, "link set wan up"), u.commands()...)...); err != nil {
		return nil, err
	}
	return k, m.route("add", k, u.addrs)
}

// port is the middle's interface of a link.
func port(k *link) string { return fmt.Sprintf("port%d", k.index) }

// route adds or removes ("add", "del") the networks of a link.
func (m *middle) route(verb string, k *link, addrs []netip.Addr) error {
	var commands []string
	for _, a := range addrs {
		via := behind6
		if a.Is4() {
			octets := a.As4()
			octets[3] = k.behind
			via = netip.AddrFrom4(octets).String()
		}
		p := netip.PrefixFrom(networkOf(a), networkBits(a))
		commands = append(commands, fmt.Sprintf("route %s %s via %s dev %s onlink", verb, p, via, port(k)))
	}
	return m.lab.ip(m.ns, commands...)
}

// move gives a link other addresses.
func (m *middle) move(k *link, addrs []netip.Addr) error {
	if err := m.route("del", k, k.addrs); err != nil {
		return err
	}
	k.addrs = addrs
	return m.route("add", k, addrs)
}

// cuts is the table that cut cables and parted pairs are listed in.
const cuts = `
table inet cuts {
	set dark { type ifname; }
	set parted { type ifname . ifname; }
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname @dark counter drop
		oifname @dark counter drop
		iifname . oifname @parted counter drop
	}
}
`

// list puts an element into a set of the table cuts or takes it out. The table is
// made for the first one, as benchmarks do without.
func (m *middle) list(set, element string, in bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var text strings.Builder
	if !m.filter {
		text.WriteString(cuts)
		m.filter = true
	}
	// Adding twice is no error; removing what is not there is one.
	fmt.Fprintf(&text, "add element inet cuts %s { %s }\n", set, element)
	if !in {
		fmt.Fprintf(&text, "delete element inet cuts %s { %s }\n", set, element)
	}
	if err := m.lab.rules(m.ns, text.String()); err != nil && m.lab.ctx.Err() == nil {
		m.lab.opt.Logger.Error("cable not cut or mended", "set", set, "element", element, "error", err)
	}
}

// darken makes it so that nothing passes a dark link.
func (m *middle) darken(k *link) { m.list("dark", fmt.Sprintf("%q", port(k)), k.dark()) }

// part makes two links lose what they send each other, or ends that.
func (m *middle) part(a, b *link, parted bool) {
	m.list("parted", fmt.Sprintf("%[1]q . %[2]q, %[2]q . %[1]q", port(a), port(b)), parted)
}
