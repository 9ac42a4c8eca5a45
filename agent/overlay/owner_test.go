package overlay_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat"
)

// proofs remembers what an overlay says was proved.
type proofs struct {
	mu  sync.Mutex
	all []identity.Proof
}

func (p *proofs) put(device, owner identity.Address, version uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, identity.Proof{Device: device, Owner: owner, Version: version})
}

func (p *proofs) list() []identity.Proof {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]identity.Proof(nil), p.all...)
}

// proving returns an end that remembers what was proved to it.
func proving(t *testing.T, seed byte) (*end, *proofs) {
	t.Helper()
	socket, err := nat.Listen(t.Context(), nat.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	p := &proofs{}
	device := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	o := overlay.New(overlay.Config{Device: device, Socket: socket, Proved: p.put, Logger: slog.New(slog.DiscardHandler)})
	e := &end{
		Overlay: o,
		device:  device,
		places:  &places{socket: socket, at: map[identity.Address]netip.AddrPort{}},
		at:      socket.LocalAddr().(*net.UDPAddr).AddrPort(),
	}
	o.Use(e.places)
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	if err := o.Serve("web", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.Close()
		socket.Close()
	})
	return e, p
}

// TestASessionKnowsTheOwner: a has an owner, b has none; whoever calls, each
// learns of the other. The owner comes while both run.
func TestASessionKnowsTheOwner(t *testing.T) {
	for _, calls := range []string{"the owned", "the other"} {
		t.Run(calls+" calls", func(t *testing.T) {
			a, ofB := proving(t, 1)
			b, ofA := proving(t, 2)
			a.places.put(b.Address(), b.at)
			b.places.put(a.Address(), a.at)
			owner := identity.OwnerFromSeed(bytes.Repeat([]byte{9}, 32))
			leaf, err := owner.Certify(a.Address(), 5)
			if err != nil {
				t.Fatal(err)
			}
			second, err := owner.Certificate()
			if err != nil {
				t.Fatal(err)
			}
			if err := a.device.Present(leaf, second); err != nil {
				t.Fatal(err)
			}
			from, to := a, b
			if calls == "the other" {
				from, to = b, a
			}
			if _, err := from.Session(t.Context(), to.Address()); err != nil {
				t.Fatal(err)
			}
			atA, atB := await(t, a, b.Address()), await(t, b, a.Address())
			if got, version := atB.Owner(); got != owner.Address() || version != 5 {
				t.Errorf("b takes a for a device of %s, version %d", got.Short(), version)
			}
			if got, version := atA.Owner(); !got.IsZero() || version != 0 {
				t.Errorf("a takes b for a device of %s, version %d", got.Short(), version)
			}
			want := identity.Proof{Device: a.Address(), Owner: owner.Address(), Version: 5}
			if got := ofA.list(); len(got) != 1 || got[0] != want {
				t.Errorf("b was told %+v", got)
			}
			if got := ofB.list(); len(got) != 0 {
				t.Errorf("a was told %+v", got)
			}
		})
	}
}

// await waits for the session of an end with a device.
func await(t *testing.T, e *end, with identity.Address) *overlay.Session {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * time.Second); ; {
		if s := e.Current(with); s != nil {
			return s
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("there is no session after 5 s")
		}
	}
}

// TestFalseOwnersAreRefused: in the handshake itself, before there is a session.
func TestFalseOwnersAreRefused(t *testing.T) {
	b, _ := proving(t, 2)
	device := identity.FromSeed(bytes.Repeat([]byte{1}, 32))
	own, err := device.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	owner := identity.OwnerFromSeed(bytes.Repeat([]byte{9}, 32))
	leaf, err := owner.Certify(device.Address(), 5)
	if err != nil {
		t.Fatal(err)
	}
	second, err := owner.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string][][]byte{
		"the owner's certificate beside one it did not sign": {own.Certificate[0], second},
		"a leaf without its owner":                           {leaf},
		"one too many":                                       {leaf, second, second},
	} {
		conf := &tls.Config{
			NextProtos:         []string{"porchlight/1"},
			Certificates:       []tls.Certificate{{Certificate: chain, PrivateKey: own.PrivateKey}},
			InsecureSkipVerify: true,
		}
		if err := rawDial(t, b, conf); err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(b.Connected()); n != 0 {
		t.Errorf("%d sessions exist", n)
	}
}
