package dht

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startNode runs a node on loopback.
func startNode(t testing.TB, listen string, readOnly bool, seeds ...netip.AddrPort) *Node {
	t.Helper()
	n := New(Config{ListenAddr: listen, ReadOnly: func() bool { return readOnly },
		Bootstrap: func() []netip.AddrPort { return seeds }})
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// at returns where a node on loopback is reached.
func at(n *Node) netip.AddrPort {
	a := n.LocalAddr().(*net.UDPAddr).AddrPort()
	if a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port())
	}
	return canonical(a)
}

// eventually polls a condition of the world outside.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(15 * time.Second); time.Now().Before(limit); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatal("not in time: ", what)
}

func TestNodesFindEachOtherOnLoopback(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(listen, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			first := startNode(t, listen, false)
			second := startNode(t, listen, false, at(first))
			reader := startNode(t, listen, true, at(first))
			eventually(t, "the first node knows the second", func() bool { return len(first.Nodes()) == 1 })
			p := newPerson(1)
			if stored, err := reader.Put(ctx, p.item(7, "on loopback")); stored != 2 || err != nil {
				t.Fatal(stored, err)
			}
			got, err := second.Get(ctx, p.public(), p.salt, 7, nil)
			if err != nil || string(got.Value) != "on loopback" {
				t.Fatal(got, err)
			}
			if stored, err := second.PutCas(ctx, p.item(9, "next"), 6); stored != 0 || !isConflict(err, 7, 301) {
				t.Error(stored, err)
			}
			if stored, err := second.PutCas(ctx, p.item(9, "next"), 7); stored != 2 || err != nil {
				t.Error(stored, err)
			}
			if n, err := reader.Announce(ctx, ID{5}, 1234); n != 2 || err != nil {
				t.Error(n, err)
			}
			all, err := second.Peers(ctx, ID{5})
			if len(all) != 1 || err != nil || all[0].Port() != 1234 {
				t.Error(all, err)
			}
			if n, err := second.PutImmutable(ctx, []byte("stone")); n != 2 || err != nil {
				t.Error(n, err)
			}
			if v, err := reader.GetImmutable(ctx, ImmutableTarget([]byte("stone"))); string(v) != "stone" || err != nil {
				t.Error(v, err)
			}
			if s := reader.Stats(); !s.ReadOnly || s.Items != 0 || s.Replies != 0 || s.Nodes+s.Nodes6 != 2 {
				t.Errorf("%+v", s)
			}
			if s := first.Stats(); s.Nodes+s.Nodes6 != 1 || s.Items != 2 || s.Peers != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func isConflict(err error, seq int64, code int) bool {
	var c *ConflictError
	return errors.As(err, &c) && c.Seq == seq && c.Code == code
}

func TestClosingEndsWhatRuns(t *testing.T) {
	// A socket that never answers.
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	n := startNode(t, "127.0.0.1:0", true, mute.LocalAddr().(*net.UDPAddr).AddrPort())
	p := newPerson(1)

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Get(ctx, p.public(), nil, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := n.Get(context.Background(), p.public(), nil, 0, nil); !errors.Is(err, ErrNoNodes) {
		t.Error(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := n.Put(context.Background(), p.item(1, "x"))
		failed <- err
	}()
	eventually(t, "the operation runs", func() bool { return n.Stats().Lookups > 0 })
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	n.Add(netip.MustParseAddrPort("127.0.0.1:1"))
	n.Moved()
	if err := n.Start(context.Background()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := n.Peers(context.Background(), ID{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// wrapped hides that a socket is one of UDP.
type wrapped struct{ net.PacketConn }

func TestAnyPacketConnWillDo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	first := startNode(t, "127.0.0.1:0", false)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := New(Config{Conn: wrapped{conn}})
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.Add(at(first))
	p := newPerson(1)
	if stored, err := n.Put(ctx, p.item(1, "x")); stored != 2 || err != nil {
		t.Error(stored, err)
	}
}

func TestTooManyLookupsAreRefused(t *testing.T) {
	w := newWorld(t, 1)
	h := w.add(privateAddr(1), true, privateAddr(2))
	ended, busy := 0, 0
	for range MaxLookups + 2 {
		h.core.Peers(w.now, ID{1}, func(_ []netip.AddrPort, err error) {
			ended++
			if errors.Is(err, ErrBusy) {
				busy++
			}
		})
	}
	w.arm(h)
	w.run(time.Minute)
	// One place was taken by the node's own look-up, if it runs.
	if ended != MaxLookups+2 || busy < 2 || busy > 3 {
		t.Errorf("%d ended, %d were refused", ended, busy)
	}
}
