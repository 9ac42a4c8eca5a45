// Package dtls stands in for github.com/pion/dtls/v2, which ICE and STUN of
// pion's second generation link for "stuns" and "turns" servers over UDP.
//
// Promise: nothing here speaks DTLS; every attempt to is refused.
//
// The original reuses random AES-GCM nonces (GO-2026-4479, no fix in v2), and
// brings encoding/gob into the binary: half a megabyte on mipsle. Porchlight
// never configures such a server. go.mod replaces the module by this folder.
//
// Caveats: it has exactly the names that pion/ice/v2, pion/stun and
// pion/stun/v2 mention.
package dtls
