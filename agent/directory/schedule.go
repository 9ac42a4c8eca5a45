package directory

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

const (
	// refreshMin and refreshMax bound the pause between two puts of the same:
	// nodes forget after two hours (BEP 44).
	refreshMin = 40 * time.Minute
	refreshMax = 60 * time.Minute
	// settle is how long a change rests before it is put. A change soon after
	// another waits for spacing, and each further one twice as long as the one
	// before, up to maxSpacing: who has moved is found at once, who keeps moving
	// does not keep strangers busy. After calm without changes it begins anew.
	settle     = 5 * time.Second
	spacing    = 10 * time.Second
	maxSpacing = 10 * time.Minute
	calm       = 15 * time.Minute
	// forced is how far apart two puts are of what the table lacks.
	forced = time.Minute
	// retryMin and retryMax bound the pause after nobody stored what was put.
	retryMin = 10 * time.Second
	retryMax = 10 * time.Minute
	// putLimit ends a put that the table does not end.
	putLimit = 30 * time.Second
)

// schedule says when something has to be put, and for which periods it lies in
// the table.
type schedule struct {
	due      time.Time     // of the next refresh or retry; zero: at once
	last     time.Time     // when the last attempt began
	changed  time.Time     // since when there is something else to put
	space    time.Duration // before the next change is put
	failures int
	covered  []uint64
}

// pace notes that a change is put, and how long the next has to wait.
func (s *schedule) pace(now time.Time) {
	if now.Sub(s.last) > calm {
		s.space = 0
	}
	s.space = min(max(2*s.space, spacing), maxSpacing)
}

// periods are the periods that an item must lie under at a time.
func periods(a identity.Address, wall time.Time) []uint64 {
	p := record.PeriodAt(a, wall)
	if record.PeriodStart(a, p+1).Sub(wall) <= record.Overlap {
		return []uint64{p, p + 1}
	}
	return []uint64{p}
}

// at returns when to put; differs says that there is something else to put than
// lies in the table, force that the table's copy will not do for long.
func (s *schedule) at(now time.Time, differs, force bool, needed []uint64) time.Time {
	if s.last.IsZero() {
		return now
	}
	due := s.due
	if !differs {
		s.changed = time.Time{}
	} else if s.changed.IsZero() {
		s.changed = now
	}
	if differs {
		due = earlier(due, later(s.changed.Add(settle), s.last.Add(s.space)))
	}
	missing := slices.ContainsFunc(needed, func(p uint64) bool { return !slices.Contains(s.covered, p) })
	if s.failures == 0 && (missing || force) {
		due = earlier(due, s.last.Add(forced))
	}
	return due
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// done notes that everything lies in the table for the periods.
func (s *schedule) done(needed []uint64) {
	s.failures, s.changed, s.covered = 0, time.Time{}, needed
	s.due = time.Now().Add(refreshMin + rand.N(refreshMax-refreshMin))
}

// failed notes that it does not: the pause doubles, up to retryMax.
func (s *schedule) failed() {
	pause := retryMax
	if s.failures < 10 {
		pause = min(retryMin<<s.failures, retryMax)
	}
	s.failures++
	s.changed, s.covered = time.Time{}, nil
	s.due = time.Now().Add(pause)
}

// hurry forgets earlier failures: the next try is spacing after the last.
func (s *schedule) hurry() {
	s.failures = 0
}

// put puts an item and fails unless somebody says to have stored it. A doubt is
// that somebody refused it: there may be a newer one.
func (d *Directory) put(ctx context.Context, item record.Item) (doubt bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, putLimit)
	defer cancel()
	n, err := d.cfg.Table.Put(ctx, item)
	switch {
	case n > 0:
		return err != nil, nil
	case err == nil:
		err = errNotStored
	}
	return true, fmt.Errorf("put an item: %w", err)
}

// pause is how long a loop sleeps that is due at a time.
func pause(due, now time.Time) time.Duration { return min(max(0, due.Sub(now)), pollEvery) }

// failureLevel is how loudly a failed put is logged.
func failureLevel(ctx context.Context) slog.Level {
	if ctx.Err() != nil {
		return slog.LevelDebug // it is being closed
	}
	return slog.LevelInfo
}
