package peers

import (
	"context"
	"crypto/ed25519"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/bep44"
	"github.com/anacrolix/dht/v2/exts/getput"
	"github.com/anacrolix/dht/v2/krpc"
	peer_store "github.com/anacrolix/dht/v2/peer-store"
	"github.com/anacrolix/log"
	"github.com/anacrolix/torrent/bencode"

	ours "porchlight/agent/dht"
)

// peerStore stands in for the library's own, which loses the port of a peer.
type peerStore struct {
	mu  sync.Mutex
	all map[peer_store.InfoHash][]krpc.NodeAddr
}

func (s *peerStore) AddPeer(hash peer_store.InfoHash, a krpc.NodeAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[hash] = append(s.all[hash], a)
}

func (s *peerStore) GetPeers(hash peer_store.InfoHash) []krpc.NodeAddr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[hash]
}

// startServer runs a node of theirs on loopback that begins with the given
// addresses.
func startServer(t *testing.T, known ...netip.AddrPort) (*dht.Server, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := dht.NewDefaultServerConfig()
	cfg.Conn = conn
	cfg.NoSecurity = true
	cfg.PeerStore = &peerStore{all: map[peer_store.InfoHash][]krpc.NodeAddr{}}
	cfg.Logger = log.Default.FilterLevel(log.Critical)
	cfg.StartingNodes = func() (addrs []dht.Addr, err error) {
		for _, a := range known {
			addrs = append(addrs, dht.NewAddr(net.UDPAddrFromAddrPort(a)))
		}
		return addrs, nil
	}
	s, err := dht.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// startNode runs a node of ours.
func startNode(t *testing.T, readOnly bool, known ...netip.AddrPort) (*ours.Node, netip.AddrPort) {
	t.Helper()
	n := ours.New(ours.Config{ListenAddr: "127.0.0.1:0", ReadOnly: func() bool { return readOnly },
		Bootstrap: func() []netip.AddrPort { return known }})
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n, n.LocalAddr().(*net.UDPAddr).AddrPort()
}

// eventually polls a condition of the world outside.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(15 * time.Second); time.Now().Before(limit); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatal("not in time: ", what)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var (
	secret = ed25519.NewKeyFromSeed(make([]byte, 32))
	public = [32]byte(secret.Public().(ed25519.PublicKey))
	salt   = []byte("beacon")
)

func item(seq int64, value string) ours.Item {
	it := ours.Item{Key: public, Salt: salt, Seq: seq, Value: []byte(value)}
	it.Signature = [64]byte(ed25519.Sign(secret, ours.SigningBytes(salt, seq, it.Value)))
	return it
}

func TestTheirServerKeepsWhatIsOurs(t *testing.T) {
	ctx := testContext(t)
	_, first := startServer(t)
	second, _ := startServer(t, first)
	if _, err := second.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	node, _ := startNode(t, true, first)
	for _, c := range []struct {
		seq   int64
		value string
	}{{5, "five"}, {6, strings.Repeat("v", 996)}} {
		if stored, err := node.Put(ctx, item(c.seq, c.value)); stored < 1 || err != nil {
			t.Fatal(stored, err)
		}
		got, err := node.Get(ctx, public, salt, c.seq, nil)
		if err != nil || string(got.Value) != c.value || got.Seq != c.seq {
			t.Fatalf("seq %d: %d %q, %v", c.seq, got.Seq, got.Value, err)
		}
	}
	if n, err := node.PutImmutable(ctx, []byte("stone")); n < 1 || err != nil {
		t.Error(n, err)
	}
	if v, err := node.GetImmutable(ctx, ours.ImmutableTarget([]byte("stone"))); string(v) != "stone" || err != nil {
		t.Error(v, err)
	}
	if n, err := node.Announce(ctx, [20]byte{7}, 7777); n < 1 || err != nil {
		t.Error(n, err)
	}
	// Their server notes it some time after it has said so.
	eventually(t, "the announce is found", func() bool {
		all, err := node.Peers(ctx, [20]byte{7})
		return err == nil && len(all) == 1 && all[0].Port() == 7777
	})
}

func TestTheirClientIsServedByUs(t *testing.T) {
	ctx := testContext(t)
	first, addr := startNode(t, false)
	second, _ := startNode(t, false, addr)
	eventually(t, "our nodes know each other", func() bool { return len(first.Nodes()) > 0 })
	server, _ := startServer(t, addr)
	if res := server.Ping(net.UDPAddrFromAddrPort(addr)); res.Err != nil || res.Reply.R == nil {
		t.Fatal("ping:", res.Err)
	}

	target := bep44.MakeMutableTarget(public, salt)
	_, err := getput.Put(ctx, target, server, salt, func(seq int64) bep44.Put {
		put := bep44.Put{V: "theirs", K: &public, Salt: salt, Seq: seq + 3}
		put.Sign(secret)
		return put
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := second.Get(ctx, public, salt, 3, nil)
	if err != nil || string(got.Value) != "theirs" || got.Seq != 3 {
		t.Errorf("%d %q, %v", got.Seq, got.Value, err)
	}

	if stored, err := second.Put(ctx, item(9, "ours")); stored < 2 || err != nil {
		t.Fatal(stored, err)
	}
	res, _, err := getput.Get(ctx, target, server, nil, salt)
	var value string
	if err == nil {
		err = bencode.Unmarshal(res.V, &value)
	}
	if err != nil || value != "ours" || res.Seq != 9 {
		t.Errorf("they read %d %q, %v", res.Seq, value, err)
	}

	if _, err := second.PutImmutable(ctx, []byte("stone")); err != nil {
		t.Fatal(err)
	}
	res, _, err = getput.Get(ctx, ours.ImmutableTarget([]byte("stone")), server, nil, nil)
	if err != nil || string(res.V) != "5:stone" {
		t.Errorf("they read %q, %v", res.V, err)
	}

	if n, err := second.Announce(ctx, [20]byte{8}, 8888); n < 1 || err != nil {
		t.Error(n, err)
	}
	search, err := server.AnnounceTraversal([20]byte{8}, dht.AnnouncePeer(dht.AnnouncePeerOpts{Port: 9999}))
	if err != nil {
		t.Fatal(err)
	}
	defer search.Close()
	found := false
	for values := range search.Peers {
		for _, p := range values.Peers {
			found = found || p.Port == 8888
		}
	}
	if !found {
		t.Error("they don't find who announced to us")
	}
	all, err := first.Peers(ctx, [20]byte{8})
	if err != nil || len(all) != 2 {
		t.Error("after their announce we know", all, err)
	}
}
