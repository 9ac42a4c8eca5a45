package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Client limits and times.
const (
	// InitialRTO is the time to the first retransmission. RFC 8489 §6.2.1
	// says 500 ms for strangers; a lost packet must not cost that much when
	// somebody waits for a connection. It doubles up to MaxRTO.
	InitialRTO = 100 * time.Millisecond
	// MaxRTO is the longest pause between two retransmissions.
	MaxRTO = 1600 * time.Millisecond
	// DefaultTimeout bounds a request whose context has no deadline. It is
	// enough for the seven sendings of RFC 8489 §6.2.1.
	DefaultTimeout = 6 * time.Second

	maxTransactions = 64 // requests of ours in flight at once
	maxContacted    = 64 // destinations remembered for the behaviour tests
	filterMemory    = 5 * time.Minute
)

// ErrBusy means that too many requests of ours are in flight.
var ErrBusy = errors.New("too many stun requests in flight")

// ErrNoAnswer means that a server stayed silent. It wraps the context's
// error; the next step is to ask another server or to look whether UDP is
// blocked.
var ErrNoAnswer = errors.New("no answer from stun server")

// client runs our own transactions over a socket it does not read: whoever
// reads hands answers to [client.deliver].
type client struct {
	out sender

	mu        sync.Mutex
	pending   map[TransactionID]*transaction
	contacted map[netip.AddrPort]time.Time
	strays    map[netip.AddrPort]time.Time // unwanted packets caused
	spoilt    map[netip.AddrPort]time.Time // strays we have sent to since
	closed    chan struct{}
	closing   sync.Once
}

// transaction is one request on its way. An answer counts only from the
// address that was asked to answer, a refusal also from the one asked.
type transaction struct {
	asked, expected netip.AddrPort
	done            chan reply // holds one
}

type reply struct {
	answer
	at time.Time
}

func newClient(out sender) *client {
	return &client{
		out:       out,
		pending:   make(map[TransactionID]*transaction),
		contacted: make(map[netip.AddrPort]time.Time),
		strays:    make(map[netip.AddrPort]time.Time),
		spoilt:    make(map[netip.AddrPort]time.Time),
		closed:    make(chan struct{}),
	}
}

func (c *client) close() { c.closing.Do(func() { close(c.closed) }) }

// verdict is what became of a response.
type verdict int

const (
	notOurs verdict = iota // no request of ours has this id
	wrongSource
	unreadable
	believed
)

// deliver takes a Binding response that has passed [Check].
func (c *client) deliver(b []byte, from netip.AddrPort) verdict {
	id := transactionID(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	tx := c.pending[id]
	if tx == nil {
		return notOurs
	}
	refusal := messageType(b) == bindingError
	if from != tx.expected && !(refusal && from == tx.asked) {
		return wrongSource
	}
	a, err := parseAnswer(b)
	if err != nil {
		a = answer{refused: err}
	}
	delete(c.pending, id)
	tx.done <- reply{a, time.Now()}
	if err != nil {
		return unreadable
	}
	return believed
}

// ask sends a Binding request to server and waits for the answer, which must
// come from expected. It retransmits until the context ends.
func (c *client) ask(ctx context.Context, server, expected netip.AddrPort, change byte) (answer, time.Duration, error) {
	server, expected = canonical(server), canonical(expected)
	if !usable(server) {
		return answer{}, 0, fmt.Errorf("stun server address %v is not usable", server)
	}
	request, id := newRequest(changeRequest(change))
	tx := &transaction{asked: server, expected: expected, done: make(chan reply, 1)}
	if err := c.begin(id, tx); err != nil {
		return answer{}, 0, err
	}
	defer c.forget(id)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	return c.exchange(ctx, request, tx)
}

func (c *client) begin(id TransactionID, tx *transaction) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) >= maxTransactions {
		return ErrBusy
	}
	c.pending[id] = tx
	c.remember(tx.asked)
	return nil
}

func (c *client) forget(id TransactionID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// exchange sends, and sends again after 100, 200, 400 ms and so on. The
// round trip is taken from the first sending, as all sendings share an id:
// after a loss it is too long, never too short. A failing write is a lost
// packet until the end.
func (c *client) exchange(ctx context.Context, request []byte, tx *transaction) (answer, time.Duration, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var sent time.Time
	var lastErr error
	for rto := InitialRTO; ; {
		select {
		case <-timer.C:
			if sent.IsZero() {
				sent = time.Now()
			}
			lastErr = c.out.WriteSTUN(request, tx.asked)
			timer.Reset(rto)
			rto = min(2*rto, MaxRTO)
		case r := <-tx.done:
			if r.refused != nil {
				return answer{}, 0, fmt.Errorf("ask %v: %w", tx.asked, r.refused)
			}
			return r.answer, r.at.Sub(sent), nil
		case <-c.closed:
			return answer{}, 0, net.ErrClosed
		case <-ctx.Done():
			return answer{}, 0, fmt.Errorf("%w %v: %w", ErrNoAnswer, tx.asked, errors.Join(ctx.Err(), lastErr))
		}
	}
}

// remember notes that a packet of ours opens the filter towards a destination,
// and starts or keeps alive what a stray from there may do; c.mu is held.
func (c *client) remember(to netip.AddrPort) {
	note(c.contacted, to)
	if _, strayed := c.strays[to]; strayed {
		note(c.strays, to)
		note(c.spoilt, to)
	}
}

// note sets the time of an address. The oldest is forgotten when the table is
// full.
func note(table map[netip.AddrPort]time.Time, addr netip.AddrPort) {
	if _, known := table[addr]; !known && len(table) >= maxContacted {
		oldest := addr
		for a, at := range table {
			if o, ok := table[oldest]; !ok || at.Before(o) {
				oldest = a
			}
		}
		delete(table, oldest)
	}
	table[addr] = time.Now()
}

// noteSent is remember for packets that are not requests of this client.
func (c *client) noteSent(to netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(to)
}

// noteStray notes that a packet which nobody asked for may have come from an
// address. A router that does not filter gives it the port it was sent to, and
// what we send there afterwards another one (the conntrack trap); Linux then
// uses that port for new destinations too.
func (c *client) noteStray(from netip.AddrPort, came bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if came {
		note(c.strays, from)
	} else {
		delete(c.strays, from)
		delete(c.spoilt, from)
	}
}

// extraPorts is how many ports more than by its own rules a NAT may have given
// to the socket because of strays.
func (c *client) extraPorts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, at := range c.spoilt {
		if time.Since(at) < filterMemory {
			n++
		}
	}
	return n
}

// openedTowards says whether we sent to match lately, so that the filter of
// a NAT may stand open there.
func (c *client) openedTowards(match func(netip.AddrPort) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, at := range c.contacted {
		if time.Since(at) < filterMemory && match(a) {
			return true
		}
	}
	return false
}

func (c *client) bind(ctx context.Context, server netip.AddrPort) (netip.AddrPort, time.Duration, error) {
	a, rtt, err := c.ask(ctx, server, server, 0)
	return a.mapped, rtt, err
}
