package stun

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// hairpinWait is how long a hairpin test listens. The packet goes no further
// than the NAT; the time is for five sendings.
const hairpinWait = 1500 * time.Millisecond

// Hairpin says whether two sockets behind the same NAT reach each other at
// their mapped addresses (RFC 5780 §4.5, RFC 4787 REQ-9), as two homes behind
// one carrier have to. As those do, both send, so that a filter is open; true
// means that a packet has come through either way. Without a NAT it is true.
//
// The NAT is that towards server. Errors: those of open, and of the first
// requests to server ([ErrNoAnswer], [ErrRefused]).
func Hairpin(ctx context.Context, open Opener, server netip.AddrPort) (bool, error) {
	h := hairpin{arrived: make(chan struct{}, 1)}
	h.request, h.id = newRequest()
	for i := range h.ends {
		end, err := h.open(ctx, open, server)
		if err != nil {
			return false, fmt.Errorf("test hairpin: %w", err)
		}
		defer end.close()
		h.ends[i] = end
	}
	return h.meet(ctx)
}

// hairpin is a test under way. Both ends send one request, whose id nobody
// else knows.
type hairpin struct {
	request []byte
	id      TransactionID
	ends    [2]*hairpinEnd
	arrived chan struct{} // holds one
}

type hairpinEnd struct {
	pc     net.PacketConn
	stop   func()
	client *client
	mapped netip.AddrPort
}

func (e *hairpinEnd) close() {
	e.stop()
	_ = e.pc.Close()
}

// open opens one end and asks for its mapped address.
func (h *hairpin) open(ctx context.Context, open Opener, server netip.AddrPort) (*hairpinEnd, error) {
	pc, err := open()
	if err != nil {
		return nil, err
	}
	e := &hairpinEnd{pc: pc, client: newClient(packetSender{pc})}
	e.stop = reading(pc, func(b []byte, from netip.AddrPort) { h.handle(e, b, from) })
	a, _, err := prober{client: e.client}.ask(ctx, server)
	if err != nil {
		e.close()
		return nil, err
	}
	e.mapped = a.mapped
	return e, nil
}

func (h *hairpin) handle(e *hairpinEnd, b []byte, from netip.AddrPort) {
	switch {
	case Check(b) != nil:
	case isResponse(b):
		e.client.deliver(b, from)
	case messageType(b) == bindingRequest && transactionID(b) == h.id:
		select {
		case h.arrived <- struct{}{}:
		default:
		}
	}
}

// meet sends both ways until something arrives.
func (h *hairpin) meet(ctx context.Context) (bool, error) {
	over := time.NewTimer(hairpinWait)
	defer over.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for rto := InitialRTO; ; {
		select {
		case <-again.C:
			for i, e := range h.ends { // a refused write is a lost packet
				_ = e.client.out.WriteSTUN(h.request, h.ends[1-i].mapped)
			}
			again.Reset(rto)
			rto = min(2*rto, MaxRTO)
		case <-h.arrived:
			return true, nil
		case <-over.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
