package reach

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/dialback"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/sealed"
	"porchlight/nat"
)

// knocking is a party that knocks for others and can be knocked at.
type knocking struct {
	*party
	client *dialback.Client
}

// newKnocking is a party at a loopback address of its own, so that addresses
// tell parties apart. Packets that nothing binds come from 127.0.0.1.
func newKnocking(t *testing.T, seed byte, host string, tcp bool) *knocking {
	t.Helper()
	var p *party
	var listener net.Listener
	for range 20 { // until a port is free for UDP and TCP
		p = newPartyAt(t, seed, host+":0")
		var err error
		if listener, err = net.Listen("tcp", p.link.At[0].String()); err == nil {
			break
		}
		p.close()
	}
	if listener == nil {
		t.Fatal("no port is free for UDP and TCP")
	}
	k := &knocking{p, dialback.NewClient(p.Overlay, dialback.OverMux(p.mux))}
	server := dialback.NewServer(dialback.Config{
		Sessions: p.Overlay, Observed: dialback.Observed(p.Overlay), Register: dialback.OverMux(p.mux),
		Willing: func() bool { return true }, NoUDP: func() bool { return false },
		Loopback: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err := p.Serve(dialback.Service, server); err != nil {
		t.Fatal(err)
	}
	if !tcp {
		listener.Close()
		return k
	}
	accepting := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-accepting })
	go func() {
		defer close(accepting)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			p.socket.AcceptFramed(conn, nat.KindDirect, nat.FrameConfig{HandleSTUN: func(b []byte, f *nat.Framed) {
				if answer := k.client.HandleFramed(b, from); answer != nil {
					f.WritePacket(answer)
				}
			}})
		}
	}()
	return k
}

func (k *knocking) keeper(t *testing.T, links ...identity.Link) *Keeper {
	t.Helper()
	keeper := New(Config{
		Device: k.device, Overlay: k.Overlay, Mux: k.mux, Client: introduce.NewClient(k.device, k.Overlay),
		Knocks: k.client, Links: func() []identity.Link { return links }, Listen: k.link.At[0],
		Policy: Auto, Loopback: true, Logger: slog.New(slog.DiscardHandler),
	})
	keeper.Use(k.places, sealed.NewNonce)
	t.Cleanup(func() { keeper.Close() })
	return keeper
}

func TestAStrangersKnockShowsThatADeviceIsPublic(t *testing.T) {
	t.Parallel()
	helper := newKnocking(t, 2, "127.0.0.3", false)
	stranger := newKnocking(t, 3, "127.0.0.4", false)
	other := stranger.keeper(t, helper.link)
	other.Start()
	<-other.Ready()
	for name, tcp := range map[string]bool{"by UDP and TCP": true, "by UDP alone": false} {
		t.Run(name, func(t *testing.T) {
			seed, host := byte(5), "127.0.0.5"
			if tcp {
				seed, host = 6, "127.0.0.6"
			}
			a := newKnocking(t, seed, host, tcp)
			k := a.keeper(t, helper.link)
			began := time.Now()
			k.Start()
			poll(t, "verdict", func() bool { s := k.State(); return s.Verdict == api.Public && s.UDP && s.TCP == tcp }, func() {})
			took := time.Since(began)
			if s := k.State(); !s.UDP || s.TCP != tcp || !s.Reachable || !s.Open {
				t.Errorf("%+v", s)
			}
			for _, d := range k.Netcheck().Doors {
				if d.Reachable && d.Proof != api.Stranger {
					t.Errorf("%+v", d)
				}
			}
			if at := k.Link().At; len(at) != 1 || at[0] != a.link.At[0] {
				t.Errorf("link to %v", at)
			}
			t.Logf("%s after %v", k.State().Verdict, took)
			if took > 2*time.Second {
				t.Errorf("ready after %v", took)
			}
		})
	}
}

func TestAHelpersOwnKnockProvesTooLittle(t *testing.T) {
	t.Parallel()
	helper := newKnocking(t, 2, "127.0.0.7", false)
	a := newKnocking(t, 1, "127.0.0.8", true)
	k := a.keeper(t, helper.link)
	// The helper knocks from 127.0.0.1: as if that were its address.
	k.met.note(netip.MustParseAddr("127.0.0.1"), time.Now())
	k.Start()
	poll(t, "verdict", func() bool { return k.State().Verdict != api.Checking }, func() {})
	for _, d := range k.Netcheck().Doors {
		if d.Proof != api.SameAddress || d.Reachable {
			t.Errorf("%+v", d)
		}
	}
	if s := k.State(); s.Reachable || s.Verdict != api.NATEasy {
		t.Errorf("%+v", s)
	}
}
