package console

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"sync"
	"time"
)

// A session ends a week after its last request, and a month after its start.
const (
	sessionIdle  = 7 * 24 * time.Hour
	sessionLife  = 30 * 24 * time.Hour
	maxSessions  = 32 // beyond it the one silent longest ends
	sessionBytes = 32
)

// sessionKey is the digest of a cookie's value; the value itself is not kept.
type sessionKey [sha256.Size]byte

// sessions holds who is logged in, in memory only.
type sessions struct {
	mu  sync.Mutex
	all map[sessionKey]*session
}

type session struct{ started, seen time.Time }

func newSessions() *sessions { return &sessions{all: make(map[sessionKey]*session)} }

// start makes a session and returns the value of its cookie.
func (s *sessions) start() string {
	var token [sessionBytes]byte
	_, _ = rand.Read(token[:]) // never fails (crypto/rand, Go 1.24)
	value := hex.EncodeToString(token[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	makeRoom(s.all, maxSessions, func(one *session) time.Time { return one.seen })
	s.all[sha256.Sum256([]byte(value))] = &session{started: now, seen: now}
	return value
}

// valid reports whether the key belongs to a live session, and keeps it alive.
func (s *sessions) valid(key sessionKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[key]
	if one == nil {
		return false
	}
	now := time.Now()
	if now.Sub(one.seen) > sessionIdle || now.Sub(one.started) > sessionLife {
		delete(s.all, key)
		return false
	}
	one.seen = now
	return true
}

func (s *sessions) end(key sessionKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, key)
}

// cookieName carries the port: browsers send cookies to all ports of a host,
// and two devices on one host must not overwrite each other's.
func cookieName(r *http.Request) string {
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		port = "default"
	}
	name := "porchlight-" + port
	if r.TLS != nil {
		return "__Host-" + name
	}
	return name
}

// sessionID is the key of the request's cookie, the zero key without one.
func sessionID(r *http.Request) sessionKey {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil || len(cookie.Value) != 2*sessionBytes {
		return sessionKey{}
	}
	return sha256.Sum256([]byte(cookie.Value))
}

// sessionCookie is the cookie with the given value; an empty one removes it.
func sessionCookie(r *http.Request, value string) *http.Cookie {
	age := int(sessionLife / time.Second)
	if value == "" {
		age = -1
	}
	return &http.Cookie{
		Name: cookieName(r), Value: value, Path: "/", MaxAge: age,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
