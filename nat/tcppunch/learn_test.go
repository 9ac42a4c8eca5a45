package tcppunch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	pion "github.com/pion/stun/v2"

	"porchlight/nat"
	"porchlight/nat/ice"
	"porchlight/nat/stun"
)

func build(t testing.TB, setters ...pion.Setter) []byte {
	t.Helper()
	m, err := pion.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// respond answers as a public device does; nil if it does not.
func respond(b []byte, from netip.AddrPort) []byte {
	answer, err := stun.Answer(b, from)
	if err != nil {
		return nil
	}
	return answer
}

func TestParseAnswerRefuses(t *testing.T) {
	_, id := stun.Request()
	withID := pion.NewTransactionIDSetter(id)
	mapped := &pion.XORMappedAddress{IP: net.IPv4(44, 1, 2, 3).To4(), Port: 4000}
	good := build(t, withID, pion.BindingSuccess, mapped, pion.Fingerprint)
	if got, err := stun.ParseMapped(good, id); err != nil || got.String() != "44.1.2.3:4000" {
		t.Fatalf("%s, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"nothing":              {},
		"another transaction":  build(t, pion.NewTransactionIDSetter(stun.TransactionID{1}), pion.BindingSuccess, mapped),
		"an empty address":     build(t, withID, pion.BindingSuccess, pion.RawAttribute{Type: pion.AttrXORMappedAddress}),
		"a short address":      build(t, withID, pion.BindingSuccess, pion.RawAttribute{Type: pion.AttrXORMappedAddress, Value: []byte{0, 1, 0, 0, 1}}),
		"IPv6 of 4 bytes":      build(t, withID, pion.BindingSuccess, pion.RawAttribute{Type: pion.AttrXORMappedAddress, Value: []byte{0, 2, 0, 0, 1, 1, 1, 1}}),
		"port 0":               build(t, withID, pion.BindingSuccess, &pion.XORMappedAddress{IP: mapped.IP}),
		"no address":           build(t, withID, pion.BindingSuccess),
		"a request":            build(t, withID, pion.BindingRequest, mapped),
		"an error":             build(t, withID, pion.BindingError, pion.CodeServerError),
		"a cut answer":         good[:len(good)-4],
		"something after it":   append(bytes.Clone(good), 0, 0, 0, 0),
		"a packet of sessions": bytes.Repeat([]byte{0x41}, 100),
	} {
		if got, err := stun.ParseMapped(b, id); err == nil {
			t.Errorf("%s gives %s", name, got)
		}
	}
}

// hostile is a server that answers a request with whatever say makes of it.
func hostile(t *testing.T, say func(request []byte) []byte) net.Conn {
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		request, err := readFrame(far)
		if err == nil {
			_, _ = far.Write(say(request))
		}
	}()
	t.Cleanup(func() { near.Close(); far.Close(); <-done })
	return near
}

func TestQueryBearsHostileServers(t *testing.T) {
	from := netip.MustParseAddrPort("44.1.2.3:4000")
	frames := func(n int, size int, answer bool) func([]byte) []byte {
		return func(request []byte) (out []byte) {
			for range n {
				out = appendFrame(out, make([]byte, size))
			}
			if answer {
				out = appendFrame(out, respond(request, from))
			}
			return out
		}
	}
	for _, c := range []struct {
		name string
		say  func([]byte) []byte
		err  error
	}{
		{"an answer", frames(0, 0, true), nil},
		{"an answer behind as much as is skipped", frames(maxSkipped, 0, true), nil},
		{"an answer behind more than that", frames(maxSkipped+1, 0, true), errFrame},
		{"the largest frame", frames(1, maxFrame, true), nil},
		{"a larger frame", frames(1, maxFrame+1, true), errFrame},
		{"an endless frame", func([]byte) []byte { return bytes.Repeat([]byte{0xff}, 1<<16) }, errFrame},
		{"the request", func(b []byte) []byte { return bytes.Repeat(appendFrame(nil, b), maxSkipped+1) }, errFrame},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := hostile(t, c.say)
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			got, err := query(conn)
			if !errors.Is(err, c.err) || err == nil && got != from {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

func samplesOf(port uint16, texts ...string) (out []sample) {
	for i, s := range texts {
		if s == "" {
			continue // a connection that was not answered
		}
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{44, 0, 0, byte(i + 1)}), 7000)
		local := netip.AddrPortFrom(netip.MustParseAddr("192.168.1.2"), port)
		out = append(out, sample{turn: i, server: server, local: local, mapped: netip.MustParseAddrPort(s)})
	}
	return out
}

func TestJudge(t *testing.T) {
	const port = 1000
	const a, b = "44.9.9.9:5000", "44.9.9.9:5001"
	for _, c := range []struct {
		name    string
		mapped  []string
		mapping stun.Dependence
		last    uint16
		delta   int
	}{
		{"one server", []string{a}, stun.Unknown, 0, 0},
		{"two agree", []string{a, a}, stun.EndpointIndependent, 0, 0},
		{"two agree and one lies", []string{b, a, a}, stun.EndpointIndependent, 0, 0},
		{"no router", []string{"192.168.1.2:1000", "192.168.1.2:1000"}, stun.None, 0, 0},
		{"two differ", []string{a, b}, stun.AddressAndPortDependent, 0, 0},
		{"three count", []string{a, b, "44.9.9.9:5002"}, stun.AddressAndPortDependent, 0, 0},
		{"four count", []string{a, b, "44.9.9.9:5002", "44.9.9.9:5003"}, stun.AddressAndPortDependent, 5003, 1},
		{"four count, two silent", []string{a, "", "44.9.9.9:5002", "44.9.9.9:5003", "44.9.9.9:5004", ""}, stun.AddressAndPortDependent, 5005, 1},
		{"down by two", []string{a, "44.9.9.9:4998", "44.9.9.9:4996", "44.9.9.9:4994"}, stun.AddressAndPortDependent, 4994, -2},
		{"the largest step", []string{a, "44.9.9.9:5032", "44.9.9.9:5064", "44.9.9.9:5096"}, stun.AddressAndPortDependent, 5096, 32},
		{"a larger step", []string{a, "44.9.9.9:5033", "44.9.9.9:5066", "44.9.9.9:5099"}, stun.AddressAndPortDependent, 0, 0},
		{"with others in between", []string{a, "44.9.9.9:5004", "44.9.9.9:5006", "44.9.9.9:5012"}, stun.AddressAndPortDependent, 5012, 2},
		{"up and down", []string{a, b, "44.9.9.9:5002", "44.9.9.9:4999"}, stun.AddressAndPortDependent, 0, 0},
		{"several outer addresses", []string{a, b, "44.9.9.9:5002", "44.9.9.8:5003"}, stun.AddressAndPortDependent, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, ok := judge(samplesOf(port, c.mapped...), port, len(c.mapped))
			if !ok || l.Mapping != c.mapping || l.Last != c.last || l.Delta != c.delta {
				t.Errorf("%+v", l)
			}
			if err := l.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// One server asked twice is no second opinion, and neither is another port.
func TestAgreeingNeedsTwoServersAndThePort(t *testing.T) {
	s := samplesOf(1000, "44.9.9.9:5000", "44.9.9.9:5000")
	if _, ok := agreed(s, 2000); ok {
		t.Error("samples of another port count")
	}
	s[1].server = netip.AddrPortFrom(s[0].server.Addr(), 7001)
	if _, ok := agreed(s, 1000); ok {
		t.Error("one server counts twice")
	}
}

func TestTheFamilyThatCanBeMetGoesFirst(t *testing.T) {
	l := &learner{port: 1000, turns: 4, samples: samplesOf(1000, "44.9.9.9:5000", "44.9.9.9:6000")}
	for i := range 2 {
		l.samples = append(l.samples, sample{turn: 2 + i,
			server: netip.AddrPortFrom(netip.MustParseAddr("2001:db9::1").Next(), uint16(i)),
			local:  netip.MustParseAddrPort("[2001:db9::9]:1000"), mapped: netip.MustParseAddrPort("[2001:db9::9]:1000")})
	}
	l.samples[3].server = netip.MustParseAddrPort("[2001:db9::5]:7000")
	got := l.describe()
	if got.hopeless() || got.Mapping != stun.None || got.Mapped[0].Addr().Is4() {
		t.Errorf("%+v", got)
	}
}

// loopback allows what tests need.
var loopback = ice.Filter{Loopback: true}

// startServer runs a server on a loopback address.
func startServer(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp4", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestPrepareLearnsWhereThePortIs(t *testing.T) {
	servers := []netip.AddrPort{startServer(t, "127.0.0.1"), startServer(t, "127.0.0.2")}
	p, err := Prepare(t.Context(), Config{Servers: servers, Filter: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p.Port())
	if l := p.Local(); l.Mapping != stun.None || len(l.Mapped) != 1 || l.Mapped[0] != want {
		t.Errorf("%+v, port %d", l, p.Port())
	}
}

func TestPrepareUsesThePortGiven(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	forwarded := netip.MustParseAddrPort("44.1.2.3:444")
	cfg := Config{Servers: []netip.AddrPort{startServer(t, "127.0.0.1")}, Port: port, External: []netip.AddrPort{forwarded}, Filter: loopback}
	p, err := Prepare(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if l := p.Local(); p.Port() != port || l.Mapping != stun.Unknown || l.Mapped[0] != forwarded || l.Mapped[1].Port() != port {
		t.Errorf("%+v, port %d", l, p.Port())
	}
}

func TestPrepareFailsInTime(t *testing.T) {
	mute, err := net.Listen("tcp4", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	dead, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	muted := mute.Addr().(*net.TCPAddr).AddrPort()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		servers []netip.AddrPort
		filter  ice.Filter
	}{
		{"no servers", t.Context(), nil, loopback},
		{"no server that may be asked", t.Context(), []netip.AddrPort{muted}, ice.Filter{}},
		{"a server that says nothing", t.Context(), []netip.AddrPort{muted}, loopback},
		{"a server that is not there", t.Context(), []netip.AddrPort{netip.AddrPortFrom(muted.Addr(), dead)}, loopback},
		{"no time", ended, []netip.AddrPort{startServer(t, "127.0.0.1")}, loopback},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			p, err := Prepare(c.ctx, Config{Servers: c.servers, Filter: c.filter})
			if !errors.Is(err, ErrNoServer) {
				t.Errorf("%v, %v", p, err)
			}
			if took := time.Since(start); took > SlowLearnTime+time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// The mapping lives as long as the connection to the server.
func TestConnectionToServerIsKeptUntilClose(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	answered := make(chan struct{})
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		f := nat.NewFramed(conn, nat.FrameConfig{HandleSTUN: func(b []byte, f *nat.Framed) {
			_ = f.WritePacket(respond(b, from))
			close(answered)
		}})
		ended <- f.Run(func([]byte) error { return nil })
	}()
	p, err := Prepare(t.Context(), Config{Servers: []netip.AddrPort{l.Addr().(*net.TCPAddr).AddrPort()}, Filter: loopback})
	if err != nil {
		t.Fatal(err)
	}
	<-answered
	select {
	case err := <-ended:
		t.Fatalf("ended early: %v", err)
	default:
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	request, id := stun.Request()
	f.Add(respond(request, netip.MustParseAddrPort("44.1.2.3:4000")))
	f.Add(build(f, pion.NewTransactionIDSetter(id), pion.BindingSuccess, pion.RawAttribute{Type: pion.AttrXORMappedAddress}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 20 {
			copy(id[:], b[8:20]) // so that the fuzzer need not find it
		}
		got, err := stun.ParseMapped(b[:len(b):len(b)], id)
		if err == nil && (!got.IsValid() || got.Port() == 0) {
			t.Errorf("%s", got)
		}
	})
}
