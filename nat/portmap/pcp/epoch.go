package pcp

import (
	"sync"
	"time"
)

// Epoch follows the clock of one router and notices when the router has
// forgotten its mappings. The zero value knows nothing yet. Safe for
// concurrent use.
type Epoch struct {
	mu     sync.Mutex
	known  bool
	server uint32
	client time.Time
	lost   bool
}

// ObservePCP takes the epoch of a PCP answer that came at now (RFC 6887 §8.5):
// the router's clock may run 1/16 fast or slow and be 2 s off, but never back.
func (e *Epoch) ObservePCP(now time.Time, epoch uint32) {
	e.observe(now, epoch, func(server, client int64) bool {
		return server < -1 || client+2 < server-server/16 || server+2 < client-client/16
	})
}

// ObserveNATPMP does the same by the rule of RFC 6886 §3.6: the clock has to
// advance by 7/8 of ours, less 2 s.
func (e *Epoch) ObserveNATPMP(now time.Time, epoch uint32) {
	e.observe(now, epoch, func(server, client int64) bool { return server < client*7/8-2 })
}

func (e *Epoch) observe(now time.Time, epoch uint32, reset func(server, client int64) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known {
		server := int64(epoch) - int64(e.server)
		client := int64(now.Sub(e.client) / time.Second)
		e.lost = e.lost || reset(server, client)
	}
	e.known, e.server, e.client = true, epoch, now
}

// Lost reports, once, that the router has forgotten its mappings.
func (e *Epoch) Lost() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	lost := e.lost
	e.lost = false
	return lost
}
