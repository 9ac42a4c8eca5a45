package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"porchlight/agent/api"
	"porchlight/nat/natlab"
)

const (
	// findLimit is within what every pair must find and reach each other,
	// whoever was switched off before.
	findLimit = 60 * time.Second
	// atOnce is how many pairs look for each other at the same time.
	atOnce = 6
)

// dweller is one of the twelve: an agent on a host, and its bare address, which
// is all that the others know of it.
type dweller struct {
	*agent
	host    *natlab.Host
	address string
}

// plot is where a dweller lives, and whose link it begins with.
type plot struct {
	name string
	kind natlab.Kind
	with string // "" for the first of all
	// beside puts it in the home of another dweller.
	beside string
}

// village are twelve hosts of six kinds. There is no DNS, and nobody that
// everybody knows: each begins with the link of one other.
var village = []plot{
	{"mill", natlab.Public, "", ""},
	{"chapel", natlab.Public, "mill", ""},
	{"school", natlab.Public, "chapel", ""},
	{"tavern", natlab.Public, "school", ""},
	{"attic", natlab.PortRestricted, "mill", ""},
	{"barn", natlab.PortRestricted, "chapel", ""},
	{"bench", natlab.PortRestricted, "tavern", "barn"},
	{"cabin", natlab.Symmetric, "school", ""},
	{"dairy", natlab.Symmetric, "tavern", ""},
	{"farm", natlab.FullCone, "mill", ""},
	{"grange", natlab.CGNAT, "chapel", ""},
	{"hut", natlab.UDPBlocked, "school", ""},
}

// crowd is a village with its dwellers.
type crowd struct {
	*world
	dwellers []*dweller
}

// newCrowd builds the village and makes everybody everybody's contact, by bare
// address.
func newCrowd(ctx context.Context, o natlab.Options, program string) (*crowd, error) {
	w, err := newWorld(ctx, o, program, 0)
	if err != nil {
		return nil, err
	}
	c := &crowd{world: w}
	for _, p := range village {
		if err := c.settle(ctx, p); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	if err := c.acquaint(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// settle starts one dweller.
func (c *crowd) settle(ctx context.Context, p plot) error {
	host, err := c.place(p)
	if err != nil {
		return err
	}
	args := []string{"--console", "off", "--gateway", "off", "--dht-node", "none"}
	if p.kind == natlab.Public {
		args = append(args, "--listen", ":4001", "--reachability", "public")
	}
	if p.with != "" {
		link, err := c.find(p.with).link(ctx)
		if err != nil {
			return err
		}
		args = append(args, "--bootstrap", link)
	}
	a, err := newAgent(c.dir, c.program, p.name, host, args...)
	if err != nil {
		return err
	}
	c.agents = append(c.agents, a)
	if err := a.start(ctx); err != nil {
		return err
	}
	d := &dweller{agent: a, host: host}
	c.dwellers = append(c.dwellers, d)
	var id struct{ Address string }
	if err := a.run(ctx, &id, "id"); err != nil {
		return err
	}
	d.address = id.Address
	if p.with == "" {
		return nil
	}
	return a.awaitHelpers(ctx, 1)
}

func (c *crowd) place(p plot) (*natlab.Host, error) {
	switch {
	case p.kind == natlab.Public:
		return c.lab.Host(p.name)
	case p.beside != "":
		return c.lab.AddDevice(c.find(p.beside).host, p.name)
	}
	return c.lab.Home(p.name, p.kind)
}

func (c *crowd) find(name string) *dweller {
	i := slices.IndexFunc(c.dwellers, func(d *dweller) bool { return d.name == name })
	return c.dwellers[i]
}

// acquaint makes everybody everybody's contact.
func (c *crowd) acquaint(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make([]error, len(c.dwellers))
	for i, d := range c.dwellers {
		all.Go(func() {
			for _, other := range c.dwellers {
				if other != d {
					errs[i] = errors.Join(errs[i], d.run(ctx, nil, "contacts", "add", other.address, other.name))
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// meeting is how one pair found each other.
type meeting struct {
	from, to *dweller
	ping     api.Ping
	took     time.Duration // until the first byte, all tries together
	err      error
}

// meetAll has every pair of some dwellers reach each other, a few at once, each
// tried again until it works or findLimit is over.
func meetAll(ctx context.Context, dwellers []*dweller) []meeting {
	var pairs []meeting
	for i, from := range dwellers {
		for _, to := range dwellers[i+1:] {
			pairs = append(pairs, meeting{from: from, to: to})
		}
	}
	// The far ends of the list meet as well as the near ones.
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range pairs {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			pairs[i].try(ctx)
		})
	}
	all.Wait()
	return pairs
}

func (m *meeting) try(ctx context.Context) {
	began := time.Now()
	for {
		m.err = m.from.run(ctx, &m.ping, "ping", m.to.name, "--timeout", "15s")
		m.took = time.Since(began)
		if m.err == nil || m.took > findLimit || ctx.Err() != nil {
			return
		}
		pause(ctx, 500*time.Millisecond)
	}
}

// tally is a line about many meetings.
func tally(meetings []meeting) (line string, err error) {
	var took []time.Duration
	direct := 0
	for _, m := range meetings {
		if m.err != nil || m.took > findLimit {
			err = errors.Join(err, fmt.Errorf("%s did not reach %s within %v (%v): %w", m.from.name, m.to.name, findLimit, m.took, m.err))
			continue
		}
		took = append(took, m.took)
		if m.ping.Path == "direct" {
			direct++
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		return "nobody met", err
	}
	return fmt.Sprintf("%d of %d pairs, %d direct at once; median %.2f s, 90 %% %.2f s, slowest %.2f s", len(took), len(meetings), direct,
		took[len(took)/2].Seconds(), took[len(took)*9/10].Seconds(), took[len(took)-1].Seconds()), err
}

// lookups prints how long it takes to find where a device is.
func (c *crowd) lookups(ctx context.Context, out io.Writer) error {
	type sample struct {
		name, source string
		args         []string
		from, to     []string
	}
	all := make([]string, len(village))
	for i, p := range village {
		all[i] = p.name
	}
	samples := []sample{
		{"cold: the directory asked anew", "dht", []string{"--fresh"}, all, all},
		{"warm: found before", "cache", nil, all, all},
		{"in the same house", "lan", nil, []string{"barn", "bench"}, []string{"barn", "bench"}},
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "look-up\tpairs\tmedian (ms)\t90 %\tslowest")
	var errs error
	for _, s := range samples {
		var ms []float64
		for _, from := range s.from {
			for _, to := range s.to {
				if from == to {
					continue
				}
				var l api.Lookup
				args := append([]string{"lookup", c.find(to).address, "--no-session"}, s.args...)
				if err := c.find(from).run(ctx, &l, args...); err != nil {
					errs = errors.Join(errs, err)
				} else if l.Source == s.source {
					ms = append(ms, l.MS)
				}
			}
		}
		if len(ms) == 0 {
			errs = errors.Join(errs, fmt.Errorf("nobody was found by %s", s.source))
			continue
		}
		slices.Sort(ms)
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%.1f\n", s.name, len(ms), ms[len(ms)/2], ms[len(ms)*9/10], ms[len(ms)-1])
	}
	return errors.Join(errs, t.Flush())
}

// without lets everybody live on after one is switched off for good: half of
// the others are restarted with what they have on their disks, then every pair
// must find each other, and so must a newcomer who has nothing but a link that
// names the one that is gone.
func (c *crowd) without(ctx context.Context, out io.Writer, victim *dweller) (err error) {
	link, err := c.namer(ctx, victim)
	if err != nil {
		return err
	}
	victim.kill()
	left := slices.DeleteFunc(slices.Clone(c.dwellers), func(d *dweller) bool { return d == victim })
	var restarted sync.WaitGroup
	restarts := make([]error, len(left))
	for i, d := range left {
		if i%2 == 0 {
			restarted.Go(func() {
				_, stopErr := d.stop()
				restarts[i] = errors.Join(stopErr, d.start(ctx))
			})
		}
	}
	restarted.Wait()
	if err := errors.Join(restarts...); err != nil {
		return err
	}
	line, err := tally(meetAll(ctx, left))
	tell(out, "without %-7s %s", victim.name+":", line)
	return errors.Join(err, c.newcomer(ctx, out, link, victim), victim.start(ctx))
}

// namer returns the link of somebody whose link names a dweller, and who that
// is; the dweller's own neighbour if there is none.
func (c *crowd) namer(ctx context.Context, named *dweller) (namer, error) {
	var other namer
	for _, d := range c.dwellers {
		if d == named {
			continue
		}
		link, err := d.link(ctx)
		if err != nil {
			return namer{}, err
		}
		// A link with another way in, too: a single one that is gone is gone.
		if strings.Count(link, "via=") > 1 && strings.Contains(link, named.address) {
			return namer{d, link}, nil
		}
		if strings.Count(link, "via=") > 1 {
			other = namer{d, link}
		}
	}
	return other, nil
}

type namer struct {
	*dweller
	link string
}

// newcomer has a device that knows nobody reach somebody by a link.
func (c *crowd) newcomer(ctx context.Context, out io.Writer, to namer, victim *dweller) error {
	name := "new-" + victim.name
	host, err := c.lab.Home(name, natlab.PortRestricted)
	if err != nil {
		return err
	}
	a, err := newAgent(c.dir, c.program, name, host, "--console", "off", "--gateway", "off", "--dht-node", "none")
	if err != nil {
		return err
	}
	c.agents = append(c.agents, a)
	if err := a.start(ctx); err != nil {
		return err
	}
	defer a.stop()
	began := time.Now()
	if err := a.run(ctx, nil, "contacts", "add", to.link, to.name); err != nil {
		return err
	}
	var address struct{ Address string }
	if err := a.run(ctx, &address, "id"); err != nil {
		return err
	}
	// The other end is asked, and accepts.
	for {
		err := to.run(ctx, nil, "contacts", "accept", address.Address, name)
		if err == nil {
			break
		}
		if time.Since(began) > findLimit || ctx.Err() != nil {
			return fmt.Errorf("%s was not asked by %s within %v: %w", to.name, name, findLimit, err)
		}
		pause(ctx, 200*time.Millisecond)
	}
	asked := time.Since(began)
	m := meeting{from: &dweller{agent: a, host: host}, to: to.dweller}
	m.try(ctx)
	if m.err != nil || time.Since(began) > findLimit {
		return fmt.Errorf("a newcomer with a link that names %s did not reach %s within %v: %w", victim.name, to.name, findLimit, m.err)
	}
	named := "does not name it"
	if strings.Contains(to.link, victim.address) {
		named = "names it"
	}
	tell(out, "  a newcomer with a link that %s: asked and accepted after %.2f s, %s after %.2f s more", named, asked.Seconds(), m.ping.Path, m.took.Seconds())
	return to.run(ctx, nil, "contacts", "remove", name)
}

// people shows that nobody is needed: twelve hosts that know each other by
// address find each other, whoever of them is switched off.
func people(ctx context.Context, out io.Writer, dir, program string, short bool) (err error) {
	c, err := newCrowd(ctx, natlab.Options{Dir: dir}, program)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.lab.Dump(dir, "people"))
			err = fmt.Errorf("%w\nlogs, capture and diagram: %s", err, dir)
		}
		err = errors.Join(err, c.close())
	}()
	if err := c.published(ctx); err != nil {
		return err
	}
	if err := c.lookups(ctx, out); err != nil {
		return err
	}
	line, err := tally(meetAll(ctx, c.dwellers))
	tell(out, "\ntwelve hosts by address: %s", line)
	if err != nil {
		return err
	}
	for i, d := range c.dwellers {
		if short && i%5 != 0 {
			continue
		}
		if err := c.without(ctx, out, d); err != nil {
			return err
		}
	}
	return nil
}

// published waits until everybody can be looked up.
func (c *crowd) published(ctx context.Context) error {
	deadline := time.Now().Add(findLimit)
	for _, d := range c.dwellers {
		asker := c.dwellers[0]
		if d == asker {
			asker = c.dwellers[1]
		}
		for {
			var l api.Lookup
			err := asker.run(ctx, &l, "lookup", d.address, "--fresh", "--no-session")
			if err == nil {
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				return fmt.Errorf("%s did not publish itself within %v: %w", d.name, findLimit, err)
			}
			pause(ctx, 300*time.Millisecond)
		}
	}
	return nil
}
