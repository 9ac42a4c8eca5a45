package stun

import "net/netip"

// hopConn is a [Conn] that can limit how far a datagram goes.
type hopConn interface {
	WriteSTUNTTL(b []byte, to netip.AddrPort, ttl int) error
}

// SendTTL is [Endpoint.Send] for a message that at most ttl routers pass on: it
// opens the way through our own router, and dies before the other side's,
// which might take an unexpected packet amiss. Over a Conn that cannot limit
// hops it is Send.
func (e *Endpoint) SendTTL(b []byte, to netip.AddrPort, ttl int) error {
	hops, ok := e.mux.conn.(hopConn)
	if !ok {
		return e.Send(b, to)
	}
	to = canonical(to)
	if err := e.admit(b, to); err != nil {
		return err
	}
	return hops.WriteSTUNTTL(b, to, ttl)
}
