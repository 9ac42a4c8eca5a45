package share

import (
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"porchlight/share/wire"
)

const (
	// sortedEntries is the size of the largest folder listed in order of
	// name; beyond it entries go out as they come, a batch in memory at a time.
	sortedEntries = 2048
	batchEntries  = 256
)

// entryWriter is what a listing is written to: JSON or a page.
type entryWriter interface {
	Add(wire.Entry) error
	Close() error
}

func (h *Handler) serveShares(w http.ResponseWriter, r *http.Request) {
	out := listingFor(w, r, "Shares", false)
	for _, sh := range h.cfg.Shares.List() {
		write := h.cfg.Grants.Allows(r, sh.Write)
		if !write && !h.cfg.Grants.Allows(r, sh.Read) {
			continue
		}
		if out.Add(wire.Entry{Name: sh.Name, Dir: true, Write: write}) != nil {
			return
		}
	}
	out.Close()
}

func (h *Handler) serveDir(w http.ResponseWriter, r *http.Request, root *os.Root, p wire.Path) {
	dir, err := openDir(root, p.Rest)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer dir.Close()
	out := listingFor(w, r, path.Join(p.Share, p.Rest), true)
	if r.Method == http.MethodHead {
		return
	}
	if err := dir.list(r, out.Add); err != nil {
		// Without its last line the listing is known to be incomplete.
		h.cfg.Log.Debug("listing ended early", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
	out.Close()
}

// folder is an open directory of a share.
type folder struct {
	share *os.Root // the share's own folder, for links
	here  *os.Root
	file  *os.File
	name  string
}

func openDir(share *os.Root, name string) (*folder, error) {
	here, err := share.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	file, err := here.Open(".")
	if err != nil {
		here.Close()
		return nil, err
	}
	return &folder{share: share, here: here, file: file, name: name}, nil
}

func (d *folder) Close() {
	d.file.Close()
	d.here.Close()
}

// list calls add for each entry, sorted if there are few.
func (d *folder) list(r *http.Request, add func(wire.Entry) error) error {
	names, err := d.names(sortedEntries)
	slices.Sort(names)
	for len(names) > 0 {
		for _, name := range names {
			if e, ok := d.entry(name); ok {
				if err := add(e); err != nil {
					return err
				}
			}
		}
		if err == nil {
			err = r.Context().Err()
		}
		if err != nil {
			break
		}
		names, err = d.names(batchEntries)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// names reads up to n names, fewer only together with an error or io.EOF.
func (d *folder) names(n int) (names []string, err error) {
	for len(names) < n && err == nil {
		var more []string
		more, err = d.file.Readdirnames(min(batchEntries, n-len(names)))
		names = append(names, more...)
	}
	return names, err
}

// entry describes one name. Links count as what they lead to, if that lies in
// the share; what is neither file nor folder is left out.
func (d *folder) entry(name string) (wire.Entry, bool) {
	if !wire.ValidName(name) {
		return wire.Entry{}, false
	}
	fi, err := d.here.Lstat(name)
	if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		fi, err = d.share.Stat(path.Join(d.name, name))
	}
	if err != nil || !fi.IsDir() && !fi.Mode().IsRegular() {
		return wire.Entry{}, false
	}
	e := wire.Entry{Name: name, Dir: fi.IsDir(), MtimeMS: fi.ModTime().UnixMilli()}
	if !e.Dir {
		e.Size = fi.Size()
	}
	return e, true
}

// listingFor begins the form of listing that the client prefers.
func listingFor(w http.ResponseWriter, r *http.Request, title string, up bool) entryWriter {
	w.Header().Set("Vary", "Accept")
	if !prefersHTML(r.Header.Get("Accept")) {
		w.Header().Set("Content-Type", "application/json")
		return wire.NewListWriter(w)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	p := &page{w: w}
	p.printf(pageHead, html.EscapeString(title), html.EscapeString(title))
	if up {
		p.printf(pageRow, "../", "..", "")
	}
	return p
}

// prefersHTML is true for browsers, which name text/html first.
func prefersHTML(accept string) bool {
	page, other := strings.Index(accept, "text/html"), strings.Index(accept, "json")
	return page >= 0 && (other < 0 || page < other)
}

const (
	pageHead = `<!doctype html><html lang="en"><meta charset="utf-8">` +
		`<meta name="viewport" content="width=device-width"><title>%s</title>` +
		`<style>body{font:1rem/1.5 system-ui;margin:1rem;color-scheme:light dark}td{padding-right:1rem}</style>` +
		"<h1>%s</h1><table>\n"
	pageRow  = `<tr><td><a href="%s">%s</a><td>%s` + "\n"
	pageTail = "</table></html>\n"
)

type page struct {
	w   io.Writer
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *page) Add(e wire.Entry) error {
	// "./" keeps a colon in a name from being read as a scheme.
	name, size := e.Name, fmt.Sprintf("%d bytes", e.Size)
	href := "./" + url.PathEscape(e.Name)
	if e.Dir {
		name, href, size = name+"/", href+"/", ""
	}
	p.printf(pageRow, html.EscapeString(href), html.EscapeString(name), size)
	return p.err
}

func (p *page) Close() error {
	p.printf(pageTail)
	return p.err
}
