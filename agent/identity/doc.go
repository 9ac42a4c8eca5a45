// Package identity is who a device is: its Ed25519 key, the address people
// copy and the link they hand on.
//
// Promise: the key is made once, at the first start, stored with mode 0600 and
// never rewritten; an address names exactly one key; a typo in an address is
// refused and, where the checksum allows it, its place is told.
//
//	device.key ── Load ──► Device ── Address() ──► "abcd…" (56 characters)
//	                         │                        │
//	                         └── Certificate() (TLS)  └── Link{At, Via} ──► "porchlight:abcd…?at=…&via=…"
//
// The address is 35 bytes in base32 (RFC 4648 §6 alphabet in lower case, no
// padding): bytes 0–31 the public key, 32–33 the first two bytes of
// SHA-256("porchlight address 1" ‖ key ‖ kind), 34 the kind. It fits one DNS
// label.
//
// Caveats: the kind of an owner is defined here so that the two can never be
// mistaken for each other; certificates of owners are not part of this
// package. A certificate's dates are the widest X.509 can say, because the
// clock of a router starts in 1970.
package identity
