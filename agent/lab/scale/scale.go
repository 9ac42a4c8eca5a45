package scale

import (
	"errors"
	"time"
)

const (
	// settleIn is how long after the last start the devices are idle, leaveLast
	// how long before the end many leave, and probing how long before that
	// look-ups are made.
	settleIn  = 10 * time.Minute
	leaveLast = 10 * time.Minute
	probing   = 3 * time.Minute
	// leaving is how many of a hundred devices leave at once.
	leaving = 30
	// stormFor is how long packets are counted by the second.
	stormFor = 5 * time.Minute
	// tellEvery is how often progress is told.
	tellEvery = 10 * time.Minute
)

// probeAt is how long after many left look-ups are made.
var probeAt = []time.Duration{5 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute}

// censusAt is how long after many left it is counted who is registered nowhere.
var censusAt = []time.Duration{5 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}

// Config is what a simulation is made of.
type Config struct {
	// Devices is how many there are, 40 at least.
	Devices int
	// Seed decides everything that is left to chance: the same seed gives the
	// same Report.
	Seed uint64
	// Span is how much time passes; MinSpan at least.
	Span time.Duration
	// Progress is told every ten minutes of the simulation; nil if nobody asks.
	Progress func(at time.Duration)
}

// MinSpan is the shortest span that leaves room for all that is measured.
func (c Config) MinSpan() time.Duration {
	return c.arrivals() + settleIn + 5*time.Minute + probing + leaveLast
}

// arrivals is how long it takes until all have started.
func (c Config) arrivals() time.Duration {
	return max(time.Minute, time.Duration(c.Devices)*time.Minute/perMinute)
}

// ErrSpan says that too little time is simulated; see [Config.MinSpan].
var ErrSpan = errors.New("the span is too short for what is measured")

// Run simulates all devices and reports what they did.
func Run(cfg Config) (*Report, error) {
	if cfg.Span < cfg.MinSpan() {
		return nil, ErrSpan
	}
	w, err := newWorld(cfg)
	if err != nil {
		return nil, err
	}
	r := &Report{cfg: cfg}
	for i, d := range w.devices {
		w.at(cfg.arrivals()*time.Duration(i)/time.Duration(cfg.Devices), func() { w.start(d) })
	}
	for at := tellEvery; at < cfg.Span && cfg.Progress != nil; at += tellEvery {
		w.at(at, func() { cfg.Progress(at) })
	}
	leave := cfg.Span - leaveLast
	w.run(cfg.arrivals() + settleIn)
	r.takeBirths(w)
	w.idle(r, leave-probing)
	n := min(2000, cfg.Devices)
	r.before = w.probes(n, w.now, probing-15*time.Second)
	w.run(leave)
	w.leaveMany(r, min(500, n))
	w.run(cfg.Span)
	r.takeRecovery(w, leave)
	r.world = w
	return r, nil
}

// idle lets time pass and notes what each device spends in it.
func (w *world) idle(r *Report, until time.Duration) {
	from, before := w.now, w.sums()
	notes := make([]float64, len(w.devices))
	lives := make([]uint32, len(w.devices))
	for i, d := range w.devices {
		notes[i], lives[i] = d.notes, d.life
	}
	w.run(until)
	after := w.sums()
	r.takeIdle(w, before, after, notes, lives, until-from)
}

// leaveMany has some devices vanish at once, and plans what is asked of the
// rest afterwards.
func (w *world) leaveMany(r *Report, n int) {
	order := w.rng.Perm(len(w.devices))
	for _, i := range order[:len(order)*leaving/100] {
		w.vanish(w.devices[i])
	}
	w.storm = &storm{since: w.now, seconds: map[*device][]float64{}}
	for _, i := range order[len(order)*leaving/100:] {
		d := w.devices[i]
		d.recovered = -1
		if d.real() >= enoughRendezvous {
			d.recovered = w.now
		}
		if d.public {
			w.storm.seconds[d] = make([]float64, stormFor/time.Second)
		}
	}
	for _, at := range probeAt {
		r.after = append(r.after, w.probes(n, w.now+at, time.Second))
	}
	for _, at := range censusAt {
		w.after(at, func() { r.alone = append(r.alone, w.alone()) })
	}
}

// alone counts the devices that are up, and those of them that nobody can
// introduce.
func (w *world) alone() (a census) {
	for _, d := range w.devices {
		if !d.up {
			continue
		}
		a.up++
		switch d.real() {
		case 0:
			a.none++
		case 1:
			a.one++
		}
	}
	return a
}

// census counts devices by registrations that stand.
type census struct{ up, none, one int }
