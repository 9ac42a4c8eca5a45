// Package identity is who a device is, and whose: its Ed25519 key and its
// owner's, the address people copy and the link they hand on.
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
// A device shows one self-signed certificate in the TLS handshake; one that
// has an owner shows two: the owner's self-signed one signs the device's.
//
//	Owner ── Certify(device, version) ──► leaf ─┐
//	  └───── Certificate() ─────────────► owner ─┴─► Device.Present ─► TLS ─► FromCertificates ─► Proof
//
// The common name of each is the address of its key, so that the kinds can
// never be mistaken for each other; the leaf's serial number is the version of
// the owner's list of devices it was made for.
//
// Caveats: whether a certificate still holds is not said here but by the
// owner's list of devices (package owner). A certificate's dates are the widest
// X.509 can say and never looked at, because the clock of a router starts in
// 1970.
package identity
