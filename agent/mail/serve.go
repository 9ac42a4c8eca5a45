package mail

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
)

// purpose binds a sealed message to this package.
const purpose = "mail"

// Codes of refusal, in the field code of an answer.
const (
	codeNobody     = "nobody"      // 401: no device proved its key
	codeAbsent     = "absent"      // 404: not there, or not for the caller to know
	codeNotAllowed = "not_allowed" // 403: this device holds nothing for the caller
	codeTooLarge   = "too_large"   // 413
	codeMalformed  = "malformed"   // 400
	codeGap        = "gap"         // 409: one before it has not come
	codeTooMany    = "too_many"    // 429
	codeFull       = "full"        // 507: no room at present
	codeDisk       = "disk"        // 503: it could not be stored
)

// reply is the body of every answer.
type reply struct {
	// Last is the number of the last message taken from a stream, ID its id;
	// Want, with 409, the number that has to come first. Only the sender of
	// the stream is told.
	Last uint64 `json:"last,omitempty"`
	ID   string `json:"id,omitempty"`
	Want uint64 `json:"want,omitempty"`
	// Receipt says the same, sealed to the sender, for a helper to carry back.
	Receipt []byte `json:"receipt,omitempty"`
	Code    string `json:"code,omitempty"`
}

func answer(w http.ResponseWriter, status int, r reply) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(r)
}

func refuse(w http.ResponseWriter, status int, code string) { answer(w, status, reply{Code: code}) }

func (m *Mail) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/deliver", m.serveDeliver)
	mux.HandleFunc("POST /v1/deposit", m.serveDeposit)
	mux.HandleFunc("GET /v1/ack", m.serveAck)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := overlay.Caller(r)
		switch {
		case caller.IsZero():
			refuse(w, http.StatusUnauthorized, codeNobody)
		case !m.admits(caller):
			refuse(w, http.StatusTooManyRequests, codeTooMany)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// admits limits requests: each device's, and those of all strangers together.
func (m *Mail) admits(caller identity.Address) bool {
	if !m.limits.requests.allow(caller) {
		return false
	}
	return m.acquainted(caller) || m.limits.strangers.AllowN(time.Now(), 1)
}

func (m *Mail) acquainted(device identity.Address) bool {
	_, ok := m.cfg.Known(device)
	return ok || slices.Contains(m.cfg.Own(), device) || m.cfg.MayDeposit(device)
}

// readSealed reads a sealed message from a request, or refuses it.
func readSealed(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, sealed.MaxMessage))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, codeTooLarge)
	case err != nil || len(b) == 0:
		refuse(w, http.StatusBadRequest, codeMalformed)
	default:
		return b, true
	}
	return nil, false
}

// serveDeliver takes a message or a receipt to this device. Who brings it does
// not matter: the seal says whom it is from. Strangers are answered as if
// nothing were here.
func (m *Mail) serveDeliver(w http.ResponseWriter, r *http.Request) {
	b, ok := readSealed(w, r)
	if !ok {
		return
	}
	from, inside, err := sealed.Open(m.cfg.Device, purpose, b)
	if err != nil || !m.sendable(from) {
		refuse(w, http.StatusNotFound, codeAbsent)
		return
	}
	if !m.limits.messages.allow(from) {
		refuse(w, http.StatusTooManyRequests, codeTooMany)
		return
	}
	message, err := parseBody(inside)
	if err != nil {
		refuse(w, http.StatusBadRequest, codeMalformed)
		return
	}
	if message.kind == kindReceipt {
		if m.confirmed(from, message.stream, message.seq, message.id) == confirmedOther {
			m.carry.call(from, fresh, 0)
		}
		answer(w, http.StatusOK, reply{})
		return
	}
	m.accept(w, overlay.Caller(r), from, message)
}

// accept stores a message and answers who brought it.
func (m *Mail) accept(w http.ResponseWriter, caller, from identity.Address, message *body) {
	at, want, err := m.take(from, message)
	switch {
	case err != nil:
		m.cfg.Logger.Warn("a message could not be stored", "peer", from.Short(), "err", err)
		refuse(w, http.StatusServiceUnavailable, codeDisk)
		return
	case caller == from && want > 0:
		answer(w, http.StatusConflict, reply{Want: want, Code: codeGap})
		return
	case want > 0:
		refuse(w, http.StatusConflict, codeGap)
		return
	case caller == from:
		answer(w, http.StatusOK, reply{Last: at.last, ID: at.id.String()})
		return
	}
	receipt := &body{kind: kindReceipt, stream: at.stream, seq: at.last, id: at.id}
	b, err := sealed.Seal(m.cfg.Device, from, purpose, receipt.marshal())
	if err != nil {
		m.cfg.Logger.Warn("no receipt", "peer", from.Short(), "err", err)
	}
	answer(w, http.StatusOK, reply{Receipt: b})
}

// take stores a message if it is the next of its stream. It returns where the
// stream stands, and the number that has to come first if there is a gap.
func (m *Mail) take(from identity.Address, message *body) (at incoming, want uint64, err error) {
	contact, out := m.conversation(from, message)
	wall, set := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return at, 0, ErrClosed
	}
	at = m.store.progress(from, message.stream)
	if message.seq <= at.last {
		return at, 0, nil
	}
	// What lies below the floor is nowhere any more: it is passed over.
	if next := max(at.last+1, message.floor); message.seq > next {
		return at, next, nil
	}
	e := &entry{id: message.id, contact: contact, out: out, text: cleanText(message.text), written: message.written}
	if set {
		e.created = wall.Unix()
		if e.written == 0 {
			e.written = wall.UnixMilli()
		}
	}
	at = incoming{stream: message.stream, last: message.seq, id: message.id}
	return at, 0, m.commit(encodeReceived(e, from, at), true)
}

// conversation tells which contact a message belongs to, and whether the owner
// wrote it on another device.
func (m *Mail) conversation(from identity.Address, message *body) (contact identity.Address, out bool) {
	if message.copied && slices.Contains(m.cfg.Own(), from) {
		return message.contact, true
	}
	if contact, ok := m.cfg.Known(from); ok {
		return contact, false
	}
	return from, false
}

// serveAck tells a sender how far its stream has come.
func (m *Mail) serveAck(w http.ResponseWriter, r *http.Request) {
	from := overlay.Caller(r)
	stream, err := strconv.ParseUint(r.URL.Query().Get("stream"), 16, 64)
	if err != nil || stream == 0 {
		refuse(w, http.StatusBadRequest, codeMalformed)
		return
	}
	if !m.sendable(from) {
		refuse(w, http.StatusNotFound, codeAbsent)
		return
	}
	m.mu.Lock()
	at := m.store.progress(from, stream)
	m.mu.Unlock()
	if at.last == 0 {
		answer(w, http.StatusOK, reply{})
		return
	}
	answer(w, http.StatusOK, reply{Last: at.last, ID: at.id.String()})
}

// serveDeposit holds a sealed message for another device: ?to=ADDRESS, ttl in
// seconds, ref (16 hexadecimal digits) tells retries from new messages.
func (m *Mail) serveDeposit(w http.ResponseWriter, r *http.Request) {
	from := overlay.Caller(r)
	if !m.cfg.MayDeposit(from) {
		refuse(w, http.StatusForbidden, codeNotAllowed)
		return
	}
	item, err := m.depositOf(from, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, codeMalformed)
		return
	}
	b, ok := readSealed(w, r)
	if !ok {
		return
	}
	item.sealed = b
	switch err := m.keep(item); {
	case errors.Is(err, errNoRoom):
		refuse(w, http.StatusInsufficientStorage, codeFull)
	case err != nil:
		m.cfg.Logger.Warn("a message for another device could not be stored", "err", err)
		refuse(w, http.StatusServiceUnavailable, codeDisk)
	default:
		answer(w, http.StatusOK, reply{})
	}
}

func (m *Mail) depositOf(from identity.Address, r *http.Request) (*heldItem, error) {
	q := r.URL.Query()
	to, err := identity.ParseAddress(q.Get("to"))
	if err != nil {
		return nil, err
	}
	if to == from || to == m.self || to.Kind() != identity.KindDevice {
		return nil, fmt.Errorf("nothing is held for %s", to.Short())
	}
	seconds, err := strconv.ParseUint(q.Get("ttl"), 10, 32)
	if err != nil || seconds == 0 {
		return nil, fmt.Errorf("no time to live: %w", err)
	}
	ref, err := hex.DecodeString(q.Get("ref"))
	if err != nil || len(ref) != len(parcelRef{}) {
		return nil, fmt.Errorf("no reference: %w", err)
	}
	ttl := min(time.Duration(seconds)*time.Second, Lifetime)
	return &heldItem{from: from, to: to, ref: parcelRef(ref), ttl: ttl}, nil
}

var errNoRoom = errors.New("no room for more messages of others")

// keep holds a message for another device, durably.
func (m *Mail) keep(item *heldItem) error {
	wall, set := m.cfg.Now()
	if set {
		item.created = wall.Unix()
	}
	online := m.cfg.Online(item.to)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if !m.mailbox.room(item) {
		m.discard(m.mailbox.outlived(wall, set))
	}
	if !m.mailbox.room(item) {
		return errNoRoom
	}
	if err := m.mailbox.put(item); err != nil {
		return err
	}
	m.tidyMailbox()
	if online {
		m.hold.call(item.to, fresh, 0)
	} else {
		m.hold.call(item.to, nudge, heldWaits[0])
	}
	return nil
}

// discard forgets held messages; m.mu is held.
func (m *Mail) discard(numbers []uint64) {
	if err := m.mailbox.drop(numbers); err != nil {
		m.cfg.Logger.Warn("messages held for others may be carried once more", "err", err)
	}
	m.tidyMailbox()
}

func (m *Mail) tidyMailbox() {
	if err := m.mailbox.log.compact(false, m.mailbox.live); err != nil {
		m.cfg.Logger.Warn("the log of messages held for others stays large", "err", err)
	}
}
