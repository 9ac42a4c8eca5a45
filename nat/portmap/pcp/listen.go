package pcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen hears what routers say unasked on 224.0.0.1:5350 (RFC 6887 §14.1.3,
// RFC 6886 §3.2.1) and calls heard with the sender's address, until the
// context ends. Nothing of it is believed: anybody on the LAN can send it, so
// all it can cause is a question to the router. The port is shared with other
// programs; an error means that it could not be had.
func Listen(ctx context.Context, heard func(from netip.Addr)) error {
	lc := net.ListenConfig{Control: shareAddress}
	pc, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", AnnouncePort))
	if err != nil {
		return fmt.Errorf("listen for announcements: %w", err)
	}
	defer pc.Close()
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	buf := make([]byte, MaxMessage+1)
	for {
		n, from, err := pc.(*net.UDPConn).ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen for announcements: %w", err)
		}
		if from.Port() == Port && announcement(buf[:n]) {
			heard(from.Addr().Unmap())
		}
	}
}

// announcement reports whether b is something that routers say unasked.
func announcement(b []byte) bool {
	if _, err := ParseResponse(b); err == nil {
		return true
	}
	r, err := ParseNATPMP(b)
	return err == nil && r.Opcode == 0
}

// shareAddress lets several programs of a host listen.
func shareAddress(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	if err != nil {
		return err
	}
	return failed
}
