package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"porchlight/agent/identity"
)

func TestHosts(t *testing.T) {
	w := sharing(t)
	for _, c := range []struct {
		host string
		ok   bool
	}{
		{"localhost:PORT", true}, {"LOCALHOST:PORT", true}, {"127.0.0.1:PORT", true}, {"[::1]:PORT", true},
		{"bob.localhost:PORT", true}, {bob.String() + ".localhost:PORT", true},
		{"", false}, {"localhost", false}, {"localhost:1", false}, {"localhost:PORT0", false}, {"localhost.:PORT", false},
		{"evil.example", false}, {"evil.example:PORT", false}, {"localhost.evil.example:PORT", false}, {"evillocalhost:PORT", false},
		{"bob.localhost.evil.example:PORT", false}, {"a.bob.localhost:PORT", false}, {".localhost:PORT", false}, {"-.localhost:PORT", false},
		{"127.0.0.2:PORT", false}, {"0.0.0.0:PORT", false}, {"[::]:PORT", false}, {"[::ffff:127.0.0.1]:PORT", false}, {"[::1%25lo]:PORT", false},
		{"127.1:PORT", false}, {"2130706433:PORT", false}, {"192.168.1.1:PORT", false}, {"router.lan:PORT", false}, {"bob_.localhost:PORT", false},
	} {
		t.Run(c.host, func(t *testing.T) {
			resp, body := w.ask(t, "GET", strings.ReplaceAll(c.host, "PORT", w.port), "/", browserAccept)
			if (resp.StatusCode == 200) != c.ok || !c.ok && resp.StatusCode != 421 && resp.StatusCode != 400 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestOtherMachinesAreRefused(t *testing.T) {
	for _, c := range []struct {
		from string
		want int
	}{{"127.0.0.1:5", 200}, {"[::1]:5", 200}, {"[::ffff:127.0.0.1]:5", 200}, {"192.168.1.5:5", 403}, {"[fe80::1%eth0]:5", 403}, {"", 403}, {"@", 403}} {
		r := httptest.NewRequest("GET", "http://localhost:8461/", nil)
		r.URL.Scheme, r.URL.Host = "", ""
		r.RemoteAddr = c.from
		r = r.WithContext(withLocal(r))
		rec := httptest.NewRecorder()
		New(Config{}).Handler().ServeHTTP(rec, r)
		if rec.Code != c.want {
			t.Errorf("from %q: %d, want %d", c.from, rec.Code, c.want)
		}
	}
}

// withLocal is what a server on port 8461 adds.
func withLocal(r *http.Request) context.Context {
	return context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8461})
}

func TestOtherSitesAreRefused(t *testing.T) {
	w := sharing(t)
	cross, navigate, document := "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"
	for _, c := range []struct {
		name    string
		method  string
		host    string
		path    string
		headers []string
		status  int
	}{
		{"typed into the address bar", "GET", w.host("bob"), "/site/", []string{"Sec-Fetch-Site: none", navigate, document}, 200},
		{"its own page", "GET", w.host("bob"), "/site/", []string{"Sec-Fetch-Site: same-origin"}, 200},
		{"a link", "GET", w.host("bob"), "/site/", []string{cross, navigate, document}, 200},
		{"a link from another port", "GET", w.host("bob"), "/site/", []string{"Sec-Fetch-Site: same-site", navigate, document}, 200},
		{"no browser", "GET", w.host("bob"), "/site/", nil, 200},
		{"an old browser on its own page", "GET", w.host("bob"), "/site/", []string{"Origin: http://" + w.host("bob")}, 200},
		{"an image", "GET", w.host("bob"), "/site/", []string{cross, "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, 403},
		{"a script", "GET", w.host("bob"), "/site/", []string{cross, "Sec-Fetch-Mode: cors", "Origin: http://evil.example"}, 403},
		{"another port's page", "GET", w.host("bob"), "/site/", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"}, 403},
		{"a frame", "GET", w.host("bob"), "/site/", []string{cross, navigate, "Sec-Fetch-Dest: iframe"}, 403},
		{"an unknown relation", "GET", w.host("bob"), "/site/", []string{"Sec-Fetch-Site: other"}, 403},
		{"a form", "POST", w.host("bob"), "/site/", []string{cross, navigate, document}, 405},
		{"a preflight", "OPTIONS", w.host("bob"), "/site/", []string{"Origin: http://evil.example"}, 405},
		{"a websocket", "GET", w.host("bob"), "/site/", []string{"Connection: Upgrade", "Upgrade: websocket"}, 405},
		{"an old browser on another site", "GET", w.host("bob"), "/site/", []string{"Origin: http://evil.example"}, 403},
		{"an old browser in a sandbox", "GET", w.host("bob"), "/site/", []string{"Origin: null"}, 403},
		{"the list of contacts for a script", "GET", w.host(""), "/", []string{cross, "Sec-Fetch-Mode: cors"}, 403},
		{"a contact's page for another's file", "GET", w.host("bob"), "/site/", []string{cross, "Referer: http://" + w.host("alice") + "/"}, 403},
		{"a service worker", "GET", w.host("bob"), "/site/style.css", []string{"Sec-Fetch-Site: same-origin", "Service-Worker: script"}, 403},
		// Pages of the form by path have no origin: to the browser all is cross-site.
		{"by path: opened", "GET", w.host(""), "/~bob/site/", []string{cross, navigate, document}, 307},
		{"by path: a file of the page", "GET", w.host(""), w.path("bob") + "/site/style.css", []string{cross, "Sec-Fetch-Mode: no-cors"}, 200},
		{"by path: a frame of the page", "GET", w.host(""), w.path("bob") + "/site/sub/", []string{cross, navigate, "Sec-Fetch-Dest: iframe"}, 200},
		{"by path: without the token", "GET", w.host(""), "/~bob/site/style.css", []string{cross}, 403},
		{"by path: an old token", "GET", w.host(""), "/~bob.old/site/style.css", []string{cross}, 403},
		{"by path: another contact's token", "GET", w.host(""), "/~alice." + w.gateway.token("bob") + "/site/", []string{cross}, 403},
		{"by path: the same file by name", "GET", w.host("bob"), "/site/", []string{cross, "Referer: http://" + w.host("") + w.path("bob") + "/"}, 403},
		{"by path: the list", "GET", w.host(""), "/", []string{cross, "Referer: http://" + w.host("") + w.path("bob") + "/"}, 403},
		{"by path: a service worker", "GET", w.host(""), w.path("bob") + "/site/style.css", []string{cross, "Service-Worker: script"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := w.ask(t, c.method, c.host, c.path, append(c.headers, browserAccept)...)
			if resp.StatusCode != c.status {
				t.Errorf("%d %s, want %d", resp.StatusCode, body, c.status)
			}
			for name := range resp.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("header %s", name)
				}
			}
		})
	}
}

func TestOtherSitesCannotTellContactsApart(t *testing.T) {
	w := sharing(t)
	var first string
	for _, host := range []string{"bob", "alice", "carol", "nobody", bob.String(), carol.String()} {
		resp, body := w.ask(t, "GET", w.host(host), "/", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")
		resp.Header.Del("Date")
		got := fmt.Sprint(resp.StatusCode, resp.Header, body)
		if first == "" {
			first = got
		}
		if got != first {
			t.Errorf("%s is told apart: %s\n%s", host, got, first)
		}
	}
}

func TestHeadersAreStripped(t *testing.T) {
	got := make(chan http.Header, 1)
	w := newWorld(t, map[identity.Address]http.Handler{bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		h.Set("Host", r.Host)
		got <- h
		for _, line := range []string{
			"Set-Cookie: a=b; Domain=localhost", "Set-Cookie: c=d", "Service-Worker-Allowed: /", "Refresh: 0;url=http://evil.example",
			"Strict-Transport-Security: max-age=99999999; includeSubDomains", "Clear-Site-Data: \"*\"", "Alt-Svc: h3=\":443\"",
			"Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "WWW-Authenticate: Basic realm=x",
			"Proxy-Authenticate: Basic", "Link: <http://evil.example/x>; rel=preload", "Referrer-Policy: unsafe-url", "Report-To: {}",
			"Reporting-Endpoints: x=\"http://evil.example\"", "NEL: {}", "Timing-Allow-Origin: *", "Cache-Control: public, max-age=31536000, immutable",
			"Expires: Thu, 01 Jan 2099 00:00:00 GMT", "X-Frame-Options: ALLOWALL", "Cross-Origin-Resource-Policy: cross-origin", "Server: peer",
			"Permissions-Policy: camera=*", "Keep-Alive: timeout=9", "Trailer: X-Late", "Speculation-Rules: \"/x\"", "Observe-Browsing-Topics: ?1",
			"Content-Security-Policy: default-src *", "Content-Security-Policy: img-src 'none'; report-uri http://evil.example",
			"Content-Security-Policy-Report-Only: default-src 'self'; report-uri http://evil.example", "SourceMap: http://evil.example",
			"Content-Type: text/plain", "Etag: \"x\"", "Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT", "Content-Language: en",
		} {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
		io.WriteString(w, "x")
	})})
	resp, _ := w.ask(t, "GET", w.host("bob"), "/", "Cookie: console=secret", "Authorization: Basic c2VjcmV0", "Proxy-Authorization: Basic c2VjcmV0",
		"User-Agent: Mozilla/5.0 (secret)", "Accept-Language: gsw-CH", "Referer: http://"+w.host("bob")+"/secret", "Sec-Ch-Ua: secret", "Dnt: 1",
		"X-Forwarded-For: 192.168.1.7", "Te: trailers", "X-Porchlight: 1", "Sec-Fetch-Site: same-origin",
		"Accept: text/css", "Range: bytes=0-0", "If-None-Match: \"y\"", "Accept-Encoding: gzip")
	asked := <-got
	want := http.Header{"Accept": {"text/css"}, "Range": {"bytes=0-0"}, "If-None-Match": {`"y"`}, "Accept-Encoding": {"gzip"}, "Host": {bob.String()}}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("the contact sees %v, want %v", asked, want)
	}
	var names []string
	for name, values := range resp.Header {
		names = append(names, name)
		if strings.Contains(fmt.Sprint(values), "evil") {
			t.Errorf("%s: %s", name, values)
		}
	}
	slices.Sort(names)
	allowed := []string{"Cache-Control", "Content-Language", "Content-Security-Policy", "Content-Type", "Cross-Origin-Opener-Policy",
		"Cross-Origin-Resource-Policy", "Date", "Etag", "Last-Modified", "Origin-Agent-Cluster", "Permissions-Policy", "Referrer-Policy", "Vary", "X-Content-Type-Options"}
	if !slices.Equal(names, allowed) {
		t.Errorf("the browser sees\n%q, want\n%q", names, allowed)
	}
	for name, value := range map[string]string{"Cache-Control": "private, no-cache", "Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff",
		"Cross-Origin-Resource-Policy": "same-origin", "Permissions-Policy": "camera=(), microphone=(), geolocation=()"} {
		if got := resp.Header[name]; len(got) != 1 || got[0] != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	if got := resp.Header["Content-Security-Policy"]; len(got) != 2 || got[0] != policyByName {
		t.Errorf("policies %q", got)
	}
}

// raw answers each request with bytes.
func raw(t *testing.T, answer string) *world {
	t.Helper()
	return newWorld(t, map[identity.Address]http.Handler{bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, answer) // the gateway may have gone
	})})
}

func TestHostileAnswers(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		want         string
	}{
		{"nothing", "", 503, "Not on-line now"},
		{"garbage", strings.Repeat("\x00\xff", 1000), 503, "Not on-line now"},
		{"a status below all", "HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", 502, "makes no sense"},
		{"another protocol", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", 502, "makes no sense"},
		{"a status above all", "HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", 502, "makes no sense"},
		{"endless headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 64) + "\r\n", 503, "Not on-line now"},
		{"a header with a line feed in it", "HTTP/1.1 200 OK\r\nContent-Type: text/html\rSet-Cookie: a=b\r\nContent-Length: 1\r\n\r\nx", 503, "Not on-line now"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", 503, "Not on-line now"},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxy", 503, "Not on-line now"},
		{"a length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200, "x"},
		{"less than it says", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: text/html\r\n\r\nshort", 200, "short cut: "},
		{"a broken chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/html\r\n\r\n5\r\nbegun\r\nzz\r\n", 200, "begun cut: "},
		{"no type", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n<script>x</script>..", 200, "<script>"},
		{"a login", "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n", 401, ""},
		{"a redirect without a place", "HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n", 502, "makes no sense"},
		{"an endless error", "HTTP/1.1 500 X\r\nContent-Type: text/plain\r\n\r\n" + strings.Repeat("<b>é", 100_000), 500, "&lt;b&gt;"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := raw(t, c.answer)
			resp, body := w.ask(t, "GET", w.host("bob"), "/x", browserAccept)
			if resp.StatusCode != c.status || !strings.Contains(body, c.want) || len(body) > 4000 {
				t.Errorf("%d %s, want %d %s", resp.StatusCode, body, c.status, c.want)
			}
			if resp.Header.Get("Set-Cookie")+resp.Header.Get("Www-Authenticate") != "" {
				t.Errorf("headers %v", resp.Header)
			}
			if c.name == "no type" && resp.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("type %q", resp.Header.Get("Content-Type"))
			}
		})
	}
}

func TestRedirectsStayWithTheContact(t *testing.T) {
	for _, c := range []struct {
		location string
		want     string // path, "" if refused
	}{
		{"./sub/", "/site/sub/"}, {"sub/", "/site/sub/"}, {"/abs/x", "/abs/x"}, {"?q=1", "/site/page?q=1"}, {"../up", "/up"}, {"../../../up", "/up"},
		{"http://" + bob.String() + "/x", "/x"}, {"http://" + bob.String(), "/"}, {"//" + bob.String() + "/x", "/x"}, {"/a%20b?c=%2F#d", "/a%20b?c=%2F"},
		{"http://" + bob.String() + "//evil.example/x", "//evil.example/x"}, {"/.//evil.example/x", "//evil.example/x"},
		{"http://evil.example/", ""}, {"//evil.example/", ""}, {"https://" + bob.String() + "/", ""}, {"http://" + alice.String() + "/", ""},
		{"javascript:alert(1)", ""}, {"data:text/html,x", ""}, {"http://user@" + bob.String() + "/", ""}, {"http://" + bob.String() + ":99/", ""},
		{"http://localhost:8461/~alice/", ""}, {"http://[::1", ""}, {"\\\\evil.example/x", "/site/%5C%5Cevil.example/x"}, {"http:evil.example", ""},
	} {
		t.Run(c.location, func(t *testing.T) {
			for _, status := range []int{301, 302, 303, 307, 308} {
				w := newWorld(t, map[identity.Address]http.Handler{bob: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header()["Location"] = []string{c.location}
					w.WriteHeader(status)
				})})
				for host, prefix := range map[string]string{w.host("bob"): "", w.host(""): w.path("bob")} {
					resp, body := w.ask(t, "GET", host, prefix+"/site/page", browserAccept)
					want := ""
					if c.want != "" {
						want = "http://" + host + prefix + c.want
					}
					if got := resp.Header.Get("Location"); got != want || (resp.StatusCode == status) != (want != "") {
						t.Errorf("%d to %q, want %q; %s", resp.StatusCode, got, want, body)
					}
				}
			}
		})
	}
}

func TestLongRequestsAreRefused(t *testing.T) {
	w := sharing(t)
	for _, c := range []struct{ length, status int }{{maxTarget - 1, 404}, {maxTarget, 404}, {maxTarget + 1, 414}} {
		resp, _ := w.ask(t, "GET", w.host("bob"), "/"+strings.Repeat("a", c.length-1), browserAccept)
		if resp.StatusCode != c.status {
			t.Errorf("a path of %d bytes: %d, want %d", c.length, resp.StatusCode, c.status)
		}
	}
	// The server adds 4 KiB of grace to the limit it is given.
	for _, c := range []struct{ length, status int }{{MaxHeader - 200, 200}, {MaxHeader + 5000, 431}} {
		resp, _ := w.ask(t, "GET", w.host("bob"), "/", browserAccept, "X-Long: "+strings.Repeat("a", c.length))
		if resp.StatusCode != c.status {
			t.Errorf("a header of %d bytes: %d, want %d", c.length, resp.StatusCode, c.status)
		}
	}
}

func FuzzLocate(f *testing.F) {
	for _, s := range []string{"bob.localhost:8461", "localhost:8461", "[::1]:8461", "[::1", "localhost", ":8461", "a.b.localhost:8461"} {
		f.Add(s, "/~bob/x")
	}
	f.Add("localhost:8461", "/~bob.token/x")
	f.Add("localhost:8461", "/~/")
	f.Fuzz(func(t *testing.T, host, path string) {
		r := httptest.NewRequest("GET", "http://localhost:8461/", nil)
		r = r.WithContext(withLocal(r))
		r.Host, r.URL.Path = host, path
		p, ok := locate(r)
		if !ok {
			return
		}
		lower := strings.ToLower(host)
		if !strings.HasSuffix(lower, "localhost:8461") && lower != "127.0.0.1:8461" && lower != "[::1]:8461" &&
			!strings.HasPrefix(lower, "[0") && !strings.HasPrefix(lower, "[:") {
			t.Fatalf("host %q is let in", host)
		}
		if p.name != "" && !isLabel(p.name) || p.prefix != "" && !strings.HasPrefix(p.prefix, "/~"+p.name) {
			t.Fatalf("%q %q: %+v", host, path, p)
		}
	})
}
