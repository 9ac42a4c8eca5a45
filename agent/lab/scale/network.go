package scale

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"time"

	"porchlight/agent/dht"
)

const (
	// publicShare is how many of a hundred devices are public.
	publicShare = 8
	// lossPerMille is how many of a thousand datagrams are lost.
	lossPerMille = 5
	// minDelay and maxDelay bound the one-way delay between two devices. Each
	// pair has its own, the same both ways.
	minDelay = 10 * time.Millisecond
	maxDelay = 150 * time.Millisecond
	// mappingLife is how long a NAT lets the answers to a packet in.
	mappingLife = 30 * time.Second
	// maxFlows is after how many flows a NAT looks for some that have ended.
	maxFlows = 256
	// port is that of every device, dhtOffset how far above it its node of the
	// DHT listens (agent/app/directory.go).
	port      = 4001
	dhtOffset = 4
	// headers are those of IPv4 and UDP, in bytes.
	headers = 28
)

var (
	errNoRoute = errors.New("the device has no network")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// traffic is packets and bytes, with IP and UDP headers, both ways together.
type traffic struct{ packets, bytes float64 }

func (t *traffic) add(packets, bytes float64) { t.packets += packets; t.bytes += bytes }

func (t traffic) minus(o traffic) traffic {
	return traffic{t.packets - o.packets, t.bytes - o.bytes}
}

// The purposes of traffic.
const (
	forRegistration = iota // our own registrations, and those of others here
	forPresence            // notes, what carries them, and hints that somebody left
	forServing             // the DHT for others
	forAsking              // the DHT for ourselves
	purposes
)

// place is an IPv4 address and where the device's two ports are.
type place struct{ ip netip.Addr }

func (p place) main() netip.AddrPort { return netip.AddrPortFrom(p.ip, port) }
func (p place) node() netip.AddrPort { return netip.AddrPortFrom(p.ip, port+dhtOffset) }

// newPlace returns an address that nobody has or had.
func (w *world) newPlace() place {
	for {
		r := w.rng.Uint32()
		ip := netip.AddrFrom4([4]byte{byte(20 + r>>24%70), byte(r >> 16), byte(r >> 8), byte(1 + r%254)})
		if !w.used[ip] {
			w.used[ip] = true
			return place{ip}
		}
	}
}

// delay is the one-way delay between two devices.
func (w *world) delay(a, b *device) time.Duration {
	x, y := uint64(min(a.id, b.id)), uint64(max(a.id, b.id))
	h := (w.cfg.Seed+1)*0x9e3779b97f4a7c15 ^ x<<32 ^ y
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	h ^= h >> 31
	return minDelay + time.Duration(h%uint64(maxDelay-minDelay))
}

func (w *world) roundTrip(a, b *device) time.Duration { return 2 * w.delay(a, b) }

// send carries a datagram of a device's DHT node.
func (w *world) send(d *device, to netip.AddrPort, b []byte) error {
	if !d.up {
		return errNoRoute
	}
	from := d.place.node()
	w.note(from, to, b)
	w.count(d, b, true)
	if !d.public {
		d.open(to, w.now)
	}
	if w.rng.Uint64()%1000 < lossPerMille {
		return nil
	}
	other := w.nodes[to]
	if other == nil {
		return nil
	}
	c := append(w.buffer(), b...)
	w.after(w.delay(d, other), func() { w.deliver(to, from, c) })
	return nil
}

// deliver hands a datagram to whoever is at an address when it arrives.
func (w *world) deliver(to, from netip.AddrPort, b []byte) {
	d := w.nodes[to]
	switch {
	case d == nil || !d.up:
	case !d.public && w.now-d.flows[from] > mappingLife:
		w.refused++
	default:
		w.count(d, b, false)
		d.core.Receive(w.wall(), from, b)
		w.arm(d)
	}
	w.free = append(w.free, b)
}

// open notes that a NAT lets in what comes from an address.
func (d *device) open(to netip.AddrPort, now time.Duration) {
	if len(d.flows) >= maxFlows {
		for a, at := range d.flows {
			if now-at > mappingLife {
				delete(d.flows, a)
			}
		}
	}
	d.flows[to] = now
}

func (w *world) buffer() []byte {
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b[:0]
	}
	return make([]byte, 0, dht.MaxDatagram)
}

// count notes a datagram of the DHT. A query that leaves and an answer that
// comes are for ourselves. Keys are in order, so that y, the last of them, is
// in its place: "1:y1:qe".
func (w *world) count(d *device, b []byte, out bool) {
	query := len(b) > 2 && b[len(b)-2] == 'q'
	purpose := forServing
	if query == out {
		purpose = forAsking
	}
	w.charge(d, purpose, 1, float64(len(b)+headers))
}

// charge notes traffic of a device.
func (w *world) charge(d *device, purpose int, packets, bytes float64) {
	d.spent[purpose].add(packets, bytes)
	if w.storm != nil && d.public {
		w.storm.add(d, w.now, packets)
	}
}

// note adds a datagram to the trace.
func (w *world) note(from, to netip.AddrPort, b []byte) {
	x, y := from.Addr().As4(), to.Addr().As4()
	w.mix(uint64(w.now))
	w.mix(uint64(binary.BigEndian.Uint32(x[:]))<<32 | uint64(binary.BigEndian.Uint32(y[:])))
	w.mix(uint64(crc32.Checksum(b, castagnoli)))
	w.datagrams++
}

// mix adds a number to the trace (FNV-1a, eight bytes at a time).
func (w *world) mix(n uint64) { w.trace = (w.trace ^ n) * 1099511628211; w.trace ^= w.trace >> 29 }

// arm makes sure that a device's node is called when it wants to be.
func (w *world) arm(d *device) {
	next := max(d.core.Next().Sub(epoch), w.now)
	if d.wake > w.now && d.wake <= next {
		return
	}
	d.wake = next
	life := d.life
	w.at(next, func() {
		if d.up && d.life == life && d.wake == next {
			d.wake = 0
			d.core.Tick(w.wall())
			w.arm(d)
		}
	})
}
