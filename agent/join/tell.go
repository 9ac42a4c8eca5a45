package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

// tellAfter is the head start of one way to bring a note before the next.
const tellAfter = time.Second

// Tell brings a note to a device and returns its answer: over the session if
// there is one, otherwise by the rendezvous it is registered at, or to itself
// where it is known to be. With watch a rendezvous is preferred: it tells
// through one of Back when the device has left.
func (j *Joiner) Tell(ctx context.Context, to identity.Address, body []byte, watch *introduce.Watch) ([]byte, error) {
	if watch == nil && j.cfg.Sessions.Current(to) != nil {
		if answer, err := j.cfg.Introducer.Tell(ctx, to, to, body, nil); err == nil {
			return answer, nil
		}
	}
	at, via := j.hintsFor(to)
	answer, err := j.tellBy(ctx, to, at, via, body, watch)
	if err == nil || j.cfg.Directory == nil || ctx.Err() != nil {
		return answer, err
	}
	newAt, newVia, lookErr := j.cfg.Directory.Lookup(ctx, to)
	if lookErr != nil {
		return nil, errors.Join(err, lookErr)
	}
	j.Remember(identity.Link{Address: to, At: newAt, Via: newVia})
	if len(newVia)+len(newAt) == 0 {
		return nil, err
	}
	return j.tellBy(ctx, to, newAt, newVia, body, watch)
}

// tellBy tries rendezvous, those named first, and then the device itself, each
// a little after the one before; the first answer ends the rest.
func (j *Joiner) tellBy(ctx context.Context, to identity.Address, at []netip.AddrPort, via []identity.Via, body []byte, watch *introduce.Watch) ([]byte, error) {
	ways := j.rendezvous(to, via)
	if len(at) > 0 || j.cfg.Sessions.Current(to) != nil {
		ways = append(ways, to)
	}
	if len(ways) == 0 {
		return nil, fmt.Errorf("tell %s: %w", to.Short(), ErrNoWay)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		answer []byte
		err    error
	}
	results := make(chan result, len(ways))
	next := make(chan struct{}, len(ways)) // lets the next begin at once
	for i, by := range ways {
		started := j.start(func() {
			if i > 0 {
				select {
				case <-next:
				case <-time.After(time.Duration(i) * tellAfter):
				case <-ctx.Done():
				}
			}
			answer, err := j.tellOne(ctx, by, to, body, watch)
			results <- result{answer, err}
			next <- struct{}{}
		})
		if !started {
			return nil, errClosed
		}
	}
	var errs []error
	for range ways {
		r := <-results
		if r.err == nil {
			return r.answer, nil
		}
		errs = append(errs, r.err)
	}
	return nil, errors.Join(errs...)
}

func (j *Joiner) tellOne(ctx context.Context, by, to identity.Address, body []byte, watch *introduce.Watch) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if _, err := j.cfg.Sessions.Session(ctx, by); err != nil {
		return nil, fmt.Errorf("rendezvous %s: %w", by.Short(), err)
	}
	if by == to {
		watch = nil // nobody in between
	}
	return j.cfg.Introducer.Tell(ctx, by, to, body, watch)
}
