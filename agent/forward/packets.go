package forward

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"porchlight/agent/overlay"
)

// carryPackets carries a flow to and from its target until it is idle, or
// ended by the caller, or no longer offered.
func (s *Server) carryPackets(u *use, packets *overlay.Packets, target net.Conn) {
	defer func() { s.dropped.Add(packets.Dropped()) }()
	end := func() { packets.Close(); target.Close() }
	defer end()
	defer context.AfterFunc(u.ctx, end)()
	var other sync.WaitGroup
	defer other.Wait()
	other.Go(func() { defer end(); s.toTarget(u, packets, target) })
	s.fromTarget(u, packets, target)
	end()
}

// toTarget takes packets to the target until they end.
func (s *Server) toTarget(u *use, packets, target net.Conn) {
	buffer := make([]byte, overlay.MaxPacket)
	for {
		n, err := packets.Read(buffer)
		if err != nil {
			return
		}
		u.last.touch()
		if _, err := target.Write(buffer[:n]); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Nobody listens, or the packet is too large for the network: as
			// UDP has it, only this packet is lost.
			s.dropped.Add(1)
		}
	}
}

// fromTarget takes packets from the target until the flow is idle.
func (s *Server) fromTarget(u *use, packets, target net.Conn) {
	buffer := make([]byte, overlay.MaxPacket+1)
	for {
		target.SetReadDeadline(time.Now().Add(max(s.idle-u.last.quiet(), time.Millisecond)))
		n, err := target.Read(buffer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if u.last.quiet() >= s.idle {
				return
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			// An ICMP answer to an earlier packet: the target may come back.
		case err != nil:
			return
		default:
			u.last.touch()
			if _, err := packets.Write(buffer[:n]); errors.Is(err, overlay.ErrPacketSize) {
				s.dropped.Add(1)
			}
		}
	}
}
