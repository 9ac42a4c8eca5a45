package join

import (
	"context"
	"time"

	"porchlight/nat"
)

const (
	// watchEvery is how often a way is looked at.
	watchEvery = time.Second
	// silence is how long a path may bring nothing while packets are sent
	// before another is looked for.
	silence = 6 * time.Second
)

// retryAfter are the pauses before a direct way is looked for again; the last
// one repeats.
var retryAfter = []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}

// better looks after one way until its last session ends.
func (j *Joiner) better(w *way) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	watch := newWatcher(w, j.silence)
	for {
		select {
		case <-tick.C:
		case <-w.done:
			return
		case <-j.ctx.Done():
			return
		}
		if j.cfg.Sessions.Current(w.to) != nil {
			j.lookAfter(w, &watch)
		}
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
		if w.called() {
			j.searchAgain(w)
		}
		*watch = newWatcher(w, j.silence)
	case w.called() && !w.usable() && now.After(watch.retry):
		// A session in trouble sends less and less, and so is never silent.
		j.searchAgain(w)
		*watch = newWatcher(w, j.silence)
	case w.called() && watch.due(w.info().Path, now):
		j.upgrade(w)
	}
}

// watcher decides when to look for another path.
type watcher struct {
	silence        time.Duration
	sent, received int64
	// since and sends tell when the first packet that nothing followed left,
	// and in how many looks more were sent since.
	since time.Time
	sends int
	tries int
	retry time.Time
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
	switch {
	case received != o.received:
		o.sends = 0
	case sent != o.sent:
		if o.sends == 0 {
			o.since = now
		}
		o.sends++
	}
	o.sent, o.received = sent, received
	return o.sends >= minSends && now.Sub(o.since) > o.silence
}

// due reports whether it is time to look for a direct way.
func (o *watcher) due(path string, now time.Time) bool {
	if path != nat.KindRelay.String() || now.Before(o.retry) {
		return false
	}
	o.tries = min(o.tries+1, len(retryAfter)-1)
	o.retry = now.Add(retryAfter[o.tries])
	return true
}

// upgrade looks for a direct way with an offer over the session itself.
func (j *Joiner) upgrade(w *way) {
	ctx, cancel := context.WithTimeout(j.ctx, searchLimit)
	defer cancel()
	if err := j.offer(ctx, w, w.to, func() {}); err != nil {
		j.cfg.Logger.Debug("still no direct path", "peer", w.to.Short(), "err", err)
	}
}

// searchAgain looks for any way, as for a new call.
func (j *Joiner) searchAgain(w *way) {
	peer := w.first()
	if peer == nil {
		return
	}
	at, via := j.hintsFor(w.to)
	select {
	case err := <-j.search(w, peer, at, via):
		if err != nil {
			j.cfg.Logger.Debug("no other path", "peer", w.to.Short(), "err", err)
		}
	case <-w.found():
	case <-j.ctx.Done():
	}
}
