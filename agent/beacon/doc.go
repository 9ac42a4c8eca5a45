// Package beacon lets the devices in one house find each other without any
// help: no internet, no DNS, no server, no clock that is right.
//
// Promise: a device that comes into the house hears of every device that it
// knows, and knows it, within a second; a device that was cut off, moved or
// restarted is found again where it is; and whoever knows neither the device's
// address nor an invitation's code learns nothing from its beacons but that one
// of them was sent, and where its DHT node listens.
//
// # Data flow
//
//	Known, Invite ──► keys ─┐                               ┌─► Hints(a), OnHeard(a)
//	                        ▼                               │
//	every 30 s ───► seal ───┴──► broadcast, ff12::5267 ──►  limits ─► tag? ─► open ─► signature ─► table
//	Moved       ─►    ▲                                     │           └─no─► kept a while, for KnownChanged and Find
//	new boot    ─►────┘ one answer a second at most         └─► DHT() from the clear part
//
// # The datagram
//
// One format, sent to UDP port 5267 (L-A-M-P on a telephone's keys; assigned to
// nobody, below the ports that systems give out by chance), over IPv4 to
// 255.255.255.255 and over IPv6 to ff12::5267, a group of link-local scope that
// nobody assigned either (RFC 4291 §2.7: flag T set). Numbers are big-endian.
//
//	0    4   "PLB" and the version, 1
//	4   16   nonce, random, another one in each beacon
//	20   8   tag: the first bytes of SHA-256(key ‖ nonce ‖ 1)
//	28   1   flags, 0; unknown ones are passed over
//	29   2   port of the DHT node, 0 if there is none
//	31  ..   ChaCha20-Poly1305 (RFC 8439) under SHA-256(key ‖ nonce ‖ 2), nonce 0,
//	         with bytes 0–30 as associated data, of
//	   0   1   kind: 1 here I am, 2 I invite, 3 who invites?
//	   1  32   public key of the sender
//	   33  8   boot: random, another one at each start
//	   41  4   counter, rising from 1 in each boot
//	   45  2   UDP port of the device
//	   47  1   number of addresses, at most 4
//	   48 64   addresses of 16 bytes, IPv4 as ::ffff:a.b.c.d, unused ones 0
//	   112 ..  whatever later versions say
//	   end-64  Ed25519 signature of "porchlight beacon 1" ‖ 0 ‖ bytes 0–30 ‖ the above
//
// The key has two sources. For kind 1 it is SHA-256("porchlight beacon address 1"
// ‖ public key): whoever knows the address recognises the beacon by one hash.
// For kinds 2 and 3 it is SHA-256("porchlight beacon code 1" ‖ the 32 bytes that
// both sides derive from an invitation's code): the new device, which knows only
// the code, asks, and the inviter answers with its address. The signature holds
// the tag, so nobody who knows two keys can seal one's words under the other.
//
// # Costs
//
// One datagram of 223 bytes per 30 s, family and interface, two while an
// invitation is open; a start or a move costs three. Hearing costs one SHA-256
// block per known device and beacon, at most [heardPerSecond] beacons a second.
//
// # What strangers can cause
//
// Nothing is ever sent to one machine, so nothing can be reflected. A beacon
// causes another one only if a known device has signed it in a boot that was
// never heard before, or if it was sealed with the open invitation's code: at
// most one a second in all. A replayed beacon is refused while its sender is
// remembered; elsewhere it is a hint, and whoever answers there must prove the
// key. Datagrams whose source is on no network of ours are dropped unread.
//
// # Caveats
//
//   - Knowing an address is all it takes to recognise its device's beacons.
//   - Whoever hears a beacon of kind 2 or 3 can try codes on it at leisure. The
//     key material must be stretched (argon2) and short-lived, and a code must
//     not be proof enough for anything that outlives it.
//   - A device that we know and that does not know us is heard with its next
//     beacon, up to 33 s later; what was heard of it before becomes readable at
//     once when it becomes known.
//   - Every interface that is up is used, one towards a provider too: neighbours
//     there see that Porchlight runs, as they do by its other ports.
//   - Hints may hold link-local IPv6 addresses with a zone, as the last ones.
//   - On one machine several agents share the port; all hear everything.
//     The loopback interface carries IPv4 only, and only on demand.
package beacon
