package console

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testHost   = "192.168.1.23:8470"
	testOrigin = "http://" + testHost
	testSource = "192.168.1.77:50000"
	testSecret = "lantern over the door"
)

// memoryStore is a Store of functions' worth of behaviour.
type memoryStore struct {
	mu    sync.Mutex
	data  []byte
	err   error
	saves int
}

func (m *memoryStore) Load() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return nil, fs.ErrNotExist
	}
	return m.data, nil
}

func (m *memoryStore) Save(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saves++
	if m.err == nil {
		m.data = b
	}
	return m.err
}

func testStatus() api.Status {
	return api.Status{Name: "Attic Pi", Address: "q7mz", Version: "0.1.0", Reachability: api.Public}
}

// newTest makes a console whose machine has no addresses of its own.
func newTest(t *testing.T, change func(*Config)) *Console {
	t.Helper()
	cfg := Config{Status: testStatus, Store: &memoryStore{}}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.own = func() []netip.Addr { return nil }
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// ask makes the request a page of the console would make.
func ask(method, path, body string) *http.Request {
	r := httptest.NewRequest(method, "http://"+testHost+path, strings.NewReader(body))
	r.RemoteAddr = testSource
	if !isSafe(method) {
		r.Header.Set("Origin", testOrigin)
		r.Header.Set(consoleHeader, "1")
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func do(c *Console, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	c.Handler().ServeHTTP(w, r)
	return w.Result()
}

func passwordJSON(text string) string {
	b, _ := json.Marshal(map[string]string{"password": text})
	return string(b)
}

// logIn sets the password up and returns the session's cookie.
func logIn(t *testing.T, c *Console) *http.Cookie {
	t.Helper()
	res := do(c, ask("POST", "/api/v1/setup", passwordJSON(testSecret)))
	if res.StatusCode != http.StatusCreated || len(res.Cookies()) != 1 {
		t.Fatalf("setup: %s, %d cookies", res.Status, len(res.Cookies()))
	}
	return res.Cookies()[0]
}

func answer(t *testing.T, res *http.Response) map[string]any {
	t.Helper()
	var out map[string]any
	data, err := io.ReadAll(res.Body)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatalf("%v in %q", err, data)
	}
	return out
}

func TestFirstStartLogOutLogIn(t *testing.T) {
	store := &memoryStore{}
	c := newTest(t, func(cfg *Config) { cfg.Store = store })
	state := func(cookie *http.Cookie) any {
		r := ask("GET", "/api/v1/session", "")
		if cookie != nil {
			r.AddCookie(cookie)
		}
		return answer(t, do(c, r))["state"]
	}
	if got := state(nil); got != "setup" {
		t.Fatalf("before: %v", got)
	}
	cookie := logIn(t, c)
	if got := state(cookie); got != "ok" {
		t.Fatalf("after setup: %v", got)
	}
	if got := state(nil); got != "login" {
		t.Fatalf("a stranger after setup: %v", got)
	}
	r := ask("GET", "/api/v1/status", "")
	r.AddCookie(cookie)
	if got := answer(t, do(c, r))["name"]; got != "Attic Pi" {
		t.Fatalf("status: %v", got)
	}
	r = ask("DELETE", "/api/v1/session", "")
	r.AddCookie(cookie)
	if res := do(c, r); res.StatusCode != http.StatusNoContent || res.Cookies()[0].MaxAge >= 0 {
		t.Fatalf("log out: %s %v", res.Status, res.Cookies())
	}
	if got := state(cookie); got != "login" {
		t.Fatalf("after log out: %v", got)
	}
	if res := do(c, ask("POST", "/api/v1/session", passwordJSON("not this one"))); res.StatusCode != http.StatusUnauthorized {
		t.Fatalf("wrong password: %s", res.Status)
	}
	again := newTest(t, func(cfg *Config) { cfg.Store = store })
	res := do(again, ask("POST", "/api/v1/session", passwordJSON(testSecret)))
	if res.StatusCode != http.StatusOK || len(res.Cookies()) != 1 {
		t.Fatalf("log in after a restart: %s", res.Status)
	}
	if strings.Contains(string(store.data), testSecret) {
		t.Error("the record holds the password itself")
	}
}

func TestStrangersLearnNothing(t *testing.T) {
	c := newTest(t, nil)
	logIn(t, c)
	for _, path := range []string{"/", "/api/v1/session", "/api/v1/status", "/api/v1/events", "/api/v1/x", "/assets/x"} {
		res := do(c, ask("GET", path, ""))
		body, _ := io.ReadAll(res.Body)
		if strings.Contains(string(body), "Attic") || strings.Contains(string(body), "0.1.0") {
			t.Errorf("%s tells a stranger: %s", path, body)
		}
	}
	if got := answer(t, do(c, ask("GET", "/api/v1/session", ""))); len(got) != 1 {
		t.Errorf("session tells a stranger %v", got)
	}
}

func TestSetupIsRefused(t *testing.T) {
	failing := &memoryStore{err: errors.New("disk full")}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		edit   func(*http.Request)
		body   string
		status int
		code   string
	}{
		{"short password", nil, nil, passwordJSON("123456789"), 400, "password_short"},
		{"nine letters of two bytes", nil, nil, passwordJSON("äöüäöüäöü"), 400, "password_short"},
		{"long password", nil, nil, passwordJSON(strings.Repeat("x", maxPasswordBytes+1)), 400, "password_long"},
		{"name that cannot be set", nil, nil, `{"password":"lantern over the door","name":"x"}`, 400, "name_fixed"},
		{"long name", func(c *Config) { c.SetName = func(string) error { return nil } }, nil,
			`{"password":"lantern over the door","name":"` + strings.Repeat("x", 41) + `"}`, 400, "name_long"},
		{"unknown field", nil, nil, `{"password":"lantern over the door","admin":true}`, 400, "json"},
		{"two values", nil, nil, passwordJSON(testSecret) + "{}", 400, "json"},
		{"not JSON", nil, nil, "password=lantern over the door", 400, "json"},
		{"text", nil, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, passwordJSON(testSecret), 415, "content_type"},
		{"form", nil, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") },
			passwordJSON(testSecret), 415, "content_type"},
		{"from outside", nil, func(r *http.Request) { r.RemoteAddr = "44.128.0.7:1" }, passwordJSON(testSecret), 403, "source"},
		{"disk full", func(c *Config) { c.Store = failing }, nil, passwordJSON(testSecret), 500, "not_saved"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTest(t, tt.change)
			r := ask("POST", "/api/v1/setup", tt.body)
			if tt.edit != nil {
				tt.edit(r)
			}
			res := do(c, r)
			if got := answer(t, res)["error"]; res.StatusCode != tt.status || got != tt.code {
				t.Errorf("got %d %v, want %d %s", res.StatusCode, got, tt.status, tt.code)
			}
			if c.password.isSet() || len(res.Cookies()) > 0 {
				t.Error("a refused setup left something behind")
			}
		})
	}
}

func TestSetupFromOwnPublicAddressIsRefused(t *testing.T) {
	c := newTest(t, nil)
	c.own = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("44.128.0.7")} }
	r := ask("POST", "/api/v1/setup", passwordJSON(testSecret))
	r.RemoteAddr = "44.128.0.7:1"
	if res := do(c, r); res.StatusCode != http.StatusForbidden || c.password.isSet() {
		t.Errorf("got %s", res.Status)
	}
}

func TestSetupNamesTheDevice(t *testing.T) {
	var named string
	c := newTest(t, func(cfg *Config) { cfg.SetName = func(n string) error { named = n; return nil } })
	res := do(c, ask("POST", "/api/v1/setup", `{"password":"lantern over the door","name":"Barn"}`))
	if res.StatusCode != http.StatusCreated || named != "Barn" {
		t.Errorf("got %s, name %q", res.Status, named)
	}
}

func TestSetupWindowCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTest(t, func(cfg *Config) { cfg.SetupWindow = time.Minute })
		state := func() any { return answer(t, do(c, ask("GET", "/api/v1/session", "")))["state"] }
		advance(t, time.Minute)
		if got := state(); got != "closed" && got != "setup" {
			t.Errorf("at the edge: %v", got)
		}
		advance(t, time.Second)
		if got := state(); got != "closed" {
			t.Errorf("after the window: %v", got)
		}
		res := do(c, ask("POST", "/api/v1/setup", passwordJSON(testSecret)))
		if got := answer(t, res)["error"]; got != "setup_closed" || c.password.isSet() {
			t.Errorf("got %d %v", res.StatusCode, got)
		}
	})
}

// advance lets the bubble's time pass.
func advance(t *testing.T, d time.Duration) {
	t.Helper()
	<-time.After(d)
}

func TestOnlyTheFirstSetupCounts(t *testing.T) {
	store := &memoryStore{}
	c := newTest(t, func(cfg *Config) { cfg.Store = store })
	var wg sync.WaitGroup
	won := make(chan int, 6)
	for i := range 6 {
		wg.Go(func() {
			res := do(c, ask("POST", "/api/v1/setup", passwordJSON(testSecret+string(rune('a'+i)))))
			if res.StatusCode == http.StatusCreated {
				won <- i
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || store.saves != 1 {
		t.Fatalf("%d setups won, %d records saved", len(won), store.saves)
	}
	res := do(c, ask("POST", "/api/v1/session", passwordJSON(testSecret+string(rune('a'+<-won)))))
	if res.StatusCode != http.StatusOK {
		t.Errorf("the winner cannot log in: %s", res.Status)
	}
}

func TestEntryBodyLimit(t *testing.T) {
	c := newTest(t, nil)
	logIn(t, c)
	for _, tt := range []struct {
		size, status int
	}{{maxEntryBody - 1, 401}, {maxEntryBody, 401}, {maxEntryBody + 1, 413}} {
		frame := len(passwordJSON(""))
		res := do(c, ask("POST", "/api/v1/session", passwordJSON(strings.Repeat("x", tt.size-frame))))
		if res.StatusCode != tt.status {
			t.Errorf("%d bytes: got %d, want %d", tt.size, res.StatusCode, tt.status)
		}
	}
}

func TestFurtherRoutesNeedASession(t *testing.T) {
	var read int64
	c := newTest(t, func(cfg *Config) {
		cfg.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			if read, err = io.Copy(io.Discard, r.Body); err != nil {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
		})
	})
	cookie := logIn(t, c)
	if res := do(c, ask("POST", "/api/v1/shares", "{}")); res.StatusCode != http.StatusUnauthorized || read != 0 {
		t.Errorf("without a session: %s", res.Status)
	}
	for _, tt := range []struct {
		size, status int
	}{{maxAPIBody - 1, 200}, {maxAPIBody, 200}, {maxAPIBody + 1, 413}} {
		r := ask("POST", "/api/v1/shares", strings.Repeat("x", tt.size))
		r.AddCookie(cookie)
		if res := do(c, r); res.StatusCode != tt.status {
			t.Errorf("%d bytes: got %s, want %d", tt.size, res.Status, tt.status)
		}
	}
}

func TestWithoutFurtherRoutesTheyAreNotFound(t *testing.T) {
	c := newTest(t, nil)
	r := ask("GET", "/api/v1/shares", "")
	r.AddCookie(logIn(t, c))
	if res := do(c, r); res.StatusCode != http.StatusNotFound {
		t.Errorf("got %s", res.Status)
	}
}

func TestNewNeedsStatusAndStore(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New took an empty config")
	}
}

func TestCloseTwice(t *testing.T) {
	c := newTest(t, nil)
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
}
