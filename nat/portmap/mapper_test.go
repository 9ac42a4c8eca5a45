package portmap

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/portmap/igd"
	"porchlight/nat/portmap/pcp"
)

// fakeMethod is a method of a router that exists only in virtual time.
type fakeMethod struct {
	delay    time.Duration // of every answer
	external string
	lifetime time.Duration
	fail     error
	absent   bool
	keeps    bool // refuses removals
}

// fakeRouter keeps one table, as real ones do, for all methods.
type fakeRouter struct {
	mu      sync.Mutex
	methods map[Method]*fakeMethod
	table   map[string]Method // "udp 4000" → who made it
	log     []string
	checks  int
	down    bool
	route   Route
	second  Route      // another default route, if valid
	deaf    netip.Addr // a gateway where nothing answers
}

var homeRoute = Route{Gateway: netip.MustParseAddr("192.168.1.1"), Local: netip.MustParsePrefix("192.168.1.50/24"), Interface: "eth0"}

func (f *fakeRouter) note(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

// took returns and forgets what was done to the table.
func (f *fakeRouter) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.log, ", ")
	f.log = nil
	return s
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeRouter) way(method Method, r Route) *way {
	w := &way{method: method, gateway: r.Gateway, local: r.Local.Addr()}
	behaviour := func() (fakeMethod, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return *f.methods[method], f.down
	}
	w.add = func(ctx context.Context, transport string, port, suggested uint16) (Mapping, error) {
		b, down := behaviour()
		if err := pause(ctx, b.delay); err != nil {
			return Mapping{}, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if down || b.fail != nil {
			return Mapping{}, errorOr(b.fail, pcp.ErrSilent)
		}
		f.table[fmt.Sprint(transport, " ", suggested)] = method
		f.note("%s adds %s", method, transport)
		return w.mapping(transport, port, netip.AddrPortFrom(netip.MustParseAddr(b.external), suggested), b.lifetime)
	}
	w.remove = func(ctx context.Context, m Mapping) error {
		b, down := behaviour()
		if down {
			<-ctx.Done()
			return ctx.Err()
		}
		if err := pause(ctx, b.delay); err != nil {
			return err
		}
		if b.keeps {
			return pcp.NotAuthorized
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.table, fmt.Sprint(m.Transport, " ", m.External.Port()))
		f.note("%s removes %s", method, m.Transport)
		return nil
	}
	w.check = func(ctx context.Context, held []Mapping) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.checks++
		if f.down {
			return pcp.ErrSilent
		}
		for _, m := range held {
			if f.table[fmt.Sprint(m.Transport, " ", m.External.Port())] == "" {
				return errLost
			}
		}
		return nil
	}
	return w
}

func errorOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func (f *fakeRouter) finder(method Method, absent error) func(context.Context, Route, func(*way)) error {
	return func(ctx context.Context, r Route, offer func(*way)) error {
		f.mu.Lock()
		b, ok := f.methods[method]
		gone := !ok || b.absent || f.down && method != PCP || r.Gateway == f.deaf
		f.mu.Unlock()
		if gone {
			pause(ctx, 50*time.Millisecond)
			return absent
		}
		if method != PCP { // PCP's question is the request
			if err := pause(ctx, b.delay); err != nil {
				return err
			}
		}
		w := f.way(method, r)
		if method != PCP {
			w.external, _ = netip.ParseAddr(b.external)
		}
		offer(w)
		return nil
	}
}

// newFake returns a Mapper for two ports at a router with the methods.
func newFake(t *testing.T, methods map[Method]*fakeMethod) (*Mapper, *fakeRouter) {
	f := &fakeRouter{methods: methods, table: make(map[string]Method), route: homeRoute}
	m := New(Config{UDPPort: 4000, TCPPort: 4001, Routes: func() ([]Route, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.second.Gateway.IsValid() {
			return []Route{f.route, f.second}, nil
		}
		return []Route{f.route}, nil
	}})
	m.find = finders{pcp: f.finder(PCP, pcp.ErrSilent), natpmp: f.finder(NATPMP, pcp.ErrSilent), upnp: f.finder(IGD1, igd.ErrNoDevice)}
	m.ctx, m.cancel = context.WithCancel(t.Context())
	m.started = true
	m.wg.Go(m.run)
	return m, f
}

func methodsOf(s State) string {
	var all []string
	for _, m := range s.Mappings {
		all = append(all, fmt.Sprint(m.Method, " ", m.Transport))
	}
	return strings.Join(all, ", ")
}

const home, carrier = "44.128.0.1", "100.64.0.9"

func fast(external string) *fakeMethod {
	return &fakeMethod{delay: 2 * time.Millisecond, external: external, lifetime: 2 * time.Hour}
}

func slow(external string) *fakeMethod {
	return &fakeMethod{delay: 200 * time.Millisecond, external: external, lifetime: 2 * time.Hour}
}

func TestBestMethodIsKept(t *testing.T) {
	for _, c := range []struct {
		name    string
		methods map[Method]*fakeMethod
		state   string
		done    string
	}{
		{"pcp alone", map[Method]*fakeMethod{PCP: fast(home)}, "pcp udp, pcp tcp", "pcp adds udp, pcp adds tcp"},
		{"all, pcp first", map[Method]*fakeMethod{PCP: fast(home), NATPMP: fast(home), IGD1: slow(home)},
			"pcp udp, pcp tcp", "pcp adds udp, pcp adds tcp"},
		{"pcp refuses", map[Method]*fakeMethod{PCP: {fail: pcp.NotAuthorized}, NATPMP: fast(home), IGD1: slow(home)},
			"nat-pmp udp, nat-pmp tcp", "nat-pmp adds udp, nat-pmp adds tcp"},
		{"pcp private, upnp public", map[Method]*fakeMethod{PCP: fast(carrier), IGD1: slow(home)},
			"upnp-igd1 udp, upnp-igd1 tcp", "pcp adds udp, pcp adds tcp, upnp-igd1 adds udp, upnp-igd1 adds tcp"},
		{"both private", map[Method]*fakeMethod{PCP: fast(carrier), IGD1: slow(carrier)},
			"pcp udp, pcp tcp", "pcp adds udp, pcp adds tcp"},
		{"pcp late", map[Method]*fakeMethod{PCP: {delay: time.Second, external: home, lifetime: time.Hour}, NATPMP: fast(home)},
			"pcp udp, pcp tcp", "nat-pmp adds udp, nat-pmp adds tcp, pcp adds udp, pcp adds tcp"},
		{"upnp alone, slow", map[Method]*fakeMethod{IGD1: slow(home)}, "upnp-igd1 udp, upnp-igd1 tcp", "upnp-igd1 adds udp, upnp-igd1 adds tcp"},
		{"nothing", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				m, f := newFake(t, c.methods)
				for !m.State().Settled {
					<-m.Changed()
				}
				if took := time.Since(start); took > SettleTime {
					t.Errorf("settled after %v", took)
				}
				time.Sleep(lookTime)
				synctest.Wait()
				if got := methodsOf(m.State()); got != c.state {
					t.Errorf("keeps %q, want %q", got, c.state)
				}
				if got := f.took(); got != c.done {
					t.Errorf("router saw %q, want %q", got, c.done)
				}
				m.Close()
				if len(f.table) != 0 {
					t.Errorf("router keeps %v after close", f.table)
				}
			})
		})
	}
}

func TestSettledInTimeWithADeadRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m, _ := newFake(t, map[Method]*fakeMethod{PCP: {delay: time.Hour}, NATPMP: {delay: time.Hour}, IGD1: {delay: time.Hour}})
		for !m.State().Settled {
			<-m.Changed()
		}
		if took := time.Since(start); took != SettleTime {
			t.Errorf("settled after %v, want %v", took, SettleTime)
		}
		for method, o := range m.State().Outcomes {
			if o != Silent {
				t.Errorf("%s is %s", method, o)
			}
		}
		m.Close()
	})
}

func TestRenewalAtHalfOfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(10 * time.Second)
		f.took()
		time.Sleep(59 * time.Minute)
		if got := f.took(); got != "" {
			t.Errorf("before half of the lease: %s", got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := f.took(); strings.Count(got, "pcp adds") != 2 {
			t.Errorf("after half of the lease: %q", got)
		}
		if left := time.Until(m.State().Mappings[0].Expires); left < 118*time.Minute {
			t.Errorf("%v left after the renewal", left)
		}
		m.Close()
	})
}

func TestALeaseOfSecondsIsNoBusyLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: {external: home, lifetime: time.Second}})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(f.took(), "adds udp"); n < 2 || n > 4 {
			t.Errorf("asked %d times in a minute", n)
		}
		m.Close()
	})
}

func TestForgetfulRouterIsNoticedWithinAMinute(t *testing.T) {
	for _, method := range []Method{PCP, NATPMP, IGD1} {
		t.Run(string(method), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, f := newFake(t, map[Method]*fakeMethod{method: fast(home)})
				time.Sleep(10 * time.Second)
				f.took()
				f.mu.Lock()
				clear(f.table)
				f.mu.Unlock()
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(f.table) != 2 {
					t.Errorf("router has %v a minute after it forgot", f.table)
				}
				m.Close()
			})
		})
	}
}

func TestRouterThatRestartsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(10 * time.Second)
		f.mu.Lock()
		f.down = true
		clear(f.table)
		f.mu.Unlock()
		time.Sleep(time.Minute)
		if got := methodsOf(m.State()); got != "" {
			t.Errorf("still tells %q a minute after the router went", got)
		}
		time.Sleep(3 * time.Minute)
		f.mu.Lock()
		f.down = false
		f.mu.Unlock()
		time.Sleep(time.Minute + lookTime)
		synctest.Wait()
		if got := methodsOf(m.State()); got != "pcp udp, pcp tcp" {
			t.Errorf("tells %q a minute after the router came back", got)
		}
		m.Close()
	})
}

func TestOneLostAnswerIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(44 * time.Second)
		f.took()
		f.mu.Lock()
		f.down = true
		f.mu.Unlock()
		time.Sleep(2 * time.Second)
		f.mu.Lock()
		if f.checks == 0 {
			t.Error("not checked within 46 s")
		}
		f.down = false
		f.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := f.took(); got != "" || len(m.State().Mappings) != 2 {
			t.Errorf("router saw %q, state %q", got, methodsOf(m.State()))
		}
		m.Close()
	})
}

func TestRefreshForgetsTheOldNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(10 * time.Second)
		f.mu.Lock()
		f.route.Local = netip.MustParsePrefix("192.168.1.51/24")
		f.mu.Unlock()
		f.took()
		m.Refresh()
		synctest.Wait()
		if s := m.State(); s.Settled || len(s.Mappings) != 0 {
			t.Errorf("state right after the change: %+v", s)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		for _, mapping := range m.State().Mappings {
			if mapping.Internal.Addr() != f.route.Local.Addr() {
				t.Errorf("mapping for the old address: %+v", mapping)
			}
		}
		if got := f.took(); got != "pcp adds udp, pcp adds tcp" {
			t.Errorf("router saw %q", got)
		}
		m.Close()
	})
}

func TestRefreshOnTheSameNetworkKeepsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{IGD1: slow(home)})
		time.Sleep(10 * time.Second)
		f.took()
		m.Refresh()
		synctest.Wait()
		if s := m.State(); s.Settled || len(s.Mappings) != 2 {
			t.Errorf("state right after: %+v", s)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := m.State(); !s.Settled || len(s.Mappings) != 2 {
			t.Errorf("state later: %+v", s)
		}
		if got := f.took(); got != "upnp-igd1 adds udp, upnp-igd1 adds tcp" {
			t.Errorf("router saw %q", got)
		}
		m.Close()
	})
}

func TestRefreshInAStormIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newFake(t, map[Method]*fakeMethod{IGD1: slow(home)})
		for range 50 {
			m.Refresh()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := methodsOf(m.State()); got != "upnp-igd1 udp, upnp-igd1 tcp" {
			t.Errorf("keeps %q", got)
		}
		m.Close()
	})
}

func TestDistrustDoesNotLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home), IGD1: slow(home)})
		var seen []string
		for range 20 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			s := m.State()
			i := slices.IndexFunc(s.Mappings, func(m Mapping) bool { return m.Transport == "udp" })
			if i < 0 {
				break
			}
			seen = append(seen, fmt.Sprint(s.Mappings[i].Method, " ", s.Mappings[i].External.Port() == 4000))
			m.Distrust(s.Mappings[i])
			m.Distrust(s.Mappings[i]) // twice is once
		}
		if got, want := strings.Join(seen, ", "), "pcp true, upnp-igd1 true, pcp false, upnp-igd1 false"; got != want {
			t.Errorf("tried %q, want %q", got, want)
		}
		f.took()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if got := f.took(); strings.Contains(got, "udp") {
			t.Errorf("within the hour the router saw %q", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := methodsOf(m.State()); got != "pcp udp, pcp tcp" {
			t.Errorf("after more than an hour keeps %q, want another chance", got)
		}
		m.Close()
	})
}

func TestDistrustOfWhatIsNotOursIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(10 * time.Second)
		f.took()
		for range 3 * maxDistrust {
			m.Distrust(Mapping{Method: PCP, Transport: "udp"})
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := f.took(); got != "" {
			t.Errorf("router saw %q", got)
		}
		m.Close()
	})
}

func TestCloseIsBoundedAndIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(10 * time.Second)
		f.mu.Lock()
		f.down = true
		f.mu.Unlock()
		start := time.Now()
		m.Close()
		if took := time.Since(start); took != closeTime {
			t.Errorf("close with a dead router took %v, want %v", took, closeTime)
		}
		m.Close()
		m.Start()
		m.Refresh()
		m.Distrust(Mapping{})
		if len(m.State().Mappings) != 0 {
			t.Error("mappings after close")
		}
	})
}

func TestTwoGateways(t *testing.T) {
	for _, c := range []struct{ name, deaf, want string }{
		{"the first is kept", "", "192.168.1.1"},
		{"the second steps in", "192.168.1.1", "10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, f := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
				f.mu.Lock()
				f.second = Route{Gateway: netip.MustParseAddr("10.0.0.1"), Local: netip.MustParsePrefix("10.0.0.2/24"), Interface: "eth1"}
				f.deaf, _ = netip.ParseAddr(c.deaf)
				f.mu.Unlock()
				m.Refresh()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				for _, mapping := range m.State().Mappings {
					if mapping.Gateway.String() != c.want {
						t.Errorf("mapping %+v, want one at %s", mapping, c.want)
					}
				}
				if got := methodsOf(m.State()); got != "pcp udp, pcp tcp" || m.State().Gateway.String() != "192.168.1.1" {
					t.Errorf("state %+v", m.State())
				}
				m.Close()
			})
		})
	}
}

func TestAnEntrySharedByTwoMethodsIsRemovedByWhicheverMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{
			PCP:    {delay: time.Second, external: home, lifetime: time.Hour, keeps: true},
			NATPMP: fast(home),
		})
		time.Sleep(2 * time.Hour) // renewed meanwhile
		synctest.Wait()
		if got := methodsOf(m.State()); got != "pcp udp, pcp tcp" {
			t.Errorf("keeps %q", got)
		}
		m.Close()
		if len(f.table) != 0 {
			t.Errorf("router keeps %v", f.table)
		}
	})
}

func TestCloseBeforeStart(t *testing.T) {
	m := New(Config{UDPPort: 4000})
	m.Close()
	m.Start()
	m.Close()
}

func TestAnAdditionCutOffByCloseIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: slow(home)})
		time.Sleep(100 * time.Millisecond) // the request is under way
		m.Close()
		if got := f.took(); got != "pcp removes " {
			t.Errorf("router saw %q, want a removal", got)
		}
	})
}

func TestUnmappedPortsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newFake(t, map[Method]*fakeMethod{PCP: {absent: true}})
		time.Sleep(20 * time.Minute)
		f.mu.Lock()
		f.methods[PCP] = fast(home) // the owner has switched it on
		f.mu.Unlock()
		time.Sleep(lastRetry + lookTime)
		synctest.Wait()
		if len(m.State().Mappings) != 2 {
			t.Errorf("state %+v a minute later", m.State())
		}
		m.Close()
	})
}

func TestStateIsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newFake(t, map[Method]*fakeMethod{PCP: fast(home)})
		time.Sleep(10 * time.Second)
		s := m.State()
		s.Mappings[0].Transport = "spoilt"
		clear(s.Outcomes)
		again := m.State()
		if again.Mappings[0].Transport != "udp" || len(again.Outcomes) != 4 {
			t.Errorf("state %+v", again)
		}
		if got := maps.Clone(again.Outcomes); got[PCP] != Granted || got[NATPMP] != Silent {
			t.Errorf("outcomes %v", got)
		}
		m.Close()
	})
}
