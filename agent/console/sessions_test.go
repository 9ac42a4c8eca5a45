package console

import (
	"crypto/sha256"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		idle, used := sha256.Sum256([]byte(s.start())), sha256.Sum256([]byte(s.start()))
		began := time.Now()
		for time.Since(began)+sessionIdle/2 <= sessionLife {
			advance(t, sessionIdle/2)
			if !s.valid(used) {
				t.Fatalf("a used session ended after %v", time.Since(began))
			}
		}
		if s.valid(idle) {
			t.Error("an unused session lives on")
		}
		advance(t, sessionIdle/2)
		if s.valid(used) {
			t.Error("a session outlived its month")
		}
		if s.valid(sessionKey{}) {
			t.Error("no cookie is a session")
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		first := sha256.Sum256([]byte(s.start()))
		for n := 2; n <= maxSessions+1; n++ {
			advance(t, time.Second)
			s.start()
			if want := n <= maxSessions; len(s.all) > maxSessions || (s.all[first] != nil) != want {
				t.Fatalf("after %d: %d sessions, the first there %v", n, len(s.all), s.all[first] != nil)
			}
		}
	})
}

func TestCookie(t *testing.T) {
	c := newTest(t, nil)
	cookie := logIn(t, c)
	if cookie.Name != "porchlight-8470" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode ||
		cookie.Secure || cookie.Path != "/" || cookie.Domain != "" || len(cookie.Value) != 64 {
		t.Errorf("cookie %+v", cookie)
	}
	for key := range c.sessions.all {
		if string(key[:]) == cookie.Value {
			t.Error("the value itself is kept")
		}
	}
}

func TestLogInEndsThePlantedSession(t *testing.T) {
	c := newTest(t, nil)
	old := logIn(t, c)
	r := ask("POST", "/api/v1/session", passwordJSON(testSecret))
	r.AddCookie(old)
	res := do(c, r)
	if res.StatusCode != http.StatusOK || c.sessions.valid(keyOf(old)) || !c.sessions.valid(keyOf(res.Cookies()[0])) {
		t.Errorf("got %s", res.Status)
	}
}

func TestSessionsSurviveNothing(t *testing.T) {
	store := &memoryStore{}
	cookie := logIn(t, newTest(t, func(cfg *Config) { cfg.Store = store }))
	again := newTest(t, func(cfg *Config) { cfg.Store = store })
	r := ask("GET", "/api/v1/status", "")
	r.AddCookie(cookie)
	if res := do(again, r); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("after a restart: %s", res.Status)
	}
}
