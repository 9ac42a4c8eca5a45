// Package wire holds what both ends of shared storage say to each other over
// HTTP: paths, listings and header names. The tree of hashes that verifies a
// file is described in package merkle.
//
//	request                          answer
//	GET  /                           listing of the shares the caller may use
//	GET  /SHARE/DIR/                 listing of a folder
//	GET  /SHARE/DIR/FILE             content; ranges and conditions (RFC 9110)
//	GET  /SHARE/DIR/FILE?merkle      piece hashes and root (package merkle)
//	HEAD /SHARE/DIR/FILE?upload=ROOT Porchlight-Offset of a broken-off upload
//	PUT  /SHARE/DIR/FILE             upload, see below
//
// # Listing
//
// A listing is JSON, application/json, with one entry a line so that it can
// be written and read with memory for one entry:
//
//	{"entries":[
//	{"name":"holiday.mp4","size":104857600,"mtime_ms":1767225600000},
//	{"name":"letters","dir":true,"mtime_ms":1767225600000}
//	]}
//
// The first line and the last are exactly these; a listing without its last
// line was cut off. Lines are at most MaxLine bytes. Entries come sorted by
// name from small folders, as the disk has them from large ones.
//
// # Upload
//
// A PUT has a Content-Length. If-Match and If-None-Match are honoured. With
// the header Porchlight-Root the bytes become a file only if they have that
// root, and an upload that breaks off is kept and goes on: HEAD with
// ?upload=ROOT tells the number of bytes kept, PUT with
// "Content-Range: bytes FIRST-LAST/TOTAL", LAST = TOTAL-1, sends the rest from
// any FIRST up to that number.
//
// # Caveats
//
// A name that is not UTF-8, begins with a dot, or contains a slash, a
// backslash or a control character cannot be said on this wire: such files are
// neither listed nor served.
package wire
