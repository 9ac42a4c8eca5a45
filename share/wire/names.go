package wire

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	// MaxName is the length in bytes of the longest file name, as in Linux.
	MaxName = 255
	// MaxPath is the length in bytes of the longest path.
	MaxPath = 4096
	// MaxDepth is the largest number of names in a path, the share's included.
	MaxDepth = 64

	// PartSuffix ends the name of a partial download beside its destination.
	PartSuffix = ".porchlight-part"
	// PutPrefix begins the name of a partial upload in the folder it goes to.
	PutPrefix = ".porchlight-put-"
)

const (
	// QueryMerkle asks for a file's piece hashes instead of its content.
	QueryMerkle = "merkle"
	// QueryUpload asks with HEAD for the state of an upload, by its root.
	QueryUpload = "upload"
	// HeaderRoot carries a file's root, 64 hexadecimal digits.
	HeaderRoot = "Porchlight-Root"
	// HeaderOffset carries the number of bytes kept of a broken-off upload.
	HeaderOffset = "Porchlight-Offset"
	// MerkleType is the media type of package merkle's format.
	MerkleType = "application/vnd.porchlight.merkle"
)

// ValidName says whether a file or folder of this name can be listed and
// served. Names that begin with a dot are private, as are partial downloads.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || s[0] == '.' || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f || c == '/' || c == '\\' {
			return false
		}
	}
	return !strings.HasSuffix(s, PartSuffix)
}

// Path is a request path taken apart.
type Path struct {
	// Share is the first name, "" for the list of shares.
	Share string
	// Rest is what follows it, without slashes at its ends; "." for the
	// share's own folder.
	Rest string
	// Dir says that the path ended in a slash, which asks for a folder.
	Dir bool
}

// SplitPath takes a decoded URL path apart. Every name in it is valid by
// ValidName, so that no path it accepts can climb.
func SplitPath(p string) (Path, bool) {
	if p == "/" {
		return Path{Rest: ".", Dir: true}, true
	}
	if len(p) > MaxPath || !strings.HasPrefix(p, "/") {
		return Path{}, false
	}
	trimmed := strings.TrimSuffix(p[1:], "/")
	names := strings.Split(trimmed, "/")
	if len(names) > MaxDepth {
		return Path{}, false
	}
	for _, n := range names {
		if !ValidName(n) {
			return Path{}, false
		}
	}
	out := Path{Share: names[0], Rest: ".", Dir: len(trimmed) < len(p)-1}
	if len(names) > 1 {
		out.Rest = trimmed[len(names[0])+1:]
	}
	return out, true
}

// EscapePath returns the request path of a path given as people write it:
// "Music/a b.mp3", "/Music/a b.mp3".
func EscapePath(p string) string {
	return (&url.URL{Path: "/" + strings.TrimPrefix(p, "/")}).EscapedPath()
}
