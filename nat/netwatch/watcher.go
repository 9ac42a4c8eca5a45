package netwatch

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Times of a [Watcher].
const (
	// Quiet is how long the kernel has to be silent before we look. What
	// belongs together comes within a few milliseconds.
	Quiet = 50 * time.Millisecond
	// Patience is how long after the first sign we look whatever comes.
	Patience = time.Second
	// PollInterval is how often we look where the kernel tells nothing.
	PollInterval = 10 * time.Second

	// retryAfter is the pause after a look that failed.
	retryAfter = time.Second
)

// source is where a Watcher learns things from.
type source interface {
	// wait returns nil when something may have changed, errOverrun when
	// something was missed, os.ErrClosed after Close.
	wait() error
	// read says how things are. It and wait may run at once.
	read() (Snapshot, error)
	Close() error
}

// Config configures a [Watcher]. The zero value is fine.
type Config struct {
	// Logger is told of changes at level info, and why the kernel can't be
	// heard; nil is silence.
	Logger *slog.Logger
}

// Watcher watches how the machine is connected. All methods may be called
// concurrently.
type Watcher struct {
	log     *slog.Logger
	open    func() (source, error) // the kernel
	poll    func() (source, error) // without it
	changed chan struct{}          // holds one
	dirty   chan struct{}          // holds one: the source may have changed
	stop    chan struct{}
	loops   sync.WaitGroup

	signs, overruns, looks, changes atomic.Int64

	mu       sync.Mutex
	started  bool
	closed   bool
	source   source
	snapshot Snapshot
}

// Counts says what a [Watcher] has done so far.
type Counts struct {
	Signs    int64 // what the kernel said that may have been a change
	Overruns int64 // times that the kernel said more than we could take
	Looks    int64 // times that everything was read
	Changes  int64 // changes reported
}

// New makes a Watcher; [Watcher.Start] starts it.
func New(cfg Config) *Watcher {
	w := &Watcher{
		log:     cfg.Logger,
		open:    func() (source, error) { return openNetlink() },
		poll:    func() (source, error) { return newPoll(PollInterval), nil },
		changed: make(chan struct{}, 1),
		dirty:   make(chan struct{}, 1),
		stop:    make(chan struct{}),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	return w
}

// Start takes the first snapshot and begins to watch, in the network namespace
// of the calling thread. It never fails: where the kernel refuses, the Watcher
// looks every [PollInterval]. A second Start, or one after Close, does nothing.
func (w *Watcher) Start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started || w.closed {
		return
	}
	w.started = true
	if err := w.begin(w.open); err != nil {
		w.log.Warn("the kernel does not tell of network changes", "error", err, "poll_seconds", int(PollInterval.Seconds()))
		if err := w.begin(w.poll); err != nil {
			w.log.Warn("network state unknown", "error", err)
		}
	}
	if w.source != nil {
		w.loops.Go(w.listen)
		w.loops.Go(w.watch)
	}
}

// begin opens a source and takes the first snapshot from it; w.mu is held.
func (w *Watcher) begin(open func() (source, error)) error {
	s, err := open()
	if err != nil {
		return err
	}
	w.looks.Add(1)
	first, err := s.read()
	if err != nil {
		return errors.Join(err, s.Close())
	}
	w.source, w.snapshot = s, first
	return nil
}

// Changed gets a value after each change, at most one that nobody has taken
// yet: whoever takes it reads [Watcher.Snapshot]. It is never closed, and it
// has one reader.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Snapshot is how the machine was connected at the last look. It is empty
// before Start. The caller may keep it and change it.
func (w *Watcher) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.snapshot.clone()
}

// Counts returns what has been counted so far.
func (w *Watcher) Counts() Counts {
	return Counts{Signs: w.signs.Load(), Overruns: w.overruns.Load(), Looks: w.looks.Load(), Changes: w.changes.Load()}
}

// Close stops watching and waits until nothing runs any more. The last
// snapshot stays.
func (w *Watcher) Close() error {
	w.mu.Lock()
	var err error
	if !w.closed {
		w.closed = true
		close(w.stop)
		if w.source != nil {
			err = w.source.Close()
		}
	}
	w.mu.Unlock()
	w.loops.Wait()
	return err
}

// listen turns what the source says into dirty. A source that fails is looked
// at every PollInterval.
func (w *Watcher) listen() {
	for {
		err := w.source.wait()
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, errOverrun):
			w.overruns.Add(1)
		case err != nil:
			w.log.Warn("network changes can't be heard", "error", err)
			select {
			case <-time.After(PollInterval):
			case <-w.stop:
				return
			}
		}
		w.signs.Add(1)
		select {
		case w.dirty <- struct{}{}:
		default: // one look is due already
		}
	}
}

// watch looks after each sign, once the kernel is silent.
func (w *Watcher) watch() {
	for {
		select {
		case <-w.dirty:
		case <-w.stop:
			return
		}
		if !w.settle() {
			return
		}
		for !w.look() {
			select {
			case <-time.After(retryAfter):
			case <-w.stop:
				return
			}
		}
	}
}

// settle waits until there was no sign for Quiet, but not longer than Patience.
func (w *Watcher) settle() bool {
	patience := time.NewTimer(Patience)
	defer patience.Stop()
	for {
		quiet := time.NewTimer(Quiet)
		select {
		case <-w.dirty:
			quiet.Stop()
		case <-quiet.C:
			return true
		case <-patience.C:
			quiet.Stop()
			return true
		case <-w.stop:
			quiet.Stop()
			return false
		}
	}
}

// look compares, and reports a change. It says whether it saw anything.
func (w *Watcher) look() bool {
	w.looks.Add(1)
	now, err := w.source.read()
	if err != nil {
		w.log.Debug("network state not read", "error", err)
		return false
	}
	w.mu.Lock()
	changed := !now.Equal(w.snapshot)
	w.snapshot = now
	w.mu.Unlock()
	if !changed {
		return true
	}
	w.changes.Add(1)
	w.log.Info("network changed", "addresses", len(now.Addrs), "default_routes", len(now.Routes))
	select {
	case w.changed <- struct{}{}:
	default: // not taken yet: it stands for this one too
	}
	return true
}
