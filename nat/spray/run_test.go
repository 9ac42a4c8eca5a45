package spray

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"porchlight/nat/probe"
)

// pairs are the pairs of NATs that can be joined, both ways round.
var pairs = [][2]natKind{
	{easyNAT, randomNAT}, {randomNAT, easyNAT},
	{easyNAT, byAddressNAT}, {byAddressNAT, easyNAT},
	{easyNAT, sequentialNAT}, {sequentialNAT, easyNAT},
	{sequentialNAT, sequentialNAT},
}

func TestBothEndsGetTheSamePairInAnyWeather(t *testing.T) {
	t.Parallel()
	const seeds = 5
	for _, w := range []struct {
		name string
		weather
		least int // finds among the seeds
	}{
		{"calm", weather{}, seeds - 1}, // birthday misses one in a thousand
		{"doubled and reordered", weather{twice: 0.5, jitter: 60 * time.Millisecond}, seeds - 1},
		{"a tenth lost", weather{loss: 0.1}, seeds - 1},
		{"a third lost, doubled and reordered", weather{0.33, 0.3, 60 * time.Millisecond}, seeds - 2},
	} {
		for _, pair := range pairs {
			t.Run(fmt.Sprintf("%s/%s asks %s", w.name, pair[0].name, pair[1].name), func(t *testing.T) {
				count, took := 0, []time.Duration{}
				for seed := range uint64(seeds) {
					inWorld(t, seed, w.weather, pair[0], pair[1], func(t *testing.T, a, b *end) {
						f := find(t, a, b, a.side(t, pair[0].mapping), b.side(t, pair[1].mapping))
						switch {
						case f.errs[0] == nil && f.errs[1] == nil:
							count++
							took = append(took, f.took)
							checkPair(t, a, b, f)
						case f.errs[0] == nil || f.errs[1] == nil:
							t.Errorf("one end only: %v", f.errs)
						case !errors.Is(errors.Join(f.errs[:]...), ErrNoHit):
							t.Error(f.errs)
						}
					})
				}
				if count < w.least {
					t.Errorf("%d of %d", count, seeds)
				}
				slices.Sort(took)
				t.Logf("%d of %d, median %v", count, seeds, took[len(took)/2])
			})
		}
	}
}

func TestPredictionBearsPortsTakenByOthers(t *testing.T) {
	t.Parallel()
	for ours := range 15 {
		for _, theirs := range []int{0, 3, 14 - ours} {
			if theirs < 0 || ours+theirs > 14 {
				continue
			}
			inWorld(t, 1, weather{}, sequentialNAT, sequentialNAT, func(t *testing.T, a, b *end) {
				sideA, sideB := a.side(t, sequentialNAT.mapping), b.side(t, sequentialNAT.mapping)
				for range ours {
					a.mapping(t)
				}
				for range theirs {
					b.mapping(t)
				}
				f := find(t, a, b, sideA, sideB)
				if err := errors.Join(f.errs[:]...); err != nil {
					t.Errorf("%d and %d ports taken: %v", ours, theirs, err)
					return
				}
				checkPair(t, a, b, f)
			})
		}
	}
}

func TestAWindowFindsARowThatMovedByHundreds(t *testing.T) {
	t.Parallel()
	for _, moved := range []int{0, 1, 31, 32, 33, 100, 300, 470, 1000, 1900} {
		inWorld(t, 1, weather{}, sequentialNAT, easyNAT, func(t *testing.T, a, b *end) {
			sideA, sideB := a.side(t, sequentialNAT.mapping), b.side(t, easyNAT.mapping)
			for range moved {
				a.mapping(t)
			}
			f := find(t, a, b, sideA, sideB)
			if err := errors.Join(f.errs[:]...); err != nil {
				t.Errorf("moved by %d: %v", moved, err)
				return
			}
			if moved < 470 && f.hits[1].Probes > 60 {
				t.Errorf("moved by %d: %d probes", moved, f.hits[1].Probes)
			}
			checkPair(t, a, b, f)
		})
	}
}

func TestRateAndNumberOfProbesAreKept(t *testing.T) {
	inWorld(t, 1, weather{loss: 1}, randomNAT, easyNAT, func(t *testing.T, a, b *end) {
		sideA, sideB := a.side(t, randomNAT.mapping), b.side(t, easyNAT.mapping)
		a.world.sent = nil // samples
		f := find(t, a, b, sideA, sideB)
		if !errors.Is(f.errs[0], ErrNoHit) || !errors.Is(f.errs[1], ErrNoHit) {
			t.Errorf("%v", f.errs)
		}
		sent := a.world.sent
		if len(sent) != MaxProbes {
			t.Errorf("%d probes left, not %d", len(sent), MaxProbes)
		}
		for i := range sent {
			if j := i + MaxRate/10 + maxBurst; j < len(sent) && sent[j]-sent[i] < 100*time.Millisecond {
				t.Fatalf("%d probes in %v", j-i, sent[j]-sent[i])
			}
		}
		if passes := a.world.lows / MaxSockets; a.world.lows%MaxSockets != 0 || passes < 2 || passes > 4 {
			t.Errorf("%d openers of low ttl", a.world.lows)
		}
		if f.took > 6*time.Second {
			t.Errorf("took %v", f.took)
		}
	})
}

func TestLowerLimitsAreObeyed(t *testing.T) {
	inWorld(t, 1, weather{loss: 1}, easyNAT, randomNAT, func(t *testing.T, a, b *end) {
		plan, err := Decide(a.side(t, easyNAT.mapping), b.side(t, randomNAT.mapping), true)
		if err != nil {
			t.Fatal(err)
		}
		a.world.sent = nil
		r := a.run(t, plan, b.creds)
		r.cfg.Rate, r.cfg.Probes = 10, 15
		begun := time.Now()
		if _, err := r.Find(t.Context()); !errors.Is(err, ErrNoHit) {
			t.Error(err)
		}
		if n := len(a.world.sent); n != 15 {
			t.Errorf("%d probes", n)
		}
		if took := time.Since(begun); took < 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		r.Close()
	})
}

func TestFindEndsWhenItIsToldTo(t *testing.T) {
	for _, row := range []struct {
		name string
		stop func(r *Run, cancel context.CancelFunc)
		want error
	}{
		{"by the context", func(_ *Run, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"by Close", func(r *Run, _ context.CancelFunc) { r.Close() }, net.ErrClosed},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, 1, weather{}, randomNAT, easyNAT, func(t *testing.T, a, b *end) {
				plan, err := Decide(a.side(t, randomNAT.mapping), b.side(t, easyNAT.mapping), true)
				if err != nil {
					t.Fatal(err)
				}
				r := a.run(t, plan, b.creds)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error)
				go func() {
					_, err := r.Find(ctx)
					ended <- err
				}()
				time.Sleep(time.Second)
				row.stop(r, cancel)
				if err := <-ended; !errors.Is(err, row.want) {
					t.Error(err)
				}
				if _, err := r.Find(t.Context()); !errors.Is(err, ErrUsed) && !errors.Is(err, net.ErrClosed) {
					t.Errorf("a second Find: %v", err)
				}
				if err := errors.Join(r.Close(), r.Close()); err != nil {
					t.Error(err)
				}
				if _, err := r.Find(t.Context()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Find after Close: %v", err)
				}
			})
		})
	}
}

func TestAnOutageBetweenHitAndChoiceIsBorne(t *testing.T) {
	inWorld(t, 3, weather{}, easyNAT, sequentialNAT, func(t *testing.T, a, b *end) {
		sideA, sideB := a.side(t, easyNAT.mapping), b.side(t, sequentialNAT.mapping)
		drop := a.world.memory.Drop
		var chose time.Time
		a.world.memory.Drop = func(p []byte, from, to netip.AddrPort) bool {
			if isChoice(p) {
				if chose.IsZero() {
					chose = time.Now()
				}
				return time.Since(chose) < 700*time.Millisecond
			}
			return drop(p, from, to)
		}
		f := find(t, a, b, sideA, sideB)
		if err := errors.Join(f.errs[:]...); err != nil {
			t.Fatal(err)
		}
		checkPair(t, a, b, f)
	})
}

// isChoice says whether a datagram has USE-CANDIDATE after the user name of
// the tests' answerer.
func isChoice(b []byte) bool {
	const after = headerSize + attrHeader + len("answerer:asker") + 2
	return len(b) > after+1 && b[1] == 1 && b[0] == 0 && b[after] == 0 && b[after+1] == 0x25
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	easy := Side{Mapping: easyNAT.mapping, Mapped: netip.MustParseAddrPort("8.8.1.1:5000")}
	hard := Side{Mapping: randomNAT.mapping, Mapped: netip.MustParseAddrPort("8.8.2.2:5000"), Sockets: 64}
	spraying, err := Decide(easy, hard, true)
	if err != nil {
		t.Fatal(err)
	}
	opening, err := Decide(hard, easy, true)
	if err != nil {
		t.Fatal(err)
	}
	good := Config{
		Plan: spraying, Shared: nowhere{},
		Ours: probe.Credentials{Ufrag: "a", Pwd: "x"}, Theirs: probe.Credentials{Ufrag: "b", Pwd: "y"},
		Open: func() (*net.UDPConn, error) { return nil, errors.New("none") },
	}
	for _, row := range []struct {
		name   string
		change func(*Config)
		want   error
	}{
		{"none", func(*Config) {}, nil},
		{"no plan", func(c *Config) { c.Plan = Plan{} }, ErrConfig},
		{"no shared socket", func(c *Config) { c.Shared = nil }, ErrConfig},
		{"opening", func(c *Config) { c.Plan, c.Shared = opening, nil }, nil},
		{"nothing to open with", func(c *Config) { c.Plan, c.Open = opening, nil }, ErrConfig},
		{"least sockets", func(c *Config) { c.Plan = opening; c.Sockets = MinSockets }, nil},
		{"too few sockets", func(c *Config) { c.Plan = opening; c.Sockets = MinSockets - 1 }, ErrConfig},
		{"most sockets", func(c *Config) { c.Plan = opening; c.Sockets = MaxSockets }, nil},
		{"too many sockets", func(c *Config) { c.Plan = opening; c.Sockets = MaxSockets + 1 }, ErrConfig},
		{"highest rate", func(c *Config) { c.Rate = MaxRate }, nil},
		{"higher rate", func(c *Config) { c.Rate = MaxRate + 1 }, ErrConfig},
		{"most probes", func(c *Config) { c.Probes = MaxProbes }, nil},
		{"more probes", func(c *Config) { c.Probes = MaxProbes + 1 }, ErrConfig},
		{"less than no probes", func(c *Config) { c.Probes = -1 }, ErrConfig},
		{"a private target", func(c *Config) { c.Target = netip.MustParseAddrPort("192.168.1.1:53") }, ErrConfig},
		{"a carrier's target", func(c *Config) { c.Target = netip.MustParseAddrPort("100.64.0.1:53") }, ErrConfig},
		{"a loopback target", func(c *Config) { c.Target = netip.MustParseAddrPort("127.0.0.1:53") }, ErrConfig},
		{"a multicast target", func(c *Config) { c.Target = netip.MustParseAddrPort("224.0.0.251:5353") }, ErrConfig},
		{"broadcast", func(c *Config) { c.Target = netip.MustParseAddrPort("255.255.255.255:53") }, ErrConfig},
		{"a mapped private target", func(c *Config) { c.Target = netip.MustParseAddrPort("[::ffff:10.0.0.1]:53") }, ErrConfig},
		{"IPv6", func(c *Config) { c.Target = netip.MustParseAddrPort("[2606::1]:53") }, ErrConfig},
		{"no target", func(c *Config) { c.Target = netip.AddrPort{} }, ErrConfig},
		{"no name", func(c *Config) { c.Ours.Ufrag = "" }, ErrCredentials},
		{"a name with a colon", func(c *Config) { c.Theirs.Ufrag = "a:b" }, ErrCredentials},
		{"one name", func(c *Config) { c.Theirs.Ufrag = c.Ours.Ufrag }, ErrCredentials},
		{"no key", func(c *Config) { c.Theirs.Pwd = "" }, ErrCredentials},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := good
			row.change(&cfg)
			r, err := New(cfg)
			if !errors.Is(err, row.want) {
				t.Fatalf("%v, not %v", err, row.want)
			}
			if r != nil {
				r.Close()
			}
		})
	}
}

// nowhere is a shared socket that loses everything.
type nowhere struct{}

func (nowhere) Send([]byte, netip.AddrPort) error { return nil }

func TestStrangersChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := probe.Credentials{Ufrag: "ours", Pwd: "x"}, probe.Credentials{Ufrag: "theirs", Pwd: "y"}
		easy := Side{Mapping: easyNAT.mapping, Mapped: netip.MustParseAddrPort("8.8.1.1:5000")}
		hard := Side{Mapping: randomNAT.mapping, Mapped: netip.MustParseAddrPort("8.8.2.2:5000"), Sockets: 64}
		plan, err := Decide(easy, hard, true)
		if err != nil {
			t.Fatal(err)
		}
		out := &tape{}
		r, err := New(Config{Plan: plan, Ours: ours, Theirs: theirs, Shared: out})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		peer, stranger := netip.MustParseAddrPort("8.8.2.2:7000"), netip.MustParseAddrPort("8.8.3.3:7000")

		right, _ := newWire(theirs, ours)
		wrongKey, _ := newWire(theirs, probe.Credentials{Ufrag: "ours", Pwd: "guess"})
		unknown, _ := newWire(theirs, probe.Credentials{Ufrag: "other", Pwd: "x"})
		made := func(w *wire, choice bool) []byte {
			b, err := w.ask(link{0, peer}, choice)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		unasked, _ := probe.Answer(made(newWireOrNil(ours, theirs), false), theirs)
		for name, d := range map[string]struct {
			b    []byte
			from netip.AddrPort
		}{
			"the right question from elsewhere": {made(right, false), stranger},
			"a wrong key":                       {made(wrongKey, false), peer},
			"an unknown name":                   {made(unknown, false), peer},
			"an answer to nothing":              {unasked, peer},
			"our own question":                  {made(r.wire, false), peer},
			"nothing":                           {nil, peer},
			"too long":                          {append(made(right, false), make([]byte, MaxProbe)...), peer},
		} {
			r.Handle(d.b, d.from)
			if len(out.sent) != 0 {
				t.Errorf("%s is answered", name)
				out.sent = nil
			}
		}
		if c := r.Counts(); c.Foreign != 6 || c.Forged != 1 || c.Answered != 0 || c.Heard != 0 {
			t.Errorf("%+v", c)
		}
		r.Handle(made(right, true), peer) // a choice to the one who chooses
		if len(out.sent) != 2 || len(out.sent[0]) > len(made(right, true)) {
			t.Errorf("%d packets: an answer and a question are due", len(out.sent))
		}
		r.Handle(made(right, false), peer)
		if len(out.sent) != 3 {
			t.Errorf("%d packets: a second question gets an answer only", len(out.sent))
		}
		select {
		case hit := <-r.found:
			t.Errorf("found %+v", hit)
		default:
		}
		reply, err := probe.Answer(out.sent[1], theirs)
		if err != nil {
			t.Fatal(err)
		}
		r.Handle(reply, netip.AddrPortFrom(peer.Addr(), 7001)) // from another port
		if c := r.Counts(); c.Heard != 0 {
			t.Error("an answer from another port is believed")
		}
		r.Handle(reply, peer)
		if hit := <-r.found; hit.Remote != peer || hit.Conn != nil {
			t.Errorf("found %+v", hit)
		}
	})
}

func newWireOrNil(ours, theirs probe.Credentials) *wire {
	w, _ := newWire(ours, theirs)
	return w
}

// tape is a shared socket that keeps what is sent.
type tape struct{ sent [][]byte }

func (s *tape) Send(b []byte, _ netip.AddrPort) error {
	s.sent = append(s.sent, append([]byte(nil), b...))
	return nil
}

func TestAChoiceIsToldEvenIfTheRunIsClosedAtOnce(t *testing.T) {
	inWorld(t, 1, weather{}, easyNAT, sequentialNAT, func(t *testing.T, a, b *end) {
		sideA, sideB := a.side(t, easyNAT.mapping), b.side(t, sequentialNAT.mapping)
		planA, errA := Decide(sideA, sideB, true)
		planB, errB := Decide(sideB, sideA, false)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		chooser, follower := a.run(t, planA, b.creds), b.run(t, planB, a.creds)
		followed := make(chan error, 1)
		go func() {
			_, err := follower.Find(t.Context())
			followed <- err
		}()
		if _, err := chooser.Find(t.Context()); err != nil {
			t.Error(err)
		}
		chooser.Close()
		if err := <-followed; err != nil {
			t.Error(err)
		}
		follower.Close()
	})
}
