package relay

import "time"

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

	Connections          int // 64 TCP and TLS connections in all
	ConnectionsPerPrefix int // 8 of them per IPv4 /24 or IPv6 /56
	// SetUp is how long a connection may be without an allocation: 10 s.
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
