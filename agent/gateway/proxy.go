package gateway

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"porchlight/agent/identity"
)

const (
	// queryList asks for the listing of a folder that is a site.
	queryList = "list"
	// indexFile makes a folder a site.
	indexFile = "index.html"
	// maxWords is how much of a contact's error is shown, in bytes.
	maxWords = 300
)

// passedOn are the request headers that a contact gets. None of them differs
// from one reader to the next by more than what is asked for.
var passedOn = []string{
	"Accept", "Accept-Encoding", "Range", "If-Range", "If-Match", "If-None-Match",
	"If-Modified-Since", "If-Unmodified-Since",
	"Content-Type", "Content-Range", "Porchlight-Root",
}

// letThrough are the response headers that a browser gets.
var letThrough = []string{
	"Accept-Ranges", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Length",
	"Content-Range", "Content-Type", "Date", "Etag", "Last-Modified",
	"Porchlight-Offset", "Porchlight-Root", "Retry-After",
}

// A contact's page may use its own files, and run scripts on them.
const (
	ownFilesOnly = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; form-action 'self'"
	policyByName = ownFilesOnly + "; frame-ancestors 'self'"
	policyByPath = ownFilesOnly + "; sandbox allow-scripts allow-forms allow-popups allow-downloads"
)

// proxy asks the contact and passes the answer on.
func (g *Gateway) proxy(w http.ResponseWriter, r *http.Request, p place) {
	if p.prefix == "" {
		// Own origin, own window group, own process.
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		w.Header().Set("Origin-Agent-Cluster", "?1")
	}
	if r.Method == http.MethodPut && r.ContentLength < 0 {
		g.fail(w, r, p, noLength)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// One timer watches every wait for the contact.
	watch := time.AfterFunc(g.limits.answer, cancel)
	defer watch.Stop()
	to, err := g.cfg.Resolve(ctx, p.name)
	if err != nil {
		g.unresolved(w, r, p, err)
		return
	}
	if !g.take(to) {
		g.fail(w, r, p, busy)
		return
	}
	defer g.release(to)
	e := exchange{gateway: g, w: w, r: r.WithContext(ctx), place: p, to: to, watch: watch}
	resp, err := e.ask()
	if err != nil {
		if r.Context().Err() == nil {
			g.cfg.Logger.Debug("contact does not answer the gateway", "peer", to.Short(), "err", err)
			g.fail(w, r, p, g.offline(p))
		}
		return
	}
	defer resp.Body.Close()
	e.answer(resp)
}

func (g *Gateway) unresolved(w http.ResponseWriter, r *http.Request, p place, err error) {
	if errors.Is(err, ErrUnknown) {
		g.fail(w, r, p, unknown)
		return
	}
	g.cfg.Logger.Debug("contact cannot be resolved", "name", p.name, "err", err)
	g.fail(w, r, p, g.offline(p))
}

// exchange is one request to one contact.
type exchange struct {
	gateway *Gateway
	w       http.ResponseWriter
	r       *http.Request
	place   place
	to      identity.Address
	watch   *time.Timer
}

// ask sends the request: first for a folder's index.html, where a browser
// wants a page. At the top there are only shares.
func (e *exchange) ask() (*http.Response, error) {
	query, list := withoutList(e.r.URL.RawQuery)
	path := e.place.path
	if !list && path != "/" && strings.HasSuffix(path, "/") && e.r.Method != http.MethodPut && wantsHTML(e.r) {
		resp, err := e.send(path+indexFile, query)
		if err != nil {
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusOK, http.StatusPartialContent, http.StatusNotModified,
			http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable:
			return resp, nil
		}
		resp.Body.Close()
	}
	return e.send(path, query)
}

// withoutList takes the word list out of a query.
func withoutList(query string) (rest string, found bool) {
	var kept []string
	for _, word := range strings.Split(query, "&") {
		if word == queryList {
			found = true
		} else if word != "" {
			kept = append(kept, word)
		}
	}
	return strings.Join(kept, "&"), found
}

// send asks for one path, which is escaped.
func (e *exchange) send(path, query string) (*http.Response, error) {
	u, err := e.url(path, query)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{Method: e.r.Method, URL: u, Host: u.Host, Header: http.Header{"User-Agent": nil}}).WithContext(e.r.Context())
	for _, name := range passedOn {
		if v := e.r.Header[name]; len(v) > 0 {
			req.Header[name] = v
		}
	}
	if e.place.prefix != "" {
		req.Header.Del("Accept-Encoding") // paths in it may have to be changed
	}
	limit := e.gateway.limits.answer
	if e.r.Method == http.MethodPut {
		limit = e.gateway.limits.store
		req.ContentLength = e.r.ContentLength
		req.Body = &watched{ReadCloser: e.r.Body, watch: e.watch, limit: limit}
		if e.r.ContentLength == 0 {
			req.Body = http.NoBody
		}
	}
	e.watch.Reset(limit)
	return e.gateway.cfg.Client.Do(req)
}

// url is the contact's URL for an escaped path.
func (e *exchange) url(path, query string) (*url.URL, error) {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "http", Host: e.to.String(), Path: plain, RawPath: path, RawQuery: query}, nil
}

// watched is an upload that may take as long as it moves.
type watched struct {
	io.ReadCloser
	watch *time.Timer
	limit time.Duration
}

// Read implements io.Reader.
func (b *watched) Read(p []byte) (int, error) {
	b.watch.Reset(b.limit)
	return b.ReadCloser.Read(p)
}

// answer passes the contact's answer on, or a page of ours in its place.
func (e *exchange) answer(resp *http.Response) {
	switch code := resp.StatusCode; {
	case code < 200 || code > 599:
		e.fail(nonsense)
	case code == http.StatusNotModified:
		e.pass(resp)
	case code >= 300 && code < 400:
		e.follow(resp)
	case code >= 400 && isPlain(resp) && (wantsHTML(e.r) || wantsJSON(e.r)) && e.r.Method != http.MethodHead:
		words, _ := io.ReadAll(io.LimitReader(resp.Body, maxWords)) // what came is shown
		e.fail(said(code, strings.TrimSpace(strings.ToValidUTF8(string(words), "?"))))
	default:
		e.pass(resp)
	}
}

func (e *exchange) fail(no *refusal) { e.gateway.fail(e.w, e.r, e.place, no) }

func isPlain(resp *http.Response) bool {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && kind == "text/plain"
}

// follow rewrites a redirect within the contact's own files to our form; one
// that leads anywhere else is not followed.
func (e *exchange) follow(resp *http.Response) {
	asked, err := e.url(e.place.path, "")
	if err != nil {
		e.fail(nonsense)
		return
	}
	to, err := asked.Parse(resp.Header.Get("Location"))
	switch {
	case resp.Header.Get("Location") == "" || err != nil:
		e.fail(nonsense)
		return
	case to.Scheme != "http" || !strings.EqualFold(to.Host, asked.Host) || to.User != nil:
		e.fail(elsewhere)
		return
	}
	path := to.EscapedPath()
	if path == "" {
		path = "/"
	}
	target := "http://" + e.r.Host + e.place.prefix + path
	if _, list := withoutList(e.r.URL.RawQuery); list && to.RawQuery == "" {
		to.RawQuery = queryList // the folder's listing, one slash later
	}
	if to.RawQuery != "" {
		target += "?" + to.RawQuery
	}
	e.w.Header().Set("Location", target)
	e.w.WriteHeader(resp.StatusCode)
}

// pass passes status, headers and content on.
func (e *exchange) pass(resp *http.Response) {
	h := e.w.Header()
	for _, name := range letThrough {
		if v := resp.Header[name]; len(v) > 0 {
			h[name] = v
		}
	}
	if len(h["Content-Type"]) == 0 && resp.ContentLength != 0 && e.r.Method != http.MethodHead {
		h.Set("Content-Type", "application/octet-stream") // nobody is to guess
	}
	policy := policyByName
	if e.place.prefix != "" {
		policy = policyByPath
	}
	h.Set("Content-Security-Policy", policy)
	for _, narrower := range resp.Header["Content-Security-Policy"] {
		// It can forbid more than ours, but reports would go to anybody.
		if !strings.Contains(strings.ToLower(narrower), "report") {
			h.Add("Content-Security-Policy", narrower)
		}
	}
	to := io.Writer(e.w)
	if e.place.prefix != "" && resp.StatusCode == http.StatusOK && hasPaths(resp) {
		// What is sent has another length, and changes with the token.
		for _, name := range []string{"Content-Length", "Accept-Ranges", "Etag", "Last-Modified"} {
			h.Del(name)
		}
		to = &rebase{to: e.w, prefix: e.place.prefix}
	}
	e.w.WriteHeader(resp.StatusCode)
	if e.r.Method == http.MethodHead {
		return
	}
	if err := e.stream(resp, to); err != nil {
		e.gateway.cfg.Logger.Debug("gateway stopped in the middle of a file", "peer", e.to.Short(), "err", err)
		// Cutting the connection is the only way left to say so.
		panic(http.ErrAbortHandler)
	}
}

// stream copies the content as it comes. The contact must go on sending; the browser may
// pause for as long as it likes.
func (e *exchange) stream(resp *http.Response, to io.Writer) error {
	control := http.NewResponseController(e.w)
	buf := make([]byte, 32<<10)
	for {
		e.watch.Reset(e.gateway.limits.stall)
		n, err := resp.Body.Read(buf)
		e.watch.Stop()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
			if err := control.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
