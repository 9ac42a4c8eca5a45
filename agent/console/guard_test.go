package console

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

// attack is one way in which a request can be foreign.
type attack struct {
	name   string
	edit   func(*http.Request)
	status int
	when   func(route) bool // nil: every route
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func host(name string) func(*http.Request) {
	return func(r *http.Request) { r.Host = name; follow(r) }
}

// follow makes the Origin agree with the Host, as after a rebinding.
func follow(r *http.Request) {
	if r.Header.Get("Origin") != "" {
		r.Header.Set("Origin", "http://"+r.Host)
	}
}

func source(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr }
}

func changes(r route) bool { return !isSafe(methodOf(r)) }
func isData(r route) bool  { return strings.HasPrefix(r.path, "/api/") }

func methodOf(r route) string {
	if r.method == "" {
		return http.MethodPut
	}
	return r.method
}

var attacks = []attack{
	{"rebinding", host("evil.example"), 421, nil},
	{"rebinding with port", host("evil.example:8470"), 421, nil},
	{"no host", host(""), 421, nil},
	{"public address", host("44.128.0.7"), 421, nil},
	{"public IPv6 address", host("[2001:db8::1]:8470"), 421, nil},
	{"IPv6 zone", host("[fe80::1%25eth0]:8470"), 421, nil},
	{"IPv6 zone, plain", host("[fe80::1%eth0]"), 421, nil},
	{"two labels before local", host("a.b.local"), 421, nil},
	{"bare local", host(".local"), 421, nil},
	{"local in the middle", host("pi.local.evil.example"), 421, nil},
	{"localhost below a domain", host("localhost.evil.example"), 421, nil},
	{"trailing dot", host("localhost."), 421, nil},
	{"decimal address", host("3232235799"), 421, nil},
	{"user part", host("evil@localhost"), 421, nil},

	{"foreign origin", header("Origin", "http://evil.example"), 403, nil},
	{"null origin", header("Origin", "null"), 403, nil},
	{"empty origin", header("Origin", ""), 403, nil},
	{"origin of another port", header("Origin", "http://192.168.1.23:9999"), 403, nil},
	{"origin of another scheme", header("Origin", "https://"+testHost), 403, nil},
	{"origin that only begins alike", header("Origin", testOrigin+".evil.example"), 403, nil},
	{"two origins", func(r *http.Request) { r.Header["Origin"] = []string{testOrigin, "http://evil.example"} }, 403, nil},
	{"cross-site fetch", header("Sec-Fetch-Site", "cross-site"), 403, isData},
	{"same-site fetch", header("Sec-Fetch-Site", "same-site"), 403, isData},
	{"no origin at a change", func(r *http.Request) { r.Header.Del("Origin") }, 403, changes},
	{"no header at a change", func(r *http.Request) { r.Header.Del(consoleHeader) }, 403, changes},

	{"web socket", func(r *http.Request) {
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Connection", "Upgrade")
	}, 400, nil},
	{"preflight", func(r *http.Request) {
		r.Method = http.MethodOptions
		r.Header.Set("Origin", "http://evil.example")
		r.Header.Set("Access-Control-Request-Method", "POST")
	}, 405, nil},
	{"trace", func(r *http.Request) { r.Method = http.MethodTrace }, 405, nil},
	{"connect", func(r *http.Request) { r.Method = http.MethodConnect }, 405, nil},
	{"made-up method", func(r *http.Request) { r.Method = "BREW" }, 405, nil},

	{"from the internet", source("44.128.0.7:1"), 403, nil},
	{"from the internet by IPv6", source("[2001:db8::1]:1"), 403, nil},
	{"from a provider's shared network", source("100.64.0.9:1"), 403, nil},
	{"from a v4-mapped stranger", source("[::ffff:44.128.0.7]:1"), 403, nil},
	{"from nowhere", source("@"), 403, nil},
	{"forged forwarding", func(r *http.Request) {
		r.RemoteAddr = "44.128.0.7:1"
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
	}, 403, nil},
}

// pathOf turns a route's pattern into a path that it serves.
func pathOf(c *Console, r route) string {
	path := strings.TrimSuffix(r.path, "{$}")
	for name := range c.assets.files {
		return strings.Replace(path, "{name}", name, 1)
	}
	return path
}

// TestEveryRouteRefusesEveryAttack walks the route table: with a valid
// session, each route answers the console's own page and refuses each attack.
func TestEveryRouteRefusesEveryAttack(t *testing.T) {
	served := 0
	c := newTest(t, func(cfg *Config) {
		cfg.API = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ })
	})
	cookie := logIn(t, c)
	handler := c.Handler()
	refused := 0
	for _, rt := range c.routes() {
		for _, a := range attacks {
			if a.when != nil && !a.when(rt) {
				continue
			}
			r := ask(methodOf(rt), pathOf(c, rt), "")
			r.AddCookie(cookie)
			a.edit(r)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			res := w.Result()
			if res.StatusCode != a.status {
				t.Errorf("%s %s, %s: got %d, want %d", rt.method, rt.path, a.name, res.StatusCode, a.status)
			}
			checkHeaders(t, res)
			if len(res.Cookies()) > 0 || served > 0 {
				t.Fatalf("%s %s, %s: had an effect", rt.method, rt.path, a.name)
			}
			refused++
		}
	}
	if !c.sessions.valid(keyOf(cookie)) {
		t.Error("an attack ended the session")
	}
	t.Logf("%d of %d requests refused on %d routes", refused, refused, len(c.routes()))
}

func keyOf(cookie *http.Cookie) sessionKey {
	r := ask("GET", "/", "")
	r.AddCookie(cookie)
	return sessionID(r)
}

// checkHeaders holds for every answer, good or bad.
func checkHeaders(t *testing.T, res *http.Response) {
	t.Helper()
	h := res.Header
	if csp := h.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") ||
		!strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("content policy %q", csp)
	}
	if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" {
		t.Errorf("headers %v", h)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("CORS header %s", name)
		}
	}
}

func TestEveryRouteAnswersItsOwnPage(t *testing.T) {
	c := newTest(t, func(cfg *Config) {
		cfg.API = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	cookie := logIn(t, c)
	want := map[string]int{
		"POST /api/v1/setup":     409, // set up already
		"POST /api/v1/session":   415, // no body
		"DELETE /api/v1/session": 204,
	}
	for _, rt := range c.routes() {
		method := methodOf(rt)
		if rt.path == "/api/v1/events" {
			method = http.MethodHead // a GET would go on
		}
		r := ask(method, pathOf(c, rt), "")
		if rt.method != http.MethodDelete {
			r.AddCookie(cookie)
		}
		status, ok := want[rt.method+" "+rt.path]
		if !ok {
			status = http.StatusOK
		}
		res := do(c, r)
		if res.StatusCode != status {
			t.Errorf("%s %s: got %s, want %d", method, rt.path, res.Status, status)
		}
		checkHeaders(t, res)
	}
}

func TestOwnerRoutesNeedASession(t *testing.T) {
	c := newTest(t, func(cfg *Config) {
		cfg.API = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	})
	real := logIn(t, c)
	for _, rt := range c.routes() {
		if rt.who != owner {
			continue
		}
		for name, cookie := range map[string]*http.Cookie{
			"none": nil, "made up": {Name: real.Name, Value: strings.Repeat("0", 64)},
			"short": {Name: real.Name, Value: "0"}, "other name": {Name: "session", Value: real.Value},
		} {
			r := ask(methodOf(rt), pathOf(c, rt), "")
			if cookie != nil {
				r.AddCookie(cookie)
			}
			if res := do(c, r); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s, cookie %s: got %s", rt.path, name, res.Status)
			}
		}
	}
}

func TestHostsThatAreOurs(t *testing.T) {
	c := newTest(t, func(cfg *Config) { cfg.AllowHosts = []string{"Attic.Example"} })
	c.own = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("2001:db8::5")} }
	for _, name := range []string{
		"localhost", "localhost:8470", "LOCALHOST", "127.0.0.1:80", "[::1]:8470", "[::1]", "10.0.0.1", "172.16.0.1:1",
		"192.168.1.1", "169.254.3.4", "[fe80::1]:8470", "[fd00::1]", "[::ffff:192.168.1.1]:80", "attic-pi.local",
		"pi.lan:8470", "attic.example", "attic.example:8470", "[2001:db8::5]:8470",
	} {
		r := ask("GET", "/", "")
		r.Host = name
		if res := do(c, r); res.StatusCode != http.StatusOK {
			t.Errorf("%s: got %s", name, res.Status)
		}
	}
}

func TestSourcesThatAreHome(t *testing.T) {
	c := newTest(t, nil)
	c.own = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("44.128.0.7")} }
	for _, addr := range []string{
		"127.0.0.1:1", "[::1]:1", "10.9.8.7:1", "[fe80::1%eth0]:1", "[fd00::9]:1", "[::ffff:192.168.1.9]:1", "44.128.0.7:1",
	} {
		r := ask("GET", "/", "")
		r.RemoteAddr = addr
		if res := do(c, r); res.StatusCode != http.StatusOK {
			t.Errorf("%s: got %s", addr, res.Status)
		}
	}
}

func TestThePageOpensFromALinkElsewhere(t *testing.T) {
	r := ask("GET", "/", "")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	if res := do(newTest(t, nil), r); res.StatusCode != http.StatusOK {
		t.Errorf("got %s", res.Status)
	}
}

func TestOverTLS(t *testing.T) {
	c := newTest(t, nil)
	r := ask("POST", "/api/v1/setup", passwordJSON(testSecret))
	r.TLS = &tls.ConnectionState{}
	if res := do(c, r); res.StatusCode != http.StatusForbidden {
		t.Errorf("http origin on https: got %s", res.Status)
	}
	r = ask("POST", "/api/v1/setup", passwordJSON(testSecret))
	r.TLS = &tls.ConnectionState{}
	r.Header.Set("Origin", "https://"+testHost)
	res := do(c, r)
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("got %s", res.Status)
	}
	cookie := res.Cookies()[0]
	if !cookie.Secure || !strings.HasPrefix(cookie.Name, "__Host-") {
		t.Errorf("cookie %v", cookie)
	}
}

var homeName = regexp.MustCompile(`^[a-z0-9-]+\.(local|lan)$`)

func FuzzHostAllowed(f *testing.F) {
	for _, a := range []string{"localhost", "[::1]:80", "a.local", "[fe80::1%eth0]", "evil.example:1", "]:[", "", "127.0.0.1.evil"} {
		f.Add(a)
	}
	c := &Console{own: func() []netip.Addr { return nil }}
	f.Fuzz(func(t *testing.T, name string) {
		if !c.hostAllowed(name) {
			return
		}
		h := strings.ToLower(hostOf(name))
		if _, err := netip.ParseAddr(h); err == nil || h == "localhost" {
			return
		}
		if !homeName.MatchString(h) {
			t.Errorf("%q is let in", name)
		}
	})
}
