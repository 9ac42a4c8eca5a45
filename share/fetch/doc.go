// Package fetch is the other end of package share: it lists a peer's folders,
// gets files and puts files.
//
// It promises that a file appears under its name only when every byte of it
// has been verified and is on disk, that a transfer survives the death of
// either side without a byte being fetched twice beyond one piece, and that
// memory does not grow with the file: 256 KiB of buffers a connection and 65
// bytes a piece, of which a file has at most 16384.
//
//	GET ?merkle ──▶ piece hashes, as the peer computes them ─┐
//	DST.porchlight-part ──▶ hashed again after a restart ──┐ ▼
//	GET Range ──▶ buffers ──▶ write + hash ──────────────▶ pieces ──▶ all good
//	               (reading goes on meanwhile)    bad: fetched again     │
//	                              DST ◀── rename ◀── fsync ◀─────────────┘
//
// # Resuming
//
// There is no journal and no file beside the partial one. What DST.porchlight-part
// holds is hashed again and compared with the peer's piece hashes; what
// matches is kept, whatever version of the file it came from, and the rest is
// fetched. Pieces beyond the partial file's end are asked for at once. When
// only the connection breaks, the transfer goes on at the very byte.
//
// # What is believed
//
// The peer's word on size, ETag and piece hashes is checked against itself:
// hashes must give the root, every answer must have the first one's ETag and
// length. Options.Root, where known, makes a lie about the content itself
// visible. Redirects are never followed and compressed answers never asked for.
//
// # Plain SHA-256
//
// Options.SHA256 computes it in a pass of its own over the finished file,
// read from the page cache where it fits. Pieces may come out of order and
// from an earlier run, so a running hash would have to read many of them again
// anyway; done last, it never slows the network down and costs nothing when
// not asked for.
//
// # Caveats
//
// A kill -9 loses nothing that was written; a power cut may, and what it
// spoiled is found by hashing and fetched again. Two Gets to one destination
// exclude each other by flock, which some network file systems ignore.
package fetch
