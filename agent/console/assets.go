package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// dist is the built page: files compressed with gzip, and the digest of the
// sources they were built from.
//
//go:embed dist
var dist embed.FS

// sourcesFile holds the digest of the page's sources, in hexadecimal.
const sourcesFile = "dist/sources.sha256"

// assets serves the built page from memory, as it was compressed.
type assets struct {
	index *asset
	files map[string]*asset // by name below /assets/
	build string            // changes with every build of the page
}

type asset struct {
	packed []byte // gzip
	kind   string // media type
	tag    string // entity tag, with quotes
}

// mediaTypes are those of the files a build makes; others are refused, so
// that the answer does not depend on the machine's own table.
var mediaTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

func loadAssets(files fs.FS) (*assets, error) {
	sum, err := fs.ReadFile(files, sourcesFile)
	if err != nil {
		return nil, fmt.Errorf("%w; run npm run build in agent/console/web", err)
	}
	a := &assets{files: make(map[string]*asset), build: strings.TrimSpace(string(sum))}
	err = fs.WalkDir(files, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == sourcesFile {
			return err
		}
		return a.add(files, name)
	})
	if err == nil && a.index == nil {
		err = errors.New("index.html is missing; run npm run build in agent/console/web")
	}
	return a, err
}

func (a *assets) add(files fs.FS, name string) error {
	plain, packed := strings.CutSuffix(name, ".gz")
	kind := mediaTypes[path.Ext(plain)]
	if !packed || kind == "" {
		return fmt.Errorf("%s: not a file the build makes", name)
	}
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	one := &asset{packed: data, kind: kind, tag: `"` + hex.EncodeToString(sum[:8]) + `"`}
	if plain == "dist/index.html" {
		a.index = one
		return nil
	}
	a.files[path.Base(plain)] = one
	return nil
}

func (a *assets) serveIndex(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	a.index.serve(w, r)
}

// serveFile serves a file whose name changes with its content.
func (a *assets) serveFile(w http.ResponseWriter, r *http.Request) {
	one := a.files[r.PathValue("name")]
	if one == nil {
		refusal{status: http.StatusNotFound, code: "not_found",
			message: "There is no such file. Load the console's page again."}.write(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	one.serve(w, r)
}

func (o *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", o.tag)
	if matchesTag(r.Header.Get("If-None-Match"), o.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", o.kind)
	if !acceptsGzip(r.Header.Get("Accept-Encoding")) {
		o.serveUnpacked(w, r)
		return
	}
	h.Set("Content-Encoding", "gzip")
	h.Set("Content-Length", strconv.Itoa(len(o.packed)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(o.packed)
	}
}

func (o *asset) serveUnpacked(w http.ResponseWriter, r *http.Request) {
	plain, err := gzip.NewReader(bytes.NewReader(o.packed))
	if err != nil {
		http.Error(w, "the page is damaged; install the agent again", http.StatusInternalServerError)
		return
	}
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, plain)
	}
}

// matchesTag compares as RFC 9110 §13.1.2 asks of If-None-Match.
func matchesTag(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
		if one == tag || one == "*" {
			return true
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding (RFC 9110 §12.5.3).
func acceptsGzip(header string) bool {
	for one := range strings.SplitSeq(header, ",") {
		coding, params, _ := strings.Cut(one, ";")
		if c := strings.TrimSpace(coding); c != "gzip" && c != "*" {
			continue
		}
		q, hasQ := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		return !hasQ || (err == nil && weight > 0)
	}
	return false
}
