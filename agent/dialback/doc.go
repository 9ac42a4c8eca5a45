// Package dialback finds out whether strangers' packets reach a device: it
// asks a helper to have somebody knock whom the device never sent anything to.
//
// Promise: a knock goes only to the address that the helper itself sees the
// device at; a request causes at most three packets towards it and is larger
// than they are together; whoever knocks does so within limits for each device
// that asks, each network that is knocked at, and altogether. The device
// believes what arrived, not what it is told.
//
//	A                       H1, a helper of A              H2, has a session with H1
//	│── POST /v1/ask ───────────►│  whom did A never meet?        │
//	│   ports, key, whom I met   │── POST /v1/knock ─────────────►│
//	│◄═══ UDP: one STUN question with the key, not answered ══════╡ fresh socket
//	│◄═══ TCP: connection, question and answer in frames ═════════╡ fresh port
//	│◄───────── who knocked ─────│◄──── what became of it ────────│
//
// Knocks are package probe's questions (RFC 8489 §9.1), in TCP behind their
// length (RFC 4571). Knocks by UDP stay unanswered: an answer would open the
// router's filter for H2 and spoil it for the next test. Without an H2 the
// helper knocks itself, from a fresh port, which proves less: a router that
// lets in whomever the device talks to passes that test too (RFC 4787 §5,
// address-dependent filtering).
//
// Whom A met is told as two bytes of a salted hash for each address: enough to
// choose another, too little to learn whom A knows.
//
// Caveats: one lost packet looks like a closed door, so a caller repeats a
// test before it believes bad news. Ports below 1024 other than 443 are never
// knocked at. Two devices behind one router cannot test each other.
package dialback
