package beacon

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/identity"
)

const (
	// MaxKnown is how many devices are recognised.
	MaxKnown = 1024
	// maxHints is how many addresses of one device are kept, the newest.
	maxHints = 8
	// maxBoots is how many boots of one device are remembered, the newest:
	// nothing of those is believed twice.
	maxBoots = 8
	// maxNonces is how many beacons are remembered whole: the same one comes on
	// several interfaces and over both families.
	maxNonces = 256
	// maxUnread is how many beacons of others are kept, in case their sender
	// becomes known.
	maxUnread = 64
	// maxDHT is how many DHT nodes of strangers are remembered; further ones
	// are passed over while these are fresh.
	maxDHT = 32
	// maxProven is how many sources are exempt from the common limit.
	maxProven = 2 * MaxKnown
)

// knownKey recognises one device.
type knownKey struct {
	device identity.Address
	key    key
}

// hint is an address of a device, and when it was last told.
type hint struct {
	at    netip.AddrPort
	heard time.Time
}

// neighbour is a known device that was heard.
type neighbour struct {
	boots []past // the latest heard last
	heard time.Time
	hints []hint
	// The last beacon, which may come again from one more source.
	last       nonce
	port       uint16
	has4, has6 bool
}

// past is a boot and the highest counter heard in it.
type past struct {
	boot    boot
	counter uint32
}

// unread is a beacon that nobody's key opened.
type unread struct {
	datagram []byte
	src      netip.Addr
	heard    time.Time
}

// table is what was heard. All of it is bounded.
type table struct {
	known      []knownKey
	neighbours map[identity.Address]*neighbour // known devices only
	nonces     map[nonce]identity.Address      // the zero address: a stranger, or we
	order      []nonce                         // of nonces, a ring
	oldest     int
	unread     []unread // a ring
	nextUnread int
	dht        map[netip.AddrPort]time.Time
	proven     map[netip.Addr]time.Time
}

func newTable() table {
	return table{
		neighbours: map[identity.Address]*neighbour{},
		nonces:     map[nonce]identity.Address{},
		dht:        map[netip.AddrPort]time.Time{},
		proven:     map[netip.Addr]time.Time{},
	}
}

// learn sets the known devices and returns those that were not known before.
func (t *table) learn(devices []identity.Address, self identity.Address) (fresh []knownKey) {
	old := make(map[identity.Address]key, len(t.known))
	for _, k := range t.known {
		old[k.device] = k.key
	}
	seen := map[identity.Address]bool{self: true}
	t.known = nil
	for _, d := range devices {
		if d.Kind() != identity.KindDevice || seen[d] || len(t.known) == MaxKnown {
			continue
		}
		seen[d] = true
		k := knownKey{device: d, key: old[d]}
		if k.key == (key{}) {
			k.key = addressKey(d)
			fresh = append(fresh, k)
		}
		t.known = append(t.known, k)
	}
	for d := range t.neighbours {
		if !seen[d] {
			delete(t.neighbours, d)
		}
	}
	return fresh
}

// recognise finds the device whose key makes the tag.
func recognise(known []knownKey, h header) (knownKey, bool) {
	for _, k := range known {
		if k.key.tag(h.nonce) == h.tag {
			return k, true
		}
	}
	return knownKey{}, false
}

// note remembers a nonce and whose it is, in place of the oldest one.
func (t *table) note(n nonce, who identity.Address) {
	if _, there := t.nonces[n]; !there {
		if len(t.order) < maxNonces {
			t.order = append(t.order, n)
		} else {
			delete(t.nonces, t.order[t.oldest])
			t.order[t.oldest] = n
			t.oldest = (t.oldest + 1) % maxNonces
		}
	}
	t.nonces[n] = who
}

// keep holds on to a beacon of a stranger, in place of the oldest one.
func (t *table) keep(u unread) {
	if len(t.unread) < maxUnread {
		t.unread = append(t.unread, u)
		return
	}
	t.unread[t.nextUnread] = u
	t.nextUnread = (t.nextUnread + 1) % maxUnread
}

// noteDHT remembers a DHT node. Those at link-local IPv6 addresses are of no
// use: a zone cannot be said in the DHT.
func (t *table) noteDHT(at netip.AddrPort, now time.Time) {
	if at.Port() == 0 || !usable(at.Addr()) {
		return
	}
	if _, there := t.dht[at]; !there && len(t.dht) >= maxDHT {
		for a, heard := range t.dht {
			if now.Sub(heard) > Fresh {
				delete(t.dht, a)
			}
		}
		if len(t.dht) >= maxDHT {
			return
		}
	}
	t.dht[at] = now
}

// prove notes that a known device's beacon came from src.
func (t *table) prove(src netip.Addr, now time.Time) {
	if _, there := t.proven[src]; !there && len(t.proven) >= maxProven {
		for a, heard := range t.proven {
			if now.Sub(heard) > Fresh {
				delete(t.proven, a)
			}
		}
		if len(t.proven) >= maxProven {
			return
		}
	}
	t.proven[src] = now
}

func (t *table) isProven(src netip.Addr, now time.Time) bool {
	heard, there := t.proven[src]
	return there && now.Sub(heard) <= Fresh
}

// isOld reports whether a beacon, or a later one of its boot, was heard before.
func (n *neighbour) isOld(m body) bool {
	i := n.find(m.boot)
	return i >= 0 && m.counter <= n.boots[i].counter
}

func (n *neighbour) find(b boot) int {
	return slices.IndexFunc(n.boots, func(p past) bool { return p.boot == b })
}

// turn notes a beacon's boot and counter; true if the boot is new.
func (n *neighbour) turn(m body) bool {
	i := n.find(m.boot)
	if i >= 0 {
		n.boots = slices.Delete(n.boots, i, i+1)
	} else if len(n.boots) == maxBoots {
		n.boots = slices.Delete(n.boots, 0, 1)
	}
	n.boots = append(n.boots, past{m.boot, m.counter})
	return i < 0
}

// touch notes that a device is at an address; true if that is new.
func (n *neighbour) touch(at netip.AddrPort, heard time.Time) bool {
	i := slices.IndexFunc(n.hints, func(h hint) bool { return h.at == at })
	if i >= 0 {
		stale := heard.Sub(n.hints[i].heard) > Fresh
		n.hints[i].heard = heard
		n.sort()
		return stale
	}
	n.hints = append(n.hints, hint{at, heard})
	n.sort()
	if len(n.hints) > maxHints {
		n.hints = n.hints[:maxHints]
	}
	return true
}

// sort puts the newest first and, of one beacon, those that need a zone last.
func (n *neighbour) sort() {
	slices.SortStableFunc(n.hints, func(a, b hint) int {
		return cmp.Or(b.heard.Compare(a.heard), cmp.Compare(len(a.at.Addr().Zone()), len(b.at.Addr().Zone())))
	})
}

// source notes where the last beacon came from: of each family the first
// source only, so that repeating it from many proves nothing.
func (n *neighbour) source(src netip.Addr, heard time.Time) bool {
	had := &n.has6
	if src.Is4() {
		had = &n.has4
	}
	if *had {
		return false
	}
	*had = true
	return n.touch(netip.AddrPortFrom(src, n.port), heard)
}

// accept takes in a verified beacon. It reports whether the boot is new, and
// whether anything is.
func (n *neighbour) accept(l letter, id nonce, src netip.Addr, networks []netip.Prefix, heard time.Time) (newBoot, news bool) {
	newBoot = n.turn(l.body)
	news = newBoot || heard.Sub(n.heard) > Fresh
	n.heard, n.last, n.port, n.has4, n.has6 = heard, id, l.port, false, false
	for _, at := range believed(l.body, networks) {
		news = n.touch(at, heard) || news
	}
	news = n.source(src, heard) || news
	return newBoot, news
}

// believed returns those of a beacon's addresses that can be true here: the
// ones on a network of ours.
func believed(m body, networks []netip.Prefix) []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range m.addresses {
		if usable(a) && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) }) {
			all = append(all, netip.AddrPortFrom(a, m.port))
		}
	}
	return all
}

// onLink reports whether a datagram can have come from a neighbour.
func onLink(networks []netip.Prefix, src netip.Addr) bool {
	return src.IsLinkLocalUnicast() ||
		usable(src) && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(src) })
}
