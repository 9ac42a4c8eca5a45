package directory

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/record"
)

// Service is the service by which a device that reaches the table runs errands
// for one that does not: where no UDP gets out, or the owner wants no node.
const Service = "table"

const (
	// maxErrand is the size of the largest item on an errand, in bytes: 996 of
	// value in base64, and the rest.
	maxErrand = 2048
	// errandLimit is how long one may take.
	errandLimit = 12 * time.Second
	// errandsPerMinute is how many a device may send, errandsAtOnce how many
	// are run for all at the same time, and maxErranders for how many devices
	// the count is kept; beyond, any is forgotten.
	errandsPerMinute = 20
	errandsAtOnce    = 16
	maxErranders     = 256
)

// ErrNoHelper says that nobody could run an errand.
var ErrNoHelper = errors.New("the directory cannot be reached from here, and nobody could ask for us")

// errand is an item as it travels between devices.
type errand struct {
	Key       [32]byte `json:"key"`
	Salt      []byte   `json:"salt,omitempty"`
	Seq       int64    `json:"seq"`
	Value     []byte   `json:"value"`
	Signature []byte   `json:"signature"`
}

func (e errand) item() (record.Item, error) {
	i := record.Item{Key: e.Key, Salt: e.Salt, Seq: e.Seq, Value: e.Value}
	if copy(i.Signature[:], e.Signature) != len(i.Signature) || !i.Verify() {
		return record.Item{}, record.ErrForged
	}
	return i, nil
}

// Errands answers the service.
type Errands struct {
	table Table
	slots chan struct{}
	mux   *http.ServeMux

	mu    sync.Mutex
	rates map[identity.Address]*rate.Limiter
}

// NewErrands returns Errands to a table.
func NewErrands(t Table) *Errands {
	e := &Errands{table: t, slots: make(chan struct{}, errandsAtOnce), mux: http.NewServeMux(), rates: map[identity.Address]*rate.Limiter{}}
	e.mux.HandleFunc("GET /v1/item", e.get)
	e.mux.HandleFunc("PUT /v1/item", e.put)
	return e
}

// ServeHTTP answers one request; who asks is told by the session.
func (e *Errands) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller := overlay.Caller(r)
	if caller.IsZero() {
		http.Error(w, "no device proved its key for this request", http.StatusUnauthorized)
		return
	}
	if !e.allow(caller, time.Now()) {
		http.Error(w, "too many errands; wait a minute", http.StatusTooManyRequests)
		return
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), errandLimit)
	defer cancel()
	e.mux.ServeHTTP(w, r.WithContext(ctx))
}

func (e *Errands) allow(a identity.Address, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.rates[a]
	if l == nil {
		for b := range e.rates {
			if len(e.rates) < maxErranders {
				break
			}
			delete(e.rates, b)
		}
		l = rate.NewLimiter(rate.Every(time.Minute/errandsPerMinute), errandsPerMinute)
		e.rates[a] = l
	}
	return l.AllowN(now, 1)
}

func (e *Errands) get(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	key, err := hex.DecodeString(q.Get("key"))
	salt, saltErr := hex.DecodeString(q.Get("salt"))
	floor, floorErr := strconv.ParseInt(q.Get("floor"), 10, 64)
	if err != nil || saltErr != nil || floorErr != nil || len(key) != 32 || len(salt) > record.MaxSalt {
		http.Error(w, "ask for key, salt and floor", http.StatusBadRequest)
		return
	}
	// An item that is enough for whoever asks is not known here: the search
	// goes on until it has found what there is.
	item, err := e.table.Get(r.Context(), [32]byte(key), salt, floor, func(record.Item) bool { return false })
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode(errand{item.Key, item.Salt, item.Seq, item.Value, item.Signature[:]})
}

func (e *Errands) put(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxErrand))
	if err != nil {
		http.Error(w, "the item is too large", http.StatusRequestEntityTooLarge)
		return
	}
	var body errand
	if json.Unmarshal(b, &body) != nil {
		http.Error(w, "the body is one item", http.StatusBadRequest)
		return
	}
	item, err := body.item()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	stored, err := e.table.Put(r.Context(), item)
	if err != nil {
		http.Error(w, "not stored", http.StatusBadGateway)
		return
	}
	fmt.Fprint(w, stored)
}

// ByHelpers is a Table that others reach: it uses its own node if that finds
// anything, and otherwise sends helpers. They may lie no more than nodes may.
type ByHelpers struct {
	Own     Table
	Client  *http.Client
	Helpers func() []identity.Address
}

// Get implements Table.
func (t ByHelpers) Get(ctx context.Context, key [32]byte, salt []byte, floor int64, enough func(record.Item) bool) (record.Item, error) {
	item, err := t.Own.Get(ctx, key, salt, floor, enough)
	if err == nil || ctx.Err() != nil {
		return item, err
	}
	query := fmt.Sprintf("?key=%x&salt=%x&floor=%d", key, salt, floor)
	errs := []error{err}
	for _, helper := range t.Helpers() {
		b, err := t.send(ctx, http.MethodGet, helper, query, nil)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var body errand
		if err := json.Unmarshal(b, &body); err != nil {
			errs = append(errs, err)
			continue
		}
		item, err := body.item()
		if err == nil && item.Key == key && bytes.Equal(item.Salt, salt) && item.Seq >= floor {
			enough(item)
			return item, nil
		}
		errs = append(errs, fmt.Errorf("errand of %s: %w", helper.Short(), record.ErrForeign))
	}
	return record.Item{}, errors.Join(errs...)
}

// Put implements Table.
func (t ByHelpers) Put(ctx context.Context, item record.Item) (int, error) {
	stored, err := t.Own.Put(ctx, item)
	if err == nil && stored > 0 || ctx.Err() != nil {
		return stored, err
	}
	b, err := json.Marshal(errand{item.Key, item.Salt, item.Seq, item.Value, item.Signature[:]})
	if err != nil {
		return 0, err
	}
	errs := []error{ErrNoHelper}
	for _, helper := range t.Helpers() {
		answer, err := t.send(ctx, http.MethodPut, helper, "", b)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if n, err := strconv.Atoi(string(answer)); err == nil && n > 0 {
			return n, nil
		}
	}
	return 0, errors.Join(errs...)
}

func (t ByHelpers) send(ctx context.Context, method string, helper identity.Address, query string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+helper.String()+"/v1/item"+query, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := t.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("errand of %s: %w", helper.Short(), err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxErrand+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("errand of %s: %w", helper.Short(), err)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("errand of %s: %s", helper.Short(), response.Status)
	case len(b) > maxErrand:
		return nil, fmt.Errorf("errand of %s: its answer is larger than %d bytes", helper.Short(), maxErrand)
	}
	return b, nil
}
