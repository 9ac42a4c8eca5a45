package ice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun"
	"porchlight/nat/stun/memnet"

	pionstun "github.com/pion/stun/v2"
)

// TestStartSkew is the trap that made the engine's limits necessary: two
// port-restricted homes where one starts long before the other.
func TestStartSkew(t *testing.T) {
	for _, controllingFirst := range []bool{true, false} {
		for _, skew := range []time.Duration{0, 100 * time.Millisecond, time.Second, 2 * time.Second,
			3 * time.Second, 5 * time.Second, 10 * time.Second} {
			t.Run(fmt.Sprintf("controlling first %v by %v", controllingFirst, skew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					da, db := homes(t, new(memnet.Net), memnet.ByAddressAndPort)
					early, late := da.agent(Config{}), db.agent(Config{})
					e := connect(t.Context(), early, late.Local(), controllingFirst, 0)
					l := connect(t.Context(), late, early.Local(), !controllingFirst, skew)
					first, second := <-l, <-e
					if first.err != nil || second.err != nil {
						t.Fatalf("late: %v, early: %v", first.err, second.err)
					}
					after := max(first.took, second.took-skew)
					if after >= 300*time.Millisecond {
						t.Errorf("connected %v after the late side started", after)
					}
					t.Logf("connected %v after the late side started", after)
				})
			})
		}
	}
}

func TestConnectBetweenKindsOfNAT(t *testing.T) {
	for _, latency := range []time.Duration{0, 20 * time.Millisecond, 150 * time.Millisecond} {
		for name, filtering := range map[string]memnet.Rule{
			"full cone": memnet.Independent, "address-restricted": memnet.ByAddress, "port-restricted": memnet.ByAddressAndPort,
		} {
			t.Run(fmt.Sprintf("%s, %v one way", name, latency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					da, db := homes(t, &memnet.Net{Latency: latency}, filtering)
					a, b := da.agent(Config{}), db.agent(Config{})
					ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
					oa, ob := <-ra, <-rb
					if oa.err != nil || ob.err != nil {
						t.Fatal(oa.err, ob.err)
					}
					wantA := Candidate{Srflx, netip.AddrPortFrom(routerA, 4001)}
					wantB := Candidate{Srflx, netip.AddrPortFrom(routerB, 40001)}
					if oa.pair.Local != wantA || oa.pair.Remote != wantB || ob.pair.Local != wantB || ob.pair.Remote != wantA {
						t.Errorf("pairs %+v, %+v", oa.pair, ob.pair)
					}
					if rtt := oa.pair.RTT; rtt < 2*latency || rtt > 2*latency+checkInterval {
						t.Errorf("round trip %v", rtt)
					}
					if limit := 250*time.Millisecond + 6*latency; oa.took > limit || ob.took > limit {
						t.Errorf("took %v and %v", oa.took, ob.took)
					}
					t.Logf("controlling %v, controlled %v", oa.took, ob.took)
				})
			})
		}
	}
}

func TestConnectThroughLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memnet.Net{Latency: 20 * time.Millisecond}
		var mu sync.Mutex
		count := 0
		n.Drop = func(_ []byte, _, to netip.AddrPort) bool { // every third between the homes
			mu.Lock()
			defer mu.Unlock()
			count++
			return to.Addr() != stunAddr.Addr() && count%3 == 0
		}
		da, db := homes(t, n, memnet.ByAddressAndPort)
		a, b := da.agent(Config{}), db.agent(Config{})
		ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
		if oa, ob := <-ra, <-rb; oa.err != nil || ob.err != nil || max(oa.took, ob.took) > 2*time.Second {
			t.Errorf("%+v, %+v", oa, ob)
		}
	})
}

func TestLANIsPreferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		newDevice(t, n.Host(stunAddr), stun.Config{Serve: true})
		r := n.NAT(routerA, memnet.Independent, memnet.ByAddressAndPort, memnet.Sequential)
		da, db := newDevice(t, r.Host(privateA), stun.Config{}), newDevice(t, r.Host(privateB), stun.Config{})
		lan := Filter{Ours: []netip.Addr{routerA}, Theirs: []netip.Addr{routerA}}
		a, b := da.agent(Config{Accept: lan.Allow}), db.agent(Config{Accept: lan.Allow})
		ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
		oa, ob := <-ra, <-rb
		if oa.err != nil || ob.err != nil || oa.pair.Remote != (Candidate{Host, privateB}) || ob.pair.Remote != (Candidate{Host, privateA}) {
			t.Errorf("%+v, %+v", oa, ob)
		}
	})
}

// TestConnectByASignalledMapping crosses two symmetric NATs, which STUN
// alone cannot, because one has a port mapping the engine knows nothing of.
func TestConnectByASignalledMapping(t *testing.T) {
	for _, controlling := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := new(memnet.Net)
			const strict = memnet.ByAddressAndPort
			ra, rb := n.NAT(routerA, strict, strict, memnet.Random), n.NAT(routerB, strict, strict, memnet.Random)
			da, db := newDevice(t, ra.Host(privateA), stun.Config{}), newDevice(t, rb.Host(privateB), stun.Config{})
			ra.Map(5555, da.conn)
			mapped := Candidate{Mapped, netip.AddrPortFrom(routerA, 5555)}
			a := da.agent(Config{Local: []Candidate{{Host, privateA}, mapped}})
			b := db.agent(Config{Local: []Candidate{{Host, privateB}}})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			outA, outB := connect(ctx, a, b.Local(), controlling, 0), connect(ctx, b, a.Local(), !controlling, 0)
			oa, ob := <-outA, <-outB
			if oa.err != nil || ob.err != nil {
				t.Fatal(oa.err, ob.err)
			}
			if oa.pair.Local != mapped || ob.pair.Remote != mapped || oa.pair.Remote.Kind != Learnt || ob.pair.Local.Kind != Learnt {
				t.Errorf("pairs %+v, %+v", oa.pair, ob.pair)
			}
			if took := max(oa.took, ob.took); took > 300*time.Millisecond {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestBothControlling(t *testing.T) {
	for _, controlling := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			da, db := homes(t, new(memnet.Net), memnet.ByAddressAndPort)
			a, b := da.agent(Config{}), db.agent(Config{})
			ra, rb := connect(t.Context(), a, b.Local(), controlling, 0), connect(t.Context(), b, a.Local(), controlling, 0)
			if oa, ob := <-ra, <-rb; oa.err != nil || ob.err != nil {
				t.Errorf("both controlling %v: %v, %v", controlling, oa.err, ob.err)
			}
		})
	}
}

func TestOnRemoteHearsEachSourceOnceEvenBeforeConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := homes(t, new(memnet.Net), memnet.Independent)
		var mu sync.Mutex
		heard := make(map[netip.AddrPort]int)
		b := db.agent(Config{OnRemote: func(a netip.AddrPort) {
			mu.Lock()
			defer mu.Unlock()
			heard[a]++
		}})
		a := da.agent(Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if o := <-connect(ctx, a, b.Local(), true, 0); !errors.Is(o.err, ErrNoPair) || !errors.Is(o.err, context.DeadlineExceeded) {
			t.Errorf("nobody answers: %v", o.err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(heard) != 1 || heard[netip.AddrPortFrom(routerA, 4001)] != 1 {
			t.Errorf("heard %v", heard)
		}
	})
}

func TestOnlyThePasswordCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		d := newDevice(t, n.Host(netip.AddrPortFrom(routerA, 4001)), stun.Config{})
		heard := 0
		a := d.agent(Config{OnRemote: func(netip.AddrPort) { heard++ }})
		stranger := n.Host(netip.AddrPortFrom(routerB, 4001))
		check := func(pwd string) []byte {
			m, err := pionstun.Build(pionstun.TransactionID, pionstun.BindingRequest,
				pionstun.NewUsername(a.Local().Ufrag+":peer"), pionstun.NewShortTermIntegrity(pwd), pionstun.Fingerprint)
			if err != nil {
				t.Fatal(err)
			}
			return m.Raw
		}
		for _, row := range []struct {
			pwd  string
			want int
		}{{"guess", 0}, {"", 0}, {a.Local().Pwd, 1}, {a.Local().Pwd, 1}} {
			if err := stranger.WriteSTUN(check(row.pwd), netip.AddrPortFrom(routerA, 4001)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if heard != row.want {
				t.Errorf("password %q: heard %d", row.pwd, heard)
			}
		}
		unsigned, err := pionstun.Build(pionstun.TransactionID, pionstun.BindingRequest,
			pionstun.NewUsername(a.Local().Ufrag+":peer"), pionstun.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		other := n.Host(netip.AddrPortFrom(routerB, 4002))
		if err := other.WriteSTUN(unsigned.Raw, netip.AddrPortFrom(routerA, 4001)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if heard != 1 {
			t.Errorf("an unsigned check was heard")
		}
	})
}

// TestTheKillerOnTheRealPath sends the 24 bytes that end a process, and other
// bad news, from the peer's own address while the checks run.
func TestTheKillerOnTheRealPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memnet.Net{Latency: 5 * time.Millisecond}
		killer := []byte("\x01\x01\x00\x04\x21\x12\xa4\x42transaction!\x00\x20\x00\x00")
		wrongID := []byte("\x01\x01\x00\x0c\x21\x12\xa4\x42WRONGTXIDXXX\x00\x20\x00\x08\x00\x01\x21\x27\x29\x1a\xac\x4a")
		da, db := homes(t, n, memnet.Independent)
		a, b := da.agent(Config{}), db.agent(Config{})
		// An answer with the peer's transaction id, made into a killer.
		n.Drop = func(msg []byte, from, to netip.AddrPort) bool {
			if len(msg) > 20 && msg[0] == 1 && to.Addr() == routerA {
				forged := slices.Clone(killer)
				copy(forged[8:20], msg[8:20])
				da.mux.Handle(forged, from)
			}
			return false
		}
		ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
		for _, m := range [][]byte{killer, wrongID} {
			if err := db.conn.WriteSTUN(m, netip.AddrPortFrom(routerA, 4001)); err != nil {
				t.Fatal(err)
			}
		}
		if oa, ob := <-ra, <-rb; oa.err != nil || ob.err != nil {
			t.Errorf("%v, %v", oa.err, ob.err)
		}
		if c := da.mux.Counts(); c.Malformed < 2 || c.Unasked != 1 {
			t.Errorf("counted %+v", c)
		}
	})
}

// TestNoScanner gives a thousand candidates at one victim and counts.
func TestNoScanner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		victim := netip.MustParseAddr("44.200.0.1")
		n := new(memnet.Net)
		var sent []time.Duration
		start := time.Now()
		var mu sync.Mutex
		n.Drop = func(_ []byte, _, to netip.AddrPort) bool {
			mu.Lock()
			defer mu.Unlock()
			if to.Addr() == victim {
				sent = append(sent, time.Since(start))
			}
			return true
		}
		d := newDevice(t, n.Host(netip.AddrPortFrom(routerA, 4001)), stun.Config{})
		a := d.agent(Config{Local: []Candidate{{Host, netip.AddrPortFrom(routerA, 4001)}}})
		remote := Description{Ufrag: "peer", Pwd: "aPasswordOfMoreThan22Chars"}
		for port := range 1000 {
			remote.Candidates = append(remote.Candidates, Candidate{Host, netip.AddrPortFrom(victim, uint16(1000+port))})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start = time.Now()
		if o := <-connect(ctx, a, remote, true, 0); !errors.Is(o.err, ErrNoPair) {
			t.Errorf("got %v", o.err)
		}
		mu.Lock()
		defer mu.Unlock()
		within := func(d time.Duration) (count int) {
			for _, at := range sent {
				if at <= d {
					count++
				}
			}
			return count
		}
		if got := within(0); got > checkBurst {
			t.Errorf("%d checks at once", got)
		}
		if got := within(time.Second); got > checkBurst+int(time.Second/Ta)+1 {
			t.Errorf("%d checks in the first second", got)
		}
		// 16 candidates at 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 s, then each 5 s.
		if len(sent) == 0 || len(sent) > MaxCandidates*12 {
			t.Errorf("%d checks in 30 s", len(sent))
		}
		t.Logf("1000 candidates: %d checks at once, %d in 1 s, %d in 30 s; unpaced it would be %d",
			within(0), within(time.Second), len(sent), MaxCandidates*600)
	})
}

func TestSourcesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		d := newDevice(t, n.Host(netip.AddrPortFrom(routerA, 4001)), stun.Config{})
		heard := 0
		a := d.agent(Config{OnRemote: func(netip.AddrPort) { heard++ }})
		for port := range maxSources + 1 {
			m, err := pionstun.Build(pionstun.TransactionID, pionstun.BindingRequest,
				pionstun.NewUsername(a.Local().Ufrag+":peer"),
				pionstun.NewShortTermIntegrity(a.Local().Pwd), pionstun.Fingerprint)
			if err != nil {
				t.Fatal(err)
			}
			d.mux.Handle(m.Raw, netip.AddrPortFrom(routerB, uint16(1000+port)))
		}
		if heard != maxSources {
			t.Errorf("%d sources, limit %d", heard, maxSources)
		}
	})
}

func TestAnswersContinueUntilClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := homes(t, new(memnet.Net), memnet.ByAddressAndPort)
		a, b := da.agent(Config{}), db.agent(Config{})
		ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
		if oa, ob := <-ra, <-rb; oa.err != nil || ob.err != nil {
			t.Fatal(oa.err, ob.err)
		}
		before := da.mux.Counts().Endpoint
		<-time.After(2 * time.Minute)
		if got := da.mux.Counts().Endpoint - before; got < 20 {
			t.Errorf("%d messages in two minutes", got)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		unknown := db.mux.Counts().UnknownUser
		<-time.After(time.Minute)
		if db.mux.Counts().UnknownUser == unknown {
			t.Error("checks after Close are still answered, or none came")
		}
	})
}

func TestAnAgentIsOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := homes(t, new(memnet.Net), memnet.ByAddressAndPort)
		a, b := da.agent(Config{}), db.agent(Config{})
		ra, rb := connect(t.Context(), a, b.Local(), true, 0), connect(t.Context(), b, a.Local(), false, 0)
		if oa, ob := <-ra, <-rb; oa.err != nil || ob.err != nil {
			t.Fatal(oa.err, ob.err)
		}
		if _, err := a.Connect(t.Context(), b.Local(), true); !errors.Is(err, ErrUsed) {
			t.Errorf("second Connect: %v", err)
		}
		closed := da.agent(Config{})
		if err := errors.Join(closed.Close(), closed.Close()); err != nil {
			t.Errorf("Close twice: %v", err)
		}
		if _, err := closed.Connect(t.Context(), b.Local(), true); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Connect after Close: %v", err)
		}
	})
}

func TestCloseEndsConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := homes(t, new(memnet.Net), memnet.ByAddressAndPort)
		a, b := da.agent(Config{}), db.agent(Config{})
		out := connect(t.Context(), a, b.Local(), true, 0)
		<-time.After(time.Second)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if o := <-out; !errors.Is(o.err, net.ErrClosed) {
			t.Errorf("got %v", o.err)
		}
	})
}

func TestNewFailsWithoutAnAddress(t *testing.T) {
	m, err := stun.NewMux(new(memnet.Net).Host(stunAddr), stun.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Mux: m}); !errors.Is(err, ErrNoLocal) {
		t.Errorf("got %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := New(Config{Mux: m, Local: []Candidate{{Host, stunAddr}}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed mux: %v", err)
	}
}
