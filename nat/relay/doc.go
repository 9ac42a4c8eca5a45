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
//	Allocate ── UDP or TCP ──▶ gate ─▶ pion/turn ─▶ relayed socket ── UDP ──▶ any public peer
//	        ◀── ChannelData ──   │                     │   ▲
//	                             │ length, TLV,        │   └─ or the relayed socket of
//	                             │ prefix buckets,     │      another allocation, when
//	                             │ ticket, reply ≤     │      both homes lack UDP
//	                             │ request             │ rate, bytes per day,
//	                             ▼                     ▼ refused peers
//	                                   Stats
//
// # Sources
//
// RFC 8656 (TURN), RFC 8489 (STUN, long-term credentials). The server is
// github.com/pion/turn/v2 behind a gate of our own; the client is written on
// the codec of github.com/pion/stun/v2. Ticket, from first byte to last:
//
//	username = base64url( epoch 8 ‖ expiry 4 ‖ session 8 ‖ class 1 ‖ client 8 [ ‖ peer IPv4 4 ] )
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
//   - Relayed addresses are IPv4. pion/turn v2 ignores REQUESTED-ADDRESS-FAMILY
//     and always asks for "udp4"; requests for IPv6 are refused. Clients may
//     reach the server over IPv6.
//   - Over UDP a reply is never longer than its request. A stock client's first
//     Allocate has 36 bytes, the 401 that answers it 120 (a factor of 3.3):
//     it gets silence unless it pads to 120 bytes with SOFTWARE, ORIGIN or
//     PADDING, as this client does. Over TCP everything is answered.
//   - A nonce is not bound to a source address (pion): a ticket holder who can
//     spoof may have its own packets, within its limits and each up to 40 bytes
//     longer, sent to somebody else.
//   - pion checks the age of its nonces by the time of day. When the clock
//     jumps, clients get 438 and go on with the new nonce.
//   - Public neighbours on the relay's own network segment are not refused: on
//     many access networks they are ordinary peers. Do not run a relay where a
//     firewall protects a public subnet it is part of.
//   - The relayed ports must be reachable from outside: see Config.MinPort.
//   - Requests for DONT-FRAGMENT, EVEN-PORT, RESERVATION-TOKEN and TCP
//     allocations (RFC 6062) are refused. DTLS is not used in any form.
package relay
