//go:build !mips

// These tests use real sockets, which user-mode emulation of big-endian MIPS
// does not offer.

package pcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// router answers each datagram with those of answer, until the test ends.
func router(t *testing.T, answer func(req []byte, n int) [][]byte) *Client {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2000)
		for n := 0; ; n++ {
			size, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			for _, a := range answer(b[:size], n) {
				pc.WriteTo(a, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return NewClient(loopback, netip.MustParseAddrPort(pc.LocalAddr().String()))
}

// grant is an answer to a MAP or ANNOUNCE request.
func grant(req []byte, result byte, epoch uint32) []byte {
	b := bytes.Clone(req)
	b[1] |= 0x80
	b[3] = result
	binary.BigEndian.PutUint32(b[8:], epoch)
	clear(b[12:24])
	if len(b) >= mapSize {
		copy(b[44:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 44, 128, 0, 1})
	}
	return b
}

var request = MapRequest{Nonce: Nonce{7}, Protocol: UDP, Internal: 4000, Suggested: netip.AddrPortFrom(netip.IPv4Unspecified(), 4000), Lifetime: time.Hour}

func TestMap(t *testing.T) {
	spoil := func(at int) func([]byte, int) [][]byte {
		return func(req []byte, _ int) [][]byte {
			b := grant(req, 0, 1)
			b[at] ^= 1
			return [][]byte{b}
		}
	}
	for _, c := range []struct {
		name   string
		answer func([]byte, int) [][]byte
		want   error
	}{
		{"granted", func(req []byte, _ int) [][]byte { return [][]byte{grant(req, 0, 1)} }, nil},
		{"granted when asked again", func(req []byte, n int) [][]byte {
			if n == 0 {
				return nil
			}
			return [][]byte{grant(req, 0, 1)}
		}, nil},
		{"nonsense first", func(req []byte, _ int) [][]byte { return [][]byte{{1}, make([]byte, 1200), grant(req, 0, 1)} }, nil},
		{"wrong nonce", spoil(24), ErrNonsense},
		{"wrong protocol", spoil(36), ErrNonsense},
		{"wrong port", spoil(41), ErrNonsense},
		{"not authorized", func(req []byte, _ int) [][]byte { return [][]byte{grant(req, 2, 1)} }, NotAuthorized},
		{"cannot provide", func(req []byte, _ int) [][]byte { return [][]byte{grant(req, 11, 1)} }, CannotProvideExternal},
		{"unknown result", func(req []byte, _ int) [][]byte { return [][]byte{grant(req, 200, 1)} }, Result(200)},
		{"error without the map part", func(req []byte, _ int) [][]byte { return [][]byte{grant(req, 3, 1)[:24]} }, MalformedRequest},
		{"other version", func(req []byte, _ int) [][]byte { return [][]byte{grant(req, 1, 1)} }, ErrUnsupported},
		{"nat-pmp only", func([]byte, int) [][]byte { return [][]byte{{0, 0x80, 0, 1, 0, 0, 0, 1}} }, ErrUnsupported},
		{"nat-pmp only, echoing the opcode", func([]byte, int) [][]byte { return [][]byte{{0, 0x81, 0, 1, 0, 0, 0, 1}} }, ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			defer cancel()
			r, err := router(t, c.answer).Map(ctx, request)
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if err == nil && r.External != netip.MustParseAddrPort("44.128.0.1:4000") {
				t.Errorf("external %v", r.External)
			}
		})
	}
}

func TestMapEndsWithItsContextAndItself(t *testing.T) {
	t.Parallel()
	mute := router(t, func([]byte, int) [][]byte { return nil })
	start := time.Now()
	if _, err := mute.Map(t.Context(), request); !errors.Is(err, ErrSilent) {
		t.Errorf("error %v, want %v", err, ErrSilent)
	}
	if took := time.Since(start); took < MaxWait || took > MaxWait+time.Second {
		t.Errorf("took %v, want %v", took, MaxWait)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	start = time.Now()
	if _, err := mute.Map(ctx, request); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("took %v after the cancel", took)
	}
}

func TestClosedPortIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := netip.MustParseAddrPort(pc.LocalAddr().String())
	pc.Close()
	start := time.Now()
	if _, err := NewClient(loopback, gone).Map(t.Context(), request); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v, want %v", err, ErrUnsupported)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAnnounceFeedsTheEpoch(t *testing.T) {
	t.Parallel()
	epochs := []uint32{1000, 1001, 2}
	c := router(t, func(req []byte, n int) [][]byte { return [][]byte{grant(req, byte(4*(n%2)), epochs[min(n, 2)])} })
	for i, want := range []bool{false, false, true} {
		if err := c.Announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := c.PCP.Lost(); got != want {
			t.Errorf("after answer %d lost is %v, want %v", i, got, want)
		}
	}
}

func TestNATPMP(t *testing.T) {
	t.Parallel()
	c := router(t, func(req []byte, _ int) [][]byte {
		switch {
		case len(req) == 2:
			return [][]byte{{9}, {0, 0x81, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, {0, 0x80, 0, 0, 0, 0, 0, 9, 44, 128, 0, 1}}
		case req[1] == 2:
			return [][]byte{{0, 0x82, 0, 2, 0, 0, 0, 9}}
		}
		wrong := append([]byte{0, 0x81, 0, 0, 0, 0, 0, 9}, 0, 1, 0, 1, 0, 0, 0, 60)
		right := append([]byte{0, 0x81, 0, 0, 0, 0, 0, 9}, req[4], req[5], 0x10, 0, 0, 0, 0, 60)
		return [][]byte{wrong, right}
	})
	if a, err := c.ExternalAddress(t.Context()); err != nil || a != netip.MustParseAddr("44.128.0.1") {
		t.Errorf("external address %v, %v", a, err)
	}
	if port, life, err := c.MapPort(t.Context(), UDP, 4000, 4000, time.Hour); err != nil || port != 4096 || life != time.Minute {
		t.Errorf("mapped %d for %v, %v", port, life, err)
	}
	if _, _, err := c.MapPort(t.Context(), TCP, 4000, 4000, time.Hour); !errors.Is(err, NATPMPResult(2)) {
		t.Errorf("error %v, want refused", err)
	}
}
