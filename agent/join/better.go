package join

import (
	"context"
	"sync"
	"time"

	"porchlight/nat"
)

const (
	// watchIdle and watchBusy are how often a way is looked at, without and
	// with packets on it.
	watchIdle = time.Second
	watchBusy = 200 * time.Millisecond
	// silence is how long a path may bring nothing while packets are sent
	// before another is looked for.
	silence = 2 * time.Second
	// hush is how long a path may bring nothing, while packets are sent or where
	// many came before, until we look whether our own address is another.
	hush = 500 * time.Millisecond
	// flowing is how many packets in one busy look are many.
	flowing = 20
	// refreshEvery is the least time between two such looks.
	refreshEvery = 3 * time.Second
	// maxMoves is how many ways are looked for at once after a move.
	maxMoves = 4
)

// retryAfter are the pauses before a direct way is looked for again; the last
// one repeats.
var retryAfter = []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}

// retryHopeless is the pause where nothing direct can exist as the routers are:
// somebody may switch on UPnP.
const retryHopeless = 10 * time.Minute

// better looks after one way until its last session ends.
func (j *Joiner) better(w *way) {
	watch := newWatcher(w, j.silence)
	next := time.NewTimer(watchIdle)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-w.done:
			return
		case <-j.ctx.Done():
			return
		}
		pause := watchIdle
		if j.cfg.Sessions.Current(w.to) != nil {
			j.lookAfter(w, &watch)
			if watch.busy {
				pause = watchBusy
			}
		}
		next.Reset(pause)
	}
}

// lookAfter does for a way what is due at this moment. Both sides forget a
// silent path, or the one that is called would refuse a relayed path for it;
// who called looks for another. Two that called each other both do.
func (j *Joiner) lookAfter(w *way, watch *watcher) {
	now := time.Now()
	silent, heard := watch.watch(w, now)
	if heard {
		w.noteHeard(now)
		w.regain()
	}
	switch {
	case silent:
		j.cfg.Logger.Info("path fell silent", "peer", w.to.Short())
		w.lose()
		j.refresh()
		if w.called() {
			j.searchAgain(w)
		}
		*watch = newWatcher(w, j.silence)
	case w.called() && !w.usable() && now.After(watch.retry):
		// A session in trouble sends less and less, and so is never silent.
		j.searchAgain(w)
		*watch = newWatcher(w, j.silence)
	case watch.hushed(now) && j.readdressed(now):
		// Our router has another address: nobody could tell us on the old way.
		j.cfg.Logger.Info("our address outside has changed", "peer", w.to.Short())
		w.lose()
		j.searchAgain(w)
		*watch = newWatcher(w, j.silence)
	case w.called() && w.relayedOrFramed() && !w.isUpgrading() && j.wanted(w):
		network := j.cfg.Situation.Network()
		if watch.changed(network) || watch.due(w.improvable(network.NoUDP), w.info().Hopeless, now) {
			j.upgrade(w)
		}
	}
}

// wantedFor is how long after its last use a session is worth a search for a
// better path. The searches use it, too: without an end it would never rest.
const wantedFor = 90 * time.Second

// wanted reports whether somebody uses the session, or did lately.
func (j *Joiner) wanted(w *way) bool {
	s := j.cfg.Sessions.Current(w.to)
	return s != nil && s.Idle() < wantedFor
}

// refreshLimit ends the question how the world sees us now.
const refreshLimit = time.Second

// refresh asks how the world sees us now, and lets the rendezvous know.
func (j *Joiner) refresh() {
	ctx, cancel := context.WithTimeout(j.ctx, refreshLimit)
	defer cancel()
	j.cfg.Situation.Refresh(ctx)
}

// readdressed asks how the world sees us now and reports whether that is
// another address than before.
func (j *Joiner) readdressed(now time.Time) bool {
	j.mu.Lock()
	recent := now.Sub(j.refreshed) < refreshEvery
	if !recent {
		j.refreshed = now
	}
	j.mu.Unlock()
	if recent {
		return false
	}
	before := j.cfg.Situation.Network().Public
	j.refresh()
	after := j.cfg.Situation.Network().Public
	return before.IsValid() && after.IsValid() && after != before
}

// Moved says that addresses or routes of this machine have changed: what was
// learnt about the way out is void, and all ways are looked for again. Packets
// go on along the old ones until then.
func (j *Joiner) Moved() {
	j.cfg.Socket.ForgetLocal()
	j.start(func() {
		j.refresh()
		j.mu.Lock()
		var all []*way
		for _, w := range j.ways {
			all = append(all, w)
		}
		j.mu.Unlock()
		var searching sync.WaitGroup
		slots := make(chan struct{}, maxMoves)
		for _, w := range all {
			if j.cfg.Sessions.Current(w.to) == nil {
				continue
			}
			slots <- struct{}{}
			searching.Go(func() {
				defer func() { <-slots }()
				w.lose()
				j.searchAgain(w)
			})
		}
		searching.Wait()
	})
}

// watcher decides when to look for another path.
type watcher struct {
	silence        time.Duration
	sent, received int64
	// since and sends tell when the first packet that nothing followed left,
	// and in how many looks more were sent since.
	since time.Time
	sends int
	// came is when packets last came, flowed whether they were many, and asked
	// whether hushed was true since.
	came   time.Time
	flowed bool
	asked  bool
	// busy says that packets moved in the last look, or wait for an answer.
	busy  bool
	tries int
	retry time.Time
	// kind is what our own network was like in the last look.
	kind *networkKind
}

// networkKind is what of a Network decides which methods there are.
type networkKind struct {
	mapping    string
	noUDP, tcp bool
}

// changed reports whether our own network is of another kind than in the last
// look: what was hopeless may be no more.
func (o *watcher) changed(n Network) bool {
	kind := networkKind{n.Mapping, n.NoUDP, len(n.TCP) > 0}
	before := o.kind
	o.kind = &kind
	return before != nil && *before != kind
}

// minSends tells a dead path from an idle one, where a last acknowledgement
// is followed by nothing.
const minSends = 3

func newWatcher(w *way, silence time.Duration) watcher {
	o := watcher{silence: silence, retry: time.Now().Add(retryAfter[0])}
	o.sent, o.received = w.traffic()
	return o
}

// watch reports whether packets are sent and none have come for a while, and
// whether some came since the last look.
func (o *watcher) watch(w *way, now time.Time) (silent, heard bool) {
	sent, received := w.traffic()
	heard = received > o.received
	return o.look(sent, received, now), heard
}

func (o *watcher) look(sent, received int64, now time.Time) bool {
	o.busy = sent != o.sent || received != o.received
	switch {
	case received != o.received:
		o.sends = 0
		o.came, o.flowed, o.asked = now, received-o.received >= flowing, false
	case sent != o.sent:
		if o.sends == 0 {
			o.since = now
		}
		o.sends++
	}
	o.busy = o.busy || o.sends > 0 || o.flowed && !o.asked
	o.sent, o.received = sent, received
	return o.sends >= minSends && now.Sub(o.since) > o.silence
}

// hushed reports, once, that a path which carried something brings nothing. Who
// only receives sends nothing that could go unanswered, so silence after many
// packets counts too.
func (o *watcher) hushed(now time.Time) bool {
	unanswered := o.sends >= 2 && now.Sub(o.since) >= hush
	dried := o.flowed && now.Sub(o.came) >= hush
	if o.asked || !unanswered && !dried {
		return false
	}
	o.asked = true
	return true
}

// due reports whether it is time to look for a better way.
func (o *watcher) due(improvable, hopeless bool, now time.Time) bool {
	if !improvable || now.Before(o.retry) {
		return false
	}
	o.tries = min(o.tries+1, len(retryAfter)-1)
	pause := retryAfter[o.tries]
	if hopeless {
		pause = retryHopeless
	}
	o.retry = now.Add(pause)
	return true
}

// searchAgain looks for any way, as for a new call.
func (j *Joiner) searchAgain(w *way) {
	at, via := j.hintsFor(w.to)
	select {
	case err := <-j.search(w, at, via):
		if err != nil {
			j.cfg.Logger.Debug("no other path", "peer", w.to.Short(), "err", err)
		}
	case <-w.found():
	case <-j.ctx.Done():
	}
}

// improvable reports whether a better path than the present one may exist:
// direct is better than relayed, and a datagram better than a byte stream,
// which delivers nothing while one segment is missing. But without UDP on
// either side a byte stream is the best there is.
func (w *way) improvable(noUDP bool) bool {
	if !w.relayedOrFramed() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.route.path.Kind == nat.KindRelay || !noUDP && !w.theirs.NoUDP
}

// relayedOrFramed reports whether the path is anything but direct datagrams.
func (w *way) relayedOrFramed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, framed := w.route.path.Carrier.(*nat.Framed)
	return w.route.path.Kind == nat.KindRelay || framed
}
