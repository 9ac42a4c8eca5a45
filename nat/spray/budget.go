package spray

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of a [Budget]. Every spray costs some hundred entries in the tables
// of both homes' routers.
const (
	// FlowLife is how long a router remembers a flow that nobody answered, and
	// MaxFlows how many of ours it may remember when another spray begins. With
	// that one's own it stays below the 4096 entries of small routers.
	FlowLife = 30 * time.Second
	MaxFlows = 2000
	// PerHour is how many sprays one peer gets within an hour.
	PerHour = 3
	// FirstBackOff is the least time to the next spray with a peer after a
	// failure. It doubles with each further failure, up to LastBackOff.
	FirstBackOff = time.Minute
	LastBackOff  = 8 * time.Hour
	// MaxPeers is how many peers a Budget remembers. A further one is
	// refused until the first of them may be forgotten.
	MaxPeers = 256
	// TableShare is how full the flow table of our own router may be, as a
	// divisor: a half.
	TableShare = 2
)

// ErrBudget means that no spray may begin now. What [Budget.Begin] returns
// with it is a [*Refusal].
var ErrBudget = errors.New("no spray now")

// Refusal says why a spray may not begin, and when to ask again.
type Refusal struct {
	Reason string
	After  time.Duration
}

// Error is the reason and the time.
func (r *Refusal) Error() string {
	return fmt.Sprintf("%v: %s; again in %v", ErrBudget, r.Reason, r.After.Round(time.Second))
}

// Unwrap returns [ErrBudget].
func (r *Refusal) Unwrap() error { return ErrBudget }

// Budget bounds the sprays of one device, asked or asking. The zero value is
// ready. Its methods may be called concurrently.
type Budget struct {
	// Flows tells how many flows the router that we run on, if we do,
	// follows and how many it can; nil reads what Linux says about this
	// machine.
	Flows func() (count, limit int, ok bool)

	mu    sync.Mutex
	ended chan struct{} // not nil while one runs, closed when it ends
	costs []cost        // of the sprays within FlowLife
	peers map[string]*account
}

// cost is what one spray left behind.
type cost struct {
	at    time.Time
	flows int
}

// account is what is remembered of one peer.
type account struct {
	begun    [PerHour]time.Time // a ring of the last beginnings
	next     int
	failures int
	ended    time.Time
}

// Begin asks for one spray with a peer, named by any key that stays the same,
// and waits while another one runs. If it is allowed, end must be called once
// with whether it found a way and how many packets that took; further calls do
// nothing. A turn without any packet costs nothing. Otherwise the error is a [*Refusal], or that of ctx.
func (b *Budget) Begin(ctx context.Context, peer string) (end func(found bool, packets int), err error) {
	b.mu.Lock()
	for b.ended != nil {
		ended := b.ended
		b.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	now := time.Now()
	if refusal := b.refuse(peer, now); refusal != nil {
		return nil, refusal
	}
	a := b.peers[peer]
	if a == nil {
		a = new(account)
		b.peers[peer] = a
	}
	a.begun[a.next], a.next = now, (a.next+1)%PerHour
	b.ended = make(chan struct{})
	var once sync.Once
	return func(found bool, packets int) { once.Do(func() { b.end(a, found, packets) }) }, nil
}

// refuse returns why peer may not begin now, or nil; b.mu is held.
func (b *Budget) refuse(peer string, now time.Time) *Refusal {
	if wait := b.crowded(now); wait > 0 {
		return &Refusal{"the last ones were just now", wait}
	}
	if b.full() {
		return &Refusal{"the router has many flows to follow", FlowLife}
	}
	if a := b.peers[peer]; a != nil {
		if wait := a.wait(now); wait > 0 {
			return &Refusal{"this peer has had its share", wait}
		}
		return nil
	}
	return b.makeRoom(now)
}

// crowded returns how long to wait until routers have forgotten enough; b.mu
// is held.
func (b *Budget) crowded(now time.Time) time.Duration {
	b.costs = slices.DeleteFunc(b.costs, func(c cost) bool { return now.Sub(c.at) >= FlowLife })
	flows := 0
	for i := len(b.costs) - 1; i >= 0; i-- {
		if flows += b.costs[i].flows; flows > MaxFlows {
			return FlowLife - now.Sub(b.costs[i].at)
		}
	}
	return 0
}

// wait is how long a peer has to wait.
func (a *account) wait(now time.Time) time.Duration {
	var wait time.Duration
	if oldest := a.begun[a.next]; !oldest.IsZero() {
		wait = time.Hour - now.Sub(oldest)
	}
	if a.failures > 0 {
		wait = max(wait, a.backOff()-now.Sub(a.ended))
	}
	return wait
}

func (a *account) backOff() time.Duration {
	pause := FirstBackOff
	for range a.failures - 1 {
		pause = min(2*pause, LastBackOff)
	}
	return pause
}

// makeRoom forgets peers that nothing depends on any more; b.mu is held.
func (b *Budget) makeRoom(now time.Time) *Refusal {
	if b.peers == nil {
		b.peers = make(map[string]*account)
	}
	if len(b.peers) < MaxPeers {
		return nil
	}
	for peer, a := range b.peers {
		latest := a.begun[(a.next+PerHour-1)%PerHour]
		if a.wait(now) <= 0 && now.Sub(latest) >= time.Hour {
			delete(b.peers, peer)
		}
	}
	if len(b.peers) < MaxPeers {
		return nil
	}
	return &Refusal{"too many peers have had one", time.Hour}
}

func (b *Budget) end(a *account, found bool, packets int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ended)
	b.ended = nil
	if packets == 0 {
		a.next = (a.next + PerHour - 1) % PerHour
		a.begun[a.next] = time.Time{}
		return
	}
	a.ended = time.Now()
	b.costs = append(b.costs, cost{a.ended, packets})
	if found {
		a.failures = 0
		return
	}
	a.failures++
}

// full says whether our router's table of flows is too full for a spray.
func (b *Budget) full() bool {
	flows := b.Flows
	if flows == nil {
		flows = linuxFlows
	}
	count, limit, ok := flows()
	return ok && count > limit/TableShare
}

// linuxFlows reads what netfilter follows; there is nothing to read on a
// machine that follows no flows.
func linuxFlows() (count, limit int, ok bool) {
	const folder = "/proc/sys/net/netfilter/nf_conntrack_"
	count, countErr := readNumber(folder + "count")
	limit, limitErr := readNumber(folder + "max")
	return count, limit, countErr == nil && limitErr == nil && limit > 0
}

func readNumber(name string) (int, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
