package console

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// access says who may use a route.
type access int

const (
	anybody access = iota // everybody the guard lets through
	owner                 // whoever has logged in
)

// route is one line of the table that the mux is built from and that the
// tests walk through: a route missing here does not exist.
type route struct {
	method string // "" for every method
	path   string
	who    access
	serve  http.HandlerFunc
}

func (c *Console) routes() []route {
	return []route{
		{http.MethodGet, "/{$}", anybody, c.assets.serveIndex},
		{http.MethodGet, "/assets/{name}", anybody, c.assets.serveFile},
		{http.MethodGet, "/api/v1/session", anybody, c.getSession},
		{http.MethodPost, "/api/v1/session", anybody, c.postSession},
		{http.MethodDelete, "/api/v1/session", anybody, c.deleteSession},
		{http.MethodPost, "/api/v1/setup", anybody, c.postSetup},
		{http.MethodGet, "/api/v1/status", owner, c.getStatus},
		{http.MethodGet, "/api/v1/events", owner, c.getEvents},
		{"", "/api/v1/", owner, c.serveAPI},
	}
}

// Handler returns the console as one handler. Its server should limit headers
// (MaxHeaderBytes, ReadHeaderTimeout); bodies and event streams are limited here.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range c.routes() {
		h := http.Handler(r.serve)
		if r.who == owner {
			h = c.requireSession(h)
		}
		pattern := r.path
		if r.method != "" {
			pattern = r.method + " " + r.path
		}
		mux.Handle(pattern, h)
	}
	return c.guard(mux)
}

func (c *Console) requireSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.sessions.valid(sessionID(r)) {
			refusal{status: http.StatusUnauthorized, code: "login",
				message: "Log in first: open the console's page in a browser."}.write(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *Console) getStatus(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, c.cfg.Status())
}

// maxAPIBody bounds what a further route may read from one request.
const maxAPIBody = 1 << 20

func (c *Console) serveAPI(w http.ResponseWriter, r *http.Request) {
	if c.cfg.API == nil {
		refusal{status: http.StatusNotFound, code: "not_found",
			message: "There is nothing at this path; see /api/v1/status."}.write(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxAPIBody)
	c.cfg.API.ServeHTTP(w, r)
}

// refusal is an answer that says no: a code for programs, words for people.
type refusal struct {
	status  int
	code    string
	message string
	retry   time.Duration // when to try again, 0 if that would not help
}

// write answers with JSON below /api/ and with plain words elsewhere.
func (f refusal) write(w http.ResponseWriter, r *http.Request) {
	if f.retry > 0 {
		seconds := int64((f.retry + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	if !isAPI(r) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(f.status)
		_, _ = w.Write([]byte(f.message + "\n"))
		return
	}
	writeJSON(w, f.status, map[string]any{
		"error": f.code, "message": f.message, "retry_ms": f.retry.Milliseconds(),
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader has gone: nobody to tell
}
