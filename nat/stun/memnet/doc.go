// Package memnet is an internet in memory for tests: public hosts, homes
// behind NATs, latency and loss, without root and without sockets. It runs in
// real time and inside a testing/synctest bubble.
//
//	Conn ─▶ NAT (mapping) ─▶ Net (latency, Drop) ─▶ NAT (filter) ─▶ Conn
//
// A [NAT] follows the words of RFC 4787: its mapping and its filter depend on
// nothing, on the remote address, or on the remote address and port.
//
// # Caveats
//
//   - Only what tests of STUN and ICE need: UDP, no fragments, no ICMP, one NAT
//     per home. Mappings live for ever and there is no hairpin unless the
//     fields of [NAT] say so.
//   - Queues hold [QueueLength] datagrams and drop the newest beyond that.
package memnet
