package pcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	// MaxWait is how long a call waits for an answer at most. RFC 6887 §8.1.1
	// begins with 3 s and never ends; a router on the LAN answers in
	// milliseconds or not at all.
	MaxWait = 2200 * time.Millisecond

	// firstRepeat is when a request is sent again; the time doubles (RFC 6886 §3.1).
	firstRepeat = 250 * time.Millisecond

	// maxNoise is how many datagrams that are no answer are read in one call.
	maxNoise = 256
)

// What a call can end with besides a result code ([Result], [NATPMPResult])
// and the error of its context.
var (
	ErrSilent      = errors.New("no answer")
	ErrNonsense    = errors.New("only nonsense for an answer")
	ErrUnsupported = errors.New("protocol not offered")
)

// Client asks one router from one address of ours. It has no state but the
// router's clocks; the zero value is not usable.
type Client struct {
	local   netip.Addr
	gateway netip.AddrPort

	// PCP and NATPMP follow the router's clocks, fed by every answer.
	PCP, NATPMP Epoch
}

// NewClient returns a client that asks gateway from local. An IPv6 link-local
// gateway needs its zone.
func NewClient(local netip.Addr, gateway netip.AddrPort) *Client {
	return &Client{local: local, gateway: gateway}
}

// Map makes, renews or (lifetime 0) ends a mapping. Errors: [Result],
// [ErrSilent], [ErrNonsense], [ErrUnsupported], the context's.
func (c *Client) Map(ctx context.Context, req MapRequest) (Response, error) {
	req.Client = c.local
	var r Response
	err := c.exchange(ctx, req.Append(nil), func(b []byte) (bool, error) {
		var err error
		if r, err = ParseResponse(b); err != nil {
			return false, versionError(b)
		}
		if !r.Map || r.Whole && (r.Nonce != req.Nonce || r.Protocol != req.Protocol || r.Internal != req.Internal) {
			return false, nil
		}
		c.PCP.ObservePCP(time.Now(), r.Epoch)
		return true, pcpError(r.Result)
	})
	return r, err
}

// Announce asks whether the router is there and feeds its clock (RFC 6887
// §14.1.1). A router that does not know the opcode still tells the time.
func (c *Client) Announce(ctx context.Context) error {
	return c.exchange(ctx, appendAnnounce(nil, c.local), func(b []byte) (bool, error) {
		r, err := ParseResponse(b)
		if err != nil {
			return false, versionError(b)
		}
		if r.Map {
			return false, nil
		}
		c.PCP.ObservePCP(time.Now(), r.Epoch)
		if r.Result == UnsupportedOpcode {
			return true, nil
		}
		return true, pcpError(r.Result)
	})
}

// pcpError is the error of a result code, nil for success.
func pcpError(r Result) error {
	switch r {
	case Success:
		return nil
	case UnsupportedVersion, UnsupportedOpcode:
		return fmt.Errorf("%w: %w", ErrUnsupported, r)
	}
	return r
}

// versionError recognises a router that speaks only NAT-PMP: it answers our
// version 2 with version 0, "version not supported" (RFC 6886 §3.5).
func versionError(b []byte) error {
	r, err := ParseNATPMP(b)
	if err == nil && r.Result == NATPMPResult(UnsupportedVersion) {
		return fmt.Errorf("%w: router speaks nat-pmp only", ErrUnsupported)
	}
	return nil
}

// ExternalAddress asks by NAT-PMP for the router's outside address (RFC 6886 §3.2).
func (c *Client) ExternalAddress(ctx context.Context) (netip.Addr, error) {
	r, err := c.natpmp(ctx, []byte{0, 0}, func(r NATPMPResponse) bool { return r.Opcode == 0 })
	return r.External, err
}

// MapPort makes, renews or (lifetime 0) ends a mapping by NAT-PMP and returns
// the outside port and the lease granted (RFC 6886 §3.3, §3.4).
func (c *Client) MapPort(ctx context.Context, protocol uint8, internal, suggested uint16, lifetime time.Duration) (uint16, time.Duration, error) {
	op := pmpOpcode(protocol)
	if lifetime == 0 {
		suggested = 0 // RFC 6886 §3.4
	}
	r, err := c.natpmp(ctx, appendPMPMap(nil, op, internal, suggested, lifetime), func(r NATPMPResponse) bool {
		return r.Opcode == op && (r.Result != 0 || r.Internal == internal)
	})
	return r.Port, r.Lifetime, err
}

func (c *Client) natpmp(ctx context.Context, req []byte, ours func(NATPMPResponse) bool) (NATPMPResponse, error) {
	var r NATPMPResponse
	err := c.exchange(ctx, req, func(b []byte) (bool, error) {
		var err error
		if r, err = ParseNATPMP(b); err != nil {
			if p, err := ParseResponse(b); err == nil && p.Result == UnsupportedVersion {
				return false, fmt.Errorf("%w: router speaks pcp only", ErrUnsupported)
			}
			return false, nil
		}
		if !ours(r) {
			return false, nil
		}
		c.NATPMP.ObserveNATPMP(time.Now(), r.Epoch)
		switch r.Result {
		case 0:
			return true, nil
		case 1, 5:
			return true, fmt.Errorf("%w: %w", ErrUnsupported, r.Result)
		}
		return true, r.Result
	})
	return r, err
}

// exchange sends req until take says that a datagram is the answer (true), or
// ends it with an error. A datagram that take neither takes nor condemns is
// noise.
func (c *Client) exchange(ctx context.Context, req []byte, take func([]byte) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, MaxWait)
	defer cancel()
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.local, 0))}
	conn, err := d.DialContext(ctx, "udp", c.gateway.String())
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.gateway, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	noise := 0
	buf := make([]byte, MaxMessage+1)
	for wait := firstRepeat; ctx.Err() == nil && noise <= maxNoise; wait *= 2 {
		if _, err := conn.Write(req); err != nil {
			return c.socketError(err)
		}
		done, err := c.await(ctx, conn, buf, wait, &noise, take)
		if done || err != nil {
			return err
		}
	}
	if noise > 0 {
		return fmt.Errorf("ask %s: %w", c.gateway, ErrNonsense)
	}
	if err := context.Cause(ctx); errors.Is(err, context.Canceled) {
		return fmt.Errorf("ask %s: %w", c.gateway, err)
	}
	return fmt.Errorf("ask %s: %w", c.gateway, ErrSilent)
}

// await reads until the answer or for wait.
func (c *Client) await(ctx context.Context, conn net.Conn, buf []byte, wait time.Duration, noise *int, take func([]byte) (bool, error)) (bool, error) {
	conn.SetReadDeadline(time.Now().Add(wait))
	// Only now the context is looked at: its end sets a deadline too, which
	// must not be the one that was just overwritten.
	for *noise <= maxNoise && ctx.Err() == nil {
		n, err := conn.Read(buf)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return false, nil
		}
		if err != nil {
			return false, c.socketError(err)
		}
		done, err := take(buf[:n])
		if done || err != nil {
			return done, err
		}
		*noise++
	}
	return false, nil
}

// socketError turns "port unreachable" into the plain fact.
func (c *Client) socketError(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask %s: %w: port closed", c.gateway, ErrUnsupported)
	}
	return fmt.Errorf("ask %s: %w", c.gateway, err)
}
