package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"sync"

	"golang.org/x/crypto/argon2"
)

// Cost of one hash: about a second on a 580 MHz MIPS router, and 8 MiB, which
// a device in a 64 MiB group can spare once at a time (RFC 9106 §4 explains
// the parameters).
const (
	hashMemoryKiB = 8 * 1024
	hashPasses    = 2
	hashLanes     = 1
	hashBytes     = 32
	saltBytes     = 16
)

// Limits at reading a record: a damaged one must not cost more than a hash
// may.
const (
	maxRecordBytes = 4096
	maxMemoryKiB   = 64 * 1024
	maxPasses      = 16
	maxLanes       = 4
)

// maxWaiting is how many hashes may wait for the one that runs; what comes
// beyond is refused as busy.
const maxWaiting = 8

var (
	errBusy        = errors.New("too many passwords are being checked; try again in a few seconds")
	errHasPassword = errors.New("a password is set already; log in with it")
)

// record is what the store keeps, as JSON.
type record struct {
	Version   int    `json:"version"`
	Algorithm string `json:"algorithm"`
	MemoryKiB uint32 `json:"memory_kib"`
	Passes    uint32 `json:"passes"`
	Lanes     uint8  `json:"lanes"`
	Salt      []byte `json:"salt"`
	Hash      []byte `json:"hash"`
}

// password checks and sets the owner's password, one hash at a time.
type password struct {
	store   Store
	running chan struct{} // holds one token while a hash runs
	waiting chan struct{} // holds a token for each caller inside

	mu  sync.Mutex
	rec *record // nil until a password is set
}

func loadPassword(store Store) (*password, error) {
	p := &password{
		store:   store,
		running: make(chan struct{}, 1),
		waiting: make(chan struct{}, maxWaiting),
	}
	data, err := store.Load()
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(data) == 0) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	rec, err := parseRecord(data)
	if err != nil {
		return nil, fmt.Errorf("%w; restore it from a copy, or remove it to set a new password", err)
	}
	p.rec = rec
	return p, nil
}

func parseRecord(data []byte) (*record, error) {
	if len(data) > maxRecordBytes {
		return nil, fmt.Errorf("record of %d bytes is longer than %d", len(data), maxRecordBytes)
	}
	var rec record
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rec); err != nil {
		return nil, fmt.Errorf("damaged record: %w", err)
	}
	sound := rec.Version == 1 && rec.Algorithm == "argon2id" &&
		rec.MemoryKiB >= 8 && rec.MemoryKiB <= maxMemoryKiB &&
		rec.Passes >= 1 && rec.Passes <= maxPasses &&
		rec.Lanes >= 1 && rec.Lanes <= maxLanes &&
		len(rec.Salt) == saltBytes && len(rec.Hash) == hashBytes
	if !sound {
		return nil, errors.New("damaged record: a field is missing or out of range")
	}
	return &rec, nil
}

// isSet reports whether there is a password.
func (p *password) isSet() bool { return p.record() != nil }

func (p *password) record() *record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec
}

// set stores the first password; errHasPassword if there is one, errBusy if
// too many wait.
func (p *password) set(ctx context.Context, text string) error {
	if p.isSet() {
		return errHasPassword
	}
	rec := &record{Version: 1, Algorithm: "argon2id",
		MemoryKiB: hashMemoryKiB, Passes: hashPasses, Lanes: hashLanes, Salt: make([]byte, saltBytes)}
	_, _ = rand.Read(rec.Salt) // never fails (crypto/rand, Go 1.24)
	hash, err := p.hash(ctx, rec, text)
	if err != nil {
		return err
	}
	rec.Hash = hash
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rec != nil { // somebody else was first
		return errHasPassword
	}
	if err := p.store.Save(data); err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	p.rec = rec
	return nil
}

// matches reports whether text is the password; false if none is set.
func (p *password) matches(ctx context.Context, text string) (bool, error) {
	rec := p.record()
	if rec == nil {
		return false, nil
	}
	hash, err := p.hash(ctx, rec, text)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(hash, rec.Hash) == 1, nil
}

// hash waits for its turn. The memory goes back to the system at once: on a
// router 8 MiB held until the next collection is a tenth of what there is.
func (p *password) hash(ctx context.Context, rec *record, text string) ([]byte, error) {
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return nil, errBusy
	}
	select {
	case p.running <- struct{}{}:
		defer func() { <-p.running }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	sum := argon2.IDKey([]byte(text), rec.Salt, rec.Passes, rec.MemoryKiB, rec.Lanes, hashBytes)
	debug.FreeOSMemory()
	return sum, nil
}
