package natlab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
)

// party is the number of one network of the lab's internet: 44.128.N.0/24 and
// 3fff:0:N::/64.
type party byte

// addr4 is address n of the party's IPv4 network.
func (p party) addr4(n byte) netip.Addr { return netip.AddrFrom4([4]byte{44, 128, byte(p), n}) }

// addr6 is address n of the party's IPv6 network.
func (p party) addr6(n byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x3f, 1: 0xff, 5: byte(p), 15: n})
}

// firstSeat is the last byte of the address of a party's first machine.
const firstSeat = 10

// networkOf is the network of the lab's internet that an address belongs to, by its
// first address: what the internet routes by.
func networkOf(a netip.Addr) netip.Addr {
	p, err := a.Prefix(networkBits(a))
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// networkBits is the length of the prefix of networks of a's family.
func networkBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 64
}

// The addresses in a home's network, and in the carrier's (RFC 6598).
const (
	lanRouter                  = "192.168.1.1"
	carrierOuter, carrierInner = "100.64.0.1", "100.64.0.2"
)

// home is a party's equipment: its devices and what stands between them and the
// internet.
type home struct {
	lab             *Lab
	name            string
	plan            plan
	router, carrier string // namespaces, empty if there is none
	link            *link
	mapper          *mapper   // nil without UPnP, NAT-PMP and PCP
	rotation        *rotation // nil if the ports stay

	mu      sync.Mutex // one change at a time
	party   party
	devices []*Host
	ports   int  // of the router's LAN, used ones included
	seats   byte // given away
}

// edge is the namespace with the interface into the internet.
func (m *home) edge() string {
	switch {
	case m.carrier != "":
		return m.carrier
	case m.router != "":
		return m.router
	}
	return m.devices[0].ns
}

// wan is the outer address of the home's own router.
func (m *home) wan() string {
	if m.carrier != "" {
		return carrierInner
	}
	return m.party.addr4(firstSeat).String()
}

// has6 reports whether the home has IPv6, which a kernel may lack.
func (m *home) has6() bool { return m.plan.ipv6 && m.lab.ipv6 }

// maxSeats is how many addresses a party's network has for devices.
const maxSeats = 200

// seat gives a device a place in the networks of the home.
func (m *home) seat(h *Host) (err error) {
	if m.seats == maxSeats {
		return fmt.Errorf("home %s has had %d addresses for devices", m.name, maxSeats)
	}
	h.seat = firstSeat + m.seats
	m.seats++
	switch {
	case m.plan.ipv4 != translated:
	case len(m.devices) == 0:
		// Devices of different homes have different addresses, or dialling the
		// other's private one would reach the device itself. .1 is the router.
		h.lan = byte(m.party) + 1
	default:
		h.lan, err = m.lab.spareLAN()
	}
	return err
}

// number notes the addresses that a device has in its seat.
func (m *home) number(h *Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch m.plan.ipv4 {
	case translated:
		h.addr, h.public = netip.AddrFrom4([4]byte{192, 168, 1, h.lan}), m.party.addr4(firstSeat)
	case routed:
		h.addr, h.public = m.party.addr4(h.seat), m.party.addr4(h.seat)
	}
	if m.has6() {
		h.addr6 = m.party.addr6(h.seat)
	}
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
	h, err := l.home(name, k, p)
	if err == nil {
		err = l.verifyOnce(h)
	}
	if err != nil {
		return nil, fmt.Errorf("natlab: add %s home %s: %w", k, name, err)
	}
	if p.rotated != nil {
		h.home.rotation.start()
	}
	l.opt.Logger.Debug("home added", "name", name, "kind", string(k), "public", h.Public(), "address", h.Addr())
	return h, nil
}

// home builds namespaces, cables and rules.
func (l *Lab) home(name string, k Kind, p plan) (*Host, error) {
	if p.ipv6 && p.ipv4 != routed && !l.ipv6 {
		return nil, errors.New("this kernel has no IPv6")
	}
	if p.router == nil {
		return l.publicHost(name, 1)
	}
	number, err := l.claimParties(1)
	if err != nil {
		return nil, err
	}
	m := &home{lab: l, name: name, plan: p, party: number}
	h := &Host{name: name, kind: k, home: m}
	if h.ns, err = l.namespace(name, false, m.has6()); err != nil {
		return nil, err
	}
	if m.router, err = l.namespace(name+"-router", true, m.has6()); err != nil {
		return nil, err
	}
	for _, step := range []func() error{m.connect, m.layLAN, func() error { return m.settle(h) }, m.configure, m.offer} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// connect joins the home's router, through the carrier if there is one, to the
// internet.
func (m *home) connect() (err error) {
	if m.plan.carrier != nil {
		if err := m.layCarrier(); err != nil {
			return err
		}
	}
	m.link, err = m.lab.uplink(m.uplink())
	return err
}

// uplink describes the edge's interface into the internet.
func (m *home) uplink() uplink {
	u := uplink{name: m.name, ns: m.edge(), v4: m.plan.ipv4 != absent, v6: m.has6(), direct: m.lab.middle != nil}
	u.networks(m.party)
	u.behind = firstSeat
	switch {
	case m.router == "":
		u.own = u.addrs
	case m.plan.ipv4 == translated:
		u.own = []netip.Addr{m.party.addr4(firstSeat)}
	default:
		u.behind = 1
	}
	return u
}

// layCarrier puts a carrier's router in front of the home's.
func (m *home) layCarrier() (err error) {
	if m.carrier, err = m.lab.namespace(m.name+"-carrier", true, false); err != nil {
		return err
	}
	err = m.lab.ip(m.carrier,
		"link set lo up",
		fmt.Sprintf("link add lan type veth peer name wan netns %s", m.router),
		fmt.Sprintf("addr add %s/10 dev lan", carrierOuter),
		"link set lan up")
	if err != nil {
		return err
	}
	return m.lab.ip(m.router,
		fmt.Sprintf("addr add %s/10 dev wan", carrierInner),
		"link set wan up",
		fmt.Sprintf("route add default via %s", carrierOuter))
}

// layLAN makes the router's LAN, a bridge with a port for each device. Its hardware
// address is fixed, or it would change with the ports and devices' ARP tables be
// wrong.
func (m *home) layLAN() error {
	commands := []string{
		"link set lo up",
		"link add lan address 02:00:00:00:00:01 type bridge mcast_snooping 0",
	}
	for _, a := range m.lanAddrs() {
		commands = append(commands, addAddr(a, "lan"))
	}
	return m.lab.ip(m.router, append(commands, "link set lan up")...)
}

// lanAddrs are the router's own addresses on the LAN.
func (m *home) lanAddrs() []netip.Prefix {
	addrs := m.given(nil)
	if m.plan.ipv4 == translated {
		addrs = append(addrs, netip.PrefixFrom(netip.MustParseAddr(lanRouter), 24))
	}
	return addrs
}

// addAddr is the ip command that adds an address. Duplicate address detection would
// only delay its use.
func addAddr(p netip.Prefix, dev string) string {
	if p.Addr().Is6() {
		return fmt.Sprintf("addr add %s dev %s nodad", p, dev)
	}
	return fmt.Sprintf("addr add %s dev %s", p, dev)
}

// settle gives a device a seat and a cable to the router's LAN.
func (m *home) settle(h *Host) error {
	if err := m.seat(h); err != nil {
		return err
	}
	m.number(h)
	h.link = m.link
	if err := m.lab.ip(h.ns, "link set lo up"); err != nil {
		return err
	}
	if err := m.cable(h, "eth0"); err != nil {
		return err
	}
	m.devices = append(m.devices, h)
	return nil
}

// cable lays a cable from the router's LAN to a device's interface dev and gives
// that the device's addresses and default routes.
func (m *home) cable(h *Host, dev string) error {
	port := fmt.Sprintf("port%d", m.ports)
	m.ports++
	err := m.lab.ip(m.router,
		fmt.Sprintf("link add %s type veth peer name %s netns %s", port, dev, h.ns),
		fmt.Sprintf("link set %s master lan up", port))
	if err != nil {
		return err
	}
	h.dev, h.port = dev, port
	return m.lab.ip(h.ns, append([]string{fmt.Sprintf("link set %s up", dev)}, m.dress(h)...)...)
}

// dress lists the ip commands that give a device's interface its addresses and
// default routes.
func (m *home) dress(h *Host) (commands []string) {
	addrs := m.given(h)
	if m.plan.ipv4 == translated {
		addrs = append(addrs, netip.PrefixFrom(h.Addr(), 24))
	}
	for _, p := range addrs {
		commands = append(commands, addAddr(p, h.dev), m.routeVia(p.Addr(), h.dev))
	}
	return commands
}

// routeVia is the ip command that makes the router's LAN address of a's family the
// default gateway.
func (m *home) routeVia(a netip.Addr, dev string) string {
	for _, p := range m.lanAddrs() {
		if p.Addr().Is4() == a.Is4() {
			return fmt.Sprintf("route replace %s via %s dev %s", everywhere(a), p.Addr(), dev)
		}
	}
	panic("natlab: a LAN without a router of the family of " + a.String())
}

// everywhere is the prefix of all addresses of a's family.
func everywhere(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(0)
	return p
}

// configure loads the rules of router and carrier and sets the router's lifetimes.
func (m *home) configure() error {
	if m.carrier != "" {
		if err := m.lab.rules(m.carrier, m.plan.carrier(m.party.addr4(firstSeat).String())); err != nil {
			return err
		}
	}
	if err := m.lab.rules(m.router, m.routerRules()); err != nil {
		return err
	}
	if m.plan.rotated != nil {
		m.rotation = m.lab.newRotation(m)
	}
	return m.limitLifetime()
}

// routerRules are all rules of the home's router when it has just started.
func (m *home) routerRules() string {
	text := m.plan.router(m.wan())
	if m.plan.gateway != noGateway {
		text += mappingTable
	}
	return text
}

// limitLifetime sets how long the router remembers UDP flows. The settings are there
// once the rules have made the kernel track flows.
func (m *home) limitLifetime() error {
	if m.plan.udpTimeout == 0 {
		return nil
	}
	seconds := fmt.Sprint(m.plan.udpTimeout)
	return inNamespace(m.router, func() error {
		return setSysctls("netfilter/nf_conntrack_udp_timeout", seconds, "netfilter/nf_conntrack_udp_timeout_stream", seconds)
	})
}

// offer starts what lets devices ask for ports.
func (m *home) offer() (err error) {
	if m.plan.gateway == noGateway {
		return nil
	}
	if m.mapper, err = m.lab.newMapper(m); err != nil {
		return err
	}
	return m.mapper.start(m.lab.ctx)
}

// AddDevice adds another device to the home that h is a device of, in the same LAN
// and behind the same router. Only devices of homes have a LAN; public hosts don't.
func (l *Lab) AddDevice(h *Host, name string) (*Host, error) {
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.busy.Done()
	if err := h.needRouter(); err != nil {
		return nil, fmt.Errorf("natlab: add device %s: %w", name, err)
	}
	if err := l.claim(name); err != nil {
		return nil, fmt.Errorf("natlab: add device: %w", err)
	}
	m := h.home
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &Host{name: name, kind: h.kind, home: m}
	var err error
	if d.ns, err = l.namespace(name, false, m.has6()); err == nil {
		err = m.settle(d)
	}
	if err != nil {
		return nil, fmt.Errorf("natlab: add device %s to home %s: %w", name, m.name, err)
	}
	return d, nil
}

// bridgeOptions keep the machine's packet filters out of our bridges; they are there
// where the module br_netfilter is loaded.
var bridgeOptions = []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables"}

// plainBridges lets bridged packets of the calling thread's network pass unfiltered.
func plainBridges() error {
	for _, option := range bridgeOptions {
		if err := setSysctls(option, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
