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
	// rosterLimit is how long the search for one list of devices may take.
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
