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
func (j *Joiner) tryHints(ctx context.Context, w *way, peer *nat.Peer, at []netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, hintLimit)
	defer cancel()
	errs := make([]error, len(at))
	var all sync.WaitGroup
	for i, addr := range at {
		all.Go(func() {
			errs[i] = j.tryHint(ctx, w, peer, addr)
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

// tryHint asks one address by UDP and, if that stays silent, by TCP.
func (j *Joiner) tryHint(ctx context.Context, w *way, peer *nat.Peer, addr netip.AddrPort) error {
	udp, tcp := make(chan error, 1), make(chan error, 1)
	udpCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _, err := j.cfg.Mux.Bind(udpCtx, addr)
		udp <- err
	}()
	wait := time.NewTimer(tcpAfter)
	defer wait.Stop()
	started := false
	for {
		select {
		case err := <-udp:
			if err == nil {
				path := nat.Path{Kind: nat.KindDirect, Addr: addr}
				w.use(route{path: path, local: "host", remote: describe("host", addr)})
				return nil
			}
			udp = nil
			if started {
				continue
			}
			return fmt.Errorf("ask %v: %w", addr, err)
		case <-wait.C:
			started = true
			go func() { tcp <- j.dialFramed(ctx, w, peer, addr) }()
		case err := <-tcp:
			return err
		}
	}
}

// dialFramed reaches a device whose UDP does not get through over TCP, with
// packets framed as in RFC 4571.
func (j *Joiner) dialFramed(ctx context.Context, w *way, peer *nat.Peer, addr netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("dial %v: %w", addr, err)
	}
	if ctx.Err() != nil { // UDP was faster
		conn.Close()
		return ctx.Err()
	}
	framed := nat.NewFramed(conn, nat.FrameConfig{})
	if err := peer.UseFramed(framed, nat.KindDirect); err != nil {
		framed.Close()
		return fmt.Errorf("dial %v: %w", addr, err)
	}
	w.note(route{path: peer.Path(), local: "tcp", remote: describe("tcp", addr)})
	return nil
}
