package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/fx"

	"porchlight/agent/beacon"
	"porchlight/agent/identity"
	"porchlight/agent/people"
	"porchlight/agent/reach"
	"porchlight/agent/record"
)

const (
	// rosterEvery is how often the lists of contacts' devices are asked anew,
	// rosterAgain the pause after one was not found, rosterSoon after one that is
	// said to be there was not got.
	rosterEvery = 6 * time.Hour
	rosterAgain = 5 * time.Minute
	rosterSoon  = 15 * time.Second
	// lookAgain is how often it is looked for what is due without any event.
	lookAgain = time.Minute
)

// circle keeps what people know of each other current: lists of devices, and
// who is told what when something changes.
type circle struct {
	*lookers
	home     *household
	presence *people.Presence
	requests *people.Requests
	lan      *beacon.Beacon
	keeper   *reach.Keeper
	post     *post
	clock    *clock
	changed  chan struct{} // the contacts changed

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	asked   map[identity.Address]time.Time // when a list was asked for, or told
}

// startCircle begins after everything that it tells.
func startCircle(lc fx.Lifecycle, l *lookers, home *household, presence *people.Presence, requests *people.Requests, lan *beacon.Beacon,
	keeper *reach.Keeper, post *post, wall *clock) {
	c := &circle{
		lookers: l, home: home, presence: presence, requests: requests, lan: lan, keeper: keeper, post: post, clock: wall,
		changed: make(chan struct{}, 1),
		asked:   map[identity.Address]time.Time{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	l.book.Use(ownership{l.owners}, func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	})
	lc.Append(fx.StartStopHook(
		func() { c.running.Go(c.run); c.running.Go(c.announce) },
		func() { c.cancel(); c.running.Wait() },
	))
}

// announce tells contacts of this device as soon as it can be called.
func (c *circle) announce() {
	select {
	case <-c.keeper.Ready():
	case <-time.After(readyLimit):
		// Devices in the same network are called without any rendezvous.
	case <-c.ctx.Done():
		return
	}
	c.presence.Announce()
	c.requests.Retry()
}

// readyLimit is how long a device waits for a rendezvous before it tells
// whoever it reaches without one that it is there.
const readyLimit = 5 * time.Second

// run waits for changes.
func (c *circle) run() {
	version, mine := c.owners.Version(c.owners.Owner()), c.owners.Owner()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	there := map[identity.Address]bool{}
	for {
		lists, states := c.owners.Changed(), c.presence.Changed()
		now := c.owners.Owner()
		if v := c.owners.Version(now); v != version || now != mine {
			version, mine = v, now
			c.spread()
		}
		c.renew()
		c.look(time.Now())
		there = c.deliver(there)
		select {
		case <-lists:
			c.known()
		case <-c.changed:
			c.known()
		case <-states:
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
	}
}

// renew signs the owner's list in advance again, before that runs out and when
// the clock was not known the last time.
func (c *circle) renew() {
	own := c.owners.Own()
	if !own.HoldsKey || c.owners.Owner().IsZero() {
		return
	}
	now, known := c.clock.now()
	signed, err := record.ParsePresigned(c.owners.Presigned())
	if !known {
		return
	}
	first, end := signed.Periods()
	period := record.PeriodAt(own.Owner, now)
	if err == nil && period >= first && period+renewBefore < end {
		return
	}
	if err := c.owners.Renew(); err != nil {
		c.log.Warn("the list of your devices could not be signed in advance", "err", err)
		return
	}
	c.spread()
}

// deliver has messages brought to devices that were not on-line before, and
// returns which are now.
func (c *circle) deliver(before map[identity.Address]bool) map[identity.Address]bool {
	now := map[identity.Address]bool{}
	for _, a := range c.home.addresses() {
		if now[a] = c.presence.State(a).Online; now[a] && !before[a] {
			c.post.mail.Came(a)
		}
	}
	return now
}

// known tells everybody who keeps a list of devices that it is another.
func (c *circle) known() {
	c.presence.Refresh()
	if c.lan != nil {
		c.lan.KnownChanged()
	}
	c.requests.Retry()
}

// spread tells those who are there that the owner's list is another; the others
// learn it when they come, or from the directory.
func (c *circle) spread() {
	c.dir.Changed()
	c.presence.Announce()
	var to []identity.Address
	for _, p := range c.home.peers() {
		if c.presence.State(p.Address).Online {
			to = append(to, p.Address)
		}
	}
	c.tell(to)
}

// look asks for the lists that are missing, old, or said to be out of date.
func (c *circle) look(now time.Time) {
	for _, contact := range c.book.List() {
		of := contact.Link.Address
		if of.Kind() != identity.KindOwner || contact.Blocked {
			continue
		}
		wait := rosterEvery
		switch {
		case c.newer(of):
			wait = rosterSoon
		case c.owners.Version(of) == 0:
			wait = rosterAgain
		}
		if asked, ok := c.asked[of]; ok && now.Before(asked.Add(wait)) {
			continue
		}
		c.asked[of] = now
		c.running.Go(func() {
			if c.refresh(c.ctx, of) {
				c.known()
			}
		})
	}
	c.level(now)
}

// newer reports whether somebody said that there is a newer list of a person's
// devices.
func (c *circle) newer(of identity.Address) bool {
	version := c.owners.Version(of)
	return c.owners.Outdated(of) || slices.ContainsFunc(c.owners.Devices(of), func(d identity.Address) bool {
		return c.presence.State(d).Roster > version
	})
}

// level has the owner's devices that know another list told this one's: the
// newer one holds on both.
func (c *circle) level(now time.Time) {
	version := c.owners.Version(c.owners.Owner())
	var to []identity.Address
	for _, d := range c.home.own() {
		seen := c.presence.State(d)
		if asked, ok := c.asked[d]; !seen.Online || seen.Roster == version || ok && now.Before(asked.Add(rosterSoon)) {
			continue
		}
		c.asked[d] = now
		to = append(to, d)
	}
	if len(to) > 0 {
		c.tell(to)
	}
}

// tell brings the owner's list to devices.
func (c *circle) tell(to []identity.Address) {
	c.running.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, rosterLimit)
		defer cancel()
		c.owners.Spread(ctx, c.client, to)
	})
}
