package relay

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ClassLimits bounds what one client key may use, all its allocations together.
type ClassLimits struct {
	BytesPerSecond int64         // payload in both directions; what exceeds it is dropped
	BurstBytes     int           // what may pass at once above the rate
	BytesPerDay    int64         // payload in 24 h; when reached, allocations are closed
	Idle           time.Duration // without payload for so long, an allocation is closed; negative: never
}

// Limits bounds the server. A zero field takes the default beside it.
type Limits struct {
	Allocations int // 32 in all
	PerClient   int // 2 allocations per client key
	PerPrefix   int // 4 allocations per IPv4 /24 or IPv6 /56
	Peers       int // 64 addresses, and 64 channels, per allocation

	Connections          int // 64 TCP connections in all
	ConnectionsPerPrefix int // 8 TCP connections per IPv4 /24 or IPv6 /56
	// SetUp is how long a TCP connection may be without an allocation: 10 s.
	SetUp time.Duration

	UnprovenPerSecond int // 10 datagrams per prefix from sources without allocation
	UnprovenBurst     int // 40
	ControlPerSecond  int // 20 requests per allocation
	ControlBurst      int // 160

	Stranger ClassLimits // 256 kbit/s, 64 KiB, 1 GiB, 10 min
	Friend   ClassLimits // 16 Mbit/s, 1 MiB, 64 GiB, never
}

// DefaultLimits returns the values that stand for zero fields.
func DefaultLimits() Limits {
	return Limits{
		Allocations: 32, PerClient: 2, PerPrefix: 4, Peers: 64,
		Connections: 64, ConnectionsPerPrefix: 8, SetUp: 10 * time.Second,
		UnprovenPerSecond: 10, UnprovenBurst: 40,
		ControlPerSecond: 20, ControlBurst: 160,
		Stranger: ClassLimits{BytesPerSecond: 256_000 / 8, BurstBytes: 64 << 10, BytesPerDay: 1 << 30, Idle: 10 * time.Minute},
		Friend:   ClassLimits{BytesPerSecond: 16_000_000 / 8, BurstBytes: 1 << 20, BytesPerDay: 64 << 30, Idle: -1},
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ v, d *int }{
		{&l.Allocations, &d.Allocations}, {&l.PerClient, &d.PerClient},
		{&l.PerPrefix, &d.PerPrefix}, {&l.Peers, &d.Peers},
		{&l.Connections, &d.Connections}, {&l.ConnectionsPerPrefix, &d.ConnectionsPerPrefix},
		{&l.UnprovenPerSecond, &d.UnprovenPerSecond}, {&l.UnprovenBurst, &d.UnprovenBurst},
		{&l.ControlPerSecond, &d.ControlPerSecond}, {&l.ControlBurst, &d.ControlBurst},
	} {
		if *f.v == 0 {
			*f.v = *f.d
		}
	}
	if l.SetUp == 0 {
		l.SetUp = d.SetUp
	}
	l.Stranger = l.Stranger.withDefaults(d.Stranger)
	l.Friend = l.Friend.withDefaults(d.Friend)
	return l
}

func (c ClassLimits) withDefaults(d ClassLimits) ClassLimits {
	if c.BytesPerSecond == 0 {
		c.BytesPerSecond = d.BytesPerSecond
	}
	if c.BurstBytes == 0 {
		c.BurstBytes = d.BurstBytes
	}
	if c.BytesPerDay == 0 {
		c.BytesPerDay = d.BytesPerDay
	}
	if c.Idle == 0 {
		c.Idle = d.Idle
	}
	return c
}

func (l Limits) class(c Class) ClassLimits {
	if c == Friend {
		return l.Friend
	}
	return l.Stranger
}

// account counts what one client key uses.
type account struct {
	limits  ClassLimits
	limiter *rate.Limiter

	mu    sync.Mutex
	since time.Time // when the present 24 h began
	bytes int64

	live int // allocations; guarded by Server.mu
}

const accountPeriod = 24 * time.Hour

func newAccount(l ClassLimits, now time.Time) *account {
	burst := max(l.BurstBytes, MaxMessage)
	return &account{limits: l, limiter: rate.NewLimiter(rate.Limit(l.BytesPerSecond), burst), since: now}
}

type verdict uint8

const (
	pass verdict = iota
	overRate
	overQuota
)

// charge accounts n bytes of payload, or says why they may not pass.
func (a *account) charge(n int, now time.Time) verdict {
	if a.spent(now, int64(n)) {
		return overQuota
	}
	if !a.limiter.AllowN(now, n) {
		return overRate
	}
	a.mu.Lock()
	a.bytes += int64(n)
	a.mu.Unlock()
	return pass
}

// spent reports whether n more bytes exceed the day's amount.
func (a *account) spent(now time.Time, n int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.since) >= accountPeriod {
		a.since, a.bytes = now, 0
	}
	return a.bytes+n > a.limits.BytesPerDay
}

// forgettable reports whether dropping the account would lose nothing.
func (a *account) forgettable(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live == 0 && (a.bytes == 0 || now.Sub(a.since) >= accountPeriod)
}

// prefixOf is the network that shares limits: IPv4 /24, IPv6 /56.
func prefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

const prefixSlots = 256

// prefixBuckets is a token bucket per network in a table of fixed size.
// Networks whose hashes meet share a bucket; the seed is secret, so nobody can
// choose whom to share with.
type prefixBuckets struct {
	seed  maphash.Seed
	mu    sync.Mutex
	slots [prefixSlots]*rate.Limiter
	rate  rate.Limit
	burst int
}

func newPrefixBuckets(perSecond, burst int) *prefixBuckets {
	return &prefixBuckets{seed: maphash.MakeSeed(), rate: rate.Limit(perSecond), burst: burst}
}

func (p *prefixBuckets) allow(a netip.Addr, now time.Time) bool {
	slot := maphash.Comparable(p.seed, prefixOf(a)) % prefixSlots
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[slot] == nil {
		p.slots[slot] = rate.NewLimiter(p.rate, p.burst)
	}
	return p.slots[slot].AllowN(now, 1)
}
