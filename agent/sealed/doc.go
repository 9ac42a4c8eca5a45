// Package sealed makes messages that a helper can carry but neither read nor
// forge nor send twice: signed by the sender, encrypted to the recipient.
//
// Promise: Open returns a body only if it was sealed for this device and this
// purpose by the sender it names; a Guard lets each body through once, without
// asking any clock.
//
//	byte  0      version (1)
//	bytes 1–32   HPKE encapsulated key (RFC 9180, DHKEM(X25519), HKDF-SHA256, ChaCha20-Poly1305)
//	bytes 33–    ciphertext of: sender's key (32) ‖ signature (64) ‖ body
//
// The HPKE info string and the signature both cover version, purpose and the
// recipient's key, so that a message can be turned neither into another kind
// nor towards another device.
//
// Freshness: each device makes a random epoch at its start and tells it to its
// rendezvous. A sender puts the epoch into the body; the Guard refuses other
// epochs, and remembers every session id seen within one. When its memory is
// full the epoch changes. A clock that says 1970 therefore harms nothing.
//
// Caveats: no forward secrecy towards a thief of the recipient's key; the
// bodies are addresses and short-lived passwords. Length is not hidden.
package sealed
