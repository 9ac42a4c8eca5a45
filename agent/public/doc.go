// Package public is what a device that others can reach does for them: a way in
// over TCP for homes whose UDP is blocked, answers to STUN in frames, and a
// relay.
//
// Promise: everything is bounded; the relay is open while strangers reach every
// port of the device, and only then; it never leads into the owner's network.
//
//	policy not private ──────► TCP listener at the UDP port ─► nat.Socket (RFC 4571 frames)
//	                                └─ STUN in frames ─► knocks, calls, where am I
//	reach.State.Open ──► yes ─► TURN at the next port (or any), UDP and TCP, IPv4 and IPv6 ─► nat/relay
//	                 └─► no ──► closed; no tickets
//
// Caveats: a device whose router leads one port to it is reachable, but cannot
// relay: relayed packets need ports of their own. A relay that closes ends what
// goes through it; reach.Keeper waits for repeated proof before it says so.
package public
