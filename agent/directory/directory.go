package directory

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

// Table is the distributed hash table, or whatever keeps items for others.
// Nothing it returns is believed. Both calls must end when ctx does.
type Table interface {
	// Get returns the item with the highest seq that it finds under key and
	// salt, none below floor. It may stop as soon as enough, which is given
	// every item it meets and may be called by several goroutines, says so.
	Get(ctx context.Context, key [32]byte, salt []byte, floor int64, enough func(record.Item) bool) (record.Item, error)
	// Put returns how many nodes stored the item.
	Put(ctx context.Context, item record.Item) (stored int, err error)
}

// Files is where the counter and the last records are kept.
type Files interface {
	ReadJSON(name string, v any) error
	WriteJSON(name string, v any) error
}

// Config is what a Directory needs.
type Config struct {
	Device *identity.Device
	Table  Table
	// Self says where this device can be reached now, best first; more than a
	// record holds is left out. Seq is set by the Directory. Without any
	// address or rendezvous nothing is put.
	Self func() record.Record
	// Now is the time, and whether it is known: false while the clock may still
	// stand where a router without battery starts, in 1970.
	Now   func() (time.Time, bool)
	Files Files
	// Owned returns the owner's list of devices with the signatures made in
	// advance; false if this device has no owner.
	Owned  func() (owner identity.Address, roster []byte, p record.Presigned, ok bool)
	Logger *slog.Logger
}

const (
	// clockWait is how long after the start a known clock is waited for: other
	// devices tell the time. Then things go on with what there is.
	clockWait = time.Minute
	clockPoll = time.Second
	// pollEvery is how often Self and Owned are asked whether they changed.
	pollEvery = 3 * time.Second
)

// ErrClosed says that the directory was closed.
var ErrClosed = errors.New("the directory is closed")

// Directory puts this device's record into a table and finds those of others.
type Directory struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	began   time.Time
	changed [2]chan struct{} // one for each publisher

	mu      sync.Mutex
	closed  bool
	cache   *cache
	flights map[identity.Address]*flight
	current record.Record
}

// New returns a Directory that knows what an earlier one kept.
func New(cfg Config) *Directory {
	d := &Directory{
		cfg:     cfg,
		began:   time.Now(),
		cache:   newCache(cfg.Files, cfg.Logger),
		flights: map[identity.Address]*flight{},
	}
	for i := range d.changed {
		d.changed[i] = make(chan struct{}, 1)
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Start begins to publish. It is called once.
func (d *Directory) Start() {
	device := &devicePublisher{d: d, sequence: newSequence(d.cfg.Files, d.cfg.Logger)}
	owner := &ownerPublisher{d: d}
	d.running.Go(func() { d.loop(d.changed[0], device.step, device.hurry) })
	d.running.Go(func() { d.loop(d.changed[1], owner.step, owner.hurry) })
}

// loop calls step whenever it asks for it, and after hurry when something
// changed. It also keeps the cache on flash.
func (d *Directory) loop(changed <-chan struct{}, step func(context.Context) time.Duration, hurry func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-changed:
			hurry()
		case <-timer.C:
		}
		timer.Reset(step(d.ctx))
		d.keep(false)
	}
}

// Changed tells that Self or Owned say something else, or that the network is
// back. It never blocks.
func (d *Directory) Changed() {
	for _, c := range d.changed {
		select {
		case c <- struct{}{}:
		default: // it is known already
		}
	}
}

// Close stops what runs, keeps what was found and waits. What was put stays in
// the table until it expires there.
func (d *Directory) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.running.Wait()
	return d.keep(true)
}

// Current returns this device's record with its seq, as it was last put into
// the table or tried to be, for those who are told directly; false before the
// first try.
func (d *Directory) Current() (record.Record, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current, d.current.Seq != 0
}

// wall waits for a known clock, until clockWait after the start or as long as
// wait, and returns the time.
func (d *Directory) wall(ctx context.Context, wait time.Duration) time.Time {
	from := time.Now()
	for {
		now, known := d.cfg.Now()
		if known || time.Since(d.began) >= clockWait || time.Since(from) >= wait {
			return now
		}
		select {
		case <-ctx.Done():
			return now
		case <-time.After(clockPoll):
		}
	}
}
