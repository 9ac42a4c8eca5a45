package fetch

import (
	"sync"
	"time"
)

// progressEvery is the time between two calls of a progress function.
const progressEvery = 200 * time.Millisecond

// State is what a transfer is doing.
type State string

// The states of a transfer.
const (
	Connecting   State = "connecting"
	Hashing      State = "hashing" // before a Put: the local file
	Transferring State = "transferring"
	Waiting      State = "waiting" // for a peer that is away; Err says why
	Finishing    State = "finishing"
)

// Progress is how far a transfer is.
type Progress struct {
	State State
	// Err is why a transfer is Waiting.
	Err error
	// Size is the length of the file in bytes, Done how many of them are in
	// place, Verified how many are proven right, Moved how many went over the
	// network in this run.
	Size, Done, Verified, Moved int64
}

// meter reports progress from a goroutine of its own.
type meter struct {
	report func(Progress)

	mu    sync.Mutex
	state State
	err   error
	layer error
}

func newMeter(report func(Progress)) *meter {
	return &meter{report: report, state: Connecting}
}

func (m *meter) set(s State) { m.do(func() { m.state = s }) }

// waiting says why nothing moves, nil when something does again.
func (m *meter) waiting(err error) { m.do(func() { m.err = err }) }

// layerWaiting says the same of the piece hashes, which matter once all
// content is in place.
func (m *meter) layerWaiting(err error) { m.do(func() { m.layer = err }) }

// do runs f while nobody takes a snapshot.
func (m *meter) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// start reports until the function it returns is called, then once more.
// fill adds the counts; it runs under the meter's lock.
func (m *meter) start(fill func(*Progress)) (stop func()) {
	if m.report == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	tell := func() {
		var p Progress
		m.do(func() {
			fill(&p)
			p.State, p.Err = m.state, m.err
			if p.Err == nil && p.Done == p.Size {
				p.Err = m.layer
			}
			if p.Err != nil {
				p.State = Waiting
			}
		})
		m.report(p)
	}
	go func() {
		defer close(done)
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		for {
			tell()
			select {
			case <-t.C:
			case <-quit:
				tell()
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (d *download) snapshot(p *Progress) {
	if d.pieces == nil {
		return
	}
	p.Size, p.Moved = d.size, d.fetched.Load()
	p.Done, p.Verified = d.pieces.counts()
}
