package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Times of the measurement of a lifetime.
const (
	// lifetimeMargin is how long before a usual lifetime we probe, so that a
	// mapping of just that lifetime still stands.
	lifetimeMargin = 2 * time.Second
	// warmRounds exchanges, warmPause apart, make a flow look like one that
	// lasts: Linux gives it the longer of its two lifetimes only after 2 s.
	warmRounds = 3
	warmPause  = 1250 * time.Millisecond
	// lifetimeWait is how long the last answer of a probe is waited for. It
	// outlasts five sendings.
	lifetimeWait = 3 * time.Second
)

// cliffs are the lifetimes that NATs have: home gateways and Linux without
// replies 30 s, Linux 120 s, RFC 4787 REQ-5 120 s at least and 300 s by default.
var cliffs = []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute, 5 * time.Minute}

// Errors of [Lifetime].
var (
	// ErrNoResponsePort means that the server does not send answers to
	// another port.
	ErrNoResponsePort = errors.New("stun server does not support RESPONSE-PORT: ask another")
	// ErrSeveralAddresses means that the NAT gave two sockets different public
	// addresses, so that one can't have answers sent to the other.
	ErrSeveralAddresses = errors.New("the NAT has several public addresses: its lifetime can't be measured")
)

// Lifetime measures how long a silent mapping lives (RFC 5780 §4.6), by asking
// server from one socket to answer to the mapping of another that has been
// silent for a while. It probes shortly before the usual lifetimes from 30 s
// to 5 min that lie between from and to, by bisection, each time with fresh
// sockets: with all five of them it takes at most three probes and 11 minutes.
//
// The result is the longest silence survived, 0 if there was none. Without a
// NAT it is the longest that was asked for. Besides errors of open and of the
// server it returns [ErrNoResponsePort] and [ErrSeveralAddresses], and with
// any error what was found so far.
func Lifetime(ctx context.Context, open Opener, server netip.AddrPort, from, to time.Duration) (time.Duration, error) {
	var waits []time.Duration
	for _, c := range cliffs {
		if c >= from && c <= to {
			waits = append(waits, c-lifetimeMargin)
		}
	}
	if len(waits) == 0 {
		return 0, fmt.Errorf("measure mapping lifetime: no probe between %v and %v", from, to)
	}
	survived := time.Duration(0)
	for len(waits) > 0 {
		middle := len(waits) / 2
		alive, err := survives(ctx, open, canonical(server), waits[middle])
		if err != nil {
			return survived, fmt.Errorf("measure mapping lifetime: %w", err)
		}
		if alive {
			survived, waits = waits[middle], waits[middle+1:]
		} else {
			waits = waits[:middle]
		}
	}
	return survived, nil
}

// survives says whether a mapping lives after a silence. The first socket makes
// it, the second has the server send something there.
func survives(ctx context.Context, open Opener, server netip.AddrPort, silence time.Duration) (alive bool, err error) {
	err = onFresh(open, func(_ net.PacketConn, quiet *client) error {
		mapped, err := warm(ctx, quiet, server)
		if err != nil {
			return err
		}
		if err := pause(ctx, silence); err != nil {
			return err
		}
		return onFresh(open, func(_ net.PacketConn, asking *client) error {
			alive, err = wake(ctx, asking, quiet, server, mapped)
			return err
		})
	})
	return alive, err
}

// warm makes a mapping, and uses it as a living flow would.
func warm(ctx context.Context, c *client, server netip.AddrPort) (mapped netip.AddrPort, err error) {
	for i := range warmRounds {
		if i > 0 {
			if err := pause(ctx, warmPause); err != nil {
				return mapped, err
			}
		}
		a, _, err := prober{client: c}.ask(ctx, server)
		if err != nil {
			return mapped, err
		}
		mapped = a.mapped
	}
	return mapped, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wake asks from one socket to be answered at the mapping of the other, and
// says whether the answer came. Silence counts only from a server that still
// answers otherwise.
func wake(ctx context.Context, asking, quiet *client, server, mapped netip.AddrPort) (bool, error) {
	own, _, err := prober{client: asking}.ask(ctx, server)
	if err != nil {
		return false, err
	}
	if own.mapped.Addr() != mapped.Addr() {
		return false, ErrSeveralAddresses
	}
	answered, err := askElsewhere(ctx, asking, quiet, server, mapped.Port())
	if answered || err != nil {
		return answered, err
	}
	_, _, err = prober{client: asking}.ask(ctx, server)
	return false, err
}

// askElsewhere sends from asking, and waits for the answer at quiet. An answer
// at asking is a refusal, or a server that overlooks the attribute.
func askElsewhere(ctx context.Context, asking, quiet *client, server netip.AddrPort, port uint16) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lifetimeWait)
	defer cancel()
	request, id := newRequest(responsePort(port))
	here := &transaction{asked: server, expected: server, done: make(chan reply, 1)}
	if err := asking.begin(id, here); err != nil {
		return false, err
	}
	defer asking.forget(id)
	there := &transaction{asked: server, expected: server, done: make(chan reply, 1)}
	if err := quiet.begin(id, there); err != nil {
		return false, err
	}
	defer quiet.forget(id)

	var refused atomic.Bool
	relayed := make(chan struct{})
	go func() { // exchange below waits for the answer at quiet only
		defer close(relayed)
		select {
		case <-here.done:
			refused.Store(true)
			cancel()
		case <-ctx.Done():
		}
	}()
	_, _, err := asking.exchange(ctx, request, there)
	cancel()
	<-relayed
	switch {
	case err == nil:
		return true, nil
	case refused.Load():
		return false, ErrNoResponsePort
	case errors.Is(err, context.DeadlineExceeded):
		return false, nil
	}
	return false, err
}
