package nat

import "sync/atomic"

// Traffic counts packets and bytes of UDP payload, in and out.
type Traffic struct {
	RxPackets, RxBytes int64
	TxPackets, TxBytes int64
}

// PeerStats is what went over one peer's paths, and what did not.
type PeerStats struct {
	Direct, Relay Traffic

	NoPath         int64 // writes dropped for want of a path
	CarrierRefused int64 // packets a carrier gave an error for
	QueueFull      int64 // packets of carriers that found the queue full
	TooLarge       int64 // packets larger than the path takes
	WriteErrors    int64 // packets the kernel refused
}

// Stats is what a [Socket] did so far. Reads and writes are system calls'
// datagrams, which may hold several packets; Packets are single.
type Stats struct {
	Reads, GROReads   int64 // datagrams read; of these joined by the kernel
	Packets           int64 // packets handed to QUIC, carriers' included
	Writes, GSOWrites int64 // datagrams written; of these to be split by the kernel
	CarrierIn         int64 // packets in by carriers
	CarrierOut        int64 // packets out by carriers
	STUNIn, STUNOut   int64

	DroppedUnknown int64 // neither STUN nor QUIC, or from a made-up address
	DroppedSTUN    int64 // no handler set
	NoPath         int64 // see PeerStats
	CarrierRefused int64
	QueueFull      int64
	TooLarge       int64
	ReadErrors     int64
	WriteErrors    int64
}

// counters is Stats in the making.
type counters struct {
	reads, groReads, packets                                      atomic.Int64
	writes, gsoWrites, carrierIn, carrierOut                      atomic.Int64
	stunIn, stunOut, stunDropped, unknown                         atomic.Int64
	noPath, carrier, queueFull, tooLarge, readErrors, writeErrors atomic.Int64
}

// Stats returns the counts so far.
func (s *Socket) Stats() Stats {
	c := &s.count
	return Stats{
		Reads: c.reads.Load(), GROReads: c.groReads.Load(), Packets: c.packets.Load(),
		Writes: c.writes.Load(), GSOWrites: c.gsoWrites.Load(),
		CarrierIn: c.carrierIn.Load(), CarrierOut: c.carrierOut.Load(),
		STUNIn: c.stunIn.Load(), STUNOut: c.stunOut.Load(),
		DroppedUnknown: c.unknown.Load(), DroppedSTUN: c.stunDropped.Load(),
		NoPath: c.noPath.Load(), CarrierRefused: c.carrier.Load(),
		QueueFull: c.queueFull.Load(), TooLarge: c.tooLarge.Load(),
		ReadErrors: c.readErrors.Load(), WriteErrors: c.writeErrors.Load(),
	}
}

// traffic is Traffic in the making.
type traffic struct {
	rxPackets, rxBytes, txPackets, txBytes atomic.Int64
}

func (t *traffic) got(n int) {
	t.rxPackets.Add(1)
	t.rxBytes.Add(int64(n))
}

// packetsIn is how many packets of size segment n bytes are; 0 stands for one
// of any size.
func packetsIn(n, segment int) int {
	if segment <= 0 {
		return 1
	}
	return (n + segment - 1) / segment
}

// sent counts n bytes sent as packets of size segment, 0 for a single one.
func (t *traffic) sent(n, segment int) {
	t.txPackets.Add(int64(packetsIn(n, segment)))
	t.txBytes.Add(int64(n))
}

func (t *traffic) snapshot() Traffic {
	return Traffic{t.rxPackets.Load(), t.rxBytes.Load(), t.txPackets.Load(), t.txBytes.Load()}
}

// peerCounters is PeerStats in the making.
type peerCounters struct {
	direct, relay traffic

	noPath, carrier, queueFull, tooLarge, writeErrors atomic.Int64

	waiting int // packets in the inbox; guarded by its mutex
}

// of returns the counts for a kind of path.
func (c *peerCounters) of(k Kind) *traffic {
	if k == KindRelay {
		return &c.relay
	}
	return &c.direct
}

func (c *peerCounters) snapshot() PeerStats {
	return PeerStats{
		Direct: c.direct.snapshot(), Relay: c.relay.snapshot(),
		NoPath: c.noPath.Load(), CarrierRefused: c.carrier.Load(), QueueFull: c.queueFull.Load(),
		TooLarge: c.tooLarge.Load(), WriteErrors: c.writeErrors.Load(),
	}
}
