package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/stun/memnet"

	"github.com/pion/stun/v2"
)

// startMux runs a Mux over a socket of the net.
func startMux(t *testing.T, c *memnet.Conn, cfg Config) *Mux {
	t.Helper()
	m, err := NewMux(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		readLoop(c, stop, m.Handle)
	}()
	t.Cleanup(func() {
		close(stop)
		_ = c.Close()
		<-done
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// oneRequest waits for a datagram at a socket that a test answers by hand.
func oneRequest(t *testing.T, c *memnet.Conn) (b []byte, from netip.AddrPort) {
	t.Helper()
	buf := make([]byte, MaxMessage)
	n, addr, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n], addr.(*net.UDPAddr).AddrPort()
}

func answerNaming(t *testing.T, id TransactionID, mapped string) []byte {
	t.Helper()
	addr := netip.MustParseAddrPort(mapped)
	m, err := stun.Build(stun.NewTransactionIDSetter(id), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: addr.Addr().AsSlice(), Port: int(addr.Port())}, stun.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func TestBindBelievesOnlyTheAnswer(t *testing.T) {
	const truth, lie = "44.129.0.1:4001", "8.8.8.8:53"
	rows := []struct {
		name   string
		forge  func(t *testing.T, id TransactionID) []byte
		fromIP string // empty: the server itself
		count  func(Counts) int64
	}{
		{"the killer", func(_ *testing.T, id TransactionID) []byte {
			b := exact(killer)
			copy(b[8:], id[:])
			return b
		}, "", func(c Counts) int64 { return c.Malformed }},
		{"a wrong transaction id", func(t *testing.T, _ TransactionID) []byte {
			return answerNaming(t, TransactionID([]byte("WRONGTXIDXXX")), lie)
		}, "", func(c Counts) int64 { return c.Unasked }},
		{"the right id from a foreign server", func(t *testing.T, id TransactionID) []byte {
			return answerNaming(t, id, lie)
		}, "44.131.0.1", func(c Counts) int64 { return c.WrongSource }},
		{"the right id from another port of the server", func(t *testing.T, id TransactionID) []byte {
			return answerNaming(t, id, lie)
		}, "44.128.0.1", func(c Counts) int64 { return c.WrongSource }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := new(memnet.Net)
				server := n.Host(serverAddr)
				liar := server
				if row.fromIP != "" {
					liar = n.Host(netip.AddrPortFrom(netip.MustParseAddr(row.fromIP), 9))
				}
				m := startMux(t, n.Host(netip.MustParseAddrPort(truth)), Config{})
				go func() {
					b, from := oneRequest(t, server)
					id := transactionID(b)
					if err := liar.WriteSTUN(row.forge(t, id), from); err != nil {
						t.Error(err)
					}
					synctest.Wait()
					if err := server.WriteSTUN(answerNaming(t, id, truth), from); err != nil {
						t.Error(err)
					}
				}()
				mapped, _, err := m.Bind(t.Context(), serverAddr)
				if err != nil || mapped != netip.MustParseAddrPort(truth) {
					t.Errorf("got %v, %v", mapped, err)
				}
				if c := m.Counts(); row.count(c) != 1 || c.Answers != 1 {
					t.Errorf("counted %+v", c)
				}
			})
		})
	}
}

func TestBindSendsAgainAndDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		var sent []time.Duration
		start := time.Now()
		n.Drop = func([]byte, netip.AddrPort, netip.AddrPort) bool {
			sent = append(sent, time.Since(start))
			return true
		}
		m := startMux(t, n.Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
		_, _, err := m.Bind(t.Context(), serverAddr)
		if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		want := "[0s 100ms 300ms 700ms 1.5s 3.1s 4.7s]"
		if got := fmt.Sprint(sent); got != want {
			t.Errorf("sent at %v, want %v", got, want)
		}
		if took := time.Since(start); took != DefaultTimeout {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestBindSurvivesALostPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memnet.Net{Latency: 10 * time.Millisecond}
		var sent atomic.Int64
		n.Drop = func([]byte, netip.AddrPort, netip.AddrPort) bool { return sent.Add(1) == 1 }
		startServer(t, n, 2)
		m := startMux(t, n.Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
		start := time.Now()
		if _, _, err := m.Bind(t.Context(), serverAddr); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != InitialRTO+20*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestBindHasLimitsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		m := startMux(t, n.Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
		results := make(chan error, maxTransactions)
		for range maxTransactions {
			go func() {
				_, _, err := m.Bind(t.Context(), serverAddr)
				results <- err
			}()
		}
		synctest.Wait()
		if _, _, err := m.Bind(t.Context(), serverAddr); !errors.Is(err, ErrBusy) {
			t.Errorf("one above the limit: %v", err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		for range maxTransactions {
			if err := <-results; !errors.Is(err, net.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		if len(m.client.pending) != 0 {
			t.Errorf("%d transactions left", len(m.client.pending))
		}
	})
}

func TestBindRefusesUnusableServers(t *testing.T) {
	m := startMux(t, new(memnet.Net).Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
	for _, s := range []string{"0.0.0.0:3478", "224.0.0.1:3478", "44.128.0.1:0", "[::]:3478"} {
		if _, _, err := m.Bind(t.Context(), netip.MustParseAddrPort(s)); err == nil || errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestMuxServesOnlyWhenToldTo(t *testing.T) {
	for _, serve := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := new(memnet.Net)
			server := startMux(t, n.Host(serverAddr), Config{Serve: serve})
			m := startMux(t, n.Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
			_, _, err := m.Bind(t.Context(), serverAddr)
			if (err == nil) != serve {
				t.Errorf("serve %v: %v", serve, err)
			}
			if c := server.Counts(); (c.Answered == 1) != serve || (c.Unserved > 0) == serve {
				t.Errorf("serve %v: %+v", serve, c)
			}
		})
	}
}

func TestMuxWithAlternatePortIsABehaviourServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		alternate := netip.AddrPortFrom(serverIP, 3479)
		server := startMux(t, n.Host(serverAddr), Config{Serve: true, AltPort: n.Host(alternate)})
		server.SetPublic(serverAddr, alternate)
		home := n.NAT(routerIP, memnet.Independent, memnet.ByAddressAndPort, memnet.Preserve)
		m := startMux(t, home.Host(privateAddr), Config{})
		for _, want := range []Dependence{AddressAndPortDependent, Unknown} { // the second time the filter is open
			b, err := m.Discover(t.Context(), serverAddr)
			if err != nil || b.Filtering != want || b.Mapping != AddressDependent || !b.MappingAtMost {
				t.Errorf("got %+v, %v", b, err)
			}
		}
	})
	if _, err := NewMux(nil, Config{AltPort: new(memnet.Net).Host(serverAddr)}); !errors.Is(err, ErrServerAlone) {
		t.Errorf("alternate port without serving: %v", err)
	}
}

func TestMappingAcrossPlainServers(t *testing.T) {
	second := netip.AddrPortFrom(serverIP2, 3478)
	third := netip.MustParseAddrPort("44.128.0.3:3478")
	for _, row := range []struct {
		rule  memnet.Rule
		ports memnet.PortChoice
		want  Dependence
		delta int
	}{
		{memnet.Independent, memnet.Preserve, EndpointIndependent, 0},
		{memnet.ByAddressAndPort, memnet.Sequential, AddressAndPortDependent, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := new(memnet.Net)
			for _, a := range []netip.AddrPort{serverAddr, second, third} {
				startMux(t, n.Host(a), Config{Serve: true})
			}
			m := startMux(t, n.NAT(routerIP, row.rule, memnet.ByAddressAndPort, row.ports).Host(privateAddr), Config{})
			b, err := m.Mapping(t.Context(), []netip.AddrPort{serverAddr, serverAddr, second, third})
			if err != nil || b.Mapping != row.want || b.PortDelta != row.delta || len(b.Ports) != 3 {
				t.Errorf("got %+v, %v", b, err)
			}
			if _, err := m.Mapping(t.Context(), []netip.AddrPort{serverAddr, serverAddr}); !errors.Is(err, ErrTooFewServers) {
				t.Errorf("one server: %v", err)
			}
		})
	}
}

// bindingCheck is a connectivity check as an ICE agent sends it.
func bindingCheck(t *testing.T, username string) *stun.Message {
	t.Helper()
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(username),
		stun.NewShortTermIntegrity("password"), stun.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEndpointsGetTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(memnet.Net)
		here, there := netip.AddrPortFrom(routerIP, 4001), netip.MustParseAddrPort("44.130.0.1:4001")
		m := startMux(t, n.Host(here), Config{})
		peer, foreign := n.Host(there), n.Host(netip.MustParseAddrPort("44.130.0.2:4001"))
		got := make(map[string]int)
		register := func(ufrag string) *Endpoint {
			e, err := m.Register(ufrag, func([]byte, netip.AddrPort) { got[ufrag]++ })
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		one, _ := register("one"), register("two")
		write := func(c *memnet.Conn, b []byte) {
			t.Helper()
			if err := c.WriteSTUN(b, here); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		write(peer, bindingCheck(t, "one:peer").Raw)
		write(peer, bindingCheck(t, "two:peer").Raw)
		write(peer, bindingCheck(t, "three:peer").Raw)
		if got["one"] != 1 || got["two"] != 1 || m.Counts().UnknownUser != 1 {
			t.Errorf("checks: %v, %+v", got, m.Counts())
		}

		check := bindingCheck(t, "peer:one")
		if err := one.Send(check.Raw, there); err != nil {
			t.Fatal(err)
		}
		write(foreign, answerNaming(t, check.TransactionID, here.String()))
		write(peer, answerNaming(t, check.TransactionID, here.String()))
		write(peer, answerNaming(t, check.TransactionID, here.String())) // answered already
		if c := m.Counts(); got["one"] != 2 || c.WrongSource != 1 || c.Unasked != 1 {
			t.Errorf("answers: %v, %+v", got, c)
		}
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		write(peer, bindingCheck(t, "one:peer").Raw)
		if got["one"] != 2 || m.Counts().UnknownUser != 2 {
			t.Errorf("after Close: %v", got)
		}
		if err := one.Send(check.Raw, there); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
	})
}

func TestEndpointForgetsTheOldestCheck(t *testing.T) {
	n := new(memnet.Net)
	there := netip.MustParseAddrPort("44.130.0.1:4001")
	m := startMux(t, n.Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
	handled := 0
	e, err := m.Register("one", func([]byte, netip.AddrPort) { handled++ })
	if err != nil {
		t.Fatal(err)
	}
	var ids []TransactionID
	for range MaxChecks + 1 {
		c := bindingCheck(t, "peer:one")
		ids = append(ids, c.TransactionID)
		if err := e.Send(c.Raw, there); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.checks) != MaxChecks {
		t.Errorf("%d checks remembered", len(m.checks))
	}
	for _, id := range ids {
		m.Handle(answerNaming(t, id, "44.129.0.1:4001"), there)
	}
	if handled != MaxChecks || m.Counts().Unasked != 1 {
		t.Errorf("handled %d, %+v", handled, m.Counts())
	}
	if err := e.Close(); err != nil || len(m.checks) != 0 {
		t.Errorf("%d checks after Close, %v", len(m.checks), err)
	}
}

func TestRegisterHasLimits(t *testing.T) {
	m := startMux(t, new(memnet.Net).Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
	ignore := func([]byte, netip.AddrPort) {}
	for i := range MaxEndpoints {
		if _, err := m.Register(fmt.Sprintf("ufrag%d", i), ignore); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Register("another", ignore); !errors.Is(err, ErrTooMany) {
		t.Errorf("one above the limit: %v", err)
	}
	for _, ufrag := range []string{"", "a:b", "ufrag1"} {
		if _, err := m.Register(ufrag, ignore); !errors.Is(err, ErrUfrag) {
			t.Errorf("%q: %v", ufrag, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Register("late", ignore); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestEndpointSendsOnlyBindingMessages(t *testing.T) {
	m := startMux(t, new(memnet.Net).Host(netip.AddrPortFrom(routerIP, 4001)), Config{})
	e, err := m.Register("one", func([]byte, netip.AddrPort) {})
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort("44.130.0.1:4001")
	if err := e.Send([]byte("bulk data is not for this socket share"), to); !errors.Is(err, ErrHeader) {
		t.Errorf("data: %v", err)
	}
	if err := e.Send(raw(0x0003), to); !errors.Is(err, ErrNotBinding) {
		t.Errorf("allocate: %v", err)
	}
}
