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
//	successive bindings ─► rotation ─► NAT, candidates      study ─► hairpin, lifetime ─► keep-alive ─► bindings
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
// A network is studied once, with sockets of its own: hairpin (RFC 5780 §4.5)
// 10 s after the device came to it; how long a silent mapping lives (§4.6) after
// three quiet minutes, and again every day. Both begin anew with [Keeper.Moved];
// nothing is sent where UDP is blocked. Bindings go out every 20 s; where a
// mapping was seen to live long enough, the pause grows to 55 s at most, and
// falls back with the first one that is lost or tells another port. A router
// whose ports change twice in six bindings moves living flows: it is named, its
// addresses are no candidates, and no lifetime is asked of it.
//
// Registrations are renewed every 14 s. That is the cheapest pause, since it is
// just below the 15 s after which either side of a silent session sends a
// keep-alive: renewals take their place. Of a session and its bindings, both ways
// together, 21 datagrams a minute were counted; with renewals every 8 s 30, every
// 20 s 29. So a rendezvous that was restarted without a farewell
// is used again within 15 s; one that said farewell is called again after 1 s.
// Only a request tells that it was restarted: a keep-alive is too small for a
// stateless reset (RFC 9000 §10.3).
//
// Caveats: with a single helper that nobody else has a session with, no
// stranger is there to knock, and an open port without a mapping stays unproven
// (--reachability public says it). Behaviour discovery with helpers of one IP
// address is an upper bound. That only web traffic leaves is said when all
// helpers that answer do so at port 443. A lifetime is a lower bound, and
// nothing is said of one below 28 s: the 20 s hold there if anything does. While
// a session carries traffic by UDP it holds that mapping itself, whatever the
// bindings do.
package reach
