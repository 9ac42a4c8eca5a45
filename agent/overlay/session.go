package overlay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"porchlight/agent/identity"
	"porchlight/nat"
)

const (
	// A session without streams is closed after reapAfter if a newer one took
	// its place, and after restAfter if it is the only one.
	reapEvery = 15 * time.Second
	reapAfter = 60 * time.Second
	restAfter = 2 * time.Minute
)

// Session is an encrypted connection to one device.
type Session struct {
	conn   *quic.Conn
	with   identity.Address
	proof  identity.Proof
	peer   *nat.Peer
	dialed bool

	overlay *Overlay
	flows   flows
	streams atomic.Int64
	used    atomic.Int64 // unix nanoseconds of this process's clock
	// working and worked are the same of the streams that are no upkeep.
	working atomic.Int64
	worked  atomic.Int64
}

// Peer is the socket's peer whose path carries the session.
func (s *Session) Peer() *nat.Peer { return s.peer }

// Dialed reports whether this device began the session.
func (s *Session) Dialed() bool { return s.dialed }

// RTT is the smoothed round-trip time (RFC 9002 §5.3).
func (s *Session) RTT() time.Duration { return s.conn.ConnectionStats().SmoothedRTT }

// Traffic returns the bytes sent and received.
func (s *Session) Traffic() (sent, received int64) {
	stats := s.conn.ConnectionStats()
	return int64(stats.BytesSent), int64(stats.BytesReceived)
}

// Idle is for how long nobody has used the session but for its upkeep.
func (s *Session) Idle() time.Duration {
	if s.working.Load() > 0 {
		return 0
	}
	return time.Since(time.Unix(0, s.worked.Load()))
}

// Close ends the session.
func (s *Session) Close() error { return s.conn.CloseWithError(codeClosed, "") }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.conn.Context().Done() }

// dial is one attempt that all who want the same device wait for.
type dial struct {
	done    chan struct{}
	session *Session
	err     error
}

// Current returns the preferred session to a device, nil if there is none.
func (o *Overlay) Current(to identity.Address) *Session {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current(to)
}

func (o *Overlay) current(to identity.Address) *Session {
	list := o.sessions[to]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].conn.Context().Err() == nil {
			return list[i]
		}
	}
	return nil
}

// Connected lists the devices there is a session with.
func (o *Overlay) Connected() []identity.Address {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []identity.Address
	for a := range o.sessions {
		if o.current(a) != nil {
			all = append(all, a)
		}
	}
	return all
}

// Session returns the session to a device, beginning one if need be. Callers
// that want the same device share one attempt; it goes on when one of them
// gives up.
func (o *Overlay) Session(ctx context.Context, to identity.Address) (*Session, error) {
	if to == o.Address() {
		return nil, errors.New("that is this device's own address")
	}
	o.mu.Lock()
	if s := o.current(to); s != nil {
		o.mu.Unlock()
		return s, nil
	}
	if o.ctx.Err() != nil {
		o.mu.Unlock()
		return nil, ErrClosed
	}
	d, ok := o.dialing[to]
	if !ok {
		d = &dial{done: make(chan struct{})}
		o.dialing[to] = d
		o.running.Go(func() { o.attempt(to, d) })
	}
	o.mu.Unlock()
	select {
	case <-d.done:
		return d.session, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("call %s: %w", to.Short(), ctx.Err())
	}
}

// attemptLimit ends an attempt nobody may be waiting for any more.
const attemptLimit = 20 * time.Second

func (o *Overlay) attempt(to identity.Address, d *dial) {
	ctx, cancel := context.WithTimeout(o.ctx, attemptLimit)
	defer cancel()
	var errs []error
	for range attempts {
		s, found, err := o.try(ctx, to)
		if err == nil {
			d.session, errs = s, nil
			break
		}
		if errs = append(errs, err); !found {
			break
		}
	}
	d.err = errors.Join(errs...)
	o.mu.Lock()
	if s := o.current(to); d.err != nil && s != nil {
		// The device called us meanwhile.
		d.session, d.err = s, nil
	}
	delete(o.dialing, to)
	o.mu.Unlock()
	close(d.done)
}

// attempts is how many paths one call tries: a hint may lead to a device that
// took over somebody's address.
const attempts = 2

// try finds one path and dials over it; without a path, another try finds
// none either.
func (o *Overlay) try(ctx context.Context, to identity.Address) (s *Session, found bool, err error) {
	peer, err := o.finder.Find(ctx, to)
	if err != nil {
		return nil, false, err
	}
	s, err = o.connect(ctx, to, peer)
	switch {
	case errors.Is(err, ErrImpostor):
		o.finder.Wrong(to, peer)
	case err != nil:
		o.finder.Ended(to, peer)
	}
	return s, true, err
}
