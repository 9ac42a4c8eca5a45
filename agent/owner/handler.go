package owner

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

// Service is the name of the service on the overlay.
const Service = "owner"

const (
	// maxRequest is the size of the largest body of anybody, in bytes: a
	// roster, or a name and a code.
	maxRequest = 4 << 10
	// maxUpdate is that of an own device, which also says what is presigned.
	maxUpdate = 64 << 10

	// askedPerMinute is how many requests of a device are answered in a
	// minute, and maxCallers how many devices': an own device is not counted.
	askedPerMinute = 30
	maxCallers     = 1024
	// changesPerHour is how many rosters of one owner are stored in an hour:
	// whoever has a friend's key must not wear out the friend's flash.
	changesPerHour = 60
)

// Handler answers the service: who asks is told by the session
// (overlay.Caller).
type Handler struct {
	store   *Store
	welcome func(identity.Address) bool
	mux     *http.ServeMux
	callers counter
	changes counter
}

// NewHandler returns the Handler of a store. Welcome says who is told the
// rosters of other owners; own devices always are, and anybody the own
// owner's. It may be nil.
func NewHandler(store *Store, welcome func(caller identity.Address) bool) *Handler {
	h := &Handler{
		store:   store,
		welcome: welcome,
		mux:     http.NewServeMux(),
		callers: counter{window: time.Minute, most: askedPerMinute},
		changes: counter{window: time.Hour, most: changesPerHour},
	}
	h.mux.HandleFunc("POST /v1/join", h.join)
	h.mux.HandleFunc("GET /v1/roster", h.roster)
	h.mux.HandleFunc("PUT /v1/roster", h.update)
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller := overlay.Caller(r)
	if caller.IsZero() {
		http.Error(w, "no device proved its key for this request", http.StatusUnauthorized)
		return
	}
	if !h.mine(caller) && !h.callers.allow(caller) {
		http.Error(w, "too many requests; wait a minute", http.StatusTooManyRequests)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// mine reports whether a device is of the own owner.
func (h *Handler) mine(caller identity.Address) bool {
	own := h.store.Owner()
	return !own.IsZero() && h.store.OwnerOf(caller) == own
}

// join brings in a device that knows the code.
func (h *Handler) join(w http.ResponseWriter, r *http.Request) {
	var body request
	if !read(w, r, maxRequest, &body) {
		return
	}
	answer, err := h.store.admit(overlay.Caller(r), body)
	switch {
	case err == nil:
		json.NewEncoder(w).Encode(answer)
	case errors.Is(err, ErrCode):
		http.Error(w, err.Error(), http.StatusForbidden)
	case errors.Is(err, ErrName):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrFull):
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		h.store.cfg.Logger.Error("a device with the right code could not join", "peer", overlay.Caller(r).Short(), "err", err)
		http.Error(w, "the device could not be added; try again", http.StatusInternalServerError)
	}
}

// roster tells the newest roster of an owner.
func (h *Handler) roster(w http.ResponseWriter, r *http.Request) {
	of, ok := ownerIn(w, r)
	if !ok {
		return
	}
	caller := overlay.Caller(r)
	told := of == h.store.Owner() || h.mine(caller) || h.welcome != nil && h.welcome(caller)
	signed := h.store.Roster(of)
	if !told || signed == nil {
		http.Error(w, "no list of that owner is known here", http.StatusNotFound)
		return
	}
	w.Write(signed)
}

// update takes over a newer roster from anybody, and what goes with it from an
// own device. The answer to an older one is the newer one; a roster nobody
// wants is answered like one that was taken.
func (h *Handler) update(w http.ResponseWriter, r *http.Request) {
	of, ok := ownerIn(w, r)
	if !ok {
		return
	}
	limit := int64(maxRequest)
	if h.mine(overlay.Caller(r)) {
		limit = maxUpdate
	}
	var body update
	if !read(w, r, limit, &body) {
		return
	}
	roster, err := ParseRoster(of, body.Roster)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if roster.Version > h.store.Version(of) && h.store.cfg.Wanted(of) && !h.changes.allow(of) {
		http.Error(w, "the list changes too often; wait an hour", http.StatusTooManyRequests)
		return
	}
	_, err = h.store.Learn(of, body.Roster)
	if err == nil {
		err = h.store.update(overlay.Caller(r), of, body)
	}
	switch {
	case err == nil || errors.Is(err, ErrUnwanted):
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrStale):
		w.WriteHeader(http.StatusConflict)
		w.Write(h.store.Roster(of))
	default:
		h.store.cfg.Logger.Warn("a list of devices was not taken over", "owner", of.Short(), "err", err)
		http.Error(w, "not stored", http.StatusInternalServerError)
	}
}

// update takes over what an own device says beside the roster.
func (s *Store) update(from, of identity.Address, u update) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if of != s.own.Owner || !s.listed() || !s.own.roster.Lists(from) {
		return nil
	}
	return s.keep(s.own.with(u))
}

// ownerIn reads the owner a request is about.
func ownerIn(w http.ResponseWriter, r *http.Request) (identity.Address, bool) {
	of, err := identity.ParseAddress(r.URL.Query().Get("of"))
	if err != nil || of.Kind() != identity.KindOwner {
		http.Error(w, "of= is the address of an owner", http.StatusBadRequest)
		return identity.Address{}, false
	}
	return of, true
}

// read reads a JSON body of at most limit bytes.
func read(w http.ResponseWriter, r *http.Request, limit int64, v any) bool {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return false
	}
	if err := json.Unmarshal(b, v); err != nil {
		http.Error(w, "the body is not as it should be", http.StatusBadRequest)
		return false
	}
	return true
}

// counter counts what each device or owner does within one window of time.
type counter struct {
	window time.Duration
	most   int

	mu    sync.Mutex
	since time.Time
	done  map[identity.Address]int
}

// allow reports whether one more is within the limit of a. When there are too
// many within one window, new ones wait for the next.
func (c *counter) allow(a identity.Address) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil || time.Since(c.since) >= c.window {
		c.since, c.done = time.Now(), map[identity.Address]int{}
	}
	if _, known := c.done[a]; !known && len(c.done) >= maxCallers {
		return false
	}
	c.done[a]++
	return c.done[a] <= c.most
}
