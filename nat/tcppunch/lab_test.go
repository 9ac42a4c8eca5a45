package tcppunch

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/nat"
	"porchlight/nat/natlab"
	"porchlight/nat/probe"
)

// childEnv makes the test binary one end of a punch, inside a namespace.
const childEnv = "PORCHLIGHT_TCPPUNCH_END"

// relayed is how long a message takes through a relay, one way.
const relayed = 40 * time.Millisecond

// labTime bounds one pair.
const labTime = 15 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := beEnd(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// task is what an end is told first, one line of JSON; theirs comes as another.
type task struct {
	Servers    []netip.AddrPort
	Ours, Them probe.Credentials
	Asking     bool
	Forwarded  netip.Addr // the router forwards a port of this address, if any
}

// prepared is an end's first line, result its second.
type prepared struct {
	Local   Local
	Seconds float64
}

type result struct {
	Err      string
	Hopeless bool
	Seconds  float64
	SYNs     int
	Local    string
	Remote   string
	Said     string // by the asking end, over the connection
}

// beEnd runs one end: learn, tell, hear, punch, exchange a word.
func beEnd(in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), labTime)
	defer cancel()
	from, to := json.NewDecoder(in), json.NewEncoder(out)
	var t task
	if err := from.Decode(&t); err != nil {
		return err
	}
	cfg := Config{Servers: t.Servers}
	if t.Forwarded.IsValid() {
		if err := forward(ctx, &cfg, t.Forwarded); err != nil {
			return err
		}
	}
	start := time.Now()
	p, err := Prepare(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := to.Encode(prepared{p.Local(), time.Since(start).Seconds()}); err != nil {
		return err
	}
	var theirs Local
	if err := from.Decode(&theirs); err != nil {
		return err
	}
	start = time.Now()
	conn, err := p.Punch(ctx, theirs, t.Ours, t.Them, t.Asking)
	r := result{Seconds: time.Since(start).Seconds(), SYNs: p.SYNs(), Hopeless: errors.Is(err, ErrHopeless)}
	if err != nil {
		r.Err = err.Error()
		return to.Encode(r)
	}
	defer conn.Close()
	r.Local, r.Remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
	if r.Said, err = word(conn, t.Asking); err != nil {
		r.Err = err.Error()
	}
	return to.Encode(r)
}

// forward has the router forward a port.
func forward(ctx context.Context, cfg *Config, public netip.Addr) (err error) {
	if cfg.Port, err = freePort(); err != nil {
		return err
	}
	port := fmt.Sprint(cfg.Port)
	out, err := exec.CommandContext(ctx, "upnpc", "-r", port, "TCP").CombinedOutput()
	if err != nil {
		return fmt.Errorf("upnpc: %w: %s", err, out)
	}
	cfg.External = []netip.AddrPort{netip.AddrPortFrom(public, cfg.Port)}
	return nil
}

// word has the asking end say something random and the other echo it.
func word(conn net.Conn, asking bool) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	said := rand.Text()
	if asking {
		if _, err := io.WriteString(conn, said); err != nil {
			return "", err
		}
	}
	heard := make([]byte, len(said))
	if _, err := io.ReadFull(conn, heard); err != nil {
		return "", err
	}
	if !asking {
		_, err := conn.Write(heard)
		return string(heard), err
	}
	if string(heard) != said {
		return "", fmt.Errorf("echoed %q for %q", heard, said)
	}
	return said, nil
}

// world is a lab with servers and homes.
type world struct {
	lab     *natlab.Lab
	servers []netip.AddrPort // over IPv4, what is usual
	over6   []netip.AddrPort
	homes   map[natlab.Kind]*natlab.Host
}

const serverPort = 7000

func newWorld(t *testing.T, o natlab.Options, kinds ...natlab.Kind) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	lab, err := natlab.New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("see %s: %v", os.TempDir(), lab.Dump("", t.Name()))
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{lab: lab, homes: make(map[natlab.Kind]*natlab.Host)}
	for i := range 3 {
		w.addServer(t, fmt.Sprintf("server%d", i))
	}
	type built struct {
		h   *natlab.Host
		err error
	}
	homes := make(chan built, len(kinds))
	for _, k := range kinds {
		go func() {
			h, err := lab.Home(string(k), k)
			homes <- built{h, err}
		}()
	}
	for range kinds {
		b := <-homes
		if b.err != nil {
			t.Error(b.err)
			continue
		}
		w.homes[b.h.Kind()] = b.h
	}
	if t.Failed() {
		t.FailNow()
	}
	return w
}

// addServer adds a public device, which serves over IPv4 and IPv6.
func (w *world) addServer(t *testing.T, name string) {
	t.Helper()
	h, err := w.lab.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", serverPort))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
	w.servers = append(w.servers, netip.AddrPortFrom(h.Public(), serverPort))
	w.over6 = append(w.over6, netip.AddrPortFrom(h.Public6(), serverPort))
}

// serve runs the serving half as a public device does.
func serve(t *testing.T, l net.Listener) {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			f := nat.NewFramed(conn, nat.FrameConfig{HandleSTUN: func(b []byte, f *nat.Framed) {
				_ = f.WritePacket(respond(b, from))
			}})
			stop := context.AfterFunc(ctx, func() { f.Close() })
			running.Go(func() {
				defer stop()
				_ = f.Run(func([]byte) error { return nil })
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		running.Wait()
	})
}

// end is a child in a home.
type end struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func startEnd(ctx context.Context, h *natlab.Host, job task) (*end, error) {
	cmd := h.Command(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e := &end{cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out)}
	return e, e.in.Encode(job)
}

// outcome is what both ends of one punch report.
type outcome struct {
	askers, answerers prepared
	asker, answerer   result
}

// forwards is the address of which a home's router forwards ports, where nothing
// else helps.
func forwards(h *natlab.Host) netip.Addr {
	if h.Kind() == natlab.UPnPSymmetric {
		return h.Public()
	}
	return netip.Addr{}
}

// meet has two homes punch. The answering end begins after skew and the asking
// one relayed after time 0: with no skew that is as it should be.
func (w *world) meet(asking, answering *natlab.Host, skew time.Duration) (o outcome, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), labTime)
	defer cancel()
	one := probe.Credentials{Ufrag: rand.Text(), Pwd: rand.Text()}
	two := probe.Credentials{Ufrag: rand.Text(), Pwd: rand.Text()}
	a, err := startEnd(ctx, asking, task{w.servers, one, two, true, forwards(asking)})
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, a.cmd.Wait()) }()
	b, err := startEnd(ctx, answering, task{w.servers, two, one, false, forwards(answering)})
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, b.cmd.Wait()) }()
	if err := errors.Join(a.out.Decode(&o.askers), b.out.Decode(&o.answerers)); err != nil {
		cancel() // or the other would wait for more
		return o, err
	}
	told := make(chan error, 2)
	tell := func(e *end, l Local, after time.Duration) {
		timer := time.NewTimer(after)
		defer timer.Stop()
		<-timer.C
		told <- e.in.Encode(l)
	}
	go tell(b, o.askers.Local, max(0, skew))
	go tell(a, o.answerers.Local, relayed+max(0, -skew))
	if err := errors.Join(<-told, <-told); err != nil {
		cancel()
		return o, err
	}
	return o, errors.Join(a.out.Decode(&o.asker), b.out.Decode(&o.answerer))
}

// same says what is wrong with an outcome that should be one connection.
func (o outcome) same() error {
	switch {
	case o.asker.Err != "" || o.answerer.Err != "":
		return fmt.Errorf("asking end: %s; answering end: %s", o.asker.Err, o.answerer.Err)
	case o.asker.Said == "" || o.asker.Said != o.answerer.Said:
		return fmt.Errorf("not the same connection: %+v, %+v", o.asker, o.answerer)
	}
	return nil
}

// hopeless says what is wrong with an outcome that should need no packet.
func (o outcome) hopeless() error {
	if !o.asker.Hopeless || !o.answerer.Hopeless || o.asker.SYNs+o.answerer.SYNs > 0 {
		return fmt.Errorf("%+v, %+v", o.asker, o.answerer)
	}
	return nil
}

func (o outcome) String() string {
	return fmt.Sprintf("asking %.3f s, %d SYNs; answering %.3f s, %d SYNs; prepared in %.3f and %.3f s",
		o.asker.Seconds, o.asker.SYNs, o.answerer.Seconds, o.answerer.SYNs, o.askers.Seconds, o.answerers.Seconds)
}

// trial is one punch of several that run side by side.
type trial struct {
	name              string
	asking, answering *natlab.Host
	skew              time.Duration
}

// bothRoles makes trials of a pair, each in both roles.
func bothRoles(a, b *natlab.Host, repeats int, skew time.Duration) (trials []trial) {
	for range repeats {
		trials = append(trials,
			trial{fmt.Sprintf("%s asks, skew %s", a.Name(), skew), a, b, skew},
			trial{fmt.Sprintf("%s asks, skew %s", b.Name(), skew), b, a, skew})
	}
	return trials
}

func (w *world) run(t *testing.T, trials []trial, judge func(outcome) error) {
	var all sync.WaitGroup
	for _, c := range trials {
		all.Go(func() {
			o, err := w.meet(c.asking, c.answering, c.skew)
			if err == nil {
				err = judge(o)
			}
			if err != nil {
				t.Errorf("%s: %v; %s", c.name, err, o)
				return
			}
			t.Logf("%s: %s", c.name, o)
		})
	}
	all.Wait()
}

// TestBetweenHomes is the laboratory. The pairs with a home without UDP are those
// that no other program joins directly, but for public × udp-blocked.
func TestBetweenHomes(t *testing.T) {
	t.Parallel()
	repeats := 3
	keep := []natlab.Kind{natlab.Public, natlab.FullCone, natlab.AddressRestricted, natlab.PortRestricted,
		natlab.PortRestrictedReject, natlab.OpenInput, natlab.EIMNoPreserve, natlab.CGNAT, natlab.UPnP, natlab.PCP, natlab.UPnPSymmetric}
	if testing.Short() {
		repeats, keep = 1, []natlab.Kind{natlab.PortRestricted, natlab.PortRestrictedReject, natlab.OpenInput}
	}
	random := []natlab.Kind{natlab.Symmetric, natlab.CGNATSymmetric}
	w := newWorld(t, natlab.Options{}, slices.Concat(keep, random, []natlab.Kind{
		natlab.UDPBlocked, natlab.SymmetricSequential, natlab.IPv6Only, natlab.IPv6Firewall})...)
	blocked := w.homes[natlab.UDPBlocked]
	second, err := w.lab.Home("second-blocked", natlab.UDPBlocked)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("two homes without UDP", func(t *testing.T) {
		t.Parallel()
		w.run(t, bothRoles(blocked, second, repeats, 0), outcome.same)
	})
	for _, kind := range keep {
		t.Run("without UDP and "+string(kind), func(t *testing.T) {
			t.Parallel()
			w.run(t, bothRoles(blocked, w.homes[kind], repeats, 0), outcome.same)
		})
	}
	t.Run("without UDP and a router that counts", func(t *testing.T) {
		t.Parallel()
		for _, c := range bothRoles(blocked, w.homes[natlab.SymmetricSequential], repeats, 0) {
			w.run(t, []trial{c}, outcome.same) // one by one: each moves the count
		}
	})
	for _, kind := range random {
		t.Run("without UDP and "+string(kind)+", hopeless", func(t *testing.T) {
			t.Parallel()
			w.run(t, bothRoles(blocked, w.homes[kind], 1, 0), outcome.hopeless)
		})
	}
	// Who begins when is up to the relay; the ends must meet whatever it does.
	for _, kind := range []natlab.Kind{natlab.PortRestricted, natlab.PortRestrictedReject, natlab.OpenInput} {
		t.Run("without UDP and "+string(kind)+", one too early", func(t *testing.T) {
			t.Parallel()
			var trials []trial
			for _, skew := range []time.Duration{-time.Second, -300 * time.Millisecond, relayed, 300 * time.Millisecond, time.Second} {
				trials = append(trials, bothRoles(blocked, w.homes[kind], 1, skew)...)
			}
			w.run(t, trials, outcome.same)
		})
	}
	// Firewalls without translation, and no IPv4 in common.
	t.Run("over IPv6", func(t *testing.T) {
		t.Parallel()
		w := *w
		w.servers = append(w.over6, w.servers...)
		w.run(t, bothRoles(w.homes[natlab.IPv6Only], w.homes[natlab.IPv6Firewall], 2, 0), outcome.same)
	})
}

func TestBetweenHomesOverSlowAndLossyPaths(t *testing.T) {
	for name, o := range map[string]natlab.Options{
		"round trip of 2 ms":        {Latency: time.Millisecond},
		"round trip of 400 ms":      {Latency: 200 * time.Millisecond},
		"2 % lost, 20 ms of jitter": {Loss: 0.02, Jitter: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			others := []natlab.Kind{natlab.PortRestrictedReject, natlab.SymmetricSequential}
			w := newWorld(t, o, append(others, natlab.UDPBlocked)...)
			var trials []trial
			for _, kind := range others {
				trials = append(trials, bothRoles(w.homes[natlab.UDPBlocked], w.homes[kind], 1, 0)...)
			}
			w.run(t, trials, outcome.same)
		})
	}
}
