package dht

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"porchlight/agent/dht/bencode"
)

// desk is one serving core that is asked by hand.
type desk struct {
	t    *testing.T
	now  time.Time
	core *Core
	out  map[netip.AddrPort][][]byte
}

func newDesk(t *testing.T, readOnly bool) *desk {
	d := &desk{t: t, now: time.Unix(0, 0), out: map[netip.AddrPort][][]byte{}}
	rng := rand.New(rand.NewPCG(1, 2))
	d.core = NewCore(CoreConfig{Start: d.now, Random: rng.Uint64, ReadOnly: func() bool { return readOnly },
		Send: func(to netip.AddrPort, b []byte) error {
			d.out[to] = append(d.out[to], bytes.Clone(b))
			return nil
		}})
	return d
}

// ask sends a query and returns the answer, nil if there is none.
func (d *desk) ask(from netip.AddrPort, q message) *message {
	d.t.Helper()
	q.kind, q.tid = 'q', []byte("q!")
	if q.id == (ID{}) {
		q.id = ID{0xff, byte(from.Port())}
	}
	return d.raw(from, q.append(nil))
}

func (d *desk) raw(from netip.AddrPort, b []byte) *message {
	d.t.Helper()
	delete(d.out, from)
	d.core.Receive(d.now, from, b)
	for _, sent := range d.out[from] {
		m, err := parseMessage(sent)
		if err != nil {
			d.t.Fatalf("we sent %q: %v", sent, err)
		}
		if m.kind != 'q' {
			return &m
		}
	}
	return nil
}

// token asks for the token of an address.
func (d *desk) token(from netip.AddrPort) []byte {
	d.t.Helper()
	m := d.ask(from, message{query: "get", hasTarget: true})
	if m == nil || len(m.token) != tokenSize {
		d.t.Fatal("no token")
	}
	return m.token
}

// wait lets time pass, so that rates don't interfere.
func (d *desk) wait(t time.Duration) { d.now = d.now.Add(t) }

func code(m *message) int {
	switch {
	case m == nil:
		return -1
	case m.kind == 'e':
		return m.code
	}
	return 0
}

func putOf(it Item, token []byte) message {
	return message{query: "put", token: token, key: it.Key[:], sig: it.Signature[:], salt: it.Salt, seq: it.Seq, hasSeq: true,
		v: bencode.AppendBytes(nil, it.Value)}
}

func TestPutsAreCheckedAtTheLimits(t *testing.T) {
	from := netip.MustParseAddrPort("44.1.2.3:4000")
	p := newPerson(1)
	raw := func(seq int64, salt string, v string) message {
		key := p.public()
		m := message{query: "put", key: key[:], seq: seq, hasSeq: true, v: []byte(v)}
		if salt != "" {
			m.salt = []byte(salt)
		}
		m.sig = ed25519.Sign(p.key, signingBytes(m.salt, seq, m.v))
		return m
	}
	text := func(n int) string { return string(bencode.AppendString(nil, strings.Repeat("x", n))) }
	for _, c := range []struct {
		name string
		m    message
		edit func(*message)
		want int
	}{
		{"value of 999", raw(1, "a", text(995)), nil, 0},
		{"value of 1000", raw(1, "b", text(996)), nil, 0},
		{"value of 1001", raw(1, "c", text(997)), nil, 205},
		{"salt of 63", raw(1, strings.Repeat("s", 63), "i1e"), nil, 0},
		{"salt of 64", raw(1, strings.Repeat("s", 64), "i1e"), nil, 0},
		{"salt of 65", raw(1, strings.Repeat("s", 65), "i1e"), nil, 207},
		{"no salt", raw(1, "", "i1e"), nil, 0},
		{"wrong signature", raw(1, "d", "i1e"), func(m *message) { m.sig[0] ^= 1 }, 206},
		{"signature without salt", raw(1, "", "i1e"), func(m *message) { m.salt = []byte("e") }, 206},
		{"short key", raw(1, "f", "i1e"), func(m *message) { m.key = m.key[:31] }, 203},
		{"long signature", raw(1, "f", "i1e"), func(m *message) { m.sig = append(m.sig, 0) }, 203},
		{"no seq", raw(0, "f", "i1e"), func(m *message) { m.hasSeq = false }, 203},
		{"negative seq", raw(-1, "f", "i1e"), nil, 203},
		{"no value", raw(1, "f", ""), func(m *message) { m.v = nil }, 203},
		{"first", raw(10, "g", "i1e"), nil, 0},
		{"the same again", raw(10, "g", "i1e"), nil, 0},
		{"same seq, other value", raw(10, "g", "i2e"), nil, 302},
		{"lower seq", raw(9, "g", "i2e"), nil, 302},
		{"higher seq, wrong cas", raw(12, "g", "i2e"), func(m *message) { m.cas, m.hasCas = 9, true }, 301},
		{"higher seq, right cas", raw(12, "g", "i2e"), func(m *message) { m.cas, m.hasCas = 10, true }, 0},
		{"unsorted value", raw(1, "h", "d1:b0:1:a0:e"), nil, 0},
		{"immutable", message{query: "put", v: []byte("5:stone")}, nil, 0},
		{"announce", message{query: "announce_peer", hasInfoHash: true, port: 9}, nil, 0},
		{"announce of no port", message{query: "announce_peer", hasInfoHash: true}, nil, 203},
		{"announce of no hash", message{query: "announce_peer", port: 9}, nil, 203},
		{"announce of the source", message{query: "announce_peer", hasInfoHash: true, impliedPort: true}, nil, 0},
		{"ping", message{query: "ping"}, nil, 0},
		{"no target", message{query: "get"}, nil, 203},
		{"no hash", message{query: "get_peers"}, nil, 203},
		{"unknown", message{query: "vote"}, nil, 204},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := desks(t)
			c.m.token = d.token(from)
			if c.edit != nil {
				c.edit(&c.m)
			}
			if got := code(d.ask(from, c.m)); got != c.want {
				t.Fatalf("answered %d, want %d", got, c.want)
			}
			if c.want != 0 || c.m.query != "put" {
				return
			}
			it, _ := readPut(&c.m)
			m := d.ask(from, message{query: "get", hasTarget: true, target: it.target()})
			if !bytes.Equal(m.v, c.m.v) || !bytes.Equal(m.sig, c.m.sig) || !bytes.Equal(m.key, c.m.key) || m.seq != c.m.seq {
				t.Errorf("returned %q", m.v)
			}
		})
	}
}

// desks returns a desk that has the item which some rows of the table assume.
func desks(t *testing.T) *desk {
	d := newDesk(t, false)
	from := netip.MustParseAddrPort("44.9.9.9:4000")
	p := newPerson(1)
	it := Item{Key: p.public(), Salt: []byte("g"), Seq: 10}
	m := putOf(it, d.token(from))
	m.v = []byte("i1e")
	m.sig = ed25519.Sign(p.key, signingBytes(it.Salt, it.Seq, m.v))
	if code(d.ask(from, m)) != 0 {
		t.Fatal("not stored")
	}
	return d
}

func TestTokensBelongToAnAddressAndATime(t *testing.T) {
	a, b := netip.MustParseAddrPort("44.1.2.3:4000"), netip.MustParseAddrPort("44.1.2.4:4000")
	for _, c := range []struct {
		name string
		age  time.Duration
		from netip.AddrPort
		edit func([]byte) []byte
		want int
	}{
		{"at once", 0, a, nil, 0},
		{"other port", 0, netip.AddrPortFrom(a.Addr(), 1), nil, 0},
		{"after nine minutes", 9 * time.Minute, a, nil, 0},
		{"after eleven minutes", 11 * time.Minute, a, nil, 203},
		{"from another address", 0, b, nil, 203},
		{"changed", 0, a, func(b []byte) []byte { b[0] ^= 1; return b }, 203},
		{"empty", 0, a, func([]byte) []byte { return []byte{} }, 203},
		{"none", 0, a, func([]byte) []byte { return nil }, 203},
		{"too long for any", 0, a, func([]byte) []byte { return make([]byte, MaxToken+1) }, 203},
	} {
		d := newDesk(t, false)
		d.wait(4 * time.Minute)
		token := d.token(a)
		if c.edit != nil {
			token = c.edit(token)
		}
		for range int(c.age / time.Minute) {
			d.wait(time.Minute)
			d.token(b)
		}
		m := message{query: "put", v: []byte("1:x"), token: token}
		if got := code(d.ask(c.from, m)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestAReadOnlyNodeIsSilent(t *testing.T) {
	d := newDesk(t, true)
	for _, q := range []string{"ping", "find_node", "get", "get_peers", "put", "vote"} {
		if m := d.ask(netip.MustParseAddrPort("44.1.2.3:4000"), message{query: q, hasTarget: true, hasInfoHash: true}); m != nil {
			t.Errorf("%s is answered", q)
		}
	}
	if n := len(d.out); n != 0 {
		t.Error("sent to", n)
	}
}

func TestMalformedQueriesGetNothingOrAnError(t *testing.T) {
	from := netip.MustParseAddrPort("44.1.2.3:4000")
	for in, want := range map[string]int{
		"": -1, "x": -1, "de": -1, "le": -1, "i1e": -1,
		"d1:y1:qe": -1, "d1:t2:aa1:y1:qe": -1, "d1:t0:1:q4:ping1:y1:qe": -1,
		"d1:t2:aa1:q4:ping1:y1:ze": -1, "d1:t2:aa1:y1:r1:rdee": -1, "d1:t2:aa1:y1:ee": -1,
		"d1:q4:ping1:t2:aa1:y1:qe":                                                   203,
		"d1:ade1:q4:ping1:t2:aa1:y1:qe":                                              203,
		"d1:ad2:id19:aaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe":                    203,
		"d1:ad2:idi1ee1:q4:ping1:t2:aa1:y1:qe":                                       203,
		"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe":                   0,
		"d1:y1:q1:t2:aa1:q4:ping1:ad2:id20:aaaaaaaaaaaaaaaaaaaaee":                   0,
		"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa6:target3:abce1:q9:find_node1:t2:aa1:y1:qe": 203,
		"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa3:seq1:xe1:q3:get1:t2:aa1:y1:qe":            203,
	} {
		d := newDesk(t, false)
		if got := code(d.raw(from, []byte(in))); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
	for _, n := range []int{MaxTransaction, MaxTransaction + 1} {
		d := newDesk(t, false)
		q := message{kind: 'q', tid: make([]byte, n), query: "ping"}
		if m := d.raw(from, q.append(nil)); (m != nil) != (n <= MaxTransaction) {
			t.Errorf("transaction of %d bytes: %v", n, m)
		}
	}
}

// TestOneAddressCanNotFillTheStore floods with puts from one address, from one
// network, and from everywhere.
func TestOneAddressCanNotFillTheStore(t *testing.T) {
	flood := func(d *desk, n int, addr func(i int) netip.AddrPort, v func(i int) []byte) (stored int) {
		for i := range n {
			d.wait(time.Second)
			from := addr(i)
			if code(d.ask(from, message{query: "put", token: d.token(from), v: v(i)})) == 0 {
				stored++
			}
		}
		return stored
	}
	short := func(i int) []byte { return binary.BigEndian.AppendUint32([]byte("4:"), uint32(i)) }
	long := func(i int) []byte { return append(append([]byte("996:"), make([]byte, 992)...), short(i)[2:]...) }

	d := newDesk(t, false)
	if n := flood(d, 100, func(int) netip.AddrPort { return netip.MustParseAddrPort("44.1.2.3:4000") }, short); n != MaxItemsPerIP {
		t.Error("one address stored", n)
	}
	d = newDesk(t, false)
	if n := flood(d, 300, func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, 2, byte(i)}), 4000)
	}, short); n != MaxItemsPerNetwork {
		t.Error("one network stored", n)
	}
	everywhere := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, byte(i / 200), byte(i % 200), 1}), 4000)
	}
	for name, v := range map[string]func(int) []byte{"short": short, "long": long} {
		d = newDesk(t, false)
		flood(d, 1500, everywhere, v)
		s := &d.core.store
		if len(s.items) > MaxItems || s.bytes > MaxItemBytes {
			t.Errorf("%s: %d items, %d bytes", name, len(s.items), s.bytes)
		}
		sum := 0
		for _, it := range s.items {
			sum += it.size()
		}
		if sum != s.bytes || name == "short" && len(s.items) != MaxItems {
			t.Errorf("%s: %d items of %d bytes, counted %d", name, len(s.items), sum, s.bytes)
		}
	}
	// What is nearest to us is what is left.
	far := d.core.store.farthest(d.core.home())
	var v []byte
	for i := 1; ; i++ {
		v = long(1 << 20 * i)
		if m := (message{v: v}); d.core.home().nearer((&stored{v: m.v}).target(), far) {
			break
		}
	}
	from := netip.MustParseAddrPort("45.1.1.1:4000")
	d.wait(time.Minute)
	if c := code(d.ask(from, message{query: "put", token: d.token(from), v: v})); c != 0 {
		t.Error("a nearer item is refused:", c)
	}
	if d.core.store.items[far] != nil {
		t.Error("the farthest item is still there")
	}
}

func TestAnnouncesAreBounded(t *testing.T) {
	var p peers
	one := netip.MustParseAddr("44.1.2.3")
	taken := 0
	for i := range 100 {
		if p.announce(ID{byte(i)}, netip.AddrPortFrom(one, 1), 0) == nil {
			taken++
		}
	}
	if taken != MaxPeersPerIP {
		t.Error("one address announced", taken)
	}
	p = peers{}
	for i := range 3 * MaxPeersPerHash {
		_ = p.announce(ID{1}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, byte(i >> 8), byte(i)}), 1), 0)
	}
	if len(p.all) != MaxPeersPerHash {
		t.Error("one hash has", len(p.all))
	}
	if got := p.get(ID{1}, 0, 1, 0); len(got) != 1 || got[0].Addr() != netip.MustParseAddr("44.1.0.191") {
		t.Error("the latest is not first:", got)
	}
	p = peers{}
	for i := range MaxPeersKept + 100 {
		var id ID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		_ = p.announce(id, netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 1, byte(i >> 8), byte(i)}), 1), 0)
	}
	if len(p.all) != MaxPeersKept {
		t.Error("in all", len(p.all))
	}
}

func TestRatesHold(t *testing.T) {
	for _, c := range []struct {
		name string
		addr func(i int) netip.Addr
		rate int
	}{
		{"one address", func(int) netip.Addr { return netip.MustParseAddr("44.1.2.3") }, answersPerIP},
		{"one /24", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{44, 1, 2, byte(i)}) }, answersPerNetwork},
		{"one /56", func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x3f, 0xff, 7: 9, 8: byte(i), 9: byte(i >> 8), 15: 1})
		}, answersPerNetwork},
		{"everywhere", func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{44, byte(i >> 16), byte(i >> 8), byte(i)})
		}, answersAll},
	} {
		l := limiter{seed: 99}
		const seconds, size = 20, 500
		var now time.Duration
		got, n := 0, 0
		for now = 0; now < seconds*time.Second; now += time.Millisecond {
			for range 2 {
				if l.answer(now+1, c.addr(n*7919), size) {
					got += size
				}
				n++
			}
		}
		limit := c.rate * (seconds + answerBurst)
		if got > limit || got < limit*9/10 {
			t.Errorf("%s: %d bytes in %d s, limit %d", c.name, got, seconds, limit)
		}
	}
}

// TestAnswersFitAndTheirFactorIsKnown measures what an answer has for each byte
// of the query.
func TestAnswersFitAndTheirFactorIsKnown(t *testing.T) {
	d := newDesk(t, false)
	for i := range 40 {
		d.core.table[0].heard(node{near(ID{1}, i), privateAddr(i + 1)}, 1)
		d.core.table[1].heard(node{near(ID{2}, i), netip.MustParseAddrPort("[fd00::1]:4000")}, 1)
		d.core.table[1].heard(node{near(ID{2}, i), netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}), 9)}, 1)
	}
	from := privateAddr(200)
	p := newPerson(1)
	it := p.item(1, strings.Repeat("x", 996))
	if c := code(d.ask(from, putOf(it, d.token(from)))); c != 0 {
		t.Fatal(c)
	}
	for i := range MaxPeersPerHash {
		_ = d.core.peers.announce(ID{5}, privateAddr(i), d.core.now)
	}
	for _, c := range []struct {
		name string
		q    message
		most float64
	}{
		{"ping", message{query: "ping"}, 1.1},
		{"find_node", message{query: "find_node", hasTarget: true}, 3.5},
		{"find_node of both families", message{query: "find_node", hasTarget: true, want4: true, want6: true}, 6},
		{"get_peers", message{query: "get_peers", hasInfoHash: true, infoHash: ID{5}}, 7},
		{"get of the largest item", message{query: "get", hasTarget: true, target: Target(it.Key, it.Salt), want4: true, want6: true}, 14},
		{"unknown", message{query: "vote_for_me"}, 1.1},
	} {
		d.wait(time.Minute)
		c.q.kind, c.q.tid, c.q.id = 'q', []byte("aa"), ID{0xfe}
		b := c.q.append(nil)
		if d.raw(from, b) == nil {
			t.Fatal("no answer")
		}
		n := len(d.out[from][0])
		t.Logf("%s: %d for %d bytes, factor %.1f", c.name, n, len(b), float64(n)/float64(len(b)))
		if n > MaxAnswer || float64(n)/float64(len(b)) > c.most {
			t.Errorf("%s: %d bytes", c.name, n)
		}
	}
}

func TestOutsidersAreNotToldOfOurLAN(t *testing.T) {
	d := newDesk(t, false)
	d.core.table[0].heard(node{ID{1}, privateAddr(1)}, 1)
	d.core.table[0].heard(node{ID{2}, publicAddr(2)}, 1)
	for from, want := range map[netip.AddrPort]int{publicAddr(9): 1, privateAddr(9): 2, netip.MustParseAddrPort("127.0.0.1:9"): 2} {
		m := d.ask(from, message{query: "find_node", hasTarget: true})
		if len(m.nodes) != want*26 {
			t.Errorf("%v is told of %d nodes, want %d", from, len(m.nodes)/26, want)
		}
	}
}
