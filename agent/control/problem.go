package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
)

// Problem is the body of every error.
type Problem struct {
	// Error is one line for people, with what to do next.
	Error string `json:"error"`
	// Code is "not_found", "not_allowed", "timeout", "invalid" or "failed".
	Code string `json:"code"`
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status, code := classify(err)
		w.WriteHeader(status)
		v = Problem{Error: strings.ReplaceAll(err.Error(), "\n", "; "), Code: code}
	}
	if v == nil {
		v = struct{}{}
	}
	json.NewEncoder(w).Encode(v)
}

// coded is an error whose code is known where it arises.
type coded struct {
	error
	status int
	code   string
}

func (c coded) Unwrap() error { return c.error }

// Invalid marks an error of who asked: what was asked for cannot be.
func Invalid(err error) error { return coded{err, http.StatusBadRequest, "invalid"} }

// NotAllowed marks an error about something that this device may not do.
func NotAllowed(err error) error { return coded{err, http.StatusForbidden, "not_allowed"} }

// NotFound marks an error about something that does not exist.
func NotFound(err error) error { return coded{err, http.StatusNotFound, "not_found"} }

// unreached marks errors of calls that nothing answered.
func unreached(err error) error {
	switch {
	case err == nil, errors.Is(err, introduce.ErrRefused), errors.Is(err, contacts.ErrBlocked),
		errors.Is(err, overlay.ErrNoService), errors.Is(err, overlay.ErrBusy):
		return err
	case !errors.Is(err, join.ErrNoWay):
		err = fmt.Errorf("%w; it may be off: try again later, or ask its owner for a new link", err)
	}
	return coded{err, http.StatusGatewayTimeout, "timeout"}
}

var errOwn = Invalid(errors.New("that is this device's own address; name another device"))

func classify(err error) (status int, code string) {
	var known coded
	switch {
	case errors.As(err, &known):
		return known.status, known.code
	case errors.Is(err, contacts.ErrUnknown):
		return http.StatusNotFound, "not_found"
	case errors.Is(err, contacts.ErrBlocked), errors.Is(err, introduce.ErrRefused):
		return http.StatusForbidden, "not_allowed"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, join.ErrNoWay):
		return http.StatusGatewayTimeout, "timeout"
	case errors.Is(err, identity.ErrAddress), errors.Is(err, identity.ErrLink),
		errors.Is(err, contacts.ErrTaken), errors.Is(err, contacts.ErrName):
		return http.StatusBadRequest, "invalid"
	}
	return http.StatusInternalServerError, "failed"
}

// read reads a body that is one JSON value of type T.
func read[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, Invalid(fmt.Errorf("request: %w", err))
	}
	return v, nil
}
