package frames

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxName is the longest name of an output file, in bytes.
	MaxName = 240
	// MaxDepth is the most folders deep an output file may lie, itself included.
	MaxDepth = 8
)

// CheckName says why name cannot be an output file: it must be a relative
// slash-separated path without "." or "..", of printable UTF-8, without
// backslash or colon (which are separators elsewhere), no part of it empty,
// ending in a dot or space, or longer than 100 bytes.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("output name of %d bytes, 1 to %d allowed", len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("output name %q is not UTF-8", name)
	case !fs.ValidPath(name) || name == ".":
		return fmt.Errorf("output name %q is no plain relative path", name)
	case strings.Count(name, "/") >= MaxDepth:
		return fmt.Errorf("output name %q is more than %d deep", name, MaxDepth)
	case strings.ContainsAny(name, `\:`):
		return fmt.Errorf("output name %q contains a backslash or colon", name)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("output name %q is not printable", name)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > 100 || strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") {
			return fmt.Errorf("output name %q has an unsafe part %q", name, part)
		}
	}
	return nil
}

// Printable makes text from elsewhere fit for a terminal or log: at most
// limit bytes, no control characters but the line feed.
func Printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, s)
}
