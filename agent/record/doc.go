// Package record is what a device says about where it can be reached, and how
// that is wrapped for a table that strangers keep: the distributed hash table
// of BitTorrent, in mutable items of BEP 44.
//
// Promise: who knows an address finds, reads and verifies what was put there;
// who keeps it can neither read it, nor tell whose it is, nor recognise it in
// the next period; nobody but the holder of the key can make or change it, and
// no period's item serves in another.
//
//	Record ── Encode ──► body ─┐                              ┌──► body ── Decode ──► Record
//	owner's list of devices ───┴─► Seal ─► Item ─► table ─► Open ──► body, seq
//	owner's key ─► Presign ─► signatures ─► Presigned.Item ─┘ (by any device of the owner)
//
// # Record, version 1
//
// All numbers are unsigned and high byte first.
//
//	byte  0      version (1)
//	bytes 1–8    seq, below 2^62: rises whenever the device says something else
//	bytes 9–10   flags (Flags)
//	byte  11     kind of NAT (NAT)
//	bytes 12–19  version of the owner's list of devices, 0 without owner
//	byte  20     1 if the device has an owner, otherwise 0
//	32 bytes     the owner's public key, only if byte 20 is 1
//	1 byte       number of addresses, at most 4, and each of them:
//	               1 byte 4 or 6 ‖ 4 or 16 bytes IP ‖ 2 bytes port
//	1 byte       number of rendezvous, at most 4, and each of them:
//	               32 bytes device key ‖ address as above
//	to the end   extensions: 1 byte type ‖ 1 byte length ‖ bytes; passed over
//
// # Item
//
//	key    the address's key, blinded for "record" and the period (package identity)
//	salt   none, as most items have none: a constant would mark ours
//	seq    seq + a number of 50 bits that depends on address and period, so that
//	       equal or neighbouring seqs do not link two periods
//	v      512 or 896 bytes: nonce (24) ‖ XChaCha20-Poly1305 of
//	         length (2) ‖ body ‖ zeros up to the size
//	sig    of the blinded key over "3:seqi…e1:v…:" ‖ v (BEP 44)
//
// Records of devices always take 512 bytes, so that an answer with eight nodes
// of each IP family still goes in one packet; only a long list of an owner's
// devices takes 896. A period lasts 24 hours and begins for each address at
// another second of the day.
//
// Address and period give the encryption key; the nonce is a keyed hash of seq
// and padded body. The same body with the same seq therefore becomes the same
// bytes, which is what lets an owner sign in advance, and another body another
// nonce, whatever happened to the seq: two would meet with a probability below
// 2^-130 even after a billion items in one period.
//
// # Presigned, version 1
//
//	byte  0      version (1)
//	bytes 1–8    first period
//	bytes 9–16   version of the list: the seq
//	bytes 17–18  number of periods, at most 400
//	then         64 bytes of signature for each period
//
// Caveats: every holder of an address can read its record, and can go on doing
// so. Within a period a node may keep back what is newer and show what is older;
// readers remember the highest seq for that. An old list of devices stays
// validly signed for the periods it was presigned for. The table's nodes see
// the IP address of whoever puts and gets, and when; in the last 90 minutes of a
// period two items, under unlike keys, come from one address in a row. An item can be told to be
// one of Porchlight's by its size and by looking random.
package record
