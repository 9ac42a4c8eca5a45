// Package reach keeps a device reachable: sessions to a few rendezvous, the
// router's mapping alive, and a verdict in one word about how people get in,
// with the evidence for it.
//
// Promise: a device that nobody can call keeps registrations at two or more
// rendezvous and replaces each that dies; that strangers get in is said only
// when one did; worse news is told after repeated tests by different helpers
// and never because of one lost packet or of an own call that failed; a door
// that has closed is noticed within two minutes.
//
//	links (bootstrap, contacts) ─► tend: session ─► register ─► place at a relay
//	                                     └─► STUN (RFC 8489) at each, IPv4 and IPv6 ─► mapping, public address
//	portmap ─► mappings ─┐                                                               │
//	listen port ─────────┼─► doors ─► test: dialback ─► knocks by strangers ─► proofs ───┤
//	                     │                                                               ▼
//	no helper at all ────┴─► outside: nodes over TCP, an address of nobody ─► evidence ─► verdict ─► settle
//	State(): verdict, by UDP and by TCP, NAT, candidates; Link(), TCPCandidates(), Netcheck()
//
// A door is one port outside, for one transport and one IP family: that of a
// mapping, or the one that helpers see, or the device's own if somebody may
// have forwarded it. It is open
//
//   - if a knock came in from an address that the device sent nothing to in the
//     last ten minutes;
//   - if the router says that it leads here, and a knock came in from a new port
//     of an address that the device talks to. That alone would prove nothing: a
//     router that lets in whomever its devices talk to passes it too.
//
// Doors are tested with the first registration, whenever a mapping or the
// address outside changes, every 50 s while one is open, else every 2 min, and
// 5 s after a test in which a knock was missed.
//
// Caveats: with a single helper that nobody else has a session with, no
// stranger is there to knock, and an open port without a mapping stays unproven
// (--reachability public says it). Behaviour discovery with helpers of one IP
// address is an upper bound. That only web traffic leaves is said when all
// helpers that answer do so at port 443.
package reach
