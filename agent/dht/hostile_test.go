package dht

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"porchlight/agent/dht/bencode"
)

// near returns an id that shares all but the last bits with the target.
func near(target ID, n int) ID {
	binary.BigEndian.PutUint16(target[18:], uint16(n)^binary.BigEndian.Uint16(target[18:]))
	return target
}

// signed returns the answer to a get for p's item, as a node should give it.
func signed(p person, id ID, tid []byte, seq int64, v []byte) *message {
	key := p.public()
	return &message{kind: 'r', tid: tid, id: id, token: []byte("token"), nodes: []byte{}, key: key[:],
		seq: seq, hasSeq: true, v: v, sig: ed25519.Sign(p.key, signingBytes(p.salt, seq, v))}
}

// TestHostileAnswersAreNotBelieved surrounds the target with nodes that answer
// wrongly; the honest ones are farther away.
func TestHostileAnswersAreNotBelieved(t *testing.T) {
	p, other := newPerson(1), newPerson(2)
	text := func(s string) []byte { return bencode.AppendString(nil, s) }
	const floor, seq = 5, 7
	for name, lie := range map[string]func(w *world, h *host, m *message) *message{
		"no seq": func(_ *world, _ *host, m *message) *message { m.hasSeq = false; return m },
		"no signature": func(_ *world, _ *host, m *message) *message {
			m.sig = nil
			return m
		},
		"no key": func(_ *world, _ *host, m *message) *message { m.key = nil; return m },
		"no value": func(_ *world, _ *host, m *message) *message {
			m.v = nil
			return m
		},
		"wrong key": func(_ *world, _ *host, m *message) *message {
			key := other.public()
			m.key = key[:]
			m.sig = ed25519.Sign(other.key, signingBytes(p.salt, m.seq, m.v))
			return m
		},
		"wrong signature": func(_ *world, _ *host, m *message) *message { m.sig[5] ^= 1; return m },
		"short signature": func(_ *world, _ *host, m *message) *message { m.sig = m.sig[:63]; return m },
		"raised seq":      func(_ *world, _ *host, m *message) *message { m.seq = 1 << 62; return m },
		"other value":     func(_ *world, _ *host, m *message) *message { m.v = text("LIE"); return m },
		"key of 33 bytes": func(_ *world, _ *host, m *message) *message { m.key = append(m.key, 0); return m },
		"old seq":         func(_ *world, _ *host, m *message) *message { return signed(p, m.id, m.tid, floor-1, text("old")) },
		"negative seq":    func(_ *world, _ *host, m *message) *message { return signed(p, m.id, m.tid, -9, text("lie")) },
		"value of 1001": func(_ *world, _ *host, m *message) *message {
			return signed(p, m.id, m.tid, 99, text(strings.Repeat("x", 997)))
		},
		"value of no bytes": func(_ *world, _ *host, m *message) *message { return signed(p, m.id, m.tid, 99, []byte("i1e")) },
		"deep value": func(_ *world, _ *host, m *message) *message {
			return signed(p, m.id, m.tid, 99, []byte(strings.Repeat("l", 400)+strings.Repeat("e", 400)))
		},
		"other transaction": func(_ *world, _ *host, m *message) *message {
			m.tid = []byte{m.tid[0] ^ 1, m.tid[1], m.tid[2], m.tid[3]}
			return m
		},
		"long transaction": func(_ *world, _ *host, m *message) *message {
			m.tid = append(append([]byte{}, m.tid...), 0)
			return m
		},
		"datagram above the limit": func(_ *world, _ *host, m *message) *message {
			m.nodes6 = make([]byte, MaxDatagram)
			return m
		},
		"token above the limit": func(_ *world, _ *host, m *message) *message {
			m.token = make([]byte, MaxToken+1)
			return m
		},
		"error": func(_ *world, _ *host, m *message) *message {
			return &message{kind: 'e', tid: m.tid, code: 201, text: "no"}
		},
		"silence": func(*world, *host, *message) *message { return nil },
		"a query in return": func(_ *world, _ *host, m *message) *message {
			return &message{kind: 'q', tid: m.tid, id: m.id, query: "get"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			village(w, 20, 1, privateAddr)
			if _, err := w.store(w.list[2], p.item(seq, "true"), nil); err != nil {
				t.Fatal(err)
			}
			surround(w, p, func(h *host, from netip.AddrPort, m *message) *message {
				answer := signed(p, near(Target(p.public(), p.salt), int(h.addr.Port())), m.tid, 50, text("lie"))
				if m.query != "get" {
					answer.key, answer.sig, answer.v, answer.hasSeq = nil, nil, nil, false
					return answer
				}
				return lie(w, h, answer)
			})
			reader := w.list[len(w.list)-1]
			began := w.now
			got, err := w.get(reader, p.public(), p.salt, floor, func(it Item) bool {
				if it.Seq != seq || string(it.Value) != "true" {
					t.Errorf("shown as valid: seq %d %q", it.Seq, it.Value)
				}
				return false
			})
			if err != nil || got.Seq != seq || string(got.Value) != "true" {
				t.Errorf("seq %d %q, %v", got.Seq, got.Value, err)
			}
			if took := w.now.Sub(began); took > LookupTime {
				t.Errorf("took %v", took)
			}
		})
	}
}

// surround puts eight hostile nodes next to p's item and a reader that knows
// them and some honest ones.
func surround(w *world, p person, answer func(h *host, from netip.AddrPort, m *message) *message) {
	seeds := []netip.AddrPort{w.list[0].addr, w.list[1].addr, w.list[4].addr}
	for i := range 8 {
		addr := netip.AddrPortFrom(privateAddr(5000+i).Addr(), uint16(7000+i))
		w.hostile(addr, func(h *host, from netip.AddrPort, m *message) {
			if m := answer(h, from, m); m != nil {
				_ = w.send(h, from, m.append(nil))
			}
		})
		seeds = append(seeds, addr)
	}
	reader := w.add(privateAddr(9000), true)
	reader.core.Add(w.now, seeds...)
	w.arm(reader)
	w.run(10 * time.Second)
}

func TestAnAnswerFromElsewhereIsNotBelieved(t *testing.T) {
	p := newPerson(1)
	w := newWorld(t, 1)
	liar := w.hostile(privateAddr(2), func(*host, netip.AddrPort, *message) {})
	w.hostile(privateAddr(1), func(_ *host, from netip.AddrPort, m *message) {
		_ = w.send(liar, from, signed(p, ID{}, m.tid, 9, bencode.AppendString(nil, "lie")).append(nil))
	})
	reader := w.add(privateAddr(3), true, privateAddr(1))
	if got, err := w.get(reader, p.public(), p.salt, 0, nil); !errors.Is(err, ErrNoNodes) {
		t.Error(got, err)
	}
	if s := reader.core.Stats(); s.Dropped == 0 {
		t.Error("nothing was dropped")
	}
}

// TestPutHoldsOutAgainstLiars: nodes that refuse, take everything or know a
// newer seq without proof.
func TestPutHoldsOutAgainstLiars(t *testing.T) {
	p := newPerson(1)
	for name, code := range map[string]int{"302": 302, "301": 301, "202": 202} {
		w := newWorld(t, 1)
		village(w, 20, 1, privateAddr)
		surround(w, p, func(h *host, _ netip.AddrPort, m *message) *message {
			if m.query == "put" && h.addr.Port() == 7000 {
				return &message{kind: 'e', tid: m.tid, code: code}
			}
			if m.query == "put" {
				return nil
			}
			id := near(Target(p.public(), p.salt), int(h.addr.Port()))
			token := []byte("t")
			if h.addr.Port() > 7001 {
				token = nil
			}
			return &message{kind: 'r', tid: m.tid, id: id, token: token, nodes: []byte{}}
		})
		stored, err := w.store(w.list[len(w.list)-1], p.item(3, "x"), nil)
		conflict := code != 202
		if stored < 4 || conflict != isConflict(err, -1, code) || !conflict && err != nil {
			t.Errorf("%s: stored %d, %v", name, stored, err)
		}
	}
}

// invented returns a list of nodes that get nearer and nearer to the target.
func invented(w *world, target ID, addr func() netip.AddrPort) []byte {
	var list []byte
	for range 60 {
		id := near(target, int(w.rng.Uint64()))
		list = appendAddr(append(list, id[:]...), addr())
	}
	return list
}

// TestInventedListsEnd measures how far nodes can lead a look-up astray.
func TestInventedListsEnd(t *testing.T) {
	p := newPerson(1)
	target := Target(p.public(), p.salt)
	for _, c := range []struct {
		name string
		// answering says whether somebody is at the invented addresses.
		answering bool
	}{{"dead", false}, {"alive", true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			village(w, 20, 1, privateAddr)
			if _, err := w.store(w.list[2], p.item(1, "true"), nil); err != nil {
				t.Fatal(err)
			}
			somewhere := func() netip.AddrPort { return privateAddr(1<<20 + int(w.rng.Uint64()%(1<<20))) }
			lie := func(_ *host, _ netip.AddrPort, m *message) *message {
				return &message{kind: 'r', tid: m.tid, id: near(target, int(w.rng.Uint64())), token: []byte("t"),
					nodes: invented(w, target, somewhere)}
			}
			if c.answering {
				w.wild = func(to, from netip.AddrPort, m *message) {
					_ = w.send(&host{addr: to}, from, lie(nil, to, m).append(nil))
				}
			}
			surround(w, p, lie)
			reader := w.list[len(w.list)-1]
			w.run(time.Minute)
			before, began := reader.sent, w.now
			_, err := w.get(reader, p.public(), p.salt, 0, nil)
			took, sent := w.now.Sub(began), reader.sent-before
			t.Logf("%d packets, %v, %v", sent, took, err)
			if took > LookupTime || sent > MaxQueried {
				t.Errorf("%d packets in %v", sent, took)
			}
			if !c.answering && err != nil {
				t.Error("dead nodes hide the item:", err)
			}
		})
	}
}

// TestListsMakeNoGun has every hostile node name one victim, at many ports.
func TestListsMakeNoGun(t *testing.T) {
	p := newPerson(1)
	target := Target(p.public(), p.salt)
	for _, c := range []struct {
		name   string
		victim netip.Addr
		most   int
	}{
		{"public", netip.MustParseAddr("44.200.1.1"), 10},
		// Nodes on the internet can't name what is inside.
		{"in the LAN", netip.MustParseAddr("192.168.1.1"), 0},
		{"loopback", netip.MustParseAddr("127.0.0.1"), 0},
		{"multicast", netip.MustParseAddr("239.1.2.3"), 0},
		{"broadcast", netip.MustParseAddr("255.255.255.255"), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			var seeds []netip.AddrPort
			for i := range 8 {
				addr := publicAddr(100 + i)
				seeds = append(seeds, addr)
				w.hostile(addr, func(h *host, from netip.AddrPort, m *message) {
					list := invented(w, target, func() netip.AddrPort {
						return netip.AddrPortFrom(c.victim, uint16(1024+w.rng.IntN(60000)))
					})
					answer := &message{kind: 'r', tid: m.tid, id: near(target, int(h.addr.Addr().As4()[1])), token: []byte("t"), nodes: list}
					_ = w.send(h, from, answer.append(nil))
				})
			}
			reader := w.add(publicAddr(1), false, seeds...)
			w.run(5 * time.Second)
			for range 10 {
				_, _ = w.get(reader, p.public(), p.salt, 0, nil)
			}
			shots := 0
			for a, n := range w.packets {
				if a.Addr() == c.victim {
					shots += n
				}
			}
			t.Logf("%d packets to the victim in ten look-ups", shots)
			if shots > c.most {
				t.Errorf("%d packets, want at most %d", shots, c.most)
			}
		})
	}
}

// TestForgedQueriesMakeNoGun: packets with the victim's address as their
// source cost the victim an answer and a ping at most, within the rates.
func TestForgedQueriesMakeNoGun(t *testing.T) {
	w := newWorld(t, 1)
	village(w, 60, 1, publicAddr)
	target := w.list[5]
	victim := netip.MustParseAddrPort("44.250.9.9:5000")
	bytes, packets := 0, 0
	w.hostile(victim, func(*host, netip.AddrPort, *message) {})
	w.hosts[victim].raw = func(_ netip.AddrPort, b []byte) { bytes += len(b); packets++ }
	sent := 0
	for range 1000 {
		q := message{kind: 'q', tid: []byte("xx"), query: "find_node", hasTarget: true, target: near(ID{}, sent), id: near(ID{7}, sent)}
		b := q.append(nil)
		sent += len(b)
		target.core.Receive(w.now, victim, b)
		w.arm(target)
		w.run(10 * time.Millisecond)
	}
	w.run(time.Second)
	const seconds = 11
	limit := answersPerIP*(answerBurst+seconds) + seconds*100
	t.Logf("forged %d bytes in 10 s, the victim got %d in %d packets (factor %.2f), limit %d", sent, bytes, packets, float64(bytes)/float64(sent), limit)
	if bytes > limit || bytes == 0 {
		t.Errorf("%d bytes, limit %d", bytes, limit)
	}
}
