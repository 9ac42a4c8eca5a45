package netwatch

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// kernel is a source in a test's hands.
type kernel struct {
	signs  chan error
	closed chan struct{}

	mu    sync.Mutex
	state Snapshot
	err   error
	reads []time.Time
}

func newKernel(addrs ...string) *kernel {
	k := &kernel{signs: make(chan error, 100), closed: make(chan struct{})}
	k.set(addrs...)
	return k
}

func (k *kernel) set(addrs ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = Snapshot{}
	for _, a := range addrs {
		k.state.Addrs = append(k.state.Addrs, netip.MustParsePrefix(a))
	}
}

func (k *kernel) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

func (k *kernel) wait() error {
	select {
	case err := <-k.signs:
		return err
	case <-k.closed:
		return os.ErrClosed
	}
}

func (k *kernel) read() (Snapshot, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads = append(k.reads, time.Now())
	return k.state.clone(), k.err
}

func (k *kernel) Close() error { close(k.closed); return nil }

func (k *kernel) lastRead() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reads[len(k.reads)-1]
}

// inBubble runs f with a Watcher over k on synthetic time.
func inBubble(t *testing.T, k func() *kernel, f func(t *testing.T, w *Watcher, k *kernel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		kernel, w := k(), New(Config{})
		w.open = func() (source, error) { return kernel, nil }
		w.Start()
		f(t, w, kernel)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func one() *kernel { return newKernel("192.168.1.9/24") }

func pending(w *Watcher) bool {
	select {
	case <-w.Changed():
		return true
	default:
		return false
	}
}

func TestChangeIsReportedAfterAMomentOfSilence(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		start := time.Now()
		k.set("10.0.0.9/8")
		k.signs <- nil
		<-w.Changed()
		if took := time.Since(start); took != Quiet {
			t.Errorf("took %v", took)
		}
		if s := w.Snapshot(); len(s.Addrs) != 1 || s.Addrs[0].String() != "10.0.0.9/8" {
			t.Errorf("got %v", s)
		}
	})
}

func TestSignsCloseTogetherAreOneLook(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		start := time.Now()
		for range 5 {
			k.signs <- nil
			<-time.After(Quiet - time.Millisecond)
		}
		k.set("10.0.0.9/8")
		<-w.Changed()
		// The last sign came at 4×49 ms; silence is counted from there.
		if took := time.Since(start); took != 4*(Quiet-time.Millisecond)+Quiet {
			t.Errorf("took %v", took)
		}
		if c := w.Counts(); c != (Counts{Signs: 5, Looks: 2, Changes: 1}) {
			t.Errorf("counted %+v", c)
		}
	})
}

func TestEndlessSignsDoNotHideAChange(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		start := time.Now()
		k.set("10.0.0.9/8")
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				select {
				case <-tick.C:
					k.signs <- nil
				case <-stop:
					tick.Stop()
					return
				}
			}
		}()
		<-w.Changed()
		if took := time.Since(start); took < Patience || took > Patience+20*time.Millisecond {
			t.Errorf("took %v", took)
		}
		close(stop)
		<-done
	})
}

func TestWhatHasComeAndGoneIsNoChange(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		k.set()
		k.signs <- nil
		<-time.After(Quiet / 2)
		k.set("192.168.1.9/24")
		k.signs <- nil
		<-time.After(2 * Patience)
		if pending(w) || w.Counts().Looks != 2 {
			t.Errorf("counted %+v", w.Counts())
		}
	})
}

func TestChangesNobodyTookAreOne(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		for _, a := range []string{"10.0.0.1/8", "10.0.0.2/8", "10.0.0.3/8"} {
			k.set(a)
			k.signs <- nil
			<-time.After(time.Second)
		}
		if !pending(w) || pending(w) || w.Counts().Changes != 3 {
			t.Errorf("counted %+v", w.Counts())
		}
		if s := w.Snapshot(); s.Addrs[0].String() != "10.0.0.3/8" {
			t.Errorf("got %v", s)
		}
	})
}

func TestOverrunMeansReadingEverything(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		k.set("10.0.0.9/8")
		k.signs <- errOverrun
		<-w.Changed()
		if w.Counts().Overruns != 1 {
			t.Errorf("counted %+v", w.Counts())
		}
	})
}

func TestFailedLookIsRepeatedAndKeepsTheOldState(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		start := time.Now()
		k.set("10.0.0.9/8")
		k.fail(errMalformed)
		k.signs <- nil
		<-time.After(2*retryAfter + Quiet - time.Millisecond)
		synctest.Wait()
		if s := w.Snapshot(); pending(w) || s.Addrs[0].String() != "192.168.1.9/24" || w.Counts().Looks != 3 {
			t.Errorf("got %v, counted %+v", s, w.Counts())
		}
		k.fail(nil)
		<-w.Changed()
		if took := time.Since(start); took != 2*retryAfter+Quiet {
			t.Errorf("took %v", took)
		}
	})
}

func TestSourceThatFailsIsPolled(t *testing.T) {
	inBubble(t, one, func(t *testing.T, w *Watcher, k *kernel) {
		start := time.Now()
		k.set("10.0.0.9/8")
		k.signs <- errors.New("out of order")
		<-w.Changed()
		if took := time.Since(start); took != PollInterval+Quiet {
			t.Errorf("took %v", took)
		}
	})
}

func TestRefusedKernelIsPolled(t *testing.T) {
	for name, refuse := range map[string]func() (source, error){
		"at the socket": func() (source, error) { return nil, os.ErrPermission },
		"at the first list": func() (source, error) {
			k := one()
			k.fail(errMalformed)
			return k, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := one()
				go func() {
					for range 2 {
						<-time.After(PollInterval)
						k.signs <- nil
					}
				}()
				w := New(Config{})
				w.open = refuse
				w.poll = func() (source, error) { return k, nil }
				w.Start()
				w.Start() // does nothing
				k.set("10.0.0.9/8")
				<-w.Changed()
				if took := time.Since(k.lastRead()); took != 0 || w.Counts().Changes != 1 {
					t.Errorf("took %v, counted %+v", took, w.Counts())
				}
				<-time.After(PollInterval)
				synctest.Wait()
				if err := errors.Join(w.Close(), w.Close()); err != nil {
					t.Error(err)
				}
				if s := w.Snapshot(); len(s.Addrs) != 1 {
					t.Errorf("the last snapshot is %v", s)
				}
			})
		})
	}
}

func TestNothingIsKnown(t *testing.T) {
	w := New(Config{})
	refuse := func() (source, error) { return nil, os.ErrPermission }
	w.open, w.poll = refuse, refuse
	w.Start()
	if s := w.Snapshot(); len(s.Addrs)+len(s.Routes) != 0 {
		t.Errorf("got %v", s)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	late := New(Config{})
	if err := late.Close(); err != nil {
		t.Error(err)
	}
	late.Start()
	if late.Counts().Looks != 0 {
		t.Error("started after Close")
	}
}

func TestPollWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, start := newPoll(PollInterval), time.Now()
		if err := p.wait(); err != nil || time.Since(start) != PollInterval {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		ended := make(chan error)
		go func() { ended <- p.wait() }()
		synctest.Wait()
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSnapshot(t *testing.T) {
	addr := netip.MustParseAddr
	var s Snapshot
	for _, a := range []string{"192.168.1.9/24", "127.0.0.1/8", "::1/128", "fe80::1/64", "169.254.1.1/16", "224.0.0.1/4", "3fff::9/64", "192.168.1.9/24", "fd00::2/64"} {
		s.add(netip.MustParsePrefix(a))
	}
	s.addRoute(Route{addr("10.0.0.1"), "b0", 600})
	s.addRoute(Route{addr("fe80::1"), "a0", 100})
	s.addRoute(Route{addr("0.0.0.0"), "ppp0", 50})
	s.addRoute(Route{addr("10.0.0.1"), "c0", 600})
	before := s.clone()
	s.order()
	if got := len(s.Addrs); got != 3 {
		t.Errorf("addresses %v", s.Addrs)
	}
	want := []Route{{addr("0.0.0.0"), "ppp0", 50}, {addr("fe80::1%a0"), "a0", 100}, {addr("10.0.0.1"), "b0", 600}, {addr("10.0.0.1"), "c0", 600}}
	if !s.Equal(Snapshot{s.Addrs, want}) || s.Equal(before) {
		t.Errorf("routes %v", s.Routes)
	}
	if g := s.Gateways(); len(g) != 2 || g[0] != addr("fe80::1%a0") || g[1] != addr("10.0.0.1") {
		t.Errorf("gateways %v", g)
	}
}

func TestSnapshotHasLimits(t *testing.T) {
	var s Snapshot
	for i := range MaxAddrs + 1 {
		s.add(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
		s.addRoute(Route{Metric: uint32(i)})
	}
	if len(s.Addrs) != MaxAddrs || len(s.Routes) != MaxRoutes {
		t.Errorf("%d addresses, %d routes", len(s.Addrs), len(s.Routes))
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
