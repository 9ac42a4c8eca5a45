package natlab

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// cable is a device in memory: packets put into out are read by the core, those
// that the core delivers come out of in.
type cable struct {
	out    chan []byte
	in     chan []byte
	closed chan struct{}
}

func newCable() *cable {
	return &cable{out: make(chan []byte), in: make(chan []byte, 4096), closed: make(chan struct{})}
}

func (c *cable) Read(b []byte) (int, error) {
	select {
	case p := <-c.out:
		return copy(b, p), nil
	case <-c.closed:
		return 0, io.EOF
	}
}

func (c *cable) Write(b []byte) (int, error) {
	c.in <- bytes.Clone(b)
	return len(b), nil
}

func (c *cable) Close() error { close(c.closed); return nil }

var (
	addrA = netip.MustParseAddr("44.128.1.10")
	addrB = netip.MustParseAddr("44.128.2.10")
	addrC = netip.MustParseAddr("44.128.3.10") // nobody's
)

// ipv4 makes a record as a TUN device gives it: virtio-net header, IPv4 header with
// a right checksum, payload.
func ipv4(src, dst netip.Addr, ttl, protocol byte, payload []byte) []byte {
	b := make([]byte, vnetHeaderLen+20, vnetHeaderLen+20+len(payload))
	h := b[vnetHeaderLen:]
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	h[8], h[9] = ttl, protocol
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], headerSum(h))
	return append(b, payload...)
}

var (
	addrA6 = netip.MustParseAddr("3fff:0:1::a")
	addrB6 = netip.MustParseAddr("3fff:0:2::a")
	addrC6 = netip.MustParseAddr("3fff:0:3::a") // nobody's
)

// ipv6 makes a record with an IPv6 header alone (RFC 8200 §3: no next header).
func ipv6(src, dst netip.Addr, hops byte) []byte {
	b := make([]byte, vnetHeaderLen+ipv6HeaderLen)
	h := b[vnetHeaderLen:]
	h[0], h[6], h[7] = 0x60, 59, hops
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return b
}

// headerSum is the checksum of RFC 791 §3.1 over 20 bytes, 0 if it is right already.
func headerSum(h []byte) uint16 {
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// inBubble runs f with a core of two parties on synthetic time.
func inBubble(t *testing.T, o Options, f func(c *core, a, b *cable)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCore(o)
		a, b := newCable(), newCable()
		c.attach("a", a, false, addrA, addrA6)
		c.attach("b", b, false, addrB, addrB6)
		f(c, a, b)
		c.close()
	})
}

func TestPacketArrivesExactlyOneLatencyLater(t *testing.T) {
	inBubble(t, Options{Latency: 20 * time.Millisecond}, func(c *core, a, b *cable) {
		start := time.Now()
		for _, payload := range []string{"one", "two"} {
			a.out <- ipv4(addrA, addrB, 64, 17, []byte(payload))
		}
		for _, want := range []string{"one", "two"} {
			got := <-b.in
			if took := time.Since(start); took != 20*time.Millisecond {
				t.Errorf("%s took %v", want, took)
			}
			if p := got[vnetHeaderLen:]; string(p[20:]) != want || p[8] != 64-coreHops || headerSum(p) != 0 {
				t.Errorf("arrived as % x, TTL %d, checksum off by %d", p[20:], p[8], headerSum(p))
			}
		}
	})
}

func TestVerdicts(t *testing.T) {
	cut := func(c *core) { c.links[1].cut.Store(true) }
	part := func(c *core) { c.part(c.links[1], c.links[0], true) }
	mend := func(c *core) { part(c); c.part(c.links[0], c.links[1], false) }
	elsewhere := func(c *core) { c.part(c.links[0], c.attach("c", newCable(), false, addrC), true) }
	for _, tc := range []struct {
		name    string
		packet  []byte
		prepare func(*core)
		want    Stats
	}{
		{"forwarded", ipv4(addrA, addrB, 64, 17, nil), nil, Stats{}},
		{"to nobody", ipv4(addrA, addrC, 64, 17, nil), nil, Stats{NoRoute: 1}},
		{"from somebody else's address", ipv4(addrB, addrB, 64, 17, nil), nil, Stats{Spoofed: 1}},
		{"from a private address", ipv4(netip.MustParseAddr("192.168.1.2"), addrB, 64, 17, nil), nil, Stats{Spoofed: 1}},
		{"ttl just too small", ipv4(addrA, addrB, coreHops, 17, nil), nil, Stats{TTL: 1}},
		{"ttl just enough", ipv4(addrA, addrB, coreHops+1, 17, nil), nil, Stats{}},
		{"receiver cut off", ipv4(addrA, addrB, 64, 17, nil), cut, Stats{Cut: 1}},
		{"parted", ipv4(addrA, addrB, 64, 17, nil), part, Stats{Parted: 1}},
		{"parted and mended", ipv4(addrA, addrB, 64, 17, nil), mend, Stats{}},
		{"parted from another", ipv4(addrA, addrB, 64, 17, nil), elsewhere, Stats{}},
		{"IPv6", ipv6(addrA6, addrB6, 64), nil, Stats{}},
		{"IPv6 to another device of the receiver", ipv6(addrA6, addrB6.Next(), 64), nil, Stats{}},
		{"IPv6 to nobody", ipv6(addrA6, addrC6, 64), nil, Stats{NoRoute: 1}},
		{"IPv6 from somebody else's address", ipv6(addrB6, addrB6, 64), nil, Stats{Spoofed: 1}},
		{"hop limit just too small", ipv6(addrA6, addrB6, coreHops), nil, Stats{TTL: 1}},
		{"hop limit just enough", ipv6(addrA6, addrB6, coreHops+1), nil, Stats{}},
		{"39 bytes of IPv6", ipv6(addrA6, addrB6, 64)[:vnetHeaderLen+ipv6HeaderLen-1], nil, Stats{NoRoute: 1}},
		{"IP version 5", append(make([]byte, vnetHeaderLen), bytes.Repeat([]byte{0x50}, 40)...), nil, Stats{NoRoute: 1}},
		{"19 bytes", ipv4(addrA, addrB, 64, 17, nil)[:vnetHeaderLen+19], nil, Stats{NoRoute: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, Options{Latency: time.Millisecond}, func(c *core, a, b *cable) {
				if tc.prepare != nil {
					tc.prepare(c)
				}
				a.out <- tc.packet
				synctest.Wait()
				<-time.After(2 * time.Millisecond)
				synctest.Wait()
				tc.want.Packets, tc.want.Bytes = 1, int64(len(tc.packet)-vnetHeaderLen)
				if got := c.stats(); got != tc.want {
					t.Errorf("got %+v, want %+v", got, tc.want)
				}
				if arrived := len(b.in); arrived != 1-int(tc.want.Dropped()) {
					t.Errorf("%d packets arrived", arrived)
				}
			})
		})
	}
}

func TestCutLosesPacketsUnderWay(t *testing.T) {
	inBubble(t, Options{Latency: time.Second}, func(c *core, a, b *cable) {
		a.out <- ipv4(addrA, addrB, 64, 17, nil)
		synctest.Wait()
		c.links[1].cut.Store(true)
		<-time.After(2 * time.Second)
		synctest.Wait()
		if got := c.stats(); got.Cut != 1 || len(b.in) != 0 {
			t.Errorf("%d arrived, %+v", len(b.in), got)
		}
	})
}

func TestPartingLosesPacketsUnderWay(t *testing.T) {
	inBubble(t, Options{Latency: time.Second}, func(c *core, a, b *cable) {
		a.out <- ipv4(addrA, addrB, 64, 17, nil)
		b.out <- ipv4(addrB, addrA, 64, 17, nil)
		synctest.Wait()
		c.part(c.links[0], c.links[1], true)
		<-time.After(2 * time.Second)
		synctest.Wait()
		if got := c.stats(); got.Parted != 2 || len(a.in)+len(b.in) != 0 {
			t.Errorf("%d arrived, %+v", len(a.in)+len(b.in), got)
		}
	})
}

func TestJitterDelaysButDoesNotReorder(t *testing.T) {
	const latency, jitter, packets = 20 * time.Millisecond, 10 * time.Millisecond, 200
	inBubble(t, Options{Latency: latency, Jitter: jitter}, func(c *core, a, b *cable) {
		go func() {
			for i := range packets {
				a.out <- ipv4(addrA, addrB, 64, 17, binary.BigEndian.AppendUint64([]byte{byte(i)}, uint64(c.now())))
			}
		}()
		var longest time.Duration
		for i := range packets {
			p := (<-b.in)[vnetHeaderLen+20:]
			took := time.Duration(c.now() - int64(binary.BigEndian.Uint64(p[1:])))
			longest = max(longest, took)
			if p[0] != byte(i) || took < latency || took >= latency+jitter {
				t.Fatalf("packet %d came as number %d after %v", p[0], i, took)
			}
		}
		if longest < latency+jitter/4 {
			t.Errorf("longest delay %v: no jitter", longest)
		}
	})
}

func TestLossIsAboutAsAsked(t *testing.T) {
	const packets = 4000
	inBubble(t, Options{Loss: 0.25}, func(c *core, a, b *cable) {
		for range packets {
			a.out <- ipv4(addrA, addrB, 64, 17, nil)
		}
		synctest.Wait()
		// Five standard deviations of a binomial: 137.
		if lost := c.stats().Lost; lost < packets/4-137 || lost > packets/4+137 || len(b.in) != packets-int(lost) {
			t.Errorf("%d of %d lost, %d arrived", lost, packets, len(b.in))
		}
	})
}

func TestMeasuringHostSuffersNoLoss(t *testing.T) {
	inBubble(t, Options{Loss: 0.9}, func(c *core, a, b *cable) {
		c.links[1].exempt = true
		for range 100 {
			a.out <- ipv4(addrA, addrB, 64, 17, nil)
		}
		synctest.Wait()
		if len(b.in) != 100 {
			t.Errorf("%d of 100 arrived", len(b.in))
		}
	})
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	inBubble(t, Options{Latency: time.Second}, func(c *core, a, b *cable) {
		big := ipv4(addrA, addrB, 64, 17, make([]byte, 60000))
		fits := 0
		for c.stats().Queue == 0 {
			a.out <- big
			fits++
			synctest.Wait()
		}
		fits--
		if low := queueBytes/len(big) - 2; fits < low || fits > low+2 {
			t.Errorf("%d packets of %d bytes fit into %d", fits, len(big), queueBytes)
		}
		for range fits {
			<-b.in
		}
		a.out <- big // room again
		if got := <-b.in; !bytes.Equal(got[vnetHeaderLen+20:], big[vnetHeaderLen+20:]) {
			t.Error("damaged packet")
		}
	})
}

func TestReorderedPacketsOvertake(t *testing.T) {
	const latency, packets, share = 20 * time.Millisecond, 2000, 0.1
	inBubble(t, Options{Latency: latency, Reorder: share}, func(c *core, a, b *cable) {
		go func() {
			for i := range uint32(packets) {
				a.out <- ipv4(addrA, addrB, 64, 17, binary.BigEndian.AppendUint32(nil, i))
				<-time.After(time.Millisecond)
			}
		}()
		early, seen, highest := 0, make(map[uint32]bool), uint32(0)
		for range packets {
			n := binary.BigEndian.Uint32((<-b.in)[vnetHeaderLen+20:])
			seen[n] = true
			if n > highest+1 {
				early++
			}
			highest = max(highest, n)
		}
		if len(seen) != packets {
			t.Errorf("%d of %d arrived", len(seen), packets)
		}
		// Overtakers behind one another count once.
		if early < packets*share/4 || early > packets*share*3/2 {
			t.Errorf("%d of %d packets were early, asked for %v", early, packets, share)
		}
	})
}

func TestDelayOfACableReplacesItsHalf(t *testing.T) {
	inBubble(t, Options{Latency: 20 * time.Millisecond}, func(c *core, a, b *cable) {
		third := newCable()
		slow := c.attach("c", third, false, addrC)
		slow.delay.Store(int64(300 * time.Millisecond))
		start := time.Now()
		a.out <- ipv4(addrA, addrC, 64, 17, nil) // must not hold up the next
		a.out <- ipv4(addrA, addrB, 64, 17, nil)
		for _, tc := range []struct {
			in   <-chan []byte
			want time.Duration
		}{{b.in, 20 * time.Millisecond}, {third.in, 310 * time.Millisecond}} {
			if <-tc.in; time.Since(start) != tc.want {
				t.Errorf("took %v, want %v", time.Since(start), tc.want)
			}
		}
	})
}

func TestBottleneckTakesTimeAndDrops(t *testing.T) {
	// A packet of 1000 bytes takes 8 ms at 1 Mbit/s.
	const packets, each = 100, 8 * time.Millisecond
	for _, tc := range []struct {
		name  string
		limit func(c *core) *bottleneck
	}{
		{"of the sender", func(c *core) *bottleneck { return &c.links[0].up }},
		{"of the receiver", func(c *core) *bottleneck { return &c.links[1].toward }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, Options{Latency: 20 * time.Millisecond}, func(c *core, a, b *cable) {
				tc.limit(c).limit(1e6)
				start := time.Now()
				for range packets {
					a.out <- ipv4(addrA, addrB, 64, 17, make([]byte, 980))
				}
				synctest.Wait()
				passed := int64(bottleneckQueue/each) + 1 // the first does not wait
				if got := c.stats().Queue; got != packets-passed {
					t.Fatalf("%d dropped, want %d", got, packets-passed)
				}
				for i := range passed {
					<-b.in
					if want := time.Duration(i+1)*each + 20*time.Millisecond; time.Since(start) != want {
						t.Fatalf("packet %d after %v, want %v", i, time.Since(start), want)
					}
				}
				tc.limit(c).limit(0)
				start = time.Now()
				a.out <- ipv4(addrA, addrB, 64, 17, make([]byte, 980))
				if <-b.in; time.Since(start) != 20*time.Millisecond {
					t.Errorf("without limit after %v", time.Since(start))
				}
			})
		})
	}
}

func TestDelayLineKeepsBytesAndOrder(t *testing.T) {
	d := newDelayLine(1<<30, 1000)
	random := rand.New(rand.NewPCG(1, 2))
	type entry struct {
		due int64
		n   int
	}
	var want []entry
	sent := 0
	for range 20 {
		for range 50 {
			e := entry{random.Int64N(20), sent}
			d.push(bytes.Repeat([]byte{byte(sent)}, 1+(sent*7919)%maxPacket), e.due, nil)
			want = append(want, e)
			sent++
		}
		slices.SortStableFunc(want, func(a, b entry) int { return cmp.Compare(a.due, b.due) })
		for range 40 {
			e := want[0]
			want = want[1:]
			if _, wait := d.pop(e.due - 1); wait != 1 {
				t.Fatalf("packet %d is due in %d, want 1", e.n, wait)
			}
			p, wait := d.pop(e.due)
			if wait != 0 || len(p.record) != 1+(e.n*7919)%maxPacket || p.record[0] != byte(e.n) || p.record[len(p.record)-1] != byte(e.n) {
				t.Fatalf("packet %d: %d bytes, due in %d", e.n, len(p.record), wait)
			}
			d.recycle(p)
		}
	}
}

func TestDelayLineLimits(t *testing.T) {
	d := newDelayLine(100, 4)
	for _, n := range []int{99, 100, 101} {
		if d.fits(n) != (n <= 100) {
			t.Errorf("%d bytes of 100: %v", n, d.fits(n))
		}
	}
	for i := range 4 {
		if !d.fits(1) {
			t.Fatalf("packet %d of 4 refused", i)
		}
		d.push([]byte{1}, 0, nil)
	}
	if d.fits(1) {
		t.Error("a fifth packet was accepted")
	}
	d.pop(0)
	if !d.fits(97) || d.fits(98) {
		t.Error("97 bytes should be left of 100 after 3")
	}
	if _, wait := newDelayLine(1, 1).pop(0); wait != -1 {
		t.Errorf("an empty line waits %d", wait)
	}
}

func TestBuffersAreUsedAgain(t *testing.T) {
	d := newDelayLine(queueBytes, queuePackets)
	record := make([]byte, 1500)
	if n := testing.AllocsPerRun(1000, func() {
		d.push(record, 0, nil)
		p, _ := d.pop(0)
		d.recycle(p)
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
	var s shelves
	for _, n := range []int{0, 1, smallest, smallest + 1, 2 * smallest, 1 << 16, 1<<16 + 1, maxPacket} {
		b := s.take(n)
		if cap(b) < n || len(b) != 0 {
			t.Errorf("%d bytes: buffer of %d", n, cap(b))
		}
		s.put(b)
		if again := s.take(n); cap(again) != cap(b) {
			t.Errorf("%d bytes: another buffer of %d", n, cap(again))
		}
	}
}

func TestNeighboursPacketsAreNobodysBusiness(t *testing.T) {
	inBubble(t, Options{Latency: time.Millisecond}, func(c *core, a, b *cable) {
		for _, to := range []string{"ff02::16", "ff02::1", "fe80::1"} {
			a.out <- ipv6(netip.IPv6Unspecified(), netip.MustParseAddr(to), 1)
		}
		synctest.Wait()
		if s := c.stats(); s.Packets != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestDecreaseTTLKeepsChecksumRight(t *testing.T) {
	for ttl := 6; ttl < 256; ttl++ {
		for _, protocol := range []byte{0, 6, 17, 255} {
			p := ipv4(addrA, addrB, byte(ttl), protocol, nil)[vnetHeaderLen:]
			decreaseTTL(p, 5)
			if p[8] != byte(ttl-5) || headerSum(p) != 0 {
				t.Fatalf("ttl %d protocol %d: ttl %d, checksum off by %#x", ttl, protocol, p[8], headerSum(p))
			}
		}
	}
}
