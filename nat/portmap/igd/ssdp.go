package igd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// Window is how long a search listens when the router itself keeps silent.
	// Devices may wait up to MX = 1 s before they answer.
	Window = 1500 * time.Millisecond
	// grace is how long it goes on listening after the router has answered.
	grace = 100 * time.Millisecond

	// MaxAnswer is the largest answer to a search, in bytes.
	MaxAnswer = 2048
	// MaxDevices is how many answering addresses are looked at, besides the
	// router's own.
	MaxDevices = 3
	// MaxLocations is how many descriptions one address may name.
	MaxLocations = 2

	ssdpPort = 1900
)

// resend says when the search is sent again; multicast gets lost on Wi-Fi.
var resend = []time.Duration{0, 300 * time.Millisecond, 800 * time.Millisecond}

// targets are the search targets. Some routers answer only the last.
var targets = []string{
	"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
	"urn:schemas-upnp-org:device:InternetGatewayDevice:2",
	"upnp:rootdevice",
}

// Link is where to search: one address of ours and the router next to it.
type Link struct {
	// Local is our address and the length of its subnet.
	Local netip.Prefix
	// Gateway is the default router; link-local with zone for IPv6.
	Gateway netip.Addr
	// Interface has both.
	Interface *net.Interface
}

// trusted reports whether answers from a may come from the router: on our own
// subnet, which must be the router's. For IPv6 the router's link-local address
// is enough, as nobody else's is.
func (l Link) trusted(a netip.Addr) bool {
	if a == l.Gateway {
		return l.Local.Contains(a) || a.IsLinkLocalUnicast()
	}
	if !l.Local.Contains(a.WithZone("")) || a == l.Local.Addr() {
		return false
	}
	return l.Local.Contains(l.Gateway) || l.Gateway.IsLinkLocalUnicast()
}

// search sends the search and calls found, in the caller's goroutine, for each
// trustworthy answer with a new LOCATION. It ends soon after the router itself
// has answered, at the latest after [Window].
func search(ctx context.Context, l Link, found func(from netip.Addr, location *url.URL)) error {
	ctx, cancel := context.WithTimeout(ctx, Window)
	defer cancel()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Local.Addr(), 0)))
	if err != nil {
		return fmt.Errorf("search for upnp routers: %w", err)
	}
	defer conn.Close()
	group, err := l.prepare(conn)
	if err != nil {
		return fmt.Errorf("search for upnp routers: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(ctx, conn, group)
	}()
	l.listen(conn, found)
	cancel()
	<-sent
	return nil
}

// prepare chooses the interface and hop limit for multicast.
func (l Link) prepare(conn *net.UDPConn) (netip.AddrPort, error) {
	if l.Local.Addr().Is4() {
		p := ipv4.NewPacketConn(conn)
		p.SetMulticastTTL(2)
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), ssdpPort), p.SetMulticastInterface(l.Interface)
	}
	p := ipv6.NewPacketConn(conn)
	p.SetMulticastHopLimit(2)
	group := netip.MustParseAddr("ff02::c").WithZone(l.Interface.Name)
	return netip.AddrPortFrom(group, ssdpPort), p.SetMulticastInterface(l.Interface)
}

// send multicasts the search, and asks the router directly too (UPnP 1.1
// §1.3.2): snooping switches lose multicast. What cannot be sent is repeated
// anyway.
func (l Link) send(ctx context.Context, conn *net.UDPConn, group netip.AddrPort) {
	start := time.Now()
	for _, at := range resend {
		select {
		case <-time.After(time.Until(start.Add(at))):
		case <-ctx.Done():
			return
		}
		for _, st := range targets {
			conn.WriteToUDPAddrPort(searchMessage(group, st), group)
		}
		direct := netip.AddrPortFrom(l.Gateway, ssdpPort)
		conn.WriteToUDPAddrPort(searchMessage(direct, targets[0]), direct)
	}
}

// searchMessage is an M-SEARCH (UPnP 1.1 §1.3.2). Some routers read header
// names case-sensitively.
func searchMessage(to netip.AddrPort, target string) []byte {
	host := netip.AddrPortFrom(to.Addr().WithZone(""), to.Port())
	return fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %s\r\nST: %s\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\r\n", host, target)
}

// listen reads answers until the read deadline. Those from strangers cost a
// comparison each; those from trusted addresses are parsed up to the limits.
func (l Link) listen(conn *net.UDPConn, found func(netip.Addr, *url.URL)) {
	seen := make(map[netip.Addr]map[string]bool)
	answered := false
	buf := make([]byte, MaxAnswer+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		a := from.Addr().Unmap()
		if n > MaxAnswer || !l.trusted(a) {
			continue
		}
		if !l.admit(seen, a) {
			continue
		}
		u, err := parseAnswer(buf[:n], a)
		if err != nil || seen[a][u.String()] {
			continue
		}
		seen[a][u.String()] = true
		found(a, u)
		if a == l.Gateway && !answered {
			answered = true
			conn.SetReadDeadline(time.Now().Add(grace))
		}
	}
}

// admit counts addresses and descriptions. The router's own place is kept.
func (l Link) admit(seen map[netip.Addr]map[string]bool, a netip.Addr) bool {
	if locations, ok := seen[a]; ok {
		return len(locations) < MaxLocations
	}
	others := len(seen)
	if _, ok := seen[l.Gateway]; ok {
		others--
	}
	if a != l.Gateway && others >= MaxDevices {
		return false
	}
	seen[a] = make(map[string]bool)
	return true
}

// parseAnswer reads an answer to a search and returns its LOCATION, which has
// to be on the sender itself.
func parseAnswer(b []byte, from netip.Addr) (*url.URL, error) {
	resp, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(b), MaxAnswer), nil)
	if err != nil {
		return nil, fmt.Errorf("parse search answer: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("search answer with status %d", resp.StatusCode)
	}
	u, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		return nil, fmt.Errorf("location in search answer: %w", err)
	}
	if !atHost(u, from) {
		return nil, fmt.Errorf("location in search answer: %w", ErrElsewhere)
	}
	return u, nil
}
