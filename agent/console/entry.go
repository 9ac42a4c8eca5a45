package console

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what setup and log-in take.
const (
	maxEntryBody     = 4096 // bytes of JSON
	minPasswordRunes = 10
	maxPasswordBytes = 1024
	maxNameRunes     = 40
)

// getSession tells a stranger what to ask for, and nothing about the device.
func (c *Console) getSession(w http.ResponseWriter, r *http.Request) {
	left := time.Until(c.closes)
	switch {
	case c.sessions.valid(sessionID(r)):
		writeJSON(w, http.StatusOK, map[string]any{"state": "ok"})
	case c.password.isSet():
		writeJSON(w, http.StatusOK, map[string]any{"state": "login"})
	case left > 0:
		writeJSON(w, http.StatusOK, map[string]any{"state": "setup", "setup_left_ms": left.Milliseconds()})
	default:
		writeJSON(w, http.StatusOK, map[string]any{"state": "closed"})
	}
}

func (c *Console) postSetup(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Password string `json:"password"`
		Name     string `json:"name"`
	}
	if no, refused := c.checkSetup(r); refused {
		no.write(w, r)
		return
	}
	if no, refused := readJSON(w, r, &in); refused {
		no.write(w, r)
		return
	}
	if no, refused := c.checkChoice(in.Password, in.Name); refused {
		no.write(w, r)
		return
	}
	if err := c.password.set(r.Context(), in.Password); err != nil {
		c.setupError(err).write(w, r)
		return
	}
	c.log.Info("console password set", "source", r.RemoteAddr)
	if in.Name != "" {
		if err := c.cfg.SetName(in.Name); err != nil {
			c.log.Warn("device name not set", "error", err)
		}
	}
	c.admit(w, r, http.StatusCreated)
}

// checkSetup asks more of the source than the guard does: this machine's own
// public address is not enough to choose the password.
func (c *Console) checkSetup(r *http.Request) (refusal, bool) {
	src, ok := sourceAddress(r)
	switch {
	case !ok || !isHome(src):
		return refusal{status: http.StatusForbidden, code: "source",
			message: "The first password is set from the home network only."}, true
	case c.password.isSet():
		return refusal{status: http.StatusConflict, code: "login",
			message: "A password is set already; log in with it."}, true
	case time.Now().After(c.closes):
		return refusal{status: http.StatusForbidden, code: "setup_closed",
			message: "Set-up has closed. Restart the device to open it again."}, true
	}
	return refusal{}, false
}

func (c *Console) checkChoice(password, name string) (refusal, bool) {
	bad := func(code, message string) (refusal, bool) {
		return refusal{status: http.StatusBadRequest, code: code, message: message}, true
	}
	switch {
	case utf8.RuneCountInString(password) < minPasswordRunes:
		return bad("password_short", "Choose a password of 10 letters or more.")
	case len(password) > maxPasswordBytes:
		return bad("password_long", "Choose a shorter password.")
	case name != "" && c.cfg.SetName == nil:
		return bad("name_fixed", "The device's name is set in its configuration.")
	case utf8.RuneCountInString(name) > maxNameRunes:
		return bad("name_long", "Choose a name of 40 letters or fewer.")
	}
	return refusal{}, false
}

func (c *Console) setupError(err error) refusal {
	switch {
	case errors.Is(err, errHasPassword):
		return refusal{status: http.StatusConflict, code: "login", message: "A password is set already; log in with it."}
	case errors.Is(err, errBusy):
		return busy()
	}
	c.log.Error("console password not saved", "error", err)
	return refusal{status: http.StatusInternalServerError, code: "not_saved",
		message: "The password could not be saved, so none is set. See the device's log, then try again."}
}

func busy() refusal {
	return refusal{status: http.StatusServiceUnavailable, code: "busy",
		message: "Too many log-ins at once. Try again in a few seconds.", retry: 3 * time.Second}
}

func (c *Console) postSession(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Password string `json:"password"`
	}
	if !c.password.isSet() {
		refusal{status: http.StatusConflict, code: "setup", message: "No password is set yet; set one first."}.write(w, r)
		return
	}
	if no, refused := readJSON(w, r, &in); refused {
		no.write(w, r)
		return
	}
	addr, _ := sourceAddress(r) // the guard has let it in
	src := sourceKey(addr)
	if wait := c.tries.take(src); wait > 0 {
		refusal{status: http.StatusTooManyRequests, code: "too_many", retry: wait,
			message: "Too many tries from this place. Wait, then try again."}.write(w, r)
		return
	}
	ok, err := c.password.matches(r.Context(), in.Password)
	if err != nil {
		busy().write(w, r)
		return
	}
	if !ok {
		c.log.Info("console log-in refused", "source", r.RemoteAddr)
		refusal{status: http.StatusUnauthorized, code: "wrong_password", message: "That is not the password."}.write(w, r)
		return
	}
	c.tries.forgive(src)
	c.log.Info("console log-in", "source", r.RemoteAddr)
	c.admit(w, r, http.StatusOK)
}

// admit starts a session. Whatever session the request had ends: a cookie
// planted before the log-in is worth nothing after it.
func (c *Console) admit(w http.ResponseWriter, r *http.Request, status int) {
	c.sessions.end(sessionID(r))
	http.SetCookie(w, sessionCookie(r, c.sessions.start()))
	writeJSON(w, status, map[string]any{"state": "ok"})
}

func (c *Console) deleteSession(w http.ResponseWriter, r *http.Request) {
	c.sessions.end(sessionID(r))
	http.SetCookie(w, sessionCookie(r, ""))
	w.WriteHeader(http.StatusNoContent)
}

// readJSON reads exactly one JSON object of known fields.
func readJSON(w http.ResponseWriter, r *http.Request, v any) (refusal, bool) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !strings.EqualFold(kind, "application/json") {
		return refusal{status: http.StatusUnsupportedMediaType, code: "content_type",
			message: "Send JSON with Content-Type: application/json."}, true
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEntryBody))
	dec.DisallowUnknownFields()
	if err = dec.Decode(v); err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return refusal{}, false
		}
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return refusal{status: http.StatusRequestEntityTooLarge, code: "too_long",
			message: "The request is too long; 4096 bytes are enough."}, true
	}
	return refusal{status: http.StatusBadRequest, code: "json",
		message: "The request is not the JSON expected here."}, true
}
