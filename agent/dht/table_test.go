package dht

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// TestVectorsOfBEP42 are those of the specification: address, r, first bytes.
func TestVectorsOfBEP42(t *testing.T) {
	for _, c := range []struct {
		ip   string
		r    byte
		head uint32
	}{
		{"124.31.75.21", 1, 0x5fbfbf},
		{"21.75.31.124", 86, 0x5a3ce9},
		{"65.23.51.170", 22, 0xa5d432},
		{"84.124.73.14", 65, 0x1b0321},
		{"43.213.53.83", 90, 0xe56f6c},
	} {
		ip := netip.MustParseAddr(c.ip)
		if got := secureBits(ip, c.r&7) >> 8; got != c.head&^7 {
			t.Errorf("%s: %06x, want %06x", c.ip, got, c.head)
		}
		id := ID{19: c.r}
		if id.Secure(ip) || !id.secured(ip).Secure(ip) {
			t.Error(c.ip)
		}
		if !id.Secure(netip.MustParseAddr("192.168.1.1")) || !id.Secure(netip.MustParseAddr("::1")) {
			t.Error("private networks are not exempt")
		}
	}
	v6 := netip.MustParseAddr("3fff::1")
	if id := (ID{1}); id.Secure(v6) || !id.secured(v6).Secure(v6) {
		t.Error("IPv6")
	}
}

func randomNode(rng *rand.Rand, addr netip.AddrPort) node {
	var n node
	for i := 0; i < len(n.id); i += 4 {
		binary.BigEndian.PutUint32(n.id[i:], rng.Uint32())
	}
	n.addr = addr
	return n
}

func TestTheTableKeepsItsBoundsAndSpreads(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	tab := table{self: ID{0x80}}
	for i := range 5000 {
		n := randomNode(rng, privateAddr(i+1))
		if i%50 == 0 {
			n.id = near(tab.self, i+1) // a neighbour
		}
		tab.heard(n, int32(i))
	}
	if len(tab.nodes) != MaxNodes || len(tab.spare) > maxSpare {
		t.Errorf("%d nodes, %d spare", len(tab.nodes), len(tab.spare))
	}
	var counts [161]int
	for i := range tab.nodes {
		counts[tab.self.common(tab.nodes[i].id)]++
	}
	for d := range 4 {
		if counts[d] < 3 || counts[d] > 2*K {
			t.Errorf("%d nodes at distance %d: %v", counts[d], d, counts)
		}
	}
	got := tab.closest(tab.self, K)
	for i := 1; i < len(got); i++ {
		if tab.self.nearer(got[i].id, got[i-1].id) {
			t.Error("not in the order of distance")
		}
	}
	if tab.self.common(got[0].id) < 140 {
		t.Error("the neighbours were lost")
	}
}

func TestOneNetworkCanNotFillTheTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		name string
		addr func(i int) netip.AddrPort
		want int
	}{
		{"one public address", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("44.1.2.3"), uint16(2000+i))
		}, 1},
		{"one public /24", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, 2, byte(i)}), 2000)
		}, 2 * K},
		{"one public /24 among others", func(i int) netip.AddrPort {
			if i < 2*K {
				return publicAddr(i)
			}
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, 2, byte(i)}), 2000)
		}, 2*K + MaxPerNetwork},
		{"loopback", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(2000+i))
		}, 40},
	} {
		tab := table{}
		for i := range 40 {
			n := randomNode(rng, c.addr(i))
			n.id = n.id.secured(n.addr.Addr())
			tab.heard(n, 1)
		}
		if len(tab.nodes) != c.want {
			t.Errorf("%s: %d, want %d", c.name, len(tab.nodes), c.want)
		}
	}
}

func TestWrongIdsGiveWay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	tab := table{}
	wrong := 0
	for i := range 300 {
		tab.heard(randomNode(rng, publicAddr(i)), 1)
	}
	for i := range tab.nodes {
		if tab.nodes[i].wrong {
			wrong++
		}
	}
	if wrong == 0 {
		t.Error("wrong ids are not used even if there are no others")
	}
	for i := range 2000 {
		n := randomNode(rng, publicAddr(300+i))
		n.id = n.id.secured(n.addr.Addr())
		tab.heard(n, 2)
	}
	for i := range tab.nodes {
		if d := tab.self.common(tab.nodes[i].id); tab.nodes[i].wrong && d < 3 {
			t.Error("a wrong id is kept at distance", d)
		}
	}
}

func TestSilentNodesMakeRoom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	tab := table{}
	for i := range K + 3 {
		tab.heard(randomNode(rng, privateAddr(i+1)), 1)
	}
	for range badAfter {
		for i := range K + 3 {
			tab.failed(privateAddr(i + 1))
		}
	}
	// A cut cable does not empty the table.
	if len(tab.nodes) != K {
		t.Error(len(tab.nodes), "nodes are left")
	}
	tab.heard(node{tab.nodes[0].id, tab.nodes[0].addr}, 9)
	if tab.nodes[0].fails != 0 || tab.ranked()[0].addr != tab.nodes[0].addr {
		t.Error("the node that came back is not the best")
	}
}

// TestAnIdleCoreIsSmall counts the memory of a thousand, as a simulation of
// many has them.
func TestAnIdleCoreIsSmall(t *testing.T) {
	const n = 1000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var cores []*Core
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range n {
		c := NewCore(CoreConfig{Random: rng.Uint64, Send: func(netip.AddrPort, []byte) error { return nil },
			ReadOnly: func() bool { return true }, IPv4: true})
		for j := range 70 {
			c.table[0].heard(randomNode(rng, privateAddr(i*70+j)), 1)
		}
		c.care.refresh = time.Hour // nothing is being asked
		c.Tick(time.Time{}.Add(time.Minute))
		cores = append(cores, c)
	}
	each := (heap() - before) / n
	t.Logf("%d bytes a core that knows %d nodes", each, cores[0].known())
	if each > 16<<10 {
		t.Error("more than 16 KiB")
	}
	runtime.KeepAlive(cores)
}

// BenchmarkNetwork runs publishing and look-ups in a network of 500 and prints
// what an operation sends.
func BenchmarkNetwork(b *testing.B) {
	w := newWorld(b, 1)
	village(w, 500, 1, publicAddr)
	before := w.sent
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		p := newPerson(byte(i))
		if _, err := w.store(w.list[i%500], p.item(int64(i), fmt.Sprint(i)), nil); err != nil {
			b.Fatal(err)
		}
		if _, err := w.get(w.list[(i*7+3)%500], p.public(), p.salt, int64(i), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(w.sent-before)/float64(b.N), "packets/op")
}
