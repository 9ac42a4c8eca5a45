package beacon

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/agent/identity"
)

// house is a LAN in memory: whatever one sends, all hear at once, over IPv4
// and IPv6, themselves included.
type house struct {
	mu    sync.Mutex
	cards []*card
	sent  [][]byte // everything, in order
	times []time.Time
}

// card is a device's connection to the house.
type card struct {
	house    *house
	v4, v6   netip.Addr
	networks []netip.Prefix
	handle   func([]byte, netip.Addr)
}

func (c *card) Start(handle func([]byte, netip.Addr)) error {
	c.house.mu.Lock()
	defer c.house.mu.Unlock()
	c.handle = handle
	c.house.cards = append(c.house.cards, c)
	return nil
}

func (c *card) Send(b []byte) {
	c.house.mu.Lock()
	c.house.sent = append(c.house.sent, slices.Clone(b))
	c.house.times = append(c.house.times, time.Now())
	all := slices.Clone(c.house.cards)
	c.house.mu.Unlock()
	for _, other := range all {
		other.handle(b, c.v4)
		other.handle(b, c.v6)
	}
}

func (c *card) Networks() []netip.Prefix { return c.networks }

func (c *card) Close() error {
	c.house.mu.Lock()
	defer c.house.mu.Unlock()
	c.house.cards = slices.DeleteFunc(c.house.cards, func(o *card) bool { return o == c })
	return nil
}

func (h *house) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sent)
}

func device(n byte) *identity.Device {
	seed := sha256.Sum256([]byte{n})
	return identity.FromSeed(seed[:])
}

func addresses(devices ...*identity.Device) func() []identity.Address {
	var all []identity.Address
	for _, d := range devices {
		all = append(all, d.Address())
	}
	return func() []identity.Address { return all }
}

// card makes the n-th connection.
func (h *house) card(n byte) *card {
	v4 := netip.AddrFrom4([4]byte{192, 168, 1, n})
	v6 := netip.MustParseAddr("fe80::").As16()
	v6[15] = n
	ll := netip.AddrFrom16(v6)
	return &card{house: h, v4: v4, v6: ll.WithZone("eth0"),
		networks: []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(ll, 64)}}
}

// in puts a device into the house; t ends it.
func (h *house) in(t testing.TB, n byte, cfg Config) *Beacon {
	t.Helper()
	b := h.idle(n, cfg)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// idle is in, not started.
func (h *house) idle(n byte, cfg Config) *Beacon {
	cfg.Device, cfg.Port = device(n), 4000+uint16(n)
	b := New(cfg)
	b.ether = h.card(n)
	return b
}

// pass lets time go by in a bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func at(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range texts {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}
