// Package reflection measures what a device sends to those who have proved
// nothing. It has no code of its own, only tests; it stands apart because the
// answer is a property of all parts together, as they share the device's ports.
//
// # Promise
//
// Whoever forges the source of a packet makes a device send the victim at most
// as many bytes, and at most as many packets, as the forger has sent. And ten
// thousand first packets of QUIC from everywhere neither stop a transfer that
// is running nor make the device remember anything.
//
//	row of the table ──▶ a source of its own ──▶ the device's ports ─┬─ nat.Socket ─┬─ nat/stun, nat/ice
//	                          │      ▲                               │              └─ quic.Transport
//	                          ▼      └────────── all that comes back ┴─ nat/relay, UDP
//	                 bytes and packets,
//	                 out ÷ in ≤ 1
//
// # How QUIC is made to keep it
//
// RFC 9000 §8.1 lets a server answer an unproven address with three times what
// it got. quic-go sends a little more: two first packets of 1200 bytes brought
// back 8 packets of 8272 bytes in all. A Retry (§8.1.2) is one packet of some
// 150 bytes for one of 1200, costs the server no memory, and costs the client
// one round trip. So sessions must be accepted by a Transport with
//
//	VerifySourceAddress: func(a net.Addr) bool {
//		p := socket.PeerAt(a)
//		return p == nil || !proven(p)
//	}
//
// Packets of a source that nat.Socket knows are shown under the constant
// address of a peer, and what is answered goes down the path of that peer,
// whatever the source was. So the path is what must have proved itself, by an
// answer to something of ours: an ICE check, a probe, an earlier session. To
// have been heard is not enough: who knows the password may forge the source. A
// token from an earlier session (§8.1.3) is a proof too. Everybody else gets a
// Retry first.
//
// A source that is bound to a peer between the Retry and the answer to it
// changes its address under quic-go, and its token is refused: whoever is told
// quic.InvalidToken dials again, and needs no Retry then.
//
// # Sources
//
// RFC 9000 §8 and §21.1.1, RFC 8489 §16.2, RFC 8656 §21.1. The table prints
// with go test -v -run Reflection.
//
// # Caveats
//
//   - The measure is the UDP payload. With headers, equal payloads stay equal.
//   - Who observes a packet of somebody else's session and repeats it from
//     another source, faster than the original, makes quic-go ask that source
//     whether it is there: one packet of 1200 bytes (RFC 9000 §9.3.2).
//   - A ticket of the relay is a proof of who asks, not of where: see nat/relay.
package reflection
