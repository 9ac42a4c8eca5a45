package directory

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/record"
)

var errNotStored = errors.New("no node stored it")

// devicePublisher keeps this device's record in the table.
type devicePublisher struct {
	schedule
	d        *Directory
	sequence *sequence
	seq      int64
	content  []byte   // what seq stands for: the record with seq 0
	looked   []uint64 // period in which the table was asked what it holds
	mute     bool     // Self says what no record can; that was logged
}

// step puts the record if it is due, and returns when to be called again.
func (p *devicePublisher) step(ctx context.Context) time.Duration {
	wall, known := p.d.cfg.Now()
	if !known && time.Since(p.d.began) < clockWait {
		return clockPoll
	}
	rec := p.self()
	if len(rec.At)+len(rec.Via) == 0 {
		return pollEvery
	}
	content, err := rec.Encode()
	if err != nil {
		if !p.mute {
			p.d.cfg.Logger.Warn("this device's record cannot be published", "err", err)
		}
		p.mute = true
		return pollEvery
	}
	p.mute = false
	needed := periods(p.d.cfg.Device.Address(), wall)
	now := time.Now()
	due := p.at(now, !bytes.Equal(content, p.content), p.sequence.late(known), needed)
	if now.Before(due) {
		return pause(due, now)
	}
	p.pace(now)
	p.last = now
	if err := p.publish(ctx, rec, content, needed, known); err != nil {
		p.failed()
		p.d.cfg.Logger.Log(ctx, failureLevel(ctx), "this device's record was not published; it is tried again",
			"in_s", int(time.Until(p.due).Seconds()), "err", err)
	} else {
		p.done(needed)
	}
	return pause(p.due, time.Now())
}

// self is what there is to say, as far as a record holds it, with seq 0.
func (p *devicePublisher) self() record.Record {
	rec := p.d.cfg.Self()
	rec.Seq = 0
	rec.At = slices.Clone(rec.At[:min(len(rec.At), record.MaxAt)])
	for i, at := range rec.At {
		rec.At[i] = unmapped(at)
	}
	for i, v := range rec.Via {
		rec.Via[i].At = unmapped(v.At)
	}
	rec.Via = slices.Clone(rec.Via[:min(len(rec.Via), record.MaxVia)])
	return rec
}

// unmapped gives IPv4 the one form that a record knows.
func unmapped(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// publish puts the record under a new seq if it says something new. Where the
// table holds a higher one, as after a restore from a backup, it goes above.
func (p *devicePublisher) publish(ctx context.Context, rec record.Record, content []byte, needed []uint64,
	known bool) error {
	if p.seq == 0 || !bytes.Equal(content, p.content) || p.sequence.late(known) {
		if err := p.renew(rec, content); err != nil {
			return err
		}
	}
	doubt, err := p.putAll(ctx, rec, needed)
	if !p.outdone(ctx, rec, needed[0], doubt) {
		return err
	}
	if err := p.renew(rec, content); err != nil {
		return err
	}
	_, err = p.putAll(ctx, rec, needed)
	return err
}

// renew takes the next seq for the record, whose bytes with seq 0 are content.
func (p *devicePublisher) renew(rec record.Record, content []byte) error {
	seq, err := p.sequence.next(p.d.cfg.Now())
	if err != nil {
		return err
	}
	p.seq, p.content, rec.Seq = seq, content, seq
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.d.current = rec
	return nil
}

func (p *devicePublisher) putAll(ctx context.Context, rec record.Record, needed []uint64) (doubt bool, err error) {
	rec.Seq = p.seq
	body, err := rec.Encode()
	if err != nil {
		return true, err
	}
	device := p.d.cfg.Device
	var errs []error
	for _, period := range needed {
		item, err := record.Seal(device, device.Address(), period, p.seq, body)
		if err == nil {
			var doubts bool
			doubts, err = p.d.put(ctx, item)
			doubt = doubt || doubts
		}
		errs = append(errs, err)
	}
	return doubt, errors.Join(errs...)
}

// outdone asks the table, once a period and when in doubt, whether it holds an
// item of this device that wins against the one just put.
func (p *devicePublisher) outdone(ctx context.Context, rec record.Record, period uint64, doubt bool) bool {
	rec.Seq = p.seq
	own, _ := rec.Encode() // it could be encoded when it was put
	if ctx.Err() != nil || !doubt && slices.Contains(p.looked, period) {
		return false
	}
	p.looked = []uint64{period}
	s := newSearch(p.d.cfg.Device.Address(), period, p.seq, func(f *found) bool {
		return f.seq > p.seq || !bytes.Equal(f.body, own)
	})
	s.proof = p.seq // a single one is enough: only this device's key makes them
	f, err := p.d.find(ctx, s)
	if err != nil {
		return false
	}
	p.d.cfg.Logger.Info("the table holds a newer record of this device, as after a restore; going above it", "seq", f.seq)
	p.sequence.above(f.seq)
	return true
}
