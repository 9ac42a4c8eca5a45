// Package reach keeps a device reachable: sessions to a few rendezvous, the
// router's mapping alive, and a verdict in one word about how people get in.
//
// Promise: a device that nobody can call keeps registrations at two or more
// rendezvous and replaces each that dies; a verdict changes after a repeated
// check and never because of one lost packet.
//
//	links (bootstrap, contacts) ─► tend: session ─► register ─► place at a relay
//	                                     └─► STUN (RFC 8489) at each ─► mapping, public address
//	State(): verdict, NAT, candidates, helpers ─► status, offers
//
// Caveats: filtering is learnt from helpers' second ports (RFC 5780 with one
// IP address), so it is an upper bound. A port that the owner forwarded is
// told by --reachability public.
package reach
