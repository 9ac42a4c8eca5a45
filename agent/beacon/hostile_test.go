package beacon

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
)

// friend writes beacons of device 2 by hand.
type friend struct {
	*identity.Device
	boot boot
}

func (f friend) here(counter uint32, addrs ...string) []byte {
	return f.say(kindHere, addressKey(f.Address()), counter, addrs...)
}

func (f friend) say(what kind, k key, counter uint32, addrs ...string) []byte {
	m := body{kind: what, boot: f.boot, counter: counter, port: 4002}
	for _, a := range addrs {
		m.addresses = append(m.addresses, netip.MustParseAddr(a))
	}
	return seal(k, f, 0, m)
}

// impostor signs with a key that is not the one it names.
type impostor struct{ claims, is *identity.Device }

func (i impostor) Address() identity.Address { return i.claims.Address() }
func (i impostor) Sign(b []byte) []byte      { return i.is.Sign(b) }

func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[(i+len(b))%len(b)] ^= 1
	return b
}

var neighbourSource = netip.MustParseAddr("192.168.1.2")

func TestHostileBeacons(t *testing.T) {
	f := friend{device(2), boot{1}}
	k := addressKey(f.Address())
	stranger := friend{device(8), boot{1}}
	first := f.here(5)
	own := at("192.168.1.2:4002")
	for _, c := range []struct {
		name  string
		then  func() []byte // after f.here(5) from its place
		src   string
		want  []netip.AddrPort
		count Counts // beside the first one
	}{
		{"its next beacon", func() []byte { return f.here(6, "192.168.1.7") }, "192.168.1.2",
			at("192.168.1.7:4002", "192.168.1.2:4002"), Counts{Heard: 1}},
		{"its next boot", func() []byte { return friend{f.Device, boot{2}}.here(1) }, "192.168.1.2", own, Counts{Heard: 1}},
		{"the same again", func() []byte { return first }, "192.168.1.2", own, Counts{Again: 1}},
		{"the same from another place", func() []byte { return first }, "192.168.1.66", own, Counts{Again: 1}},
		{"an equal counter", func() []byte { return f.here(5) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"an older counter", func() []byte { return f.here(4) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"counter zero of another boot", func() []byte { return friend{f.Device, boot{2}}.here(0) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"a stranger's", func() []byte { return stranger.here(6) }, "192.168.1.66", own, Counts{Strangers: 1}},
		{"a stranger's under its key", func() []byte { return stranger.say(kindHere, k, 6) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"a stranger's in its name", func() []byte {
			return seal(k, impostor{f.Device, stranger.Device}, 0, body{kind: kindHere, boot: f.boot, counter: 6, port: 4002})
		}, "192.168.1.66", own, Counts{Refused: 1}},
		{"its tag before other bytes", func() []byte {
			return append(slices.Clone(f.here(6)[:headerSize]), make([]byte, MinDatagram-headerSize)...)
		}, "192.168.1.66", own, Counts{Refused: 1}},
		{"its tag with another nonce", func() []byte { return flip(f.here(6), nonceAt) }, "192.168.1.66", own, Counts{Strangers: 1}},
		{"another tag", func() []byte { return flip(f.here(6), tagAt) }, "192.168.1.66", own, Counts{Strangers: 1}},
		{"other flags", func() []byte { return flip(f.here(6), flagsAt) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"another DHT port", func() []byte { return flip(f.here(6), dhtAt) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"a flipped bit inside", func() []byte { return flip(f.here(6), headerSize) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"a flipped last bit", func() []byte { return flip(f.here(6), -1) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"an invitation under its address", func() []byte { return f.say(kindInvite, k, 6) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"an unknown kind", func() []byte { return f.say(9, k, 6) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"no kind", func() []byte { return f.say(0, k, 6) }, "192.168.1.66", own, Counts{Refused: 1}},
		{"another magic", func() []byte { return flip(f.here(6), 0) }, "192.168.1.66", own, Counts{Malformed: 1}},
		{"another version", func() []byte { return flip(f.here(6), 3) }, "192.168.1.66", own, Counts{Malformed: 1}},
		{"nothing", func() []byte { return nil }, "192.168.1.66", own, Counts{Malformed: 1}},
		{"from the internet", func() []byte { return f.here(6) }, "44.128.7.7", own, Counts{Foreign: 1}},
		{"from another private network", func() []byte { return f.here(6) }, "192.168.2.2", own, Counts{Foreign: 1}},
		{"from this machine's loopback", func() []byte { return f.here(6) }, "127.0.0.1", own, Counts{Foreign: 1}},
		{"from the unspecified address", func() []byte { return f.here(6) }, "0.0.0.0", own, Counts{Foreign: 1}},
		{"from an IPv6 address elsewhere", func() []byte { return f.here(6) }, "3fff::1", own, Counts{Foreign: 1}},
		{"over link-local IPv6", func() []byte { return f.here(6) }, "fe80::2%eth0",
			at("[fe80::2%eth0]:4002", "192.168.1.2:4002"), Counts{Heard: 1}},
		{"naming addresses that are elsewhere", func() []byte {
			return f.here(6, "44.128.7.7", "192.168.2.2", "127.0.0.1", "3fff::1")
		}, "192.168.1.2", own, Counts{Heard: 1}},
		{"naming addresses that nobody has", func() []byte {
			return f.here(6, "0.0.0.0", "255.255.255.255", "ff12::5267", "fe80::66")
		}, "192.168.1.2", own, Counts{Heard: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{}
				b := h.in(t, 1, Config{Known: addresses(f.Device, device(3))})
				b.hear(first, neighbourSource)
				pass(2 * time.Second) // the answer is gone
				before, sent := b.Counts(), h.count()
				b.hear(c.then(), netip.MustParseAddr(c.src))
				got := b.Counts()
				got = Counts{got.Heard - before.Heard, got.Again - before.Again, got.Strangers - before.Strangers,
					got.Malformed - before.Malformed, got.Foreign - before.Foreign, got.Limited - before.Limited, got.Refused - before.Refused}
				if got != c.count {
					t.Errorf("counted %+v, want %+v", got, c.count)
				}
				if hints := b.Hints(f.Address()); !slices.Equal(hints, c.want) {
					t.Errorf("hints %v, want %v", hints, c.want)
				}
				pass(2 * time.Second)
				if answers := h.count() - sent; answers > 0 && c.name != "its next boot" {
					t.Errorf("it was answered %d times", answers)
				}
			})
		})
	}
}

func TestSizes(t *testing.T) {
	f := friend{device(2), boot{1}}
	k := addressKey(f.Address())
	sized := func(size int) []byte {
		header := f.here(1)[:headerSize:headerSize]
		m := body{kind: kindHere, sender: f.Address(), boot: f.boot, counter: 1, port: 4002}
		plain := append(m.encode(), make([]byte, max(0, size-MinDatagram))...)
		plain = append(plain, f.Sign(signed(header, plain))...)
		sealed := k.aead(nonce(header[nonceAt:tagAt])).Seal(header, zeroNonce[:], plain, header)
		return sealed[:size]
	}
	for _, c := range []struct {
		size int
		ok   bool
	}{
		{0, false}, {len(magic), false}, {headerSize, false}, {MinDatagram - 1, false},
		{MinDatagram, true}, {MinDatagram + 1, true}, {MaxDatagram - 1, true}, {MaxDatagram, true}, {MaxDatagram + 1, false},
	} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := (&house{}).in(t, 1, Config{Known: addresses(f.Device)})
				b.hear(sized(c.size), neighbourSource)
				if got := b.Hints(f.Address()) != nil; got != c.ok {
					t.Errorf("believed: %v", got)
				}
			})
		})
	}
	if MinDatagram != 223 {
		t.Errorf("beacons have %d bytes; the documentation says 223", MinDatagram)
	}
}

func TestReplaysOfOldBootsSilenceNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		b := h.in(t, 1, Config{Known: addresses(device(2))})
		now := friend{device(2), boot{0xff}}
		sent := h.count()
		for n := range uint32(100) {
			b.hear(friend{device(2), boot{byte(n)}}.here(1), netip.MustParseAddr("192.168.1.66"))
			pass(300 * time.Millisecond)
			b.hear(now.here(n+1), neighbourSource)
		}
		if got := b.Hints(device(2).Address()); !slices.Contains(got, at("192.168.1.2:4002")[0]) || len(got) != 2 {
			t.Errorf("hints %v", got)
		}
		if n := h.count() - sent; n > 30+2+3 {
			t.Errorf("%d beacons in 30 s of replayed boots; want one a second at most", n)
		}
		if n := len(b.table.neighbours[device(2).Address()].boots); n != maxBoots {
			t.Errorf("%d boots are remembered", n)
		}
	})
}

func TestRepeatingABeaconFromManyPlacesProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := (&house{}).in(t, 1, Config{Known: addresses(device(2))})
		d := friend{device(2), boot{1}}.here(1, "192.168.1.2", "192.168.1.3")
		for n := range byte(200) {
			b.hear(d, netip.AddrFrom4([4]byte{192, 168, 1, 2 + n}))
			b.hear(d, netip.MustParseAddr(fmt.Sprintf("fe80::%x%%eth0", 2+n)))
		}
		want := at("192.168.1.2:4002", "192.168.1.3:4002", "[fe80::2%eth0]:4002")
		if got := b.Hints(device(2).Address()); !slices.Equal(got, want) {
			t.Errorf("hints %v, want %v", got, want)
		}
	})
}

// A flood of 10,000 datagrams a second for some seconds, of each sort, from
// one source, from all of a network, and from nowhere.
func TestFloodIsBounded(t *testing.T) {
	const seconds = 4
	f := friend{device(2), boot{1}}
	known := []*identity.Device{f.Device}
	for n := range byte(200) {
		known = append(known, device(n+20))
	}
	valid := f.here(1)
	random := func(n int) []byte {
		b := slices.Clone(valid)
		b[nonceAt], b[nonceAt+1], b[nonceAt+2] = byte(n), byte(n>>8), byte(n>>16)
		return b
	}
	one := func(int) netip.Addr { return netip.MustParseAddr("192.168.1.66") }
	for _, c := range []struct {
		name string
		src  func(n int) netip.Addr
		what func(n int) []byte
		most int64 // datagrams that cost a comparison with all keys
	}{
		{"other nonces from one source", one, random, sourceAtOnce + seconds*sourcePerSecond},
		{"other nonces from many sources", func(n int) netip.Addr {
			return netip.MustParseAddr(fmt.Sprintf("fe80::%x%%eth0", n%0xffff))
		}, random, heardAtOnce + seconds*heardPerSecond},
		{"one beacon again and again", one, func(int) []byte { return valid }, 1},
		{"other bytes", one, func(int) []byte { return valid[1:] }, 0},
		{"other networks", func(n int) netip.Addr { return netip.AddrFrom4([4]byte{44, 128, byte(n >> 8), byte(n)}) }, random, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{}
				b := h.in(t, 1, Config{Known: addresses(known...)})
				b.hear(f.here(10), neighbourSource)
				pass(5 * time.Second)
				sent, counts := h.count(), b.Counts()
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				for n := range seconds * 10_000 {
					b.hear(c.what(n), c.src(n))
					if n%10 == 9 {
						pass(time.Millisecond)
					}
					if n%10_000 == 0 { // an honest device goes on being heard
						b.hear(f.here(uint32(20+n)), neighbourSource)
					}
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
					t.Errorf("%d bytes of memory more", grown)
				}
				got := b.Counts()
				if n := got.Strangers + got.Refused - counts.Strangers - counts.Refused; n > c.most {
					t.Errorf("%d datagrams were compared with all keys, want %d at most", n, c.most)
				}
				if n := got.Heard - counts.Heard; n != seconds {
					t.Errorf("an honest device was heard %d of %d times", n, seconds)
				}
				if n := h.count() - sent; n > 1 {
					t.Errorf("%d beacons were sent meanwhile", n)
				}
				if len(b.table.nonces) > maxNonces || len(b.table.unread) > maxUnread || len(b.limits.sources) > maxSources {
					t.Errorf("tables: %d nonces, %d unread, %d sources", len(b.table.nonces), len(b.table.unread), len(b.limits.sources))
				}
			})
		})
	}
}

func TestAsksAreAnsweredOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		material := [32]byte{7}
		b := h.in(t, 1, Config{Invite: func() ([32]byte, bool) { return material, true }})
		pass(2 * time.Second)
		sent := h.count()
		for n := range uint32(200) {
			b.hear(friend{device(2), boot{1}}.say(kindAsk, codeKey(material), n+1), neighbourSource)
			pass(50 * time.Millisecond)
		}
		if n := h.count() - sent; n < 2*9 || n > 2*12 {
			t.Errorf("%d datagrams answered 200 questions in 10 s, want two a second", n)
		}
	})
}

func TestTablesAreBounded(t *testing.T) {
	now := time.Now()
	tab := newTable()
	var many []identity.Address
	for n := range MaxKnown + 1 {
		many = append(many, identity.NewAddress([]byte(fmt.Sprintf("%032d", n)), identity.KindDevice))
	}
	for _, c := range []struct{ give, want int }{{MaxKnown - 1, MaxKnown - 1}, {MaxKnown, MaxKnown}, {MaxKnown + 1, MaxKnown}} {
		tab.learn(nil, identity.Address{})
		if fresh := tab.learn(many[:c.give], identity.Address{}); len(tab.known) != c.want || len(fresh) != c.want {
			t.Errorf("of %d known devices %d are recognised, %d as new", c.give, len(tab.known), len(fresh))
		}
	}
	for n := range maxDHT + 1 {
		tab.noteDHT(netip.AddrPortFrom(neighbourSource, uint16(n+1)), now)
	}
	if len(tab.dht) != maxDHT {
		t.Errorf("%d DHT nodes are kept", len(tab.dht))
	}
	tab.noteDHT(netip.AddrPortFrom(neighbourSource, 9999), now.Add(Fresh+1))
	if len(tab.dht) != 1 {
		t.Errorf("%d DHT nodes are kept after all grew old", len(tab.dht))
	}
	for n := range maxProven + 1 {
		tab.prove(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), now)
	}
	if len(tab.proven) != maxProven || tab.isProven(netip.MustParseAddr("10.0.8.0"), now) {
		t.Errorf("%d sources are proven", len(tab.proven))
	}
	n := &neighbour{}
	for i := range 3 * maxHints {
		n.touch(netip.AddrPortFrom(neighbourSource, uint16(i+1)), now.Add(time.Duration(i)))
	}
	if len(n.hints) != maxHints || n.hints[0].at.Port() != 3*maxHints {
		t.Errorf("hints %v", n.hints)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := limiter{sources: map[netip.Addr]*bucket{}}
	take := func(src string, proven bool) (n int) {
		for l.allow(now, netip.MustParseAddr(src), proven) {
			n++
		}
		return n
	}
	if n := take("10.0.0.1", false); n != sourceAtOnce {
		t.Errorf("%d at once from one source", n)
	}
	now = now.Add(time.Second)
	if n := take("10.0.0.1", false); n != sourcePerSecond {
		t.Errorf("%d in a second from one source", n)
	}
	all := 0
	for i := range 100 {
		all += take(fmt.Sprintf("10.0.1.%d", i), false)
	}
	if most := heardAtOnce - sourcePerSecond; all != most {
		t.Errorf("%d at once from all others, want %d", all, most)
	}
	if n := take("10.0.2.1", true); n != sourceAtOnce {
		t.Errorf("a proven source may only %d", n)
	}
	now = now.Add(time.Hour)
	for i := range 2 * maxSources {
		take(fmt.Sprintf("10.1.%d.%d", i/256, i%256), true)
	}
	if len(l.sources) != maxSources {
		t.Errorf("%d sources have a limit of their own", len(l.sources))
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		name      string
		networks  []string
		addresses []string
	}{
		{"none", nil, nil},
		{"link-local IPv6 is left out", []string{"fe80::1/64", "192.168.1.5/24"}, []string{"192.168.1.5"}},
		{"private first", []string{"44.128.1.2/24", "3fff::1/64", "fd00::1/64", "10.0.0.1/8"}, []string{"10.0.0.1", "fd00::1", "3fff::1", "44.128.1.2"}},
		{"at most four", []string{"10.0.0.1/8", "10.0.0.2/8", "10.0.0.3/8", "10.0.0.4/8", "10.0.0.5/8"}, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}},
		{"self-assigned ones too", []string{"169.254.3.4/16"}, []string{"169.254.3.4"}},
		{"loopback last", []string{"127.0.0.1/8", "169.254.3.4/16", "192.168.1.5/24"}, []string{"192.168.1.5", "127.0.0.1", "169.254.3.4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var networks []netip.Prefix
			for _, s := range c.networks {
				networks = append(networks, netip.MustParsePrefix(s))
			}
			var got []string
			for _, a := range candidates(networks) {
				got = append(got, a.String())
			}
			if !slices.Equal(got, c.addresses) {
				t.Errorf("%v, want %v", got, c.addresses)
			}
		})
	}
}

func FuzzHear(f *testing.F) {
	friend := friend{device(2), boot{1}}
	k := addressKey(friend.Address())
	good := friend.here(1, "192.168.1.2")
	f.Add(good)
	f.Add(good[:MinDatagram-1])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, d []byte) {
		h, err := parseHeader(d)
		if err != nil {
			return
		}
		// What no key seals is tried as the content of a sealed part as well.
		if _, err := open(k, d, h.nonce); err == nil && h.tag != k.tag(h.nonce) && string(d) != string(good) {
			t.Fatal("opened although the tag is another")
		}
		m, err := decode(d[headerSize:])
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		if err != nil || !slices.Equal(again.addresses, m.addresses) || again.kind != m.kind || again.boot != m.boot ||
			again.counter != m.counter || again.port != m.port || again.sender != m.sender {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

func BenchmarkRecogniseAmong512(b *testing.B) {
	tab := newTable()
	var many []identity.Address
	for n := range 512 {
		many = append(many, identity.NewAddress([]byte(fmt.Sprintf("%032d", n)), identity.KindDevice))
	}
	tab.learn(many, identity.Address{})
	h := header{nonce: nonce{1}}
	// The peer is the one signature that a beacon of a known device costs.
	d := device(2)
	signature := d.Sign([]byte("x"))
	b.ResetTimer()
	for b.Loop() {
		recognise(tab.known, h)
	}
	spent := float64(b.Elapsed()) / float64(b.N)
	start := time.Now()
	for range 200 {
		d.Address().Verify([]byte("x"), signature)
	}
	b.ReportMetric(spent/(float64(time.Since(start))/200), "verifications")
}
