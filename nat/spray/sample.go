package spray

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	natstun "porchlight/nat/stun"
)

// Numbers of [Sample] and [Reopen].
const (
	sampleCount = 6
	sampleGap   = 3 * time.Millisecond // keeps the bindings in order
	// SampleTime bounds one Sample or one try of Reopen, and sampleRest what
	// a Sample waits for once the first answer is there. With servers nearby
	// it takes their round trip and 15 ms.
	SampleTime = time.Second
	sampleRest = 200 * time.Millisecond
	// maxRow is the span of six ports that were taken one after the other,
	// with some of other flows in between.
	maxRow      = 64
	reopenTries = 3
)

// Errors of [Sample] and [Reopen].
var (
	// ErrNoSample means that no STUN server has answered in time.
	ErrNoSample = errors.New("no stun server told a port")
	// ErrMoving means that the NAT uses several public addresses in turn.
	// It wraps [ErrHopeless].
	ErrMoving = fmt.Errorf("%w: the nat changes its public address", ErrHopeless)
	// ErrUnstable means that no fresh socket had the same mapping twice.
	ErrUnstable = errors.New("no socket with a stable port")
)

// Opener opens a UDP socket that its caller owns.
type Opener func() (*net.UDPConn, error)

// Sample measures which ports a hard NAT gives to fresh sockets: six
// bindings, each from a socket of its own, to the servers in turn. It
// completes known, whose Mapping it believes, by Mapped's IP address, Last,
// Delta and Block, within [SampleTime]. The result is at its best for some
// hundred milliseconds. Errors: [ErrNoSample], [ErrMoving], and those of open.
func Sample(ctx context.Context, open Opener, servers []netip.AddrPort, known Side) (Side, error) {
	ctx, cancel := context.WithTimeout(ctx, SampleTime)
	defer cancel()
	if len(servers) == 0 {
		return Side{}, ErrNoSample
	}
	mapped := make([]netip.AddrPort, sampleCount)
	var answered sync.Once
	var asking sync.WaitGroup
	defer asking.Wait()
	for i := range mapped {
		conn, err := open()
		if err != nil {
			return Side{}, fmt.Errorf("open socket to sample: %w", err)
		}
		asking.Go(func() {
			defer conn.Close()
			got, err := bindings(ctx, conn, servers[i%len(servers)])
			if err == nil {
				mapped[i] = got[0]
				answered.Do(func() { time.AfterFunc(sampleRest, cancel) })
			}
		})
		pause(ctx, sampleGap)
	}
	asking.Wait()
	mapped = slices.DeleteFunc(mapped, func(a netip.AddrPort) bool { return !a.IsValid() })
	return known.sampled(mapped)
}

// sampled is s with what the mappings say, which were made in this order.
func (s Side) sampled(mapped []netip.AddrPort) (Side, error) {
	if len(mapped) == 0 {
		return Side{}, ErrNoSample
	}
	var row []int
	for _, a := range mapped {
		if a.Addr() != mapped[0].Addr() {
			return Side{}, fmt.Errorf("%w: %v and %v", ErrMoving, mapped[0].Addr(), a.Addr())
		}
		row = append(row, int(a.Port()))
	}
	s.Mapped = netip.AddrPortFrom(mapped[0].Addr(), uint16(row[0]))
	if s.Mapped.Port() == 0 {
		return Side{}, ErrNoSample
	}
	if len(row) >= 4 {
		s.Delta, s.Block = pattern(row)
	}
	s.Last = uint16(row[len(row)-1])
	switch {
	case s.Delta > 0:
		s.Last = uint16(slices.Max(row))
	case s.Delta < 0:
		s.Last = uint16(slices.Min(row))
	}
	return s, s.Validate()
}

// pattern finds the step of ports that follow each other closely; a reordered
// pair or a port taken by another flow must not hide it. Ports that are near
// each other without a step lie in a block.
func pattern(row []int) (delta, block int) {
	sorted := slices.Sorted(slices.Values(row))
	span := sorted[len(sorted)-1] - sorted[0]
	if span == 0 || span > maxBlock {
		return 0, 0
	}
	if span > maxRow {
		// Six ports of a block span most of it, rarely all.
		return 0, min(2*span, maxBlock)
	}
	rising := 0
	for i := 1; i < len(row); i++ {
		delta = gcd(delta, sorted[i]-sorted[i-1])
		if row[i] > row[i-1] {
			rising++
		}
	}
	if 2*rising < len(row)-1 {
		delta = -delta
	}
	return delta, 0
}

// Reopen looks for a socket that a sometimes consistent NAT maps the same for
// two servers: it tries three fresh ones. The caller owns the socket, which
// it can then use as that of an endpoint-independent [Side], mapped to the
// address returned. The servers should have different IP addresses. It takes
// at most three times [SampleTime] and fails with [ErrUnstable].
func Reopen(ctx context.Context, open Opener, servers [2]netip.AddrPort) (*net.UDPConn, netip.AddrPort, error) {
	var last error
	for range reopenTries {
		conn, err := open()
		if err != nil {
			return nil, netip.AddrPort{}, fmt.Errorf("open socket again: %w", err)
		}
		try, cancel := context.WithTimeout(ctx, SampleTime)
		mapped, err := bindings(try, conn, servers[0], servers[1])
		cancel()
		if err == nil && mapped[0] == mapped[1] {
			return conn, mapped[0], nil
		}
		conn.Close()
		last = err
	}
	return nil, netip.AddrPort{}, errors.Join(ErrUnstable, last)
}

// sharedConn is a socket of ours as a stun.Mux sees it.
type sharedConn struct{ *net.UDPConn }

func (c sharedConn) WriteSTUN(b []byte, to netip.AddrPort) error {
	_, err := c.WriteToUDPAddrPort(b, to)
	return err
}

// bindings asks the servers, all at once, how they see conn, which is left
// open and fit for use.
func bindings(ctx context.Context, conn *net.UDPConn, servers ...netip.AddrPort) ([]netip.AddrPort, error) {
	mux, err := natstun.NewMux(sharedConn{conn}, natstun.Config{})
	if err != nil {
		return nil, err
	}
	defer mux.Close()
	var reading, asking sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, natstun.MaxMessage)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			mux.Handle(b[:n], from)
		}
	})
	mapped, failed := make([]netip.AddrPort, len(servers)), make([]error, len(servers))
	for i, server := range servers {
		asking.Go(func() { mapped[i], _, failed[i] = mux.Bind(ctx, server) })
	}
	asking.Wait()
	conn.SetReadDeadline(time.Unix(1, 0))
	reading.Wait()
	conn.SetReadDeadline(time.Time{})
	return mapped, errors.Join(failed...)
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
