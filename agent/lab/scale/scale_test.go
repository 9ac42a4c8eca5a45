package scale

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// town is small enough for each test run.
const town = 300

// simulate runs some towns at once.
func simulate(t *testing.T, seeds ...uint64) []*Report {
	t.Helper()
	reports, errs := make([]*Report, len(seeds)), make([]error, len(seeds))
	var all sync.WaitGroup
	for i, seed := range seeds {
		all.Go(func() {
			cfg := Config{Devices: town, Seed: seed}
			cfg.Span = cfg.MinSpan()
			reports[i], errs[i] = Run(cfg)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return reports
}

// TestTown: devices find each other before and after 30 % left, nobody stays
// alone, and one seed is one history.
func TestTown(t *testing.T) {
	reports := simulate(t, 1, 1, 6)
	if a, b := reports[0].String(), reports[1].String(); a != b {
		t.Errorf("one seed gave two histories:\n%s\n%s", a, b)
	}
	if reports[0].Trace() == reports[2].Trace() {
		t.Error("two seeds gave one history")
	}
	for _, r := range reports[1:] {
		t.Logf("\n%v", r)
		r.check(t)
	}
}

func (r *Report) check(t *testing.T) {
	t.Helper()
	if r.unready > 0 {
		t.Errorf("%d devices have no registration or no record", r.unready)
	}
	if p := r.before; p.asked < town || p.found*100 < p.asked*99 {
		t.Errorf("%d of %d look-ups found a record, at least 99 %% should", p.found, p.asked)
	}
	for i, p := range r.after {
		if probeAt[i] <= time.Minute && probeAt[i] >= 30*time.Second && (p.asked == 0 || p.found*100 < p.asked*95) {
			t.Errorf("%v after many left %d of %d look-ups found a record, at least 95 %% should", probeAt[i], p.found, p.asked)
		}
	}
	for i, c := range r.alone {
		if censusAt[i] >= 2*time.Minute && c.none > 0 {
			t.Errorf("%v after many left %d of %d devices have no registration", censusAt[i], c.none, c.up)
		}
	}
	if r.public*100 < town*7 || r.private[forRegistration].packets < 3000 || r.world.conflicts > 0 {
		t.Errorf("%d are public, a private device sends %.0f packets an hour, %d records are in conflict",
			r.public, r.private[forRegistration].packets, r.world.conflicts)
	}
}

func TestRunRefuses(t *testing.T) {
	few := Config{Devices: 2 * contactsEach, Span: time.Hour}
	for name, test := range map[string]struct {
		cfg Config
		err error
	}{
		"too few":   {Config{Devices: few.Devices - 1, Span: time.Hour}, errLonely},
		"too short": {Config{Devices: 100, Span: Config{Devices: 100}.MinSpan() - 1}, ErrSpan},
	} {
		if _, err := Run(test.cfg); !errors.Is(err, test.err) {
			t.Errorf("%s: %v instead of %v", name, err, test.err)
		}
	}
	if _, err := newWorld(few); err != nil {
		t.Errorf("as many as needed: %v", err)
	}
}

// TestAcquaint: contacts are mutual, nobody's own, and never twice the same.
func TestAcquaint(t *testing.T) {
	w, err := newWorld(Config{Devices: town, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, d := range w.devices {
		seen := map[*device]bool{d: true}
		for _, c := range d.contacts {
			if seen[c.peer] || c.other.owner != c.peer || c.other.peer != d {
				t.Fatalf("device %d: wrong contact %d", d.id, c.peer.id)
			}
			seen[c.peer] = true
		}
		sum += len(d.contacts)
	}
	if mean := float64(sum) / town; mean < 0.9*contactsEach || mean > contactsEach {
		t.Errorf("%.1f contacts in the mean, %d are wanted", mean, contactsEach)
	}
}

func TestAllowance(t *testing.T) {
	a := newAllowance(2, 3)
	for i, want := range []time.Duration{0, 0, 0, 500 * time.Millisecond, time.Second} {
		if got := a.take(0); got != want {
			t.Errorf("number %d waits %v instead of %v", i, got, want)
		}
	}
	b := newAllowance(1, 1)
	if !b.try(0) || b.try(0) || !b.try(time.Second) {
		t.Error("one a second is not what is allowed")
	}
}

func TestClock(t *testing.T) {
	var c clock
	var got []int
	c.at(2, func() { got = append(got, 2) })
	c.at(1, func() { c.at(0, func() { got = append(got, 11) }); got = append(got, 1) })
	c.at(2, func() { got = append(got, 22) })
	c.at(9, func() { got = append(got, 9) })
	c.run(5)
	want := []int{1, 11, 2, 22}
	if len(got) != len(want) || c.now != 5 {
		t.Fatalf("%v at %d", got, c.now)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%v instead of %v", got, want)
		}
	}
}
