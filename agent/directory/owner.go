package directory

import (
	"context"
	"errors"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

// ownerPublisher keeps the owner's list of devices in the table, with
// signatures that were made in advance. Every device of the owner does so, each
// at its own time.
type ownerPublisher struct {
	schedule
	d       *Directory
	owner   identity.Address
	version uint64
	warned  uint64 // last period for which it was said that signatures are missing
}

// step puts the list if it is due, and returns when to be called again.
func (p *ownerPublisher) step(ctx context.Context) time.Duration {
	owner, roster, signed, ok := p.d.cfg.Owned()
	wall, known := p.d.cfg.Now()
	if !ok || !known {
		return pollEvery // signatures are for periods, and only a clock tells which
	}
	if owner != p.owner {
		p.schedule, p.owner, p.version, p.warned = schedule{}, owner, signed.Version(), 0
	}
	now, needed := time.Now(), periods(owner, wall)
	due := p.at(now, signed.Version() != p.version, false, needed)
	if now.Before(due) {
		return pause(due, now)
	}
	p.pace(now)
	p.last, p.version = now, signed.Version()
	if err := p.publish(ctx, roster, signed, needed); err != nil {
		p.failed()
		p.d.cfg.Logger.Log(ctx, failureLevel(ctx), "the owner's list of devices was not published; it is tried again",
			"in_s", int(time.Until(p.due).Seconds()), "err", err)
	} else {
		p.done(needed)
	}
	return pause(p.due, time.Now())
}

func (p *ownerPublisher) publish(ctx context.Context, roster []byte, signed record.Presigned, needed []uint64) error {
	var errs []error
	doubt := false
	for _, period := range needed {
		item, err := signed.Item(p.owner, roster, period)
		if errors.Is(err, record.ErrPeriod) {
			p.warn(period, err)
			continue // retrying makes no signature
		}
		if err == nil {
			var doubts bool
			doubts, err = p.d.put(ctx, item)
			doubt = doubt || doubts
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if doubt && ctx.Err() == nil && p.superseded(ctx, needed[0]) {
		return nil
	}
	return err
}

func (p *ownerPublisher) warn(period uint64, err error) {
	if period > p.warned {
		p.warned = period
		p.d.cfg.Logger.Warn("the owner's list of devices cannot be published", "err", err)
	}
}

// superseded asks, when not everybody took the list, whether the table holds a newer
// one: then this device's is rightly refused until it learns the new one.
func (p *ownerPublisher) superseded(ctx context.Context, period uint64) bool {
	s := newSearch(p.owner, period, int64(p.version)+1, nil)
	s.proof = int64(p.version) + 1
	f, err := p.d.find(ctx, s)
	if err != nil || f.seq <= int64(p.version) {
		return false
	}
	p.d.cfg.Logger.Info("the table holds a newer list of the owner's devices than this device",
		"have", p.version, "newer", f.seq)
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.d.cache.take(p.owner, f, true)
	return true
}
