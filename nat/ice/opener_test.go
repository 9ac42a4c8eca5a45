package ice

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun"
	"porchlight/nat/stun/memnet"
)

// shortWay is a socket whose openers pass its own router and die beyond it.
type shortWay struct {
	*memnet.Conn
	openers *openers
}

type openers struct {
	mu   sync.Mutex
	sent map[string]bool
}

func (o *openers) has(b []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent[string(b)]
}

func (c shortWay) WriteSTUNTTL(b []byte, to netip.AddrPort, ttl int) error {
	c.openers.mu.Lock()
	c.openers.sent[string(b)] = true
	c.openers.mu.Unlock()
	return c.WriteSTUN(b, to)
}

// TestTheCalledSideOpensAndWaits is the trap of routers that do not filter: a
// check that comes before their own device has sent takes the port away.
func TestTheCalledSideOpensAndWaits(t *testing.T) {
	for name, callerStarts := range map[string]bool{"the caller calls": true, "the caller never calls": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &openers{sent: map[string]bool{}}
				var mu sync.Mutex
				early := 0 // checks of the called side that went the whole way too soon
				var heard, begun time.Time
				fromB := func(from netip.AddrPort) bool { return from.Addr() == routerB }
				n := &memnet.Net{Latency: 20 * time.Millisecond}
				n.Drop = func(b []byte, from, to netip.AddrPort) bool {
					if o.has(b) {
						return true
					}
					mu.Lock()
					defer mu.Unlock()
					if fromB(from) && to.Addr() == routerA && heard.IsZero() && time.Since(begun) < 500*time.Millisecond {
						early++
					}
					return false
				}
				newDevice(t, n.Host(stunAddr), stun.Config{Serve: true})
				ra := n.NAT(routerA, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
				rb := n.NAT(routerB, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
				da := newDevice(t, ra.Host(privateA), stun.Config{})
				cb := rb.Host(privateB)
				mux, err := stun.NewMux(shortWay{cb, o}, stun.Config{})
				if err != nil {
					t.Fatal(err)
				}
				db := readDevice(t, cb, mux)

				a := da.agent(Config{})
				pairs := make(chan Candidate, 4)
				b := db.agent(Config{
					OpenFor:  500 * time.Millisecond,
					OnRemote: func(netip.AddrPort) { mu.Lock(); heard = time.Now(); mu.Unlock() },
					OnPair:   func(c Candidate) { pairs <- c },
				})
				mu.Lock()
				begun = time.Now()
				mu.Unlock()
				rbOut := connect(t.Context(), b, a.Local(), false, 0)
				if callerStarts {
					if o := <-connect(t.Context(), a, b.Local(), true, 60*time.Millisecond); o.err != nil {
						t.Fatal(o.err)
					}
					if o := <-rbOut; o.err != nil {
						t.Fatal(o.err)
					}
					if c := <-pairs; c.Addr != netip.AddrPortFrom(routerA, 4001) {
						t.Errorf("pair with %v", c)
					}
				} else {
					<-time.After(2 * time.Second)
				}
				mu.Lock()
				defer mu.Unlock()
				if early != 0 {
					t.Errorf("%d checks went the whole way before the caller was heard", early)
				}
				if len(o.sent) == 0 {
					t.Error("nothing opened the way")
				}
			})
		})
	}
}
