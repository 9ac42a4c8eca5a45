// Package owner is the person a device belongs to: an Ed25519 key that
// certifies devices, the signed list of them, and the short code that brings
// in another.
//
// Promise: only the owner's key adds a device or takes one away; nobody goes
// back to an older list; a code works once, for ten minutes, and nobody between
// two devices gains by carrying its messages; no clock is asked.
//
//	Create ─► owner.key ─► roster 1 ─► leaf ─► identity.Device.Present ─► TLS
//	Invite ─► code ┄┄┄ (typed, QR) ┄┄┄► Join ──POST /v1/join──► Handler ─► roster n+1
//	Revoke ─► roster n+1 ─► Spread ──PUT /v1/roster──► Learn ─► OwnerOf(device)
//
// # Roster
//
// The list of an owner's devices, at most MaxRoster bytes, big-endian:
//
//	byte  0      form (1)
//	bytes 1–8    version, 1 or more, rising with each change
//	byte  9      n, how many devices, at most MaxDevices
//	then n × 32  their public keys, ascending, none twice
//	then 64      Ed25519 signature (RFC 8032) of the owner over
//	             "porchlight roster 1 " ‖ owner's public key ‖ all bytes above
//
// A device is its owner's if the newest roster known lists it. Certificates
// carry the version of the roster they were made for: one that is newer than
// any roster known is believed until that roster is learnt; one that is not,
// and whose device is not listed, is a revoked device's.
//
// # Code
//
// Thirteen characters of base32 (RFC 4648 §6, lower case): twelve of them are
// 60 random bits, the last a check that finds every single wrong character and
// every two that are swapped. Argon2id (RFC 9106) turns them into 32 bytes, from which HMAC-SHA-256
// makes the key pair under which the inviter can be found (Meeting), a tag for
// the local network (Tag) and the key of the two codes that the devices show
// each other. Those cover both device keys, which TLS has proved.
//
// # Backup
//
// The key as 24 words (BIP-39, English list) or as a file:
//
//	porchlight-owner-key-1
//	owner ADDRESS
//	seed BASE64
//
// where a passphrase makes the last line
//
//	sealed MEMORY-KIB PASSES SALT-BASE64 BOX-BASE64
//
// with BOX the seed under ChaCha20-Poly1305 (RFC 8439), nonce zero, the two
// lines above as additional data, and its key by Argon2id from the passphrase.
//
// # Service
//
//	POST /v1/join            {name, mac} → {grant: {certificate, leaf, roster, presigned, edition, names}, mac};
//	                         403 whatever is wrong with the code
//	GET  /v1/roster?of=OWNER → the newest roster known; 404
//	PUT  /v1/roster?of=OWNER {roster, presigned, edition, names} → 204; 409 and the newer roster.
//	                         All but the roster counts only between devices of one owner.
//
// Caveats: a thief of a device that holds the owner's key has it, and no roster
// takes it away: then a new owner is the only way. Two devices that hold it and
// change the roster at the same moment make two of one version, of which each
// place keeps the first it sees. A session tells what was proved when it began.
// An owner may list a device that is another's: a session with the device
// settles it.
package owner
