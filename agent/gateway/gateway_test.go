package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"porchlight/agent/identity"
)

// site is what bob shares: a folder that is a site, one that is none, and one
// that takes files.
var site = map[string]string{
	"site/index.html":     "<!doctype html><title>bob</title><link rel=stylesheet href=style.css><p>hello",
	"site/style.css":      "p{color:green}",
	"site/sub/index.html": "<!doctype html><p>deeper",
	"site/sub/a b.txt":    "spaces",
	"files/film.bin":      "0123456789",
	"files/x/y.txt":       "deep",
	"drop/here.txt":       "files may be left here",
}

func sharing(t testing.TB) *world {
	return newWorld(t, map[identity.Address]http.Handler{
		bob:   shares(t, site),
		alice: shares(t, map[string]string{"site/index.html": "alice's"}),
	})
}

func TestContactsAreShownInBothForms(t *testing.T) {
	w := sharing(t)
	for _, form := range []struct{ name, host, prefix string }{
		{"by name", w.host("bob"), ""},
		{"by address", w.host(bob.String()), ""},
		{"by name in capitals", w.host("BOB"), ""},
		{"by path", w.host(""), w.path("bob")},
		{"by path and address", w.host(""), w.path(bob.String())},
		{"by path on IPv4", "127.0.0.1:" + w.port, w.path("bob")},
		{"by path on IPv6", "[::1]:" + w.port, w.path("bob")},
	} {
		for _, c := range []struct {
			path   string
			accept string
			status int
			want   string // in the content, or the Location of a redirect
		}{
			{"/", browserAccept, 200, `href="./site/"`},
			{"/", "Accept: application/json", 200, `{"name":"site","dir":true}`},
			{"/", "", 200, `{"name":"site","dir":true}`},
			{"/site/", browserAccept, 200, "<p>hello"},
			{"/site/?list", browserAccept, 200, `href="./style.css"`},
			{"/site/", "Accept: application/json", 200, `"style.css"`},
			{"/site", browserAccept, 301, "/site/"},
			{"/site?list", browserAccept, 301, "/site/?list"},
			{"/site/style.css", "Accept: text/css", 200, "p{color:green}"},
			{"/site/sub", browserAccept, 301, "/site/sub/"},
			{"/site/sub/", browserAccept, 200, "<p>deeper"},
			{"/site/sub/a%20b.txt", browserAccept, 200, "spaces"},
			{"/files/", browserAccept, 200, `href="./film.bin"`},
			{"/files/x/", browserAccept, 200, `href="./y.txt"`},
			{"/files/film.bin", browserAccept, 200, "0123456789"},
			{"/none/", browserAccept, 404, "Not found"},
			{"/none/", "Accept: application/json", 404, `"error":"not_found"`},
			{"/files/none", "Accept: image/*", 404, "not found"},
			{"/../site/index.html", browserAccept, 404, "Not found"},
			{"/%2e%2e/%2e%2e/etc/passwd", browserAccept, 404, "Not found"},
			{"//site/", browserAccept, 404, "Not found"},
		} {
			t.Run(form.name+" "+c.path, func(t *testing.T) {
				resp, body := w.ask(t, "GET", form.host, form.prefix+c.path, c.accept)
				if location := resp.Header.Get("Location"); resp.StatusCode == 301 {
					body, c.want = location, "http://"+form.host+form.prefix+c.want
				}
				if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
					t.Errorf("%d %s; want %d %s", resp.StatusCode, body, c.status, c.want)
				}
				sandboxed := strings.Contains(strings.Join(resp.Header["Content-Security-Policy"], ";"), "sandbox allow-scripts")
				if resp.StatusCode == 200 && sandboxed != (form.prefix != "") {
					t.Errorf("policy %q", resp.Header["Content-Security-Policy"])
				}
			})
		}
	}
}

func TestThePathOfAContactLeadsToItsPages(t *testing.T) {
	w := sharing(t)
	for _, c := range []struct{ path, want string }{
		{"/~bob", "/"}, {"/~bob/", "/"}, {"/~bob/site/?list", "/site/?list"}, {"/~bob/a%20b", "/a%20b"}, {w.path("bob"), "/"},
		{"/~bob.", "/"}, {"/~bob.old/site/", "/site/"}, {w.path("bob") + "x/site/", "/site/"}, {"/~bob." + w.gateway.token("alice") + "/x", "/x"},
		{"/~bob//evil.example/x", "//evil.example/x"},
	} {
		resp, body := w.ask(t, "GET", w.host(""), c.path, browserAccept)
		if got, want := resp.Header.Get("Location"), "http://"+w.host("")+w.path("bob")+c.want; resp.StatusCode != 307 || got != want {
			t.Errorf("%s: %d to %s, want %s; %s", c.path, resp.StatusCode, got, want, body)
		}
	}
}

func TestAbsolutePathsStayBelowTheContact(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{``, ``}, {`<a href="/x">`, `<a href="P/x">`}, {`<a href='/'>`, `<a href='P/'>`}, {`<img src=/x>`, `<img src=P/x>`}, {`<A HREF=/x>`, `<A HREF=P/x>`},
		{`url(/a) url("/b") URL('/c')`, `url(P/a) url("P/b") URL('P/c')`},
		{`<a href="//host/x">`, `<a href="//host/x">`}, {`<a href="x/y">`, `<a href="x/y">`}, {`<a href="http://h/x">`, `<a href="http://h/x">`},
		{`x = /re/; y=/re/; a/b </p> // c`, `x = /re/; y=/re/; a/b </p> // c`}, {`call("/x")`, `call("/x")`}, {`<form action="/x?y=/z">`, `<form action="P/x?y=/z">`},
	} {
		for size := 1; size <= len(c.in)+1; size++ {
			var out bytes.Buffer
			b := &rebase{to: &out, prefix: "P"}
			for rest := []byte(c.in); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				if n, err := b.Write(rest[:min(size, len(rest))]); err != nil || n != min(size, len(rest)) {
					t.Fatal(n, err)
				}
			}
			if out.String() != c.want {
				t.Fatalf("%s in pieces of %d became %s, want %s", c.in, size, out.String(), c.want)
			}
		}
	}
	page := `<a href="/site/x">` + strings.Repeat("y", 100_000)
	w := newWorld(t, map[identity.Address]http.Handler{bob: shares(t, map[string]string{"site/index.html": page, "site/x.txt": page})})
	for _, c := range []struct{ host, path, want string }{
		{w.host("bob"), "/site/", page},
		{w.host(""), w.path("bob") + "/site/x.txt", page},
		{w.host(""), w.path("bob") + "/site/", strings.Replace(page, "/site", w.path("bob")+"/site", 1)},
	} {
		resp, body := w.ask(t, "GET", c.host, c.path, browserAccept)
		if body != c.want || resp.StatusCode != 200 {
			t.Errorf("%s: %d, %d bytes: %.80s", c.path, resp.StatusCode, len(body), body)
		}
	}
}

func TestListOfContacts(t *testing.T) {
	w := sharing(t)
	resp, body := w.ask(t, "GET", w.host(""), "/", browserAccept)
	for _, want := range []string{`href="http://bob.localhost:` + w.port + `/"`, `href="/~bob/"`, "on-line", "Alice &amp; &lt;Co&gt;", "last seen 3 hours ago"} {
		if !strings.Contains(body, want) {
			t.Errorf("%d without %s: %s", resp.StatusCode, want, body)
		}
	}
	_, body = w.ask(t, "GET", w.host(""), "/", "Accept: application/json")
	var list struct {
		Contacts []struct {
			Name, Label, URL string
			Online           bool
		}
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Contacts) != 3 ||
		list.Contacts[0].URL != "http://bob.localhost:"+w.port+"/" || !list.Contacts[0].Online {
		t.Errorf("%v: %s", err, body)
	}
	empty := New(Config{})
	rec := httptest.NewRecorder()
	empty.index(rec, httptest.NewRequest("GET", "http://localhost/", nil))
	if !strings.Contains(rec.Body.String(), "no contacts yet") {
		t.Error(rec.Body)
	}
}

func TestErrorsAreCalmPages(t *testing.T) {
	w := newWorld(t, map[identity.Address]http.Handler{bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/page" {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(404)
			io.WriteString(w, "<p>the site's own page")
			return
		}
		http.Error(w, `<script>alert(1)</script>`+strings.Repeat("x", 4*maxWords), http.StatusForbidden)
	})})
	for _, c := range []struct {
		host, path, accept string
		status             int
		want               []string
	}{
		{w.host("dave"), "/", browserAccept, 404, []string{"<h1>No contact goes by this name", `href="http://localhost:` + w.port}},
		{w.host(""), w.path("dave") + "/", browserAccept, 404, []string{"<h1>No contact goes by this name"}},
		{w.host("dave"), "/", "Accept: application/json", 404, []string{`"error":"unknown_contact"`}},
		{w.host("carol"), "/", browserAccept, 503, []string{"<h1>Not on-line now", "last seen 3 hours ago", "Try again"}},
		{w.host("carol"), "/", "Accept: application/json", 503, []string{`"error":"offline"`, `"retry_ms":30000`}},
		{w.host("bob"), "/x", browserAccept, 403, []string{"<h1>Not for you", "&lt;script&gt;"}},
		{w.host("bob"), "/x", "Accept: application/json", 403, []string{`"error":"not_allowed"`}},
		{w.host("bob"), "/page", browserAccept, 404, []string{"<p>the site's own page"}},
		{w.host(""), "/other", browserAccept, 404, []string{"<h1>There is nothing here"}},
		{w.host(""), "/~", browserAccept, 404, []string{"<h1>There is nothing here"}},
		{w.host(""), "/~-/", browserAccept, 404, []string{"<h1>There is nothing here"}},
		{"evil.example:" + w.port, "/", browserAccept, 421, []string{"<h1>Not under this name"}},
	} {
		t.Run(c.host+c.path, func(t *testing.T) {
			resp, body := w.ask(t, "GET", c.host, c.path, c.accept)
			if resp.StatusCode != c.status || strings.Contains(body, "<script") || len(body) > 4000 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			for _, want := range c.want {
				if !strings.Contains(body, want) {
					t.Errorf("without %s: %s", want, body)
				}
			}
			if c.status == 503 && resp.Header.Get("Retry-After") != "30" {
				t.Errorf("retry after %q", resp.Header.Get("Retry-After"))
			}
		})
	}
}

func TestRangesAndConditionsAreThoseOfThePeer(t *testing.T) {
	direct := httptest.NewServer(shares(t, site))
	defer direct.Close()
	w := newWorld(t, map[identity.Address]http.Handler{bob: shares(t, site)})
	first, _ := w.ask(t, "GET", w.host("bob"), "/files/film.bin")
	etag := first.Header.Get("Etag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	for _, headers := range [][]string{
		nil, {"Range: bytes=2-4"}, {"Range: bytes=-3"}, {"Range: bytes=5-"}, {"Range: bytes=50-"}, {"Range: bytes=0-1,4-5"},
		{"Range: nonsense"}, {"If-None-Match: " + etag}, {"If-None-Match: \"other\""}, {"If-Match: \"other\""},
		{"If-Range: " + etag, "Range: bytes=1-2"}, {"If-Range: \"other\"", "Range: bytes=1-2"},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			t.Run(method+fmt.Sprint(headers), func(t *testing.T) {
				got, body := w.ask(t, method, w.host("bob"), "/files/film.bin", headers...)
				req, _ := http.NewRequestWithContext(t.Context(), method, direct.URL+"/files/film.bin", nil)
				for _, h := range headers {
					name, value, _ := strings.Cut(h, ": ")
					req.Header.Set(name, strings.ReplaceAll(value, etag, etagOf(t, direct.URL)))
				}
				want, err := direct.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer want.Body.Close()
				wantBody, _ := io.ReadAll(want.Body)
				if boundary := strings.TrimPrefix(want.Header.Get("Content-Type"), "multipart/byteranges; boundary="); strings.Contains(want.Header.Get("Content-Type"), "boundary") {
					mine := strings.TrimPrefix(got.Header.Get("Content-Type"), "multipart/byteranges; boundary=")
					body = strings.ReplaceAll(body, mine, boundary)
					got.Header.Set("Content-Type", want.Header.Get("Content-Type"))
				}
				if got.StatusCode != want.StatusCode || body != string(wantBody) {
					t.Errorf("%d %q, want %d %q", got.StatusCode, body, want.StatusCode, wantBody)
				}
				for _, name := range []string{"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges"} {
					if got.Header.Get(name) != want.Header.Get(name) {
						t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want.Header.Get(name))
					}
				}
			})
		}
	}
}

// etagOf is the tag of the same file on another disk.
func etagOf(t *testing.T, base string) string {
	resp, err := http.Head(base + "/files/film.bin")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return resp.Header.Get("Etag")
}

func TestUploadsNeedTheContactsOwnPage(t *testing.T) {
	w := sharing(t)
	own := "Origin: http://" + w.host("bob")
	for i, c := range []struct {
		name    string
		host    string
		path    string
		headers []string
		status  int
	}{
		{"its own page", w.host("bob"), "/drop/", []string{own, "Sec-Fetch-Site: same-origin"}, 201},
		{"its own page in an old browser", w.host("bob"), "/drop/", []string{own}, 201},
		{"no origin", w.host("bob"), "/drop/", nil, 403},
		{"another site", w.host("bob"), "/drop/", []string{"Origin: http://evil.example"}, 403},
		{"another contact", w.host("bob"), "/drop/", []string{"Origin: http://" + w.host("alice")}, 403},
		{"another port", w.host("bob"), "/drop/", []string{"Origin: http://bob.localhost:1"}, 403},
		{"a sandbox", w.host("bob"), "/drop/", []string{"Origin: null"}, 403},
		{"two origins", w.host("bob"), "/drop/", []string{own, own}, 403},
		{"its origin, the browser says no", w.host("bob"), "/drop/", []string{own, "Sec-Fetch-Site: cross-site"}, 403},
		{"by path", w.host(""), w.path("bob") + "/drop/", []string{"Origin: http://" + w.host(""), "Sec-Fetch-Site: same-origin"}, 403},
		{"a share that takes nothing", w.host("bob"), "/site/", []string{own}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := fmt.Sprint(c.path, i, ".txt")
			resp, body := w.put(t, "PUT", c.host, file, strings.NewReader("upload"), c.headers...)
			if resp.StatusCode != c.status {
				t.Errorf("%d %s, want %d", resp.StatusCode, body, c.status)
			}
			resp, body = w.ask(t, "GET", c.host, file)
			if stored := resp.StatusCode == 200 && body == "upload"; stored != (c.status == 201) {
				t.Errorf("afterwards %d %s", resp.StatusCode, body)
			}
		})
	}
	resp, body := w.put(t, "PUT", w.host("bob"), "/drop/endless", io.MultiReader(strings.NewReader("x")), own)
	if resp.StatusCode != http.StatusLengthRequired {
		t.Errorf("an upload of unknown length: %d %s", resp.StatusCode, body)
	}
}

// flow sends 64 MB and remembers how much memory the process had on the way.
type flow struct {
	size int64
	peak uint64
}

func (f *flow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	if r.URL.Path == "/known" {
		w.Header().Set("Content-Length", fmt.Sprint(f.size))
	}
	for sent := int64(0); sent < f.size; sent += int64(len(block)) {
		if _, err := w.Write(block); err != nil {
			return
		}
		if sent%(8<<20) == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			f.peak = max(f.peak, m.HeapAlloc)
		}
	}
}

func TestLargeFilesStreamThroughSmallMemory(t *testing.T) {
	for _, path := range []string{"/known", "/unknown"} {
		t.Run(path, func(t *testing.T) {
			f := &flow{size: 64 << 20}
			w := newWorld(t, map[identity.Address]http.Handler{bob: f})
			var before runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			req, _ := http.NewRequestWithContext(t.Context(), "GET", w.server.URL+path, nil)
			req.Host = w.host("bob")
			resp, err := w.server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			if err != nil || n != f.size {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if grown := int64(f.peak) - int64(before.HeapAlloc); grown > 8<<20 {
				t.Errorf("%d bytes of memory more on the way", grown)
			}
		})
	}
}

func TestBytesComeWhenTheyAreSent(t *testing.T) {
	next := make(chan struct{})
	w := newWorld(t, map[identity.Address]http.Handler{bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			io.WriteString(w, "tick")
			http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", w.server.URL, nil)
	req.Host = w.host("bob")
	resp, err := w.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for range 3 {
		b := make([]byte, 4)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "tick" {
			t.Fatalf("%q, %v", b, err)
		}
		next <- struct{}{}
	}
}

func TestSilentContactsAreGivenUp(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin bool
		want  string
	}{
		{"before the first byte", false, "Not on-line now"},
		{"in the middle", true, "begun cut: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, map[identity.Address]http.Handler{bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.begin {
					w.Header().Set("Content-Length", "100")
					io.WriteString(w, "begun")
					http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			})})
			w.gateway.limits = limits{answer: 300 * time.Millisecond, store: time.Second, stall: 300 * time.Millisecond}
			if c.begin {
				w.gateway.limits.answer = 10 * time.Second
			}
			if _, body := w.ask(t, "GET", w.host("bob"), "/", browserAccept); !strings.Contains(body, c.want) {
				t.Error(body)
			}
		})
	}
}

func TestRequestsPerContactAreBounded(t *testing.T) {
	for _, c := range []struct {
		name           string
		per, all, more int
	}{{"one contact", perContact, 0, 1}, {"all contacts", 1, inAll, inAll}} {
		t.Run(c.name, func(t *testing.T) {
			g := New(Config{})
			taken := 0
			for n := range c.more {
				a := identity.NewAddress([]byte(fmt.Sprintf("%032d", n)), identity.KindDevice)
				for range c.per {
					if !g.take(a) {
						t.Fatalf("request %d is one too many", taken)
					}
					taken++
				}
				if c.all == 0 && g.take(a) {
					t.Error("one more than its limit")
				}
			}
			if c.all > 0 && g.take(bob) {
				t.Error("one more than the limit of all")
			}
		})
	}
	g := New(Config{})
	for range 3 * inAll {
		if !g.take(bob) {
			t.Fatal("what was given back is missing")
		}
		g.release(bob)
	}
	if len(g.busy) != 0 {
		t.Errorf("%d contacts are remembered", len(g.busy))
	}
}

func TestABusyContactIsToldSo(t *testing.T) {
	w := sharing(t)
	for range perContact {
		w.gateway.take(bob)
	}
	resp, body := w.ask(t, "GET", w.host("bob"), "/", browserAccept)
	if resp.StatusCode != 503 || !strings.Contains(body, "Too much at once") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, _ := w.ask(t, "GET", w.host("alice"), "/", browserAccept); resp.StatusCode != 200 {
		t.Errorf("another contact: %d", resp.StatusCode)
	}
}

func TestLabels(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"bob", "bob"}, {"Bob", "bob"}, {"bob-2", "bob-2"},
		{"Bob Smith", "bob-smith-" + suffix("Bob Smith")}, {"bob smith", "bob-smith-" + suffix("bob smith")},
		{"-bob-", "bob-" + suffix("-bob-")}, {"a--b", "a-b-" + suffix("a--b")}, {"xn--bob", "xn-bob-" + suffix("xn--bob")},
		{"Jürgen", "j-rgen-" + suffix("Jürgen")}, {"小明", "contact-" + suffix("小明")}, {"", "contact-" + suffix("")},
		{"a.b", "a-b-" + suffix("a.b")}, {"<script>", "script-" + suffix("<script>")},
		{bob.String(), bob.String()}, {strings.ToUpper(bob.String()), bob.String()},
		{strings.Repeat("a", maxLabel-1), strings.Repeat("a", maxLabel-1)},
		{strings.Repeat("a", maxLabel), strings.Repeat("a", maxLabel)},
		{strings.Repeat("a", maxLabel+1), strings.Repeat("a", maxStem) + "-" + suffix(strings.Repeat("a", maxLabel+1))},
	} {
		if got := Label(c.name); got != c.want {
			t.Errorf("Label(%q) = %q, want %q", c.name, got, c.want)
		}
	}
	for _, c := range []struct{ names, want []string }{
		{[]string{"bob", "alice"}, []string{"bob", "alice"}},
		{[]string{"Bob", "bob"}, []string{"bob-" + suffix("Bob"), "bob"}},
		{[]string{"bob", "Bob"}, []string{"bob", "bob-" + suffix("Bob")}},
		{[]string{"BOB", "Bob"}, []string{"bob", "bob-" + suffix("Bob")}},
	} {
		if got := Labels(c.names); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("Labels(%q) = %q, want %q", c.names, got, c.want)
		}
	}
}

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"Bob Smith", "小明", "a--b", "-", strings.Repeat("ab-", 30)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if l := Label(name); !isLabel(l) || Label(l) != l {
			t.Fatalf("Label(%q) = %q", name, l)
		}
	})
}

func TestAgo(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{0, "a moment ago"}, {59 * time.Second, "a moment ago"}, {time.Minute, "1 minute ago"}, {59 * time.Minute, "59 minutes ago"},
		{time.Hour, "1 hour ago"}, {47 * time.Hour, "1 day ago"}, {48 * time.Hour, "2 days ago"}, {-time.Hour, ""},
	} {
		if got := ago(now.Add(-c.d).UnixMilli(), now); got != c.want {
			t.Errorf("%v: %q, want %q", c.d, got, c.want)
		}
	}
	if got := ago(0, now); got != "" {
		t.Errorf("never: %q", got)
	}
}
