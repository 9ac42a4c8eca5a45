package console

import (
	"bytes"
	"encoding/json"
	"math"
	"sync"
	"time"

	"porchlight/agent/api"
)

const (
	// feedEvery is the least time between two events.
	feedEvery = time.Second
	// checkedEvery is how far the time of the last check must move to be told
	// for its own sake: helpers confirm a verdict all the time.
	checkedEvery = time.Minute
	// maxStreams is how many pages may look at once; more are refused.
	maxStreams = 16
)

// feed asks for the status once a second while somebody looks, and hands each
// stream the newest one if it differs visibly from the last. A stream that
// has not taken the last event gets the newest in its place: events carry the
// whole status, so nothing is lost by it.
type feed struct {
	status func() api.Status
	build  string
	done   chan struct{}
	ended  chan struct{}
	wake   chan struct{} // holds one token after a stream was added
	once   sync.Once

	mu      sync.Mutex
	streams map[*stream]struct{}
	last    api.Status // what was sent last
	encoded []byte     // last as JSON
}

type stream struct{ next chan []byte }

func newFeed(status func() api.Status, build string) *feed {
	f := &feed{
		status: status, build: build,
		done: make(chan struct{}), ended: make(chan struct{}), wake: make(chan struct{}, 1),
		streams: make(map[*stream]struct{}),
	}
	go f.run()
	return f
}

func (f *feed) close() {
	f.once.Do(func() { close(f.done) })
	<-f.ended
}

// open adds a stream and returns the snapshot it begins with; nil if there
// are too many.
func (f *feed) open() (*stream, []byte) {
	now := f.status()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) >= maxStreams {
		return nil, nil
	}
	if len(f.streams) == 0 {
		f.remember(now)
	}
	s := &stream{next: make(chan []byte, 1)}
	f.streams[s] = struct{}{}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return s, f.encoded
}

func (f *feed) remove(s *stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.streams, s)
}

func (f *feed) run() {
	defer close(f.ended)
	for {
		select {
		case <-f.done:
			return
		case <-f.wake:
		}
		if !f.watch() {
			return
		}
	}
}

// watch publishes until nobody looks (true) or the feed closes (false).
func (f *feed) watch() bool {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.done:
			return false
		case <-tick.C:
		}
		if !f.publish(f.status()) {
			return true
		}
	}
}

// publish hands out the status if it changed; false if nobody looks.
func (f *feed) publish(now api.Status) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) == 0 {
		return false
	}
	if !changed(f.last, now) {
		return true
	}
	f.remember(now)
	for s := range f.streams {
		select { // take back what was not fetched
		case <-s.next:
		default:
		}
		s.next <- f.encoded
	}
	return true
}

// remember makes now what is sent. A status that JSON cannot hold (a rate that
// is not a number) is passed over: the one before stays.
func (f *feed) remember(now api.Status) {
	data, err := json.Marshal(now)
	if err != nil {
		return
	}
	f.last, f.encoded = now, data
}

// changed reports whether somebody looking would see a difference. Counters
// and round trips that moved by less than the page shows are no difference,
// nor are uptime and memory: else an idle device would talk all day.
func changed(last, now api.Status) bool {
	now.UptimeMS, now.RSSBytes = last.UptimeMS, last.RSSBytes
	if d := now.CheckedUnixMS - last.CheckedUnixMS; d >= 0 && d < checkedEvery.Milliseconds() {
		now.CheckedUnixMS = last.CheckedUnixMS
	}
	steadyTraffic(last, &now)
	now.Contacts = steadyContacts(last.Contacts, now.Contacts)
	now.Helpers = steadyHelpers(last.Helpers, now.Helpers)
	a, errA := json.Marshal(last)
	b, errB := json.Marshal(now)
	return errA != nil || errB != nil || !bytes.Equal(a, b)
}

func steadyTraffic(last api.Status, now *api.Status) {
	now.Traffic.SentBytes = steadyBytes(last.Traffic.SentBytes, now.Traffic.SentBytes)
	now.Traffic.ReceivedBytes = steadyBytes(last.Traffic.ReceivedBytes, now.Traffic.ReceivedBytes)
	if d := now.Traffic.RelayedBytes - last.Traffic.RelayedBytes; d >= 0 && d < 64<<10 {
		now.Traffic.RelayedBytes = last.Traffic.RelayedBytes
	}
	if now.Work.CPUMS/1000 == last.Work.CPUMS/1000 {
		now.Work.CPUMS = last.Work.CPUMS
	}
}

func steadyContacts(last, now []api.Contact) []api.Contact {
	if len(last) != len(now) {
		return now
	}
	out := append([]api.Contact(nil), now...)
	for i := range out {
		l, n := last[i], &out[i]
		if l.Address != n.Address {
			continue
		}
		n.RTTMS = steadyRTT(l.RTTMS, n.RTTMS)
		n.SentBytes = steadyBytes(l.SentBytes, n.SentBytes)
		n.ReceivedBytes = steadyBytes(l.ReceivedBytes, n.ReceivedBytes)
		if n.Online && l.Online { // "last seen" is not shown of somebody who is here
			n.LastSeenUnixMS = l.LastSeenUnixMS
		}
		n.Devices = steadyMembers(l.Devices, n.Devices)
	}
	return out
}

func steadyMembers(last, now []api.Member) []api.Member {
	if len(last) != len(now) {
		return now
	}
	out := append([]api.Member{}, now...)
	for i := range out {
		if last[i].Address == out[i].Address && last[i].Online && out[i].Online {
			out[i].LastSeenUnixMS = last[i].LastSeenUnixMS
		}
	}
	return out
}

func steadyHelpers(last, now []api.Helper) []api.Helper {
	if len(last) != len(now) {
		return now
	}
	out := append([]api.Helper(nil), now...)
	for i := range out {
		if last[i].Address == out[i].Address {
			out[i].RTTMS = steadyRTT(last[i].RTTMS, out[i].RTTMS)
		}
	}
	return out
}

// steadyRTT keeps the last round trip while the new one is within 2 ms or 15 %.
func steadyRTT(last, now float64) float64 {
	if (last > 0) == (now > 0) && math.Abs(now-last) <= max(2, last*0.15) {
		return last
	}
	return now
}

// steadyBytes keeps the last count until it grew by 1 % and by 1 kB.
func steadyBytes(last, now int64) int64 {
	if now >= last && now-last < max(1000, last/100) {
		return last
	}
	return now
}
