// Package relay carries packets between two devices that cannot be joined
// directly, by TURN (RFC 8656): a server for devices that are reachable from
// outside, a client for those that are not.
//
// # Promise
//
// A relay forwards only for holders of a ticket it issued itself, only to
// public addresses (or to another allocation of its own), and only within
// limits on allocations, rate and bytes. It never answers an unproven datagram
// with a longer one, so it is of no use for reflection. What it forwards it
// neither reads nor keeps.
//
//	home A                      relay                        peer B
//	Allocate ─ UDP, TCP, TLS ─▶ gate ─▶ pion/turn ─▶ relayed socket ── UDP ──▶ any public peer
//	  over IPv4 or IPv6     ◀──  │       IPv4 or IPv6, │   ▲                of its IP version
//	                             │       as requested  │   └─ or the relayed socket of
//	                             │ length, TLV,        │      another allocation, when
//	                             │ prefix buckets,     │      both homes lack UDP
//	                             │ ticket, reply ≤     │
//	                             │ request             │ rate, bytes per day,
//	                             ▼                     ▼ refused peers
//	                                   Stats
//
// A home with IPv4 alone and one with IPv6 alone meet here: one of them asks
// for a relayed address of the other's kind ([Options].Family), over whatever
// way it has to the relay, and the other sends plain UDP there.
//
// Where nothing but TLS on port 443 gets out, the same messages go over TLS
// ([Config].TLS). The certificate is made at the start and trusted by nobody;
// tickets carry its hash.
//
// Servers of others, such as coturn, need no ticket: [AllocateStock] takes a
// turn: or turns: [URI] with user name and password from a configuration.
//
// # Files
//
//	server.go, config.go    the server and what it needs
//	accept.go, gate.go      who gets in, by connection and by datagram
//	quota.go, limits.go     how much; prefix.go: per network
//	refusals.go             where to never
//	allocations.go          an allocation's life; relayed.go: its packets; family.go: its IP version
//	ticket.go, secure.go    what a client must bring; what it may trust
//	client.go, transact.go, clientpeers.go, link.go   the client
//	stock.go, uri.go        servers of others
//
// # Sources
//
// RFC 8656 (TURN, both IP versions: §7.2), RFC 8489 (STUN, long-term
// credentials), RFC 7064 and RFC 7065 (URIs). The server is
// github.com/pion/turn/v2 behind a gate of our own; the client is written on
// the codec of github.com/pion/stun/v2. Ticket, from first byte to last:
//
//	username = base64url( epoch 8 ‖ expiry 4 ‖ session 8 ‖ class 1 ‖ client 8 [ ‖ peer 4 or 16 ] )
//	password = base64url( HMAC-SHA256(secret, username) )
//
// epoch is drawn anew at each start, expiry counts seconds since that start on
// the monotonic clock (big-endian), client is the head of SHA-256 over the
// caller's tag. No part depends on the time of day: devices boot in 1970.
//
// # Why the client is not pion's
//
// turn/v2's Client (read in v2.1.6) needs two round trips, blocks the first
// write to each peer for a third, logs a failed refresh instead of reporting
// it, never binds a channel again after a stale nonce, takes no context and
// copies each packet twice. It serves as a foreign client in the tests, with
// coturn's.
//
// # Caveats
//
//   - pion/turn v2 ignores REQUESTED-ADDRESS-FAMILY and always asks its
//     generator of addresses for "udp4"; the gate reads the attribute, and the
//     generator then gives a socket of that family. An allocation has one
//     family: ADDITIONAL-ADDRESS-FAMILY, which is optional, is ignored.
//   - pion refuses a peer without an error code in CreatePermission, and with
//     401 in ChannelBind, where RFC 8656 has 403 and 443.
//   - Over UDP a reply is never longer than its request. A stock client's first
//     Allocate has 36 bytes, the 401 that answers it 120 (a factor of 3.3):
//     it gets silence unless it pads to 120 bytes with SOFTWARE, ORIGIN or
//     PADDING, as this client does. Over TCP everything is answered.
//   - A nonce is not bound to a source address (pion): a ticket holder who can
//     spoof may have its own packets, within its limits and each up to 40 bytes
//     longer, sent to somebody else.
//   - pion checks the age of its nonces by the time of day. When the clock
//     jumps, clients get 438 and go on with the new nonce.
//   - Public IPv4 neighbours on the relay's own network segment are not refused: on
//     many access networks they are ordinary peers. Do not run a relay where a
//     firewall protects a public subnet it is part of.
//   - Of IPv6, the whole /56 around each own address is refused: what a home
//     usually gets. Devices there have public addresses behind a firewall that
//     does not stand between them and the relay. A home with a larger prefix
//     has networks that this does not cover.
//   - With several UDP sockets for one IP version tickets carry no nonces, and
//     the first request takes two round trips.
//   - Names of stock servers are resolved by the system, without SRV records
//     (RFC 5928); devices that are to work without DNS are given addresses.
//   - The relayed ports must be reachable from outside: see Config.MinPort.
//   - Requests for DONT-FRAGMENT, EVEN-PORT, RESERVATION-TOKEN and TCP
//     allocations (RFC 6062) are refused. DTLS is not used in any form.
package relay
