package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"porchlight/agent/introduce"
	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/probe"
)

// tcpRoute describes a path of packets in frames over a TCP connection.
func tcpRoute(remote net.Addr, framed *nat.Framed) route {
	at, _ := netip.ParseAddrPort(remote.String())
	return route{
		path:   nat.Path{Kind: nat.KindDirect, Carrier: framed},
		local:  "tcp",
		remote: describe("tcp", at),
	}
}

// errNoTCP says that the other side accepts no connections, or comes to us.
var errNoTCP = errors.New("no tcp address to connect to")

// dialTCP connects to where the other side accepts connections: at a public
// address, or at a port that its router keeps open. If both accept, the caller
// connects, so that both sides mean the same connection.
func (a *attempt) dialTCP(ctx context.Context, theirs introduce.Offer, calling bool) error {
	if !calling && len(a.ours.TCPAt) > 0 {
		return errNoTCP
	}
	ctx, cancel := context.WithTimeout(ctx, hintLimit)
	defer cancel()
	filter := ice.Filter{Loopback: a.j.cfg.Loopback}
	err := errNoTCP
	for _, at := range theirs.TCPAt {
		if !filter.Allow(at) {
			continue
		}
		if err = a.dialTCPAt(ctx, theirs, at); err == nil {
			return nil
		}
	}
	return err
}

func (a *attempt) dialTCPAt(ctx context.Context, theirs introduce.Offer, at netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("connect to %v: %w", at, err)
	}
	them := probe.Credentials{Ufrag: theirs.ICE.Ufrag, Pwd: theirs.ICE.Pwd}
	question, id, err := probe.Ask(them, a.ours.ICE.Ufrag)
	if err != nil {
		conn.Close()
		return err
	}
	result := make(chan error, 1)
	framed := nat.NewFramed(conn, nat.FrameConfig{HandleSTUN: func(b []byte, f *nat.Framed) {
		if got, err := probe.Answered(b, them); err != nil || got != id {
			return
		}
		// Here and now: the next frame may be a packet for the session.
		err := a.w.useCarrier(tcpRoute(conn.RemoteAddr(), f), func(peer *nat.Peer) error {
			return peer.TakeFramed(f, nat.KindDirect)
		})
		select {
		case result <- err:
		default:
		}
	}})
	// Not yet a path: the connection could lead to anybody.
	scout := a.j.cfg.Socket.NewPeer()
	defer scout.Close()
	if err := scout.UseFramed(framed, nat.KindDirect); err != nil {
		return err
	}
	if err := framed.WritePacket(question); err != nil {
		return fmt.Errorf("ask who is at %v: %w", at, err)
	}
	select {
	case err = <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("ask who is at %v: %w", at, ctx.Err())
	}
}

// Asked takes the question of an accepted connection: who proves to know an
// exchange of ours gets the answer, and its packets come and go by f from now
// on.
func (j *Joiner) Asked(b []byte, f *nat.Framed) {
	ufrag, err := probe.Asked(b)
	if err != nil {
		return
	}
	j.relays.mu.Lock()
	end := j.relays.ends[ufrag]
	j.relays.mu.Unlock()
	if end == nil {
		return
	}
	answer, err := probe.Answer(b, end.ours)
	if err != nil || f.WritePacket(answer) != nil {
		return
	}
	err = end.w.useCarrier(tcpRoute(f.RemoteAddr(), f), func(peer *nat.Peer) error {
		return peer.TakeFramed(f, nat.KindDirect)
	})
	if err != nil {
		j.cfg.Logger.Debug("tcp connection of a peer not needed", "peer", end.w.to.Short(), "err", err)
	}
}
