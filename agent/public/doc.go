// Package public is what a device that others can reach does for them: a way in
// over TCP for homes whose UDP is blocked, answers to STUN in frames, and a
// relay.
//
// Promise: everything is bounded; the relay is open while strangers reach every
// port of the device, and only then; it never leads into the owner's network.
//
//	policy not private ──► TCP at the UDP port, and at 443 ─┬─ first byte 0–5 ─► nat.Socket (RFC 4571 frames)
//	                                                       │    └─ STUN in frames ─► knocks, calls, where am I
//	                                                       └─ first byte 22 (TLS) ─► the relay, if it is open
//	reach.State.Open ──► yes ─► TURN at the next port (or any), UDP and TCP, IPv4 and IPv6 ─► nat/relay
//	                 └─► no ──► closed; no tickets
//
// TURN over TLS has no port of its own: a connection says in its first byte
// whether it brings frames or TLS. Tickets name port 443 where that could be
// opened, otherwise the port of the UDP socket. 443 is opened only if the
// configuration has it (Config.WebPort): on a machine that happens to be
// public it belongs to a web server that may start later.
//
// Caveats: a device whose router leads one port to it is reachable, but cannot
// relay: relayed packets need ports of their own. A relay that closes ends what
// goes through it; reach.Keeper waits for repeated proof before it says so.
package public
