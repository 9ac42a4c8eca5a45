package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

const (
	// getLimit ends one question to the table, lookupLimit a whole look-up.
	getLimit    = 8 * time.Second
	lookupLimit = 25 * time.Second
	// lookupClockWait is how long a look-up waits for a known clock.
	lookupClockWait = 5 * time.Second
	// agreed is how many nodes have to show the same newest item for a search
	// to stop there.
	agreed = 3
	// maxFlights is how many addresses are looked up at once; more are refused.
	maxFlights = 64
)

// Errors a caller can tell apart.
var (
	ErrNotFound = errors.New("nothing about it is in the directory; the device may be off, or never have been on the internet")
	ErrBusy     = errors.New("too many look-ups at once; try again in a few seconds")
	ErrKind     = errors.New("an address of the wrong kind")
)

// Lookup returns the record of a device: from the cache if it was confirmed in
// the last 30 s, otherwise from the table. Callers share one search. Errors:
// ErrNotFound (believed for 10 s), ErrBusy, ErrKind, ErrClosed, that of ctx.
// After an error, Cached may still have an older record.
func (d *Directory) Lookup(ctx context.Context, a identity.Address) (record.Record, error) {
	if a.Kind() != identity.KindDevice {
		return record.Record{}, fmt.Errorf("look up %s: %w: %v instead of device", a.Short(), ErrKind, a.Kind())
	}
	f, err := d.resolve(ctx, a)
	return f.rec, err
}

// LookupOwner returns the list of an owner's devices, as the owner's key signed
// it, and its version. It is looked up as in [Directory.Lookup].
func (d *Directory) LookupOwner(ctx context.Context, a identity.Address) (roster []byte, version uint64, err error) {
	if a.Kind() != identity.KindOwner {
		return nil, 0, fmt.Errorf("look up %s: %w: %v instead of owner", a.Short(), ErrKind, a.Kind())
	}
	f, err := d.resolve(ctx, a)
	if err != nil {
		return nil, 0, err
	}
	return bytes.Clone(f.body), uint64(f.seq), nil
}

// found is what was found about an address.
type found struct {
	seq  int64
	body []byte
	rec  record.Record // the body of a device's item
}

// flight is a look-up that callers wait for.
type flight struct {
	done  chan struct{}
	found found
	err   error
}

func (d *Directory) resolve(ctx context.Context, a identity.Address) (found, error) {
	f, fl, err := d.join(a)
	if fl == nil {
		return f, err
	}
	select {
	case <-fl.done:
		return fl.found, fl.err
	case <-ctx.Done():
		return found{}, fmt.Errorf("look up %s: %w", a.Short(), ctx.Err())
	}
}

// join answers from the cache, or returns the look-up to wait for.
func (d *Directory) join(a identity.Address) (found, *flight, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, missing, ok := d.cache.fresh(a); ok {
		return f, nil, nil
	} else if missing {
		return found{}, nil, fmt.Errorf("look up %s: %w", a.Short(), ErrNotFound)
	}
	if fl := d.flights[a]; fl != nil {
		return found{}, fl, nil
	}
	if d.closed {
		return found{}, nil, ErrClosed
	}
	if len(d.flights) >= maxFlights {
		return found{}, nil, fmt.Errorf("look up %s: %w", a.Short(), ErrBusy)
	}
	fl := &flight{done: make(chan struct{})}
	d.flights[a] = fl
	d.running.Go(func() { d.fly(a, fl) })
	return found{}, fl, nil
}

// fly looks an address up, whether or not those who asked still wait.
func (d *Directory) fly(a identity.Address, fl *flight) {
	defer close(fl.done)
	ctx, cancel := context.WithTimeout(d.ctx, lookupLimit)
	defer cancel()
	fl.found, fl.err = d.search(ctx, a)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flights[a] != fl {
		return // forgotten meanwhile
	}
	delete(d.flights, a)
	switch {
	case fl.err == nil:
		fl.found = d.cache.take(a, fl.found, true)
	case d.closed:
		fl.err = ErrClosed
	default:
		d.cache.missed(a)
	}
}

// search asks for the present period, and then for those beside it: this clock
// or the other device's may be a day off.
func (d *Directory) search(ctx context.Context, a identity.Address) (found, error) {
	p := record.PeriodAt(a, d.wall(ctx, lookupClockWait))
	d.mu.Lock()
	floor := d.cache.floor(a)
	d.mu.Unlock()
	f, err := d.find(ctx, newSearch(a, p, floor, validFor(a)))
	if err == nil {
		return f, nil
	}
	var later found
	var laterErr error
	var both sync.WaitGroup
	both.Go(func() { later, laterErr = d.find(ctx, newSearch(a, p+1, floor, validFor(a))) })
	earlier, earlierErr := found{}, ErrNotFound
	if p > 0 {
		earlier, earlierErr = d.find(ctx, newSearch(a, p-1, floor, validFor(a)))
	}
	both.Wait()
	switch {
	case laterErr == nil && (earlierErr != nil || later.seq > earlier.seq):
		return later, nil
	case earlierErr == nil:
		return earlier, nil
	}
	return found{}, fmt.Errorf("look up %s: %w", a.Short(), err)
}

// validFor returns the check that an address's items have to pass.
func validFor(a identity.Address) func(*found) bool {
	if a.Kind() == identity.KindOwner {
		return nil
	}
	return func(f *found) (ok bool) {
		rec, err := record.Decode(f.body)
		f.rec = rec
		return err == nil && rec.Seq == f.seq
	}
}

// search collects what the table shows of one address in one period.
type search struct {
	address identity.Address
	period  uint64
	floor   int64
	valid   func(*found) bool // nil: everything that opens is
	// proof is the seq at which a single item is enough.
	proof int64

	mu   sync.Mutex
	best *found
	item record.Item // that of the best
	same int         // how often it was shown
}

func newSearch(a identity.Address, period uint64, floor int64, valid func(*found) bool) *search {
	return &search{address: a, period: period, floor: floor, valid: valid, proof: math.MaxInt64}
}

// offer takes an item into account and reports whether no more are needed.
func (s *search) offer(item record.Item) bool {
	if s.again(item) {
		return s.enough()
	}
	body, seq, err := record.Open(s.address, s.period, item)
	f := found{seq: seq, body: body}
	if err != nil || seq < s.floor || s.valid != nil && !s.valid(&f) {
		return false
	}
	s.mu.Lock()
	if s.best == nil || seq > s.best.seq {
		s.best, s.item, s.same = &f, item, 1
	}
	s.mu.Unlock()
	return s.enough()
}

// again counts another showing of the best item, which need not be opened again:
// that takes tens of milliseconds on a small router.
func (s *search) again(item record.Item) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := s.best != nil && item.Key == s.item.Key && item.Seq == s.item.Seq && len(item.Salt) == 0 &&
		item.Signature == s.item.Signature && bytes.Equal(item.Value, s.item.Value)
	if same {
		s.same++
	}
	return same
}

func (s *search) enough() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.best != nil && (s.same >= agreed || s.best.seq >= s.proof)
}

// find runs a search. Whatever the table's own verdict is, a good item that it
// met counts. Errors: ErrNotFound, with the table's beside it.
func (d *Directory) find(ctx context.Context, s *search) (found, error) {
	key, err := record.Key(s.address, s.period)
	if err != nil {
		return found{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, getLimit)
	defer cancel()
	item, err := d.cfg.Table.Get(ctx, key, nil, record.WireSeq(s.address, s.period, s.floor), s.offer)
	if err == nil {
		s.offer(item)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.best != nil:
		return *s.best, nil
	case err != nil:
		return found{}, fmt.Errorf("%w (%w)", ErrNotFound, err)
	}
	return found{}, ErrNotFound
}
