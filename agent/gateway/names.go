package gateway

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

const (
	// maxLabel is the length of the longest label of a host name (RFC 1035 §2.3.4).
	maxLabel = 63
	// maxStem is how much of a name that has to be changed stays.
	maxStem = 40
)

// Label returns the form of a petname that can stand in a host name: lower
// case, a–z, 0–9 and single hyphens. A name that loses more than capitals gets
// a suffix of four characters made from it, the same at all times. Addresses
// are labels already.
func Label(name string) string {
	lower := strings.ToLower(name)
	if isLabel(lower) && !strings.Contains(lower, "--") { // an address too
		return lower
	}
	var b strings.Builder
	for _, r := range lower {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
		if b.Len() == maxStem {
			break
		}
	}
	stem := strings.TrimSuffix(b.String(), "-")
	if stem == "" {
		stem = "contact"
	}
	return stem + "-" + suffix(name)
}

// Labels returns the labels of all contacts, each once: of two names that
// differ in capitals only, the one in lower case, or else the first, keeps the
// plain label.
func Labels(names []string) []string {
	labels := make([]string, len(names))
	owner := map[string]int{}
	for i, name := range names {
		labels[i] = Label(name)
		if _, taken := owner[labels[i]]; !taken || name == labels[i] {
			owner[labels[i]] = i
		}
	}
	for i, name := range names {
		if owner[labels[i]] != i {
			labels[i] += "-" + suffix(name)
		}
	}
	return labels
}

// suffix returns four characters that stand for a name.
func suffix(name string) string {
	sum := sha256.Sum256([]byte("porchlight label 1 " + name))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:4])
}

// isLabel reports whether s is one label of a host name (RFC 1123 §2.1).
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
