package dht

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"

	"porchlight/agent/dht/bencode"
)

// TestTheExamplesOfTheSpecifications are those of BEP 5 and 44, byte for byte.
func TestTheExamplesOfTheSpecifications(t *testing.T) {
	a, b := ID([]byte("abcdefghij0123456789")), ID([]byte("mnopqrstuvwxyz123456"))
	for want, m := range map[string]message{
		"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe":                                                                                            {kind: 'q', query: "ping", id: a},
		"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re":                                                                                                     {kind: 'r', id: b},
		"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe":                                                        {kind: 'q', query: "find_node", id: a, target: b, hasTarget: true},
		"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe":                                                     {kind: 'q', query: "get_peers", id: a, infoHash: b, hasInfoHash: true},
		"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re":                                                          {kind: 'r', id: a, token: []byte("aoeusnth"), values: []netip.AddrPort{netip.MustParseAddrPort("97.120.106.101:11893"), netip.MustParseAddrPort("105.100.104.116:28269")}},
		"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe": {kind: 'q', query: "announce_peer", id: a, impliedPort: true, infoHash: b, hasInfoHash: true, port: 6881, token: []byte("aoeusnth")},
		"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee":                                                                                                 {kind: 'e', code: 201, text: "A Generic Error Ocurred"},
		"d1:ad2:id20:abcdefghij0123456789e1:q4:ping2:roi1e1:t2:aa1:y1:qe":                                                                                     {kind: 'q', query: "ping", id: a, readOnly: true},
		"d2:ip6:\x7f\x00\x00\x01\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re":                                                                       {kind: 'r', id: b, ip: netip.MustParseAddrPort("127.0.0.1:6881")},
	} {
		m.tid = []byte("aa")
		if got := string(m.append(nil)); got != want {
			t.Errorf("written %q\nwant    %q", got, want)
		}
		got, err := parseMessage([]byte(want))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%q is read as %+v, %v", want, got, err)
		}
	}
}

// TestSigningVectors are those of BEP 44.
func TestSigningVectors(t *testing.T) {
	for salt, want := range map[string]string{
		"":       "3:seqi1e1:v12:Hello World!",
		"foobar": "4:salt6:foobar3:seqi1e1:v12:Hello World!",
	} {
		if got := string(SigningBytes([]byte(salt), 1, []byte("Hello World!"))); got != want {
			t.Errorf("%q", got)
		}
	}
	var key [32]byte
	copy(key[:], unhex(t, "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"))
	for salt, target := range map[string]string{
		"":       "4a533d47ec9c7d95b1ad75f576cffc641853b750",
		"foobar": "411eba73b6f087ca51a3795d9c8c938d365e32c1",
	} {
		if got := Target(key, []byte(salt)).String(); got != target {
			t.Errorf("target with salt %q: %s", salt, got)
		}
	}
	if got := ImmutableTarget([]byte("Hello World!")).String(); got != "e5f96f6f38320f0f33959cb4d3d656452117aadb" {
		t.Error(got)
	}
	it := Item{Key: key, Seq: 1, Value: []byte("Hello World!")}
	copy(it.Signature[:], unhex(t, "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff"+
		"1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01"))
	if err := it.check(); err != nil {
		t.Error(err)
	}
	it.Salt = []byte("foobar")
	copy(it.Signature[:], unhex(t, "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d"+
		"df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08"))
	if err := it.check(); err != nil {
		t.Error(err)
	}
	it.Seq = 2
	if it.check() == nil {
		t.Error("another seq has the same signature")
	}
}

func TestListsInAnswersAreBounded(t *testing.T) {
	for _, n := range []int{MaxNodesPerAnswer - 1, MaxNodesPerAnswer, MaxNodesPerAnswer + 1, 70} {
		var list []byte
		for i := range n {
			id := ID{byte(i)}
			list = appendAddr(append(list, id[:]...), publicAddr(i))
		}
		got := 0
		eachNode(append(list, 1, 2, 3), 0, func(node) { got++ })
		if got != min(n, MaxNodesPerAnswer) {
			t.Errorf("%d of %d nodes read", got, n)
		}
	}
	for _, n := range []int{MaxPeersPerAnswer - 1, MaxPeersPerAnswer, MaxPeersPerAnswer + 1} {
		m := message{kind: 'r', tid: []byte("a")}
		for i := range n {
			m.values = append(m.values, publicAddr(i))
		}
		got, err := parseMessage(m.append(nil))
		if err != nil || len(got.values) != min(n, MaxPeersPerAnswer) {
			t.Errorf("%d of %d peers read, %v", len(got.values), n, err)
		}
	}
	for _, a := range []string{"0.0.0.0:1", "44.1.1.1:0", "224.0.0.1:9", "255.255.255.255:9"} {
		m := message{kind: 'r', tid: []byte("a"), values: []netip.AddrPort{netip.MustParseAddrPort(a)}}
		if got, err := parseMessage(m.append(nil)); err != nil || len(got.values) != 0 {
			t.Errorf("%s is a peer: %v, %v", a, got.values, err)
		}
	}
	for _, n := range []int{MaxDatagram - 1, MaxDatagram, MaxDatagram + 1} {
		m := message{kind: 'r', tid: []byte("a"), v: []byte{}}
		fill := n - len(m.append(nil)) - len("1900:")
		m.v = bencode.AppendBytes(nil, make([]byte, fill))
		b := m.append(nil)
		if _, err := parseMessage(b); len(b) != n || (err == nil) != (n <= MaxDatagram) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b := make([]byte, len(s)/2)
	const digits = "0123456789abcdef"
	for i := range b {
		b[i] = byte(bytes.IndexByte([]byte(digits), s[2*i])<<4 | bytes.IndexByte([]byte(digits), s[2*i+1]))
	}
	return b
}

func FuzzMessage(f *testing.F) {
	for _, s := range []string{
		"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
		"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re",
		"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",
		"d1:y1:q1:t2:aa1:q3:put1:ad3:casi1e2:id20:abcdefghij01234567891:k32:abcdefghij0123456789abcdefghijkl4:salt1:s3:seqi1e3:sig1:x5:token1:t1:vd1:b0:1:a0:eee",
		"d2:ip6:\x7f\x00\x00\x01\x1a\xe11:rd2:id20:mnopqrstuvwxyz1234565:nodes26:mnopqrstuvwxyz123456\x7f\x00\x00\x01\x1a\xe1e1:t2:aa1:y1:re",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b[:len(b):len(b)])
		if err != nil {
			return
		}
		eachNode(m.nodes, 0, func(node) {})
		eachNode(m.nodes6, 1, func(node) {})
		// What is written from it means the same, and writing is stable.
		once := m.append(nil)
		if len(once) > MaxDatagram {
			return
		}
		again, err := parseMessage(once)
		if err != nil {
			t.Fatalf("%q: %v", once, err)
		}
		if twice := again.append(nil); !bytes.Equal(once, twice) {
			t.Fatalf("%q and %q", once, twice)
		}
	})
}

// FuzzCore feeds a core that has queries on the way.
func FuzzCore(f *testing.F) {
	f.Add([]byte("d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth1:v1:xe1:t2:aa1:y1:re"), true)
	f.Add([]byte("d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe"), false)
	f.Fuzz(func(t *testing.T, b []byte, answer bool) {
		w := newWorld(t, 1)
		h := w.add(privateAddr(1), false, privateAddr(2))
		p := newPerson(1)
		h.core.Get(w.now, GetRequest{Key: p.public(), Done: func(it Item, err error) {
			if err == nil {
				t.Fatal("found", it)
			}
		}})
		w.arm(h)
		if m, err := parseMessage(b); answer && err == nil && len(h.core.pending) > 0 {
			tid := h.core.pending[0].tid
			m.tid = []byte{byte(tid >> 24), byte(tid >> 16), byte(tid >> 8), byte(tid)}
			b = m.append(nil)
		}
		h.core.Receive(w.now, privateAddr(2), b)
		w.arm(h)
		w.run(LookupTime + QueryTimeout)
	})
}
