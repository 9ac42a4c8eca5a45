package dht

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// world is a network of cores with a clock of its own. One seed, one history.
type world struct {
	t      testing.TB
	rng    *rand.Rand
	now    time.Time
	seq    uint64
	events events
	hosts  map[netip.AddrPort]*host
	list   []*host
	loss   float64
	// wild answers for every address where nobody is.
	wild  func(to, from netip.AddrPort, m *message)
	trace hash.Hash
	// packets counts what was sent to an address, whether or not it is there.
	packets map[netip.AddrPort]int
	sent    int
}

// host is a core at an address, or a program that answers by hand.
type host struct {
	addr     netip.AddrPort
	core     *Core
	readOnly bool
	raw      func(from netip.AddrPort, b []byte)
	off      bool
	wake     time.Time
	sent     int
}

type event struct {
	at   time.Time
	seq  uint64
	to   netip.AddrPort
	from netip.AddrPort
	b    []byte // nil is a wake
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if !e[i].at.Equal(e[j].at) {
		return e[i].at.Before(e[j].at)
	}
	return e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// newWorld starts in 1970, as routers without a clock do.
func newWorld(t testing.TB, seed uint64) *world {
	return &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(7, 0), trace: sha256.New(),
		hosts: map[netip.AddrPort]*host{}, packets: map[netip.AddrPort]int{}}
}

func privateAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)
}

// publicAddr spreads addresses over networks.
func publicAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, byte(128 + i%50), byte(i / 50), 9}), 6881)
}

func v6Addr(i int) netip.AddrPort {
	a := [16]byte{0x3f, 0xff, 0, byte(i >> 8), byte(i), 15: 1}
	return netip.AddrPortFrom(netip.AddrFrom16(a), 6881)
}

func (w *world) add(addr netip.AddrPort, readOnly bool, seeds ...netip.AddrPort) *host {
	h := &host{addr: addr, readOnly: readOnly}
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 2))
	h.core = NewCore(CoreConfig{
		Start: w.now, Random: rng.Uint64,
		Send:      func(to netip.AddrPort, b []byte) error { return w.send(h, to, b) },
		ReadOnly:  func() bool { return h.readOnly },
		Bootstrap: func() []netip.AddrPort { return seeds },
		IPv4:      addr.Addr().Is4(), IPv6: addr.Addr().Is6(),
	})
	w.put(h)
	w.arm(h)
	return h
}

// hostile adds a host that answers by hand.
func (w *world) hostile(addr netip.AddrPort, answer func(h *host, from netip.AddrPort, m *message)) *host {
	h := &host{addr: addr}
	h.raw = func(from netip.AddrPort, b []byte) {
		if m, err := parseMessage(b); err == nil && m.kind == 'q' {
			answer(h, from, &m)
		}
	}
	w.put(h)
	return h
}

func (w *world) put(h *host) {
	if w.hosts[h.addr] != nil {
		w.t.Fatalf("two hosts at %v", h.addr)
	}
	w.hosts[h.addr] = h
	w.list = append(w.list, h)
}

// latency of 10 to 60 ms.
func (w *world) latency() time.Duration {
	return 10*time.Millisecond + time.Duration(w.rng.Uint64()%uint64(50*time.Millisecond))
}

func (w *world) send(h *host, to netip.AddrPort, b []byte) error {
	if to.Addr().Is4() != h.addr.Addr().Is4() {
		return errors.New("no route")
	}
	w.note(h.addr, to, b)
	h.sent++
	if w.rng.Float64() >= w.loss {
		w.push(event{at: w.now.Add(w.latency()), to: to, from: h.addr, b: append([]byte{}, b...)})
	}
	return nil
}

func (w *world) note(from, to netip.AddrPort, b []byte) {
	w.packets[to]++
	w.sent++
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(w.now.UnixNano()))
	w.trace.Write(head[:])
	w.trace.Write(appendAddr(appendAddr(nil, from), to))
	w.trace.Write(b)
}

func (w *world) push(e event) {
	w.seq++
	e.seq = w.seq
	heap.Push(&w.events, e)
}

// arm makes sure that the core is called when it wants to be.
func (w *world) arm(h *host) {
	if next := h.core.Next(); h.wake.IsZero() || next.Before(h.wake) || !h.wake.After(w.now) {
		h.wake = next
		w.push(event{at: next, to: h.addr})
	}
}

// step handles one event.
func (w *world) step() bool {
	if len(w.events) == 0 {
		return false
	}
	e := heap.Pop(&w.events).(event)
	w.now = e.at
	h := w.hosts[e.to]
	switch {
	case h == nil && w.wild != nil && e.b != nil:
		if m, err := parseMessage(e.b); err == nil && m.kind == 'q' {
			w.wild(e.to, e.from, &m)
		}
	case h == nil || h.off:
	case h.raw != nil:
		h.raw(e.from, e.b)
	case e.b != nil:
		h.core.Receive(w.now, e.from, e.b)
		w.arm(h)
	case e.at.Equal(h.wake):
		h.core.Tick(w.now)
		w.arm(h)
	}
	return true
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.events) > 0 && !w.events[0].at.After(end) {
		w.step()
	}
	w.now = end
}

// until runs the world until an operation is done.
func (w *world) until(done *bool) {
	w.t.Helper()
	for limit := w.now.Add(time.Minute); !*done; {
		if !w.step() || w.now.After(limit) {
			w.t.Fatal("the operation never ended")
		}
	}
}

func (w *world) get(h *host, key [32]byte, salt []byte, floor int64, enough func(Item) bool) (got Item, err error) {
	w.t.Helper()
	done := false
	h.core.Get(w.now, GetRequest{Key: key, Salt: salt, Floor: floor, Enough: enough,
		Done: func(it Item, e error) { got, err, done = it, e, true }})
	w.arm(h)
	w.until(&done)
	return got, err
}

func (w *world) store(h *host, it Item, cas *int64) (stored int, err error) {
	w.t.Helper()
	done := false
	h.core.Put(w.now, PutRequest{Item: it, Cas: cas,
		Done: func(n int, e error) { stored, err, done = n, e, true }})
	w.arm(h)
	w.until(&done)
	return stored, err
}

func (w *world) announce(h *host, hash ID, port uint16) (noted int, err error) {
	w.t.Helper()
	done := false
	h.core.Announce(w.now, hash, port, func(n int, e error) { noted, err, done = n, e, true })
	w.arm(h)
	w.until(&done)
	return noted, err
}

func (w *world) peersOf(h *host, hash ID) (all []netip.AddrPort, err error) {
	w.t.Helper()
	done := false
	h.core.Peers(w.now, hash, func(a []netip.AddrPort, e error) { all, err, done = a, e, true })
	w.arm(h)
	w.until(&done)
	return all, err
}

// village is a network of n hosts, of which one in every is serving; the first
// knows nobody, the others a few that came before.
func village(w *world, n, every int, addr func(int) netip.AddrPort) {
	var serving []netip.AddrPort
	for i := range n {
		var seeds []netip.AddrPort
		for range 3 {
			if len(serving) > 0 {
				seeds = append(seeds, serving[w.rng.IntN(len(serving))])
			}
		}
		h := w.add(addr(i+1), i%every != 0, seeds...)
		if !h.readOnly {
			serving = append(serving, h.addr)
		}
		w.run(100 * time.Millisecond)
	}
	w.run(2 * time.Minute)
}
