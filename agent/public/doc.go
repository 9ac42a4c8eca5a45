// Package public is what a device that anybody can reach does for those that
// nobody can: a way in over TCP for homes whose UDP is blocked, and a relay.
//
// Promise: everything is bounded and nothing opens before the device is known
// to be reachable; the relay never leads into the owner's network.
//
//	verdict public or forwarded ─► open ─┬─► TCP listener at the UDP port ─► nat.Socket (RFC 4571 frames)
//	                                     └─► TURN at the next port (or any), UDP and TCP ─► nat/relay
//
// Caveats: once open it stays so until the agent stops; a device that lost its
// reachability is simply found by nobody.
package public
