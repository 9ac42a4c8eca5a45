package overlay

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/quic-go/quic-go"

	"porchlight/agent/identity"
	"porchlight/nat"
)

func TestATokenIsKeptForOneUse(t *testing.T) {
	var all tokens
	device := identity.FromSeed(bytes.Repeat([]byte{1}, 32)).Address()
	other := identity.FromSeed(bytes.Repeat([]byte{2}, 32)).Address()
	first, second := &quic.ClientToken{}, &quic.ClientToken{}
	all.of(device).Put("", first)
	all.of(device).Put("", second)
	if all.of(other).Pop("") != nil {
		t.Error("another device's token")
	}
	if got := all.of(device).Pop(""); got != second {
		t.Error("not the latest token")
	}
	if all.of(device).Pop("") != nil {
		t.Error("a token twice")
	}
	for i := range 2 * maxTokens {
		key := bytes.Repeat([]byte{9}, 32)
		key[0], key[1] = byte(i), byte(i>>8)
		all.of(identity.NewAddress(key, identity.KindDevice)).Put("", first)
	}
	if len(all.kept) != maxTokens {
		t.Errorf("%d tokens kept, want %d", len(all.kept), maxTokens)
	}
}

func TestOnlyAProvenPathNeedsNoRetry(t *testing.T) {
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	o := New(Config{Socket: socket})
	at := netip.MustParseAddrPort("203.0.113.1:1")
	if !o.unproven(net.UDPAddrFromAddrPort(at)) {
		t.Error("a stranger has proved nothing")
	}
	peer := socket.NewPeer()
	for _, tt := range []struct {
		path nat.Path
		want bool
	}{
		{nat.Path{}, true},
		{nat.Path{Kind: nat.KindDirect, Addr: at}, true},
		{nat.Path{Kind: nat.KindDirect, Addr: at, Proven: true}, false},
		{nat.Path{Kind: nat.KindRelay, Carrier: nowhere{}}, false},
	} {
		if err := peer.SetPath(tt.path); err != nil {
			t.Fatal(err)
		}
		if got := o.unproven(peer.Addr()); got != tt.want {
			t.Errorf("%+v: unproven %t, want %t", tt.path, got, tt.want)
		}
	}
}

type nowhere struct{}

func (nowhere) WritePacket([]byte) error { return nil }
