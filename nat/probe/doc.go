// Package probe is one question and one answer between two devices that have
// exchanged credentials: "do my packets reach you this way?"
//
// Promise: a question is answered, and an answer believed, only with the right
// key; nothing else about the datagram is trusted.
//
//	asker  ── Binding request, USERNAME, MESSAGE-INTEGRITY ──►  Asked ─► Answer
//	asker  ◄── Binding success, MESSAGE-INTEGRITY ──────────────
//
// It is a STUN Binding transaction with short-term credentials (RFC 8489
// §9.1), as ICE makes them, for ways that ICE does not know: through a relayed
// address, from either side of it.
//
// Caveats: every datagram must have passed stun.Check before. Source addresses
// are the caller's matter.
package probe
