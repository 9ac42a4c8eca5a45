// Package merkle names files by their content: the root of a SHA-256 Merkle
// tree over blocks of 16 KiB, exactly the "pieces root" that a BitTorrent v2
// torrent gives the same file (BEP 52).
//
// It promises that a file's root equals libtorrent's for the same bytes, that
// hashing needs memory for one piece layer and a few dozen nodes only, and
// that each piece of a file can be checked the moment its last byte arrives.
//
//	bytes ──▶ leaves (SHA-256 of 16 KiB) ──▶ piece hashes ──▶ root
//	            Hasher / PieceHasher           Info.Layer      Info.Root
//
// # Tree
//
// Leaf i is the SHA-256 of bytes [i·16384, (i+1)·16384); the last one covers
// what is left and is not padded. A node is the SHA-256 of its two children.
// Leaves beyond the end of the file are 32 zero bytes, so that their number is
// a power of two. A piece hash is the node over one piece, a power of two
// number of leaves. A file no longer than one piece has a layer of one entry
// which is the root itself, over the next power of two of its own leaves. An
// empty file has no root in BEP 52; here it is 32 zero bytes, the hash of one
// padding leaf, with an empty layer.
//
// # Wire format
//
// The layer is written before the root, so that it can be sent while a file
// is being hashed for the first time. Integers are unsigned big-endian.
//
//	offset   bytes  field
//	0        4      "PLM1": format and version
//	4        4      zero
//	8        8      size: length of the file
//	16       8      piece size: power of two ≥ 65536, the least that makes
//	                at most 16384 pieces (MaxPieces)
//	24       32·n   piece hashes, n = ⌈size / piece size⌉
//	24+32·n  32     root
//
// # Caveats
//
// The layer proves whole pieces; proofs for a 16 KiB range inside a piece are
// not part of this format. A layer received from a stranger says only what
// the root says: compare the root with one you trust.
package merkle
