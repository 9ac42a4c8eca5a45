package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Config describes a server. It needs a socket or listener to be asked at, and
// an address to relay from: RelayIP, RelayIP6 or both. Clients may come over
// either IP version, whichever is relayed.
type Config struct {
	UDP []net.PacketConn // own sockets, not shared with QUIC: ChannelData collides with it; closed by Close
	TCP []net.Listener   // closed by Close
	// TLS are TCP listeners for TURN over TLS, best on port 443: for networks
	// that let nothing else out. The server makes the certificate; tickets
	// carry its hash. Closed by Close.
	TLS []net.Listener

	RelayIP  netip.Addr // public IPv4 address peers see relayed packets come from; not set: no IPv4 relayed
	ListenIP netip.Addr // IPv4 address relayed sockets bind; 0.0.0.0 if not set
	// RelayIP6 and ListenIP6 are the same for IPv6; ListenIP6 is :: if not set.
	RelayIP6, ListenIP6 netip.Addr
	// MinPort and MaxPort bound the ports of relayed sockets, for a firewall
	// rule. Both 0: the kernel chooses.
	MinPort, MaxPort uint16
	// AdvertiseUDP, AdvertiseTCP and AdvertiseTLS go into tickets. Not set: the
	// relay's addresses with the ports of UDP, TCP and TLS, which is right
	// where nothing maps ports.
	AdvertiseUDP, AdvertiseTCP, AdvertiseTLS []netip.AddrPort

	Secret Secret // tickets are signed with it; not set: a random one, tickets end with a restart anyway
	// Certificate serves TLS. Not set: one made at the start.
	Certificate *tls.Certificate
	Limits      Limits
	// AllowPeer admits addresses that would be refused, own ones included:
	// loopback in a demonstration, private ones in a laboratory. IPv4 mapped
	// into IPv6 is refused all the same. Not set: none.
	AllowPeer func(netip.Addr) bool
	Logger    *slog.Logger     // not set: discards
	Now       func() time.Time // not set: time.Now; only differences count
}

// complete fills in what is not set and refuses what cannot be served.
func (c *Config) complete() error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.AdvertiseUDP == nil {
		for _, pc := range c.UDP {
			c.AdvertiseUDP = append(c.AdvertiseUDP, c.advertised(pc.LocalAddr(), pc)...)
		}
	}
	if c.AdvertiseTCP == nil {
		c.AdvertiseTCP = c.advertisedAll(c.TCP)
	}
	if c.AdvertiseTLS == nil {
		c.AdvertiseTLS = c.advertisedAll(c.TLS)
	}
	if c.Certificate == nil && len(c.TLS) > 0 {
		own, err := ownCertificate()
		if err != nil {
			return err
		}
		c.Certificate = own
	}
	c.Limits = c.Limits.withDefaults()
	return nil
}

func (c *Config) check() error {
	if !c.ListenIP.IsValid() {
		c.ListenIP = netip.IPv4Unspecified()
	}
	if !c.ListenIP6.IsValid() {
		c.ListenIP6 = netip.IPv6Unspecified()
	}
	is6 := func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }
	switch {
	case len(c.UDP)+len(c.TCP)+len(c.TLS) == 0:
		return errors.New("relay needs a udp socket or a tcp listener")
	case !c.RelayIP.IsValid() && !c.RelayIP6.IsValid():
		return errors.New("relay needs a public address to relay from")
	case c.RelayIP.IsValid() && !c.RelayIP.Is4(), !c.ListenIP.Is4():
		return fmt.Errorf("relay's ipv4 addresses are not: public %v, bound %v", c.RelayIP, c.ListenIP)
	case c.RelayIP6.IsValid() && !is6(c.RelayIP6), !is6(c.ListenIP6):
		return fmt.Errorf("relay's ipv6 addresses are not: public %v, bound %v", c.RelayIP6, c.ListenIP6)
	case c.MinPort > c.MaxPort || c.MinPort == 0 && c.MaxPort != 0:
		return fmt.Errorf("relay ports %d to %d are no range", c.MinPort, c.MaxPort)
	}
	return nil
}

func (c *Config) advertisedAll(ls []net.Listener) []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range ls {
		all = append(all, c.advertised(l.Addr(), l)...)
	}
	return all
}

// advertised are the relay's public addresses, with the port of a socket, in
// the IP versions that the socket takes.
func (c *Config) advertised(a net.Addr, socket any) []netip.AddrPort {
	local, _ := addrPort(a)
	var all []netip.AddrPort
	for _, public := range []netip.Addr{c.RelayIP, c.RelayIP6} {
		if public.IsValid() && takes(local.Addr(), socket, public.Is4()) {
			all = append(all, netip.AddrPortFrom(public, local.Port()))
		}
	}
	return all
}
