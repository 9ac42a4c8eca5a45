package ice

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"porchlight/nat/stun"
	"porchlight/nat/stun/memnet"
)

var (
	routerA = netip.MustParseAddr("44.129.0.1")
	routerB = netip.MustParseAddr("44.130.0.1")
	// Both homes use the same network, so that private candidates cannot
	// work by accident.
	privateA = netip.MustParseAddrPort("192.168.1.2:4001")
	privateB = netip.MustParseAddrPort("192.168.1.3:4001")
	stunAddr = netip.MustParseAddrPort("44.128.0.1:3478")
)

// device is one socket with its Mux.
type device struct {
	t    *testing.T
	conn *memnet.Conn
	mux  *stun.Mux
}

func newDevice(t *testing.T, conn *memnet.Conn, cfg stun.Config) *device {
	t.Helper()
	mux, err := stun.NewMux(conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return readDevice(t, conn, mux)
}

// readDevice reads conn for mux until the test ends.
func readDevice(t *testing.T, conn *memnet.Conn, mux *stun.Mux) *device {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			mux.Handle(buf[:n], from.(*net.UDPAddr).AddrPort())
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
		if err := mux.Close(); err != nil {
			t.Error(err)
		}
	})
	return &device{t, conn, mux}
}

// agent makes an agent that signals its local address and, if there is a
// STUN server, what that one saw.
func (d *device) agent(cfg Config) *Agent {
	d.t.Helper()
	cfg.Mux = d.mux
	if cfg.Local == nil {
		local := d.conn.LocalAddr().(*net.UDPAddr).AddrPort()
		cfg.Local = []Candidate{{Host, local}}
		ctx, cancel := context.WithTimeout(d.t.Context(), time.Second)
		defer cancel()
		if mapped, _, err := d.mux.Bind(ctx, stunAddr); err == nil && mapped != local {
			cfg.Local = append(cfg.Local, Candidate{Srflx, mapped})
		}
	}
	a, err := New(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			d.t.Error(err)
		}
	})
	return a
}

// homes are two devices behind NATs of the given rules, and a STUN server.
func homes(t *testing.T, n *memnet.Net, filtering memnet.Rule) (a, b *device) {
	t.Helper()
	newDevice(t, n.Host(stunAddr), stun.Config{Serve: true})
	ra := n.NAT(routerA, memnet.Independent, filtering, memnet.Preserve)
	rb := n.NAT(routerB, memnet.Independent, filtering, memnet.Sequential)
	return newDevice(t, ra.Host(privateA), stun.Config{}), newDevice(t, rb.Host(privateB), stun.Config{})
}

// outcome is what one side's Connect returned.
type outcome struct {
	pair Pair
	err  error
	took time.Duration
}

// connect runs Connect after a delay; took counts from the end of the delay.
// It gives up after a minute, so that what never connects fails a test.
func connect(ctx context.Context, a *Agent, remote Description, controlling bool, delay time.Duration) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		if delay > 0 {
			<-time.After(delay)
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		start := time.Now()
		pair, err := a.Connect(ctx, remote, controlling)
		out <- outcome{pair, err, time.Since(start)}
	}()
	return out
}
