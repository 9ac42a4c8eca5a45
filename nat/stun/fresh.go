package stun

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Opener opens a fresh UDP socket, with a port that no NAT knows yet. Whoever
// calls it closes the socket. What it opens must support SetReadDeadline.
type Opener func() (net.PacketConn, error)

// OpenUDP is an [Opener] of sockets for IPv4 and IPv6, on all addresses of the
// machine.
func OpenUDP() (net.PacketConn, error) { return net.ListenPacket("udp", ":0") }

// onFresh runs f with a client over a fresh socket and closes it.
func onFresh(open Opener, f func(net.PacketConn, *client) error) error {
	pc, err := open()
	if err != nil {
		return err
	}
	defer pc.Close()
	return onSocket(pc, func(c *client) error { return f(pc, c) })
}

// onSocket runs f with a client over pc, which nobody else reads meanwhile. It
// stops reading by expiring the read deadline.
func onSocket(pc net.PacketConn, f func(*client) error) error {
	c := newClient(packetSender{pc})
	stop := reading(pc, func(b []byte, from netip.AddrPort) {
		if Check(b) == nil && isResponse(b) {
			c.deliver(b, from)
		}
	})
	defer stop()
	return f(c)
}

// reading hands datagrams to handle until stop is called, which waits.
func reading(pc net.PacketConn, handle func([]byte, netip.AddrPort)) (stop func()) {
	ended := make(chan struct{})
	var loop sync.WaitGroup
	loop.Go(func() { readLoop(pc, ended, handle) })
	return func() {
		close(ended)
		if err := pc.SetReadDeadline(time.Unix(1, 0)); err != nil {
			_ = pc.Close() // nothing else ends the read
		}
		loop.Wait()
		_ = pc.SetReadDeadline(time.Time{})
	}
}

func isResponse(b []byte) bool {
	typ := messageType(b)
	return typ == bindingSuccess || typ == bindingError
}
