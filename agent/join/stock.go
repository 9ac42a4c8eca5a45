package join

import (
	"context"
	"errors"
	"time"

	"porchlight/nat/relay"
)

const (
	// stockLimit ends one attempt to take a place at a configured server.
	stockLimit = 10 * time.Second
	// stockFirst and stockLast are the shortest and the longest pause before
	// the next attempt; it doubles in between.
	stockFirst = 2 * time.Second
	stockLast  = 2 * time.Minute
)

// KeepStock keeps a place at a TURN server of the owner's choice until Close,
// beside those at rendezvous: it is taken at once, refreshed while it lives,
// and taken anew, with growing pauses, when it is lost. Call it once.
func (j *Joiner) KeepStock(server relay.Stock) {
	j.start(func() { j.relays.keepStock(server) })
}

func (r *relays) keepStock(server relay.Stock) {
	log := r.j.cfg.Logger.With("relay", server.URI)
	pause := r.stockFirst
	for {
		p, err := r.takeStock(server)
		switch {
		case r.j.ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("no place at the configured relay", "err", err, "again_in", pause)
		default:
			began := time.Now()
			log.Info("place at the configured relay", "relayed", p.allocation.RelayedAddr())
			select {
			case <-p.allocation.Closed():
				log.Info("place at the configured relay lost", "err", p.allocation.Err())
			case <-r.j.ctx.Done():
				return
			}
			if time.Since(began) > stockLast {
				pause = r.stockFirst
			}
		}
		select {
		case <-time.After(pause):
		case <-r.j.ctx.Done():
			return
		}
		pause = min(2*pause, stockLast)
	}
}

// takeStock takes an IPv4 address, which most homes can send to, or else what
// the server has.
func (r *relays) takeStock(server relay.Stock) (*place, error) {
	ctx, cancel := context.WithTimeout(r.j.ctx, stockLimit)
	defer cancel()
	open := func(opts relay.Options) (*relay.Allocation, error) { return relay.AllocateStock(ctx, server, opts) }
	p, err := r.take(relay.Options{Family: relay.IPv4}, open)
	if errors.Is(err, relay.ErrFamily) {
		p, err = r.take(relay.Options{Family: relay.IPv6}, open)
	}
	if err != nil {
		return nil, err
	}
	return p, r.put(p, func() bool { return r.putOther(configured, p) })
}
