// Package bencode reads and writes the encoding of BitTorrent messages.
//
// It promises that
//
//   - a datagram is checked once, whole and strictly, before anything in it is
//     looked at: lengths inside the input, no leading zeros, no "-0", no
//     trailing bytes, no key twice, at most [MaxDepth] levels and [MaxItems]
//     values;
//   - a [Value] is a view of the bytes as they came, so that what was signed
//     (BEP 44 signs the encoded value) can be verified and passed on unchanged;
//   - reading allocates nothing and recurses no deeper than MaxDepth.
//
// # Source
//
//	BEP 3   "bencoding"    https://www.bittorrent.org/beps/bep_0003.html
//
// # Data flow
//
//	datagram ─▶ Parse (one pass, limits) ─▶ Value ─▶ Get, Int, Bytes, Each
//	AppendInt, AppendBytes, AppendString ─▶ datagram
//
// # Caveats
//
//   - Keys of a dictionary should be sorted. Strangers' need not be, for some
//     old programs send them as they come; [Value.Get] finds them all the same.
//   - Integers are those of 64 bits. Larger ones are legal in BEP 3 and refused
//     here.
//   - Get walks the dictionary: it is meant for messages with a dozen keys.
package bencode
