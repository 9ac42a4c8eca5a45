package tcppunch_test

import (
	"context"
	"net/netip"

	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/tcppunch"
)

// The asking end: its description goes out with an offer, the other end's comes
// back with the answer.
func Example() {
	_ = func(ctx context.Context, public []netip.AddrPort, ours probe.Credentials, peer *nat.Peer,
		offer func(tcppunch.Local) (theirs tcppunch.Local, them probe.Credentials, err error),
	) error {
		puncher, err := tcppunch.Prepare(ctx, tcppunch.Config{Servers: public})
		if err != nil {
			return err
		}
		defer puncher.Close()
		theirs, them, err := offer(puncher.Local())
		if err != nil {
			return err
		}
		conn, err := puncher.Punch(ctx, theirs, ours, them, true)
		if err != nil {
			return err
		}
		return peer.UseFramed(nat.NewFramed(conn, nat.FrameConfig{}), nat.KindDirect)
	}
}
