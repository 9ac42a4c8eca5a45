package gateway

import (
	"bytes"
	"io"
	"mime"
	"net/http"
)

// rebase puts a prefix before the absolute paths of a page or style sheet on
// its way, so that they stay below /~name/:
//
//	href="/x"  src='/x'  href=/x  src=/x  url(/x)  url("/x")
//
// It knows no more of HTML and CSS than this. Paths that scripts put together
// are not found; a site for which that matters is opened by name.
type rebase struct {
	to     io.Writer
	prefix string
	// past are the last bytes that were passed on.
	past []byte
	// slash says that one was read after an opening, and waits for what
	// follows: two of them begin a host.
	slash bool
}

// maxOpening is the length of the longest opening.
const maxOpening = 5

// Write implements io.Writer. A slash at the very end of everything is lost,
// which no complete page has after an opening.
func (b *rebase) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+len(b.prefix))
	for _, c := range p {
		if b.slash {
			b.slash = false
			if c != '/' {
				out = append(out, b.prefix...)
			}
			out = b.pass(out, '/')
		}
		if c == '/' && b.opened() {
			b.slash = true
			continue
		}
		out = b.pass(out, c)
	}
	if _, err := b.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *rebase) pass(out []byte, c byte) []byte {
	if len(b.past) == maxOpening {
		b.past = b.past[:copy(b.past, b.past[1:])]
	}
	b.past = append(b.past, c)
	return append(out, c)
}

// opened reports whether a path begins after what was passed on.
func (b *rebase) opened() bool {
	past := bytes.ToLower(b.past)
	quoted := bytes.TrimRight(past, `"'`)
	if len(quoted) == len(past)-1 && bytes.HasSuffix(quoted, []byte("=")) {
		return true
	}
	return bytes.HasSuffix(quoted, []byte("url(")) ||
		bytes.HasSuffix(past, []byte("href=")) || bytes.HasSuffix(past, []byte("src="))
}

// hasPaths reports whether an answer is one that rebase understands.
func hasPaths(resp *http.Response) bool {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && (kind == "text/html" || kind == "text/css") && resp.Header.Get("Content-Encoding") == ""
}
