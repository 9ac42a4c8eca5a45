package beacon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Port is the UDP port of all beacons.
const Port = 5267

var (
	broadcast = netip.MustParseAddr("255.255.255.255")
	// loopbackBroadcast reaches every agent of this machine: the kernel has a
	// broadcast route for it although the interface has no such flag.
	loopbackBroadcast = netip.MustParseAddr("127.255.255.255")
	group             = netip.MustParseAddr("ff12::5267")
)

// maxInterfaces is how many interfaces beacons are sent on; containers and
// tunnels can make hundreds.
const maxInterfaces = 32

// ether carries datagrams to everybody on the links of this machine.
type ether interface {
	// Start hands over each datagram with its source, until Close. Handle does
	// not keep b, which is at most MaxDatagram+1 bytes long.
	Start(handle func(b []byte, src netip.Addr)) error
	// Send sends b once on each interface and family.
	Send(b []byte)
	// Networks are the networks of the interfaces, with this machine's address
	// in each, link-local ones included.
	Networks() []netip.Prefix
	Close() error
}

// sockets is the ether of the kernel.
type sockets struct {
	loopback bool
	log      *slog.Logger
	running  sync.WaitGroup
	closing  sync.Once
	v4       *ipv4.PacketConn
	v6       *ipv6.PacketConn // nil without IPv6
	raw6     syscall.RawConn  // of v6
}

// Start implements ether. IPv6 may be missing.
func (s *sockets) Start(handle func([]byte, netip.Addr)) error {
	c4, err := listen("udp4")
	if err != nil {
		return fmt.Errorf("listen for beacons on UDP port %d: %w; is another program using it?", Port, err)
	}
	s.v4 = ipv4.NewPacketConn(c4)
	s.running.Go(func() { s.read(c4, handle) })
	c6, err := listen("udp6")
	if err == nil {
		s.raw6, err = c6.SyscallConn()
	}
	if err != nil {
		s.log.Info("no beacons over IPv6", "err", err)
		return nil
	}
	s.v6 = ipv6.NewPacketConn(c6)
	// Several agents of one machine hear each other.
	if err := s.v6.SetMulticastLoopback(true); err != nil {
		s.log.Debug("no IPv6 beacons between agents of this machine", "err", err)
	}
	s.join()
	s.running.Go(func() { s.read(c6, handle) })
	return nil
}

// listen opens a socket that shares its port with other agents.
func listen(network string) (*net.UDPConn, error) {
	cfg := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		control := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		})
		return errors.Join(control, err)
	}}
	pc, err := cfg.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", Port))
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// read hands over datagrams until the socket is closed.
func (s *sockets) read(c *net.UDPConn, handle func([]byte, netip.Addr)) {
	b := make([]byte, MaxDatagram+1)
	for failed := 0; failed < maxReadErrors; {
		n, src, err := c.ReadFromUDPAddrPort(b)
		switch {
		case err == nil:
			failed = 0
			handle(b[:n], src.Addr().Unmap())
		case errors.Is(err, net.ErrClosed):
			return
		default:
			failed++
			s.log.Debug("beacon not read", "err", err)
		}
	}
	s.log.Warn("beacons are not heard any more: the socket is broken; restart the agent")
}

// maxReadErrors in a row mean that a socket is broken for good.
const maxReadErrors = 16

// Send implements ether. What an interface refuses is tried again next time.
func (s *sockets) Send(b []byte) {
	s.join()
	for _, i := range s.interfaces() {
		if err := s.sendOn(i, b); err != nil {
			s.log.Debug("beacon not sent", "interface", i.Name, "err", err)
		}
	}
}

func (s *sockets) sendOn(i net.Interface, b []byte) error {
	if i.Flags&net.FlagLoopback != 0 {
		return s.send4(i, loopbackBroadcast, b)
	}
	var errs error
	if i.Flags&net.FlagBroadcast != 0 {
		errs = s.send4(i, broadcast, b)
	}
	if i.Flags&net.FlagMulticast != 0 && s.v6 != nil {
		to := &net.UDPAddr{IP: group.AsSlice(), Port: Port, Zone: i.Name}
		_, err := s.v6.WriteTo(b, &ipv6.ControlMessage{IfIndex: i.Index}, to)
		errs = errors.Join(errs, err)
	}
	return errs
}

// send4 names the interface, so that no route is needed: a cut-off house has
// none that leads to the broadcast address.
func (s *sockets) send4(i net.Interface, to netip.Addr, b []byte) error {
	if !hasIPv4(i) {
		return nil
	}
	_, err := s.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: i.Index}, &net.UDPAddr{IP: to.AsSlice(), Port: Port})
	return err
}

func hasIPv4(i net.Interface) bool {
	addrs, err := i.Addrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.To4() != nil
	})
}

// join enters the group on interfaces that came up; on the others the kernel
// says that we are in it.
func (s *sockets) join() {
	if s.v6 == nil {
		return
	}
	for _, i := range s.interfaces() {
		if i.Flags&net.FlagMulticast != 0 {
			err := s.joinOn(i)
			if err != nil && !errors.Is(err, unix.EADDRINUSE) {
				s.log.Debug("beacons not heard over IPv6", "interface", i.Name, "err", err)
			}
		}
	}
}

// joinOn enters the group on one interface, by the call of RFC 3493 §5.2: the
// newer one of RFC 3678, which package ipv6 uses, is not in all emulators.
func (s *sockets) joinOn(i net.Interface) (err error) {
	control := s.raw6.Control(func(fd uintptr) {
		err = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(i.Index)})
	})
	return errors.Join(control, err)
}

// interfaces returns those that beacons are sent on.
func (s *sockets) interfaces() []net.Interface {
	all, err := net.Interfaces()
	if err != nil {
		s.log.Debug("interfaces unknown", "err", err)
		return nil
	}
	all = slices.DeleteFunc(all, func(i net.Interface) bool {
		if i.Flags&net.FlagLoopback != 0 {
			return !s.loopback
		}
		return i.Flags&net.FlagUp == 0 || i.Flags&(net.FlagBroadcast|net.FlagMulticast) == 0
	})
	return all[:min(len(all), maxInterfaces)]
}

// Networks implements ether.
func (s *sockets) Networks() []netip.Prefix {
	var all []netip.Prefix
	for _, i := range s.interfaces() {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				bits, _ := n.Mask.Size()
				all = append(all, netip.PrefixFrom(addr.Unmap(), bits))
			}
		}
	}
	return all
}

// Close implements ether; it waits until nothing is handed over any more.
func (s *sockets) Close() (err error) {
	s.closing.Do(func() {
		if s.v4 != nil {
			err = s.v4.Close()
		}
		if s.v6 != nil {
			err = errors.Join(err, s.v6.Close())
		}
		s.running.Wait()
	})
	return err
}

// candidates picks the addresses that a beacon names: private IPv4 first, then
// IPv6, then whatever else there is. The kernel has put link-local ones, which
// mean nothing without a zone, into the datagram's source.
func candidates(networks []netip.Prefix) []netip.Addr {
	var all []netip.Addr
	for _, n := range networks {
		if a := n.Addr(); usable(a) && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	return all[:min(len(all), MaxAddresses)]
}

func rank(a netip.Addr) int {
	switch {
	case a.Is4() && a.IsPrivate():
		return 0
	case a.Is6() && a.IsPrivate():
		return 1
	case a.Is6() && !a.IsLoopback():
		return 2
	}
	return 3
}

// usable reports whether a can be somebody's address without a zone.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a != broadcast &&
		!(a.Is6() && a.IsLinkLocalUnicast()) && a.Zone() == ""
}
