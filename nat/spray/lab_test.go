//go:build !mips

// These tests use real sockets, which user-mode emulation of big-endian MIPS
// does not offer.

package spray_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"porchlight/nat/natlab"
	"porchlight/nat/probe"
	"porchlight/nat/spray"
	natstun "porchlight/nat/stun"
)

// patience bounds every wait for something that should happen.
const patience = 10 * time.Second

// world is a lab with two STUN servers and one home of each kind asked for.
type world struct {
	lab     *natlab.Lab
	servers []netip.AddrPort
	homes   map[string]*natlab.Host
}

// known are the kinds of this laboratory among those named.
func known(kinds ...natlab.Kind) []natlab.Kind {
	return slices.DeleteFunc(kinds, func(k natlab.Kind) bool { return !slices.Contains(natlab.Kinds(), k) })
}

func newWorld(t testing.TB, kinds ...natlab.Kind) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	lab, err := natlab.New(t.Context(), natlab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("see %s/%s.*: %v", os.TempDir(), t.Name(), lab.Dump("", t.Name()))
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{lab: lab, homes: make(map[string]*natlab.Host)}
	for i := range 2 {
		w.serve(t, fmt.Sprintf("server-%d", i))
	}
	var building sync.WaitGroup
	homes, errs := make([]*natlab.Host, len(kinds)), make([]error, len(kinds))
	for i, k := range kinds {
		building.Go(func() { homes[i], errs[i] = lab.Home(fmt.Sprintf("%s-%d", k, i), k) })
	}
	building.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, home := range homes {
		w.homes[home.Name()] = home
	}
	return w
}

// serve adds a host with STUN servers at two ports.
func (w *world) serve(t testing.TB, name string) {
	t.Helper()
	h, err := w.lab.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	for port := uint16(3478); port < 3480; port++ {
		at := netip.AddrPortFrom(h.Public(), port)
		pc, err := h.ListenPacket(t.Context(), "udp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := natstun.NewServer(natstun.ServerConfig{Primary: pc, Rate: 1000, Burst: 1000})
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { server.Serve() })
		t.Cleanup(func() { server.Close(); serving.Wait() })
		w.servers = append(w.servers, at)
	}
}

// device is one end: a host with its shared socket.
type device struct {
	host    *natlab.Host
	servers []netip.AddrPort
	conn    *net.UDPConn
	mux     *natstun.Mux
	reading sync.WaitGroup
	plain   chan string // datagrams that are not STUN
	creds   probe.Credentials
}

type wire struct{ *net.UDPConn }

func (w wire) WriteSTUN(b []byte, to netip.AddrPort) error {
	_, err := w.WriteToUDPAddrPort(b, to)
	return err
}

func newDevice(t testing.TB, w *world, host *natlab.Host, name string) *device {
	t.Helper()
	d := &device{host: host, servers: w.servers, plain: make(chan string, 16),
		creds: probe.Credentials{Ufrag: name, Pwd: "a password of " + name + " and chance"}}
	var err error
	if d.conn, err = d.open(); err != nil {
		t.Fatal(err)
	}
	if d.mux, err = natstun.NewMux(wire{d.conn}, natstun.Config{}); err != nil {
		t.Fatal(err)
	}
	d.reading.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := d.conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if n > 0 && b[0] < 4 {
				d.mux.Handle(b[:n], from)
				continue
			}
			select {
			case d.plain <- string(b[:n]):
			default:
			}
		}
	})
	t.Cleanup(func() { d.conn.Close(); d.reading.Wait(); d.mux.Close() })
	return d
}

func (d *device) open() (*net.UDPConn, error) {
	pc, err := d.host.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(d.host.Addr(), 0).String())
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// opener opens the plan's sockets beforehand, as entering a namespace takes
// longer than opening a socket, and returns what hands them out.
func (d *device) opener(t testing.TB, plan spray.Plan) spray.Opener {
	t.Helper()
	if !plan.Opens {
		return nil
	}
	var conns []*net.UDPConn
	err := d.host.Do(func() error {
		for range plan.Sockets {
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.host.Addr(), 0)))
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	next := 0
	return func() (*net.UDPConn, error) {
		if next == len(conns) {
			return nil, errors.New("no more sockets")
		}
		next++
		return conns[next-1], nil
	}
}

// side measures the device's NAT as an agent would.
func (d *device) side(ctx context.Context) (spray.Side, error) {
	b, err := d.mux.Mapping(ctx, d.servers[1:3])
	if err != nil {
		return spray.Side{}, err
	}
	s := spray.Side{Mapping: b.Mapping, Mapped: b.Mapped, Sockets: spray.DefaultSockets()}
	if s.Hard() {
		return spray.Sample(ctx, d.open, d.servers, s)
	}
	return s, nil
}

// outcome is what became of one meeting.
type outcome struct {
	asker, answerer spray.Hit
	plan            spray.Plan // the asker's
	took            time.Duration
}

// meet runs a whole spray as two agents would that have a relayed session
// with 40 ms one way.
func meet(t testing.TB, asker, answerer *device) (outcome, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	sideA, err := asker.side(ctx)
	if err != nil {
		return outcome{}, err
	}
	begun := time.Now()
	relayed(ctx)
	sideB, err := answerer.side(ctx)
	if err != nil {
		return outcome{}, err
	}
	planB, err := spray.Decide(sideB, sideA, false)
	if err != nil {
		return outcome{}, err
	}
	planA, err := spray.Decide(sideA, sideB, true)
	if err != nil {
		return outcome{}, err
	}
	openA, openB := asker.opener(t, planA), answerer.opener(t, planB)
	var hits [2]spray.Hit
	var errs [2]error
	var both sync.WaitGroup
	start := func(i int, d, peer *device, plan spray.Plan, open spray.Opener, wait bool) {
		both.Go(func() {
			if wait {
				relayed(ctx)
			}
			hits[i], errs[i] = d.find(t, ctx, plan, peer.creds, open)
		})
	}
	start(1, answerer, asker, planB, openB, false)
	start(0, asker, answerer, planA, openA, true)
	both.Wait()
	took := time.Since(begun)
	if err := errors.Join(errs[:]...); err != nil {
		return outcome{plan: planA}, err
	}
	return outcome{hits[0], hits[1], planA, took}, talk(ctx, asker, answerer, hits[0], hits[1])
}

// relayed is the time that a message takes over the relay.
func relayed(ctx context.Context) {
	select {
	case <-time.After(40 * time.Millisecond):
	case <-ctx.Done():
	}
}

func (d *device) find(t testing.TB, ctx context.Context, plan spray.Plan, theirs probe.Credentials, open spray.Opener) (spray.Hit, error) {
	var run *spray.Run
	ready := make(chan struct{})
	endpoint, err := d.mux.Register(d.creds.Ufrag, func(b []byte, from netip.AddrPort) {
		<-ready
		run.Handle(b, from)
	})
	if err != nil {
		return spray.Hit{}, err
	}
	run, err = spray.New(spray.Config{Plan: plan, Ours: d.creds, Theirs: theirs, Shared: endpoint, Open: open})
	close(ready)
	if err != nil {
		return spray.Hit{}, err
	}
	t.Cleanup(func() { run.Close(); endpoint.Close() })
	hit, err := run.Find(ctx)
	time.AfterFunc(spray.Linger, func() { run.Close(); endpoint.Close() })
	return hit, err
}

// talk sends a datagram each way over the hits.
func talk(ctx context.Context, a, b *device, hitA, hitB spray.Hit) error {
	for _, way := range []struct {
		from, to   *device
		sent, recv spray.Hit
		text       string
	}{{a, b, hitA, hitB, "from the asker"}, {b, a, hitB, hitA, "from the answerer"}} {
		conn := way.sent.Conn
		if conn == nil {
			conn = way.from.conn
		}
		if _, err := conn.WriteToUDPAddrPort([]byte(way.text), way.sent.Remote); err != nil {
			return err
		}
		if got := way.to.hear(ctx, way.recv); got != way.text {
			return fmt.Errorf("heard %q, not %q", got, way.text)
		}
	}
	return nil
}

// hear returns the next datagram of a hit that is not STUN.
func (d *device) hear(ctx context.Context, hit spray.Hit) string {
	if hit.Conn == nil {
		select {
		case text := <-d.plain:
			return text
		case <-ctx.Done():
			return ""
		}
	}
	deadline, _ := ctx.Deadline()
	hit.Conn.SetReadDeadline(deadline)
	b := make([]byte, 2048)
	for {
		n, _, err := hit.Conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return ""
		}
		if n > 0 && b[0] >= 4 {
			return string(bytes.Clone(b[:n]))
		}
	}
}

// TestEveryWinnablePairMeetsBothWaysRound lets each easy kind meet each hard
// one. Homes take part in one spray at a time, as devices do.
func TestEveryWinnablePairMeetsBothWaysRound(t *testing.T) {
	easy := []natlab.Kind{natlab.AddressRestricted, natlab.PortRestricted, natlab.PortRestrictedReject,
		natlab.OpenInput, natlab.CGNAT}
	hard := known(natlab.Symmetric, natlab.SymmetricSequential, "cgnat-symmetric")
	row := []natlab.Kind{natlab.SymmetricSequential, natlab.SymmetricSequential}
	w := newWorld(t, slices.Concat(row, easy, hard, hard)...)
	free := make(map[natlab.Kind]chan string)
	for i, k := range slices.Concat(hard, hard) {
		if free[k] == nil {
			free[k] = make(chan string, 2)
		}
		free[k] <- fmt.Sprintf("%s-%d", k, len(row)+len(easy)+i)
	}
	var meeting sync.WaitGroup
	for i, k := range easy {
		meeting.Go(func() {
			for j := range hard {
				pool := free[hard[(i+j)%len(hard)]]
				mine, other := fmt.Sprintf("%s-%d", k, len(row)+i), <-pool
				w.try(t, mine, other)
				w.try(t, other, mine)
				pool <- other
			}
		})
	}
	meeting.Go(func() {
		one, two := "symmetric-sequential-0", "symmetric-sequential-1"
		w.try(t, one, two)
		w.try(t, two, one)
		random, other := <-free[natlab.Symmetric], <-free[natlab.Symmetric]
		w.expectHopeless(t, random, one)
		w.expectHopeless(t, random, other)
		free[natlab.Symmetric] <- random
		free[natlab.Symmetric] <- other
	})
	meeting.Wait()
}

// try lets two homes meet, with a second try: of a thousand birthdays one
// finds nothing.
func (w *world) try(t *testing.T, asker, answerer string) {
	t.Helper()
	t.Run(asker+" asks "+answerer, func(t *testing.T) {
		var got outcome
		var err error
		for range 2 {
			a, b := newDevice(t, w, w.homes[asker], "asker"), newDevice(t, w, w.homes[answerer], "answerer")
			if got, err = meet(t, a, b); !errors.Is(err, spray.ErrNoHit) {
				break
			}
			t.Log(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.2f s, packets %d and %d, sockets %d", got.plan.Method, got.took.Seconds(),
			got.asker.Probes, got.answerer.Probes, max(got.asker.Sockets, got.answerer.Sockets))
	})
}

func (w *world) expectHopeless(t *testing.T, asker, answerer string) {
	t.Helper()
	a, b := newDevice(t, w, w.homes[asker], "asker"), newDevice(t, w, w.homes[answerer], "answerer")
	if _, err := meet(t, a, b); !errors.Is(err, spray.ErrHopeless) {
		t.Errorf("%s and %s: %v", asker, answerer, err)
	}
}

// BenchmarkMeeting counts how often and how fast pairs meet. With -benchtime
// 20x each pair is tried twenty times, both ways round in turn.
func BenchmarkMeeting(b *testing.B) {
	for _, pair := range [][2]natlab.Kind{
		{natlab.PortRestricted, natlab.Symmetric},
		{natlab.OpenInput, natlab.Symmetric},
		{natlab.CGNAT, natlab.Symmetric},
		{natlab.PortRestrictedReject, natlab.SymmetricSequential},
		{natlab.SymmetricSequential, natlab.SymmetricSequential},
	} {
		b.Run(fmt.Sprintf("%s and %s", pair[0], pair[1]), func(b *testing.B) {
			var took []float64
			var probes []int
			w := newWorld(b, pair[0], pair[1])
			names := []string{fmt.Sprintf("%s-0", pair[0]), fmt.Sprintf("%s-1", pair[1])}
			for range b.N {
				slices.Reverse(names)
				asker, answerer := newDevice(b, w, w.homes[names[0]], "asker"), newDevice(b, w, w.homes[names[1]], "answerer")
				got, err := meet(b, asker, answerer)
				if err != nil {
					b.Logf("%s asks %s: %v", names[0], names[1], err)
					continue
				}
				took = append(took, got.took.Seconds())
				probes = append(probes, max(got.asker.Probes, got.answerer.Probes))
			}
			b.ReportMetric(float64(len(took))/float64(b.N), "met/try")
			if len(took) == 0 {
				return
			}
			slices.Sort(took)
			slices.Sort(probes)
			last := len(took) - 1
			b.ReportMetric(took[last/2], "s-median")
			b.ReportMetric(took[last], "s-worst")
			b.ReportMetric(float64(probes[last/2]), "packets-median")
			b.ReportMetric(float64(probes[last]), "packets-most")
		})
	}
}
