package app

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/fx"

	"porchlight/agent/api"
	"porchlight/agent/beacon"
	"porchlight/agent/config"
	"porchlight/agent/contacts"
	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
	"porchlight/agent/join"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
	"porchlight/agent/people"
	"porchlight/agent/reach"
	"porchlight/agent/record"
	"porchlight/agent/resolve"
	"porchlight/agent/state"
	"porchlight/agent/status"
)

const (
	// tellLimit is how long one note may be on its way.
	tellLimit = 12 * time.Second
	// rosterEvery is how often the lists of contacts' devices are asked anew,
	// rosterAgain the pause after one was not found, rosterSoon after one that is
	// said to be there was not got.
	rosterEvery = 6 * time.Hour
	rosterAgain = 5 * time.Minute
	rosterSoon  = 15 * time.Second
	// lookAgain is how often it is looked for what is due without any event.
	lookAgain   = time.Minute
	rosterLimit = 20 * time.Second
)

// openOwners opens what is known of owners, and lets the contacts know it.
func openOwners(folder *state.Folder, device *identity.Device, book *contacts.Book, c *clock, log *slog.Logger) (*owner.Store, error) {
	return owner.Open(owner.Config{
		Device: device,
		Files:  folder,
		Wanted: func(o identity.Address) bool { _, known := book.Get(o); return known },
		Presign: func(key ed25519.PrivateKey, roster []byte, version uint64) []byte {
			now, _ := c.now()
			return presign(key, roster, version, now)
		},
		Now:    func() time.Time { now, _ := c.now(); return now },
		Logger: log,
	})
}

const (
	// presignFor is for how many days the owner's list of devices can be found
	// without the device that holds the owner's key. A device that was revoked
	// may show its old list for as long.
	presignFor = 90
	// renewBefore is how many days before the end it is signed anew.
	renewBefore = 45
)

// presign signs the owner's list for the periods to come, and for one past:
// clocks differ.
func presign(key ed25519.PrivateKey, roster []byte, version uint64, now time.Time) []byte {
	address := identity.NewAddress(key.Public().(ed25519.PublicKey), identity.KindOwner)
	first := record.PeriodAt(address, now)
	if first > 0 {
		first--
	}
	signed, err := record.Presign(record.OwnerKey{Private: key}, address, roster, version, first, presignFor)
	if err != nil {
		return nil
	}
	return signed.Bytes()
}

// ownership is what the contacts know about owners.
type ownership struct{ *owner.Store }

// Mine implements contacts.Owners.
func (o ownership) Mine() identity.Address { return o.Owner() }

// teller brings notes by whatever carries one.
type teller struct {
	joiner *join.Joiner
	keeper *reach.Keeper
}

// Tell implements people.Teller.
func (t teller) Tell(ctx context.Context, to identity.Address, body []byte, watch bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tellLimit)
	defer cancel()
	if !watch {
		return t.joiner.Tell(ctx, to, body, nil)
	}
	return t.joiner.Tell(ctx, to, body, &introduce.Watch{Back: t.keeper.Link().Via})
}

// newRequests takes requests of strangers only if the owner wants them.
func newRequests(cfg config.Config, folder *state.Folder, joiner *join.Joiner, keeper *reach.Keeper, book *contacts.Book,
	owners *owner.Store, named *naming, lookers *lookers, log *slog.Logger) (*people.Requests, error) {
	store, err := contacts.OpenRequests(folder)
	if err != nil {
		return nil, err
	}
	return people.NewRequests(people.RequestConfig{
		Store:  store,
		Teller: teller{joiner, keeper},
		Self: func() (string, identity.Link) {
			return named.name(), personLink(keeper, owners)
		},
		ContactOf: func(device identity.Address) (identity.Address, bool) {
			c, known := book.Get(device)
			return c.Link.Address, known
		},
		Devices: func(contact identity.Address) []identity.Address { return lookers.devices(contact) },
		Blocked: func(a identity.Address) bool {
			return book.Admit(a) != nil || cfg.Requests == "off" && !acquainted(a, book, owners)
		},
		Owned: func(ctx context.Context, device, of identity.Address) bool {
			if owners.OwnerOf(device) == of {
				return true
			}
			// What was found a moment ago may be the list before this device came.
			lookers.dir.Forget(of)
			list, err := lookers.search(ctx, of)
			return err == nil && slices.Contains(list, device)
		},
		Logger: log,
	}), nil
}

// acquainted reports whether a device, or a person, is a contact, or a person
// whose device is.
func acquainted(a identity.Address, book *contacts.Book, owners *owner.Store) bool {
	return slices.ContainsFunc(append(owners.Devices(a), a), func(one identity.Address) bool {
		_, known := book.Get(one)
		return known
	})
}

// personLink is the link of the owner, with what leads to this device; of a
// device that is nobody's, its own.
func personLink(keeper *reach.Keeper, owners *owner.Store) identity.Link {
	link := keeper.Link()
	own := owners.Own()
	if owners.Owner().IsZero() {
		return link
	}
	link.Devices = []identity.Address{link.Address}
	for _, d := range own.Devices {
		if d != link.Address && len(link.Devices) < identity.MaxHints {
			link.Devices = append(link.Devices, d)
		}
	}
	link.Address = own.Owner
	return link
}

func newPresence(folder *state.Folder, joiner *join.Joiner, keeper *reach.Keeper, home *household,
	requests *people.Requests, named *naming, log *slog.Logger) *people.Presence {
	return people.New(people.Config{
		Teller: teller{joiner, keeper},
		Peers:  home.peers,
		Self: func() people.Self {
			return people.Self{Name: named.name(), Roster: home.owners.Version(home.owners.Owner())}
		},
		Blocked:  func(a identity.Address) bool { return home.book.Admit(a) != nil },
		Requests: requests,
		Files:    folder,
		Logger:   log,
	})
}

// household knows which devices there are: the owner's own and the contacts'.
type household struct {
	self   identity.Address
	book   *contacts.Book
	owners *owner.Store
}

func newHousehold(device *identity.Device, book *contacts.Book, owners *owner.Store) *household {
	return &household{device.Address(), book, owners}
}

// peers lists all devices but this one, the owner's own first.
func (h *household) peers() (all []people.Peer) {
	seen := map[identity.Address]bool{h.self: true}
	add := func(device, contact identity.Address, hidden bool) {
		if !seen[device] {
			seen[device] = true
			all = append(all, people.Peer{Address: device, Contact: contact.String(), Hidden: hidden})
		}
	}
	for _, d := range h.own() {
		add(d, h.owners.Owner(), false)
	}
	for _, c := range h.book.List() {
		if c.Blocked {
			continue
		}
		for _, d := range h.book.Devices(c) {
			add(d, c.Link.Address, c.Hidden)
		}
	}
	return all
}

// addresses lists the same as addresses only.
func (h *household) addresses() (all []identity.Address) {
	for _, p := range h.peers() {
		all = append(all, p.Address)
	}
	return all
}

// own lists the owner's devices; none if this device is nobody's.
func (h *household) own() []identity.Address {
	if h.owners.Owner().IsZero() {
		return nil
	}
	return h.owners.Own().Devices
}

// naming is what the owner calls this device.
type naming struct {
	mu   sync.Mutex
	text string
}

func (n *naming) name() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text
}

func (n *naming) set(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = name
}

// lookers find the devices of people.
type lookers struct {
	book   *contacts.Book
	owners *owner.Store
	dir    *directory.Directory
	client *http.Client
	log    *slog.Logger
}

func newLookers(book *contacts.Book, owners *owner.Store, dir *directory.Directory, o *overlay.Overlay, log *slog.Logger) *lookers {
	return &lookers{book: book, owners: owners, dir: dir, client: o.Client(owner.Service), log: log}
}

// devices lists what is known of a contact's devices; of a person whose list
// was never seen, those that the link names.
func (l *lookers) devices(contact identity.Address) []identity.Address {
	if contact.Kind() != identity.KindOwner {
		return []identity.Address{contact}
	}
	if list := l.owners.Devices(contact); len(list) > 0 {
		return list
	}
	c, _ := l.book.Get(contact)
	return c.Link.Devices
}

// search asks the directory for a person's devices.
func (l *lookers) search(ctx context.Context, of identity.Address) ([]identity.Address, error) {
	signed, _, err := l.dir.LookupOwner(ctx, of)
	if err != nil {
		return nil, err
	}
	roster, err := owner.ParseRoster(of, signed)
	if err != nil {
		return nil, err
	}
	l.owners.Learn(of, signed) // refused where nobody wants it
	return roster.Devices, nil
}

// refresh learns the newest list of a contact's devices: from one of them, or
// from the directory. It reports whether there is one now.
func (l *lookers) refresh(ctx context.Context, contact identity.Address) bool {
	ctx, cancel := context.WithTimeout(ctx, rosterLimit)
	defer cancel()
	for _, d := range l.devices(contact) {
		if _, err := l.owners.Fetch(ctx, l.client, d, contact); err == nil && l.owners.Version(contact) > 0 {
			return true
		}
	}
	_, err := l.search(ctx, contact)
	return err == nil
}

// newResolver chooses the device that answers for a person.
func newResolver(o *overlay.Overlay, joiner *join.Joiner, l *lookers, presence *people.Presence) *resolve.Resolver {
	return resolve.New(resolve.Config{
		Sessions: believed{o, presence},
		Devices:  l.devices,
		Lookup:   l.search,
		Online:   func(a identity.Address) bool { return presence.State(a).Online },
		Direct:   func(a identity.Address) bool { return joiner.Info(a).Path == "direct" },
		Remember: joiner.Remember,
	})
}

// leftLater is how long a device is called after the others that has a session
// and said that it leaves.
const leftLater = 3 * time.Second

// believed are the sessions, of which one with a device that has left counts for
// little: the word that it ended may have been lost.
type believed struct {
	*overlay.Overlay
	presence *people.Presence
}

// Current implements resolve.Sessions.
func (b believed) Current(a identity.Address) *overlay.Session {
	if seen := b.presence.State(a); !seen.Online && !seen.Since.IsZero() {
		return nil
	}
	return b.Overlay.Current(a)
}

// Session implements resolve.Sessions.
func (b believed) Session(ctx context.Context, a identity.Address) (*overlay.Session, error) {
	if b.Overlay.Current(a) != nil && b.Current(a) == nil {
		select {
		case <-time.After(leftLater):
		case <-ctx.Done():
		}
	}
	return b.Overlay.Session(ctx, a)
}

// newOwnerHandler tells lists of devices to whoever is a contact.
func newOwnerHandler(owners *owner.Store, book *contacts.Book) *owner.Handler {
	return owner.NewHandler(owners, func(caller identity.Address) bool { return book.Allows(caller, []string{"friends"}) })
}

// startPeople starts presence, requests and messages, and ends them while
// sessions still stand: they take leave.
func startPeople(lc fx.Lifecycle, presence *people.Presence, requests *people.Requests, post *post, devices *devices) {
	lc.Append(fx.StartStopHook(requests.Start, requests.Close))
	lc.Append(fx.StopHook(devices.Close))
	lc.Append(fx.StartStopHook(post.mail.Start, post.mail.Close))
	lc.Append(fx.StartStopHook(presence.Start, presence.Close))
}

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

// askers are the requests in the words of the API.
type askers struct{ requests *people.Requests }

// List implements control.Requests.
func (a askers) List() []api.Request {
	list := []api.Request{}
	for _, r := range a.requests.List() {
		list = append(list, api.Request{
			Address: r.Address.String(), Name: r.Name, Note: r.Note, Link: r.Link.String(),
			ReceivedUnixMS: unixMS(r.Received),
		})
	}
	return list
}

// Ask implements control.Requests.
func (a askers) Ask(link identity.Link, note string) error { return a.requests.Ask(link, note) }

// Accept implements control.Requests.
func (a askers) Accept(who identity.Address) error {
	_, _, err := a.requests.Accept(who)
	return err
}

// Refuse implements control.Requests.
func (a askers) Refuse(who identity.Address) error { return a.requests.Refuse(who) }

// Forget implements control.Requests.
func (a askers) Forget(who identity.Address) error { return a.requests.Forget(who) }

func unixMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// reporting is what the status says about people.
func reporting(book *contacts.Book, owners *owner.Store, presence *people.Presence, requests *people.Requests, post *post) status.People {
	return status.People{
		Owner:    func() identity.Address { return owners.Owner() },
		Requests: askers{requests}.List,
		Standing: func(a identity.Address) string { return string(requests.Standing(a)) },
		Devices:  book.Devices,
		Seen:     presence.State,
		Unread:   post.mail.Unread,
	}
}

// nameOf is what a device is called: by itself, or when it joined.
func nameOf(d identity.Address, own owner.Own, presence *people.Presence) string {
	if name := presence.State(d).Name; name != "" {
		return name
	}
	return strings.TrimSpace(own.Names[d])
}
