package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"porchlight/nat"
)

const (
	// hintLimit is how long a hinted address may take to answer.
	hintLimit = 3 * time.Second
	// tcpAfter is the head start of UDP before TCP is tried at a hint.
	tcpAfter = 700 * time.Millisecond
)

// tryHints asks all hinted addresses at once and takes the first to answer.
func (j *Joiner) tryHints(ctx context.Context, w *way, at []netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, hintLimit)
	defer cancel()
	errs := make([]error, len(at))
	var all sync.WaitGroup
	for i, addr := range at {
		all.Go(func() {
			errs[i] = j.tryHint(ctx, w, addr)
			if errs[i] == nil {
				cancel()
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

// tryHint asks one address by UDP and, if that stays silent, by TCP too. What
// it starts has ended when it returns.
func (j *Joiner) tryHint(ctx context.Context, w *way, addr netip.AddrPort) error {
	ctx, stop := context.WithCancel(ctx)
	failed := make(chan struct{})
	var all sync.WaitGroup
	var udpErr, tcpErr error
	all.Go(func() {
		if udpErr = j.askHint(ctx, w, addr); udpErr != nil {
			close(failed)
			return
		}
		stop()
	})
	all.Go(func() {
		select {
		case <-time.After(tcpAfter):
		case <-failed:
		case <-ctx.Done():
			tcpErr = ctx.Err()
			return
		}
		if tcpErr = j.dialFramed(ctx, w, addr); tcpErr == nil {
			stop()
		}
	})
	all.Wait()
	stop()
	if udpErr == nil || tcpErr == nil {
		return nil
	}
	return errors.Join(udpErr, tcpErr)
}

func (j *Joiner) askHint(ctx context.Context, w *way, addr netip.AddrPort) error {
	if _, _, err := j.cfg.Mux.Bind(ctx, addr); err != nil {
		return fmt.Errorf("ask %v: %w", addr, err)
	}
	w.use(route{
		path:   nat.Path{Kind: nat.KindDirect, Addr: addr, Proven: true},
		local:  "host",
		remote: describe("host", addr),
		hint:   addr,
	})
	return nil
}

// dialFramed reaches a device whose UDP does not get through over TCP, with
// packets framed as in RFC 4571.
func (j *Joiner) dialFramed(ctx context.Context, w *way, addr netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("dial %v: %w", addr, err)
	}
	if ctx.Err() != nil { // UDP was faster
		conn.Close()
		return ctx.Err()
	}
	// Who was dialled may have nothing to say before the session does.
	framed := nat.NewFramed(conn, nat.FrameConfig{FirstFrame: nat.DefaultFrameIdle})
	r := tcpRoute(conn.RemoteAddr(), framed)
	r.hint = addr
	if err := w.useCarrier(r, func(first *nat.Peer) error { return first.UseFramed(framed, nat.KindDirect) }); err != nil {
		framed.Close()
		return fmt.Errorf("dial %v: %w", addr, err)
	}
	return greet(framed)
}
