// Package share serves folders of this device to those the owner let in.
//
// It promises that nothing outside a shared folder can be read or written
// through it, that who is not allowed to read a share cannot tell it from one
// that does not exist, that a file appears under its name only when complete
// and on disk, and that serving costs no more than net/http itself: content
// goes from *os.File to the connection with nothing in between, so that
// sendfile is reached over plain TCP.
//
//	Store ◀──▶ Shares (name, folder, who)
//	             │ find
//	request ──▶ Handler ──▶ Grants ──▶ os.Root ──┬─▶ listing
//	                                            ├─▶ http.ServeContent ─▶ bytes
//	                                            ├─▶ layers (Merkle, cached) ─▶ hashes
//	                                            └─◀ put: partial, fsync, rename
//
// Requests and answers are described in package wire, the Merkle layer in
// package merkle; package fetch is the other end. Ranges and conditions are
// those of RFC 9110 as net/http implements them.
//
// A file's piece hashes are computed when somebody first asks for them, by the
// goroutines of those who ask, a bounded number of bytes at a time in turn
// with others, and sent as they come: content may be fetched meanwhile. They
// are kept in memory by (device, inode, size, time of change). Nothing is
// written to disk for that.
//
// # Status codes
//
// 404 not there or not allowed; 408 the
// upload broke off; 403 allowed to read, not to write; 405 another
// method; 409 the folder is missing, or the upload stands elsewhere; 411 no
// length; 412 condition not met, also when a file changed; 413 larger than
// accepted; 422 the bytes do not have the announced root; 503 try again later,
// also when the shared folder's disk is not there; 507 disk full.
//
// # Caveats
//
// A file changed in place, to the same length, within one tick of its file
// system's clock is not seen as changed by its ETag; the Merkle root still
// tells a fetching device, a plain browser does not notice. A browser cannot
// be told either that a file changed while it was being sent; its connection
// is cut where that is known in time.
//
// The layer cache is lost at restart: files are hashed once more when next
// asked for.
//
// If a shared folder lies on a disk that is not mounted, what the mount point
// itself holds is shared, and uploads go there: share a folder below the mount
// point. Conditions of PUT are decided together with the rename among uploads,
// not against other programs on the device.
package share
