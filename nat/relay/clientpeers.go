package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
)

const firstChannel = 0x4000

// channel is a short form of one peer's address (RFC 8656 §12): 4 bytes of
// overhead a packet in place of 36.
type channel struct {
	peer   netip.AddrPort
	number uint16
	bound  atomic.Bool
	asked  time.Time // guarded by peerMu
}

// Permit lets a peer's address, all its ports, send to the relayed address and
// be written to. It is kept until Close. One round trip; none if already known.
func (a *Allocation) Permit(ctx context.Context, peer netip.Addr) error {
	peer = peer.Unmap()
	a.peerMu.RLock()
	_, known := a.permits[peer]
	full := len(a.permits) >= MaxPeers
	a.peerMu.RUnlock()
	switch {
	case known:
		return nil
	case familyOf(peer) != a.opts.Family: // RFC 8656 §10.1: a socket has one
		return fmt.Errorf("permit %v: %w: this allocation is %v", peer, ErrPeerRefused, a.opts.Family)
	case full:
		return fmt.Errorf("permit %v: %w", peer, ErrTooMany)
	}
	return a.permit(ctx, peer)
}

func (a *Allocation) permit(ctx context.Context, peer netip.Addr) error {
	asked := time.Now()
	_, err := a.request(ctx, typeCreatePermission, peerSetter(netip.AddrPortFrom(peer, 0)))
	if err != nil {
		return fmt.Errorf("permit %v: %w", peer, err)
	}
	a.peerMu.Lock()
	defer a.peerMu.Unlock()
	a.permits[peer] = asked
	return nil
}

// WriteTo sends one packet to a permitted peer, without waiting. Like any
// datagram it may be lost, also because of the relay's limits.
func (a *Allocation) WriteTo(b []byte, to netip.AddrPort) error {
	switch {
	case len(b) > MaxPayload:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxPayload)
	case !a.open.Load():
		return a.closedError()
	}
	to = unmap(to)
	a.peerMu.RLock()
	_, permitted := a.permits[to.Addr()]
	ch := a.channels[to]
	a.peerMu.RUnlock()
	switch {
	case !permitted:
		return fmt.Errorf("write to %v: %w", to, ErrNotPermitted)
	case ch != nil && ch.bound.Load():
		return a.writeChannel(b, ch.number)
	case ch == nil:
		a.wantChannel(to)
	}
	return a.writeIndication(b, to)
}

func (a *Allocation) closedError() error {
	if err := a.Err(); err != nil {
		return fmt.Errorf("write to relay: %w", err)
	}
	return fmt.Errorf("write to relay: %w", context.Canceled)
}

func (a *Allocation) writeChannel(b []byte, number uint16) error {
	a.wmu.Lock()
	defer a.wmu.Unlock()
	binary.BigEndian.PutUint16(a.scratch[:], number)
	binary.BigEndian.PutUint16(a.scratch[2:], uint16(len(b)))
	n := channelHeader + copy(a.scratch[channelHeader:], b)
	if a.conn.reliable() { // padding belongs to streams only
		for n%4 != 0 {
			a.scratch[n] = 0
			n++
		}
	}
	return a.sendData(a.scratch[:n])
}

// sendData never waits; wmu is held.
func (a *Allocation) sendData(b []byte) error {
	if l, ok := a.conn.(tcpLink); ok {
		l.offer(b)
		return nil
	}
	if err := a.conn.write(b); err != nil {
		return fmt.Errorf("write to relay: %w", err)
	}
	return nil
}

func (a *Allocation) writeIndication(b []byte, to netip.AddrPort) error {
	msg, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication),
		peerSetter(to), stun.RawAttribute{Type: stun.AttrData, Value: b})
	if err != nil {
		return fmt.Errorf("build send indication: %w", err)
	}
	a.wmu.Lock()
	defer a.wmu.Unlock()
	return a.sendData(msg.Raw)
}

// wantChannel gives a peer a number and asks the keeper to bind it. Beyond
// MaxPeers, packets go on as indications.
func (a *Allocation) wantChannel(to netip.AddrPort) {
	a.peerMu.Lock()
	defer a.peerMu.Unlock()
	if a.channels[to] != nil || len(a.channels) >= MaxPeers {
		return
	}
	i := len(a.channels)
	ch := &channel{peer: to, number: firstChannel + uint16(i), asked: time.Now()}
	a.channels[to], a.byNumber[i] = ch, ch
	a.wanted <- ch // never blocks: room for MaxPeers, each sent once
}

func (a *Allocation) channelByNumber(number uint16) *channel {
	i := int(number) - firstChannel
	if i < 0 || i >= MaxPeers {
		return nil
	}
	a.peerMu.RLock()
	defer a.peerMu.RUnlock()
	return a.byNumber[i]
}

func (a *Allocation) bind(ctx context.Context, ch *channel) error {
	_, err := a.request(ctx, typeChannelBind, peerSetter(ch.peer),
		stun.RawAttribute{Type: stun.AttrChannelNumber, Value: []byte{byte(ch.number >> 8), byte(ch.number), 0, 0}})
	ch.bound.Store(err == nil)
	if err != nil && a.ctx.Err() == nil {
		a.log.Debug("relay channel not bound", "peer", ch.peer, "err", err)
	}
	return err
}

// renewPeers renews what is due. A permission the relay refuses now is gone:
// WriteTo then says so.
func (a *Allocation) renewPeers() {
	now := time.Now()
	var permits []netip.Addr
	var channels []*channel
	a.peerMu.Lock()
	for p, at := range a.permits {
		if now.Sub(at) >= permissionRenewal-a.opts.KeepAlive {
			permits = append(permits, p)
		}
	}
	for _, ch := range a.channels {
		due := permissionRenewal - a.opts.KeepAlive
		if !ch.bound.Load() {
			due = channelRetry
		}
		if now.Sub(ch.asked) >= due {
			ch.asked = now
			channels = append(channels, ch)
		}
	}
	a.peerMu.Unlock()
	for _, p := range permits {
		switch err := a.permit(a.ctx, p); {
		case errors.Is(err, ErrLost):
			return // the next refresh finds out
		case err != nil && a.ctx.Err() == nil:
			a.log.Debug("relay permission not renewed", "peer", p, "err", err)
			a.peerMu.Lock()
			delete(a.permits, p)
			a.peerMu.Unlock()
		}
	}
	for _, ch := range channels {
		if errors.Is(a.bind(a.ctx, ch), ErrLost) {
			return
		}
	}
}
