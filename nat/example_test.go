package nat_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"porchlight/nat"
)

// One device writes to another whose path is found, lost and found again; what
// it writes to never changes. quic-go's Transport would be the writer.
func Example() {
	ctx := context.Background()
	here, err := nat.Listen(ctx, nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer here.Close()
	there, err := nat.Listen(ctx, nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer there.Close()

	peer := here.NewPeer()
	fmt.Println("constant:", peer.Addr())
	here.WriteTo([]byte("@lost"), peer.Addr())

	direct := netip.MustParseAddrPort(there.LocalAddr().(*net.UDPAddr).String())
	if err := peer.SetPath(nat.Path{Kind: nat.KindDirect, Addr: direct}); err != nil {
		fmt.Println(err)
		return
	}
	here.WriteTo([]byte("@found"), peer.Addr())

	b := make([]byte, nat.MaxPacket)
	n, _, err := there.ReadFrom(b)
	fmt.Println("arrived:", string(b[:n]), err)
	fmt.Println("path:", peer.Path().Kind, "lost for want of one:", peer.Stats().NoPath)
	// Output:
	// constant: [fd5a:c3e1:9b07:e7d4::1]:1
	// arrived: @found <nil>
	// path: direct lost for want of one: 1
}
