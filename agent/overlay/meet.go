package overlay

import (
	"context"
	"fmt"
	"net/netip"

	"porchlight/agent/identity"
	"porchlight/nat"
)

// Meet begins a session with whoever answers at an address, and returns who
// that is. It is for addresses of devices that nobody named, as they are found
// in the DHT; who has answered something else of ours there before spares a
// Retry, no more.
func (o *Overlay) Meet(ctx context.Context, at netip.AddrPort) (identity.Address, error) {
	peer := o.cfg.Socket.NewPeer()
	peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: at})
	conn, err := o.transport.Dial(ctx, peer.Addr(), tlsConfig(o.cfg.Device, identity.Address{}), quicConfig())
	if err != nil {
		peer.Close()
		return identity.Address{}, fmt.Errorf("meet %v: %w", at, err)
	}
	proof, err := o.prove(conn)
	if err == nil {
		err = o.cfg.Admit(proof.Device)
	}
	if err == nil && proof.Device == o.Address() {
		err = fmt.Errorf("that is this device itself")
	}
	if err != nil {
		conn.CloseWithError(codeRefused, "not allowed")
		peer.Close()
		return identity.Address{}, fmt.Errorf("meet %v: %w", at, err)
	}
	// From here it is as if the other had called: the finder betters the path.
	s := o.add(conn, proof, o.finder.Adopt(proof.Device, conn.RemoteAddr()), true)
	if s == nil {
		return identity.Address{}, fmt.Errorf("meet %v: already %d sessions", at, MaxSessions)
	}
	o.running.Go(func() { o.serve(s) })
	return proof.Device, nil
}
