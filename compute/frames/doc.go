// Package frames is the form in which the results of a task travel: from the
// sandbox child to the donor's agent by a pipe, and from the donor to the
// submitter as the body of an HTTP response.
//
// Promise: [Read] holds one frame of at most [MaxPayload] bytes at a time,
// gives its sink no more bytes, files or names than its [Limits] allow, gives
// only names that are safe to join to a folder, and reports success only
// after a complete end frame. The writer at the other end may be compromised
// or lie; it can waste the stream it was given and nothing else.
//
// A stream is a sequence of frames, big-endian:
//
//	offset  size  meaning
//	0       1     kind
//	1       4     length of the payload, at most 65536
//	5       n     payload
//
//	kind  payload
//	'o'   bytes of standard output
//	'e'   bytes of standard error
//	'f'   JSON {"name","size"}: a file begins; exactly size bytes follow in 'd'
//	'd'   bytes of the file that has begun
//	'n'   JSON, a notice whose form the two ends agree on
//	'z'   JSON, the end; nothing follows
//
//	Writer ──► o e o n o f d d f d z ──► Read ──► Sink
//
// # Caveats
//
// There is no checksum: a pipe and an encrypted session do not alter bytes.
// Truncation is noticed because the end frame is missing.
package frames
