package app

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/fx"

	"porchlight/agent/config"
	"porchlight/agent/join"
	"porchlight/nat/relay"
)

const (
	// resolveLimit ends one search for the addresses of a name.
	resolveLimit = 5 * time.Second
	// resolveEvery is how long they are used, and resolveAgain the pause after
	// one was not found.
	resolveEvery = time.Hour
	resolveAgain = time.Minute
)

// stunServers are where the configured STUN servers are.
type stunServers struct {
	uris   []relay.URI
	lookup relay.Lookup // nil: the system's resolver
	log    *slog.Logger
	at     atomic.Pointer[[]netip.AddrPort]
}

func newSTUNServers(cfg config.Config, log *slog.Logger) (*stunServers, error) {
	uris, err := cfg.STUNServers()
	return &stunServers{uris: uris, log: log}, err
}

// addresses lists those that are known now.
func (s *stunServers) addresses() []netip.AddrPort {
	if at := s.at.Load(); at != nil {
		return *at
	}
	return nil
}

// resolve looks all servers up. Where none is found, as while the line is down,
// the addresses of before stay.
func (s *stunServers) resolve(ctx context.Context) (all bool) {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	found := make([][]netip.AddrPort, len(s.uris))
	var lookups sync.WaitGroup
	for i, u := range s.uris {
		lookups.Go(func() {
			var err error
			if found[i], err = u.Resolve(ctx, s.lookup); err != nil {
				s.log.Warn("stun server not found", "server", u.String(), "err", err)
			}
		})
	}
	lookups.Wait()
	all = true
	var at []netip.AddrPort
	for _, list := range found {
		all = all && len(list) > 0
		at = append(at, list...)
	}
	if len(at) > 0 {
		s.at.Store(&at)
	}
	return all
}

// run keeps the addresses current until ctx ends.
func (s *stunServers) run(ctx context.Context) {
	for {
		pause := resolveAgain
		if s.resolve(ctx) {
			pause = resolveEvery
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// startStock begins to use the owner's servers: a place at the TURN server,
// until the joiner closes, and the addresses of the STUN servers.
func startStock(lc fx.Lifecycle, cfg config.Config, joiner *join.Joiner, servers *stunServers) error {
	stock, err := cfg.Stock()
	if err != nil {
		return err
	}
	if stock != nil {
		lc.Append(fx.StartHook(func() { joiner.KeepStock(*stock) }))
	}
	if len(servers.uris) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	lc.Append(fx.StartStopHook(
		func() { running.Go(func() { servers.run(ctx) }) },
		func() { cancel(); running.Wait() },
	))
	return nil
}
