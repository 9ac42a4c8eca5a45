package people

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

const (
	// maxAtOnce is how many contacts are asked at once, perSecond and burst how
	// fast they follow each other.
	maxAtOnce = 8
	perSecond = 20
	burst     = 20
	// tellLimit ends one exchange.
	tellLimit = 20 * time.Second
	// partingLimit is how long Close takes leave, partingAtOnce of how many.
	partingLimit  = 900 * time.Millisecond
	partingAtOnce = 32
	// announceGap is the least pause between two rounds to all contacts.
	announceGap = 10 * time.Second
	// maxPeers is how many devices of contacts are looked after.
	maxPeers = 1000

	file = "presence.json"
	// saveEvery is how often the times at which contacts were seen are stored
	// while the device runs: flash wears out.
	saveEvery = 24 * time.Hour
)

// ErrAway is what Handle returns for notes that are answered as if this device
// were not there.
var ErrAway = errors.New("not answered")

// Teller sends a note to a device and returns its answer, by whatever carries
// one. With watch, a rendezvous is preferred to a session, and asked to watch
// the device.
type Teller interface {
	Tell(ctx context.Context, to identity.Address, body []byte, watch bool) (answer []byte, err error)
}

// Files is where the times at which contacts were seen are kept.
type Files interface {
	ReadJSON(name string, v any) error
	WriteJSON(name string, v any) error
}

// Peer is one device of a contact.
type Peer struct {
	Address identity.Address
	// Contact names whom the device belongs to, as Person and Members ask for
	// it: the contact's address.
	Contact string
	// Hidden says that the contact does not see whether we are on-line.
	Hidden bool
}

// Self is what contacts are told about this device.
type Self struct {
	// Name is what the device is called, MaxName characters at most.
	Name string
	// Roster is the version of the list of the owner's devices.
	Roster uint64
}

// Config is what a Presence needs.
type Config struct {
	Teller Teller
	// Peers, Self and Blocked are asked often, and must not call back here.
	//
	// Peers lists the devices of all contacts that are not blocked, in the
	// order in which they are told: the owner's own first.
	Peers func() []Peer
	Self  func() Self
	// Blocked says whether a device, or whom it belongs to, is blocked.
	Blocked func(identity.Address) bool
	// Requests takes strangers' requests; nil takes none.
	Requests *Requests
	Files    Files
	// Now is the wall clock, for times that people see; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Presence knows which devices of the contacts are on-line, and lets them know
// of this one.
type Presence struct {
	cfg     Config
	boot    string
	rate    *rate.Limiter
	doubts  *rate.Limiter
	wake    chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	once    sync.Once
	closing error

	mu        sync.Mutex
	begun     bool // Announce was called
	closed    bool
	counter   uint64
	devices   map[identity.Address]*device
	order     []*device
	busy      int
	announced time.Time
	changed   chan struct{}
	unsaved   bool
	saved     time.Time
	stored    map[identity.Address]int64 // what was read, for devices to come
}

// New returns a Presence that knows nobody to be on-line.
func New(cfg Config) *Presence {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var boot [bootDigits / 2]byte
	rand.Read(boot[:])
	p := &Presence{
		cfg:     cfg,
		boot:    hex.EncodeToString(boot[:]),
		rate:    rate.NewLimiter(perSecond, burst),
		doubts:  rate.NewLimiter(rate.Every(time.Minute/hintsPerMinute), hintsBurst),
		wake:    make(chan struct{}, 1),
		devices: map[identity.Address]*device{},
		changed: make(chan struct{}),
		stored:  map[identity.Address]int64{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Start reads when contacts were seen last and begins to look after them.
// Nobody is told anything before Announce.
func (p *Presence) Start(context.Context) error {
	if err := p.cfg.Files.ReadJSON(file, &p.stored); err != nil {
		// Not worth staying off-line for.
		p.cfg.Logger.Warn("when contacts were seen is forgotten", "file", file, "err", err)
		p.stored = nil
	}
	p.saved = time.Now()
	p.Refresh()
	p.running.Go(p.run)
	return nil
}

// Close takes leave of all contacts that are on-line, within 0.9 s, stores when
// they were seen and waits for what was started. Notes are answered no more.
func (p *Presence) Close() error {
	p.once.Do(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cancel()
		p.takeLeave()
		p.running.Wait()
		p.closing = p.save()
	})
	return p.closing
}

// takeLeave tells who is on-line that this device is not any more.
func (p *Presence) takeLeave() {
	p.mu.Lock()
	var all []identity.Address
	for _, d := range p.order {
		// Who is being told may have heard it already.
		if (d.seen.Online || d.busy) && !d.peer.Hidden {
			all = append(all, d.peer.Address)
		}
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), partingLimit)
	defer cancel()
	var running sync.WaitGroup
	slots := make(chan struct{}, partingAtOnce)
	for _, a := range all {
		running.Go(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				p.tell(ctx, a, false)
			case <-ctx.Done():
			}
		})
	}
	running.Wait()
}

// Changed returns a channel that is closed when the next state changes.
func (p *Presence) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// notify has all who wait for a change look again; p.mu is held.
func (p *Presence) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// State returns what is known of a device; zero of one that is no contact's.
func (p *Presence) State(of identity.Address) Seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.devices[of]; d != nil {
		return d.seen
	}
	return Seen{}
}

// Member is one device of a contact.
type Member struct {
	Address identity.Address
	Seen
}

// Members returns the devices of a contact.
func (p *Presence) Members(contact string) (all []Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.order {
		if d.peer.Contact == contact {
			all = append(all, Member{d.peer.Address, d.seen})
		}
	}
	return all
}

// Person returns what is known of a contact: it is on-line if any of its
// devices is. The state is that of the device on-line that was seen last, or
// of the one seen last where none is.
func (p *Presence) Person(contact string) (best Member) {
	for _, m := range p.Members(contact) {
		later := m.LastSeen.After(best.LastSeen)
		if best.Address.IsZero() || m.Online && !best.Online || m.Online == best.Online && later {
			best = m
		}
	}
	return best
}

// Announce tells the contacts that this device is on-line: when the first
// registration stands, and when its name or roster has changed. Those that
// were found to be off-line are not told; they will ask when they come.
func (p *Presence) Announce() { p.round(false) }

// Moved tells all contacts, because the network has changed: those that could
// not be reached from the one before, too.
func (p *Presence) Moved() {
	p.mu.Lock()
	begun := p.begun
	p.mu.Unlock()
	if begun {
		p.round(true)
	}
}

func (p *Presence) round(all bool) {
	p.mu.Lock()
	p.begun = true
	at := time.Now()
	if next := p.announced.Add(announceGap); !p.announced.IsZero() && at.Before(next) {
		at = next
	}
	p.announced = at
	for _, d := range p.order {
		switch {
		case d.peer.Hidden, !all && !d.seen.Online && d.failures > 0:
		case d.busy:
			d.again = true
		default:
			d.due = at
		}
		if all && !d.seen.Online {
			d.failures = 0
		}
	}
	p.mu.Unlock()
	poke(p.wake)
	if p.cfg.Requests != nil {
		p.cfg.Requests.Retry()
	}
}

// Refresh reads the list of contacts anew: those that came are told at once,
// those we hide from now are told that we left.
func (p *Presence) Refresh() {
	peers := p.cfg.Peers()
	if len(peers) > maxPeers {
		p.cfg.Logger.Warn("too many devices of contacts; those beyond are not looked after", "devices", len(peers), "limit", maxPeers)
		peers = peers[:maxPeers]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	devices, order := map[identity.Address]*device{}, make([]*device, 0, len(peers))
	for _, peer := range peers {
		if devices[peer.Address] != nil {
			continue
		}
		d := p.devices[peer.Address]
		if d == nil {
			d = p.newDevice(peer)
		} else {
			p.change(d, peer)
		}
		devices[peer.Address] = d
		order = append(order, d)
	}
	p.devices, p.order = devices, order
	p.notify()
	poke(p.wake)
}

// newDevice begins to look after a device; p.mu is held.
func (p *Presence) newDevice(peer Peer) *device {
	d := &device{peer: peer}
	if ms := p.stored[peer.Address]; ms > 0 {
		d.seen.LastSeen = time.UnixMilli(ms)
	}
	if p.begun && !peer.Hidden {
		d.due = time.Now()
	}
	return d
}

// change takes a change of who may see us; p.mu is held.
func (p *Presence) change(d *device, peer Peer) {
	was := d.peer.Hidden
	d.peer = peer
	switch {
	case !p.begun || was == peer.Hidden:
	case peer.Hidden && d.busy: // the exchange ends first
		d.leave, d.again = true, true
	case peer.Hidden && !d.seen.Online:
		d.due = time.Time{}
	case peer.Hidden:
		d.leave, d.due = true, time.Now()
	case d.busy:
		d.leave, d.again = false, true
	default:
		d.leave, d.due = false, time.Now()
	}
}

// Receive implements introduce.Config.WelcomeNote.
func (p *Presence) Receive(from identity.Address) introduce.Reception {
	if p.cfg.Blocked(from) {
		return introduce.Unheard
	}
	p.mu.Lock()
	d := p.devices[from]
	closed, hidden := p.closed, d != nil && d.peer.Hidden
	p.mu.Unlock()
	switch {
	case closed:
		return introduce.Unheard
	case hidden:
		return introduce.Unanswered
	case d != nil:
		return introduce.Known
	case p.cfg.Requests != nil && !p.cfg.Requests.refused(from):
		return introduce.Stranger
	}
	return introduce.Unheard
}

// Handle implements introduce.Config.Told: it takes a note and returns the
// answer. The error wraps ErrAway or ErrMessage.
func (p *Presence) Handle(ctx context.Context, from identity.Address, body []byte) (answer []byte, err error) {
	m, err := parse(body)
	if err != nil {
		return nil, err
	}
	if p.cfg.Blocked(from) {
		return nil, fmt.Errorf("%s is blocked: %w", from.Short(), ErrAway)
	}
	switch m.Kind {
	case kindHere:
		return p.handleHere(from, m)
	case kindRequest, kindAccept:
		return p.handleRequest(ctx, from, m)
	}
	return nil, fmt.Errorf("%w: %q is no question", ErrMessage, m.Kind)
}

func (p *Presence) handleHere(from identity.Address, m message) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.devices[from]
	if d == nil || p.closed {
		return nil, fmt.Errorf("%s is no contact, or we have left: %w", from.Short(), ErrAway)
	}
	p.hear(d, m, false)
	if d.peer.Hidden {
		return nil, fmt.Errorf("we hide from %s: %w", from.Short(), ErrAway)
	}
	return p.here(true).encode()
}

func (p *Presence) handleRequest(ctx context.Context, from identity.Address, m message) ([]byte, error) {
	if p.cfg.Requests == nil {
		return nil, fmt.Errorf("requests are not taken: %w", ErrAway)
	}
	answer, err := p.cfg.Requests.handle(ctx, from, m)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	d := p.devices[from]
	hidden, closed := d != nil && d.peer.Hidden, p.closed
	p.mu.Unlock()
	if hidden || closed {
		return nil, fmt.Errorf("we hide from %s, or have left: %w", from.Short(), ErrAway)
	}
	p.Saw(from)
	return answer.encode()
}

// here is what is said of this device next; p.mu is held.
func (p *Presence) here(on bool) message {
	self := p.cfg.Self()
	p.counter++
	return message{Kind: kindHere, Boot: p.boot, N: p.counter, On: on, Name: clip(self.Name), Roster: self.Roster}
}

// tell sends one note of presence and returns the answer.
func (p *Presence) tell(ctx context.Context, to identity.Address, on bool) (message, error) {
	p.mu.Lock()
	body, err := p.here(on).encode()
	p.mu.Unlock()
	if err != nil {
		return message{}, err
	}
	b, err := p.cfg.Teller.Tell(ctx, to, body, on)
	if err != nil {
		return message{}, err
	}
	m, err := parse(b)
	if err == nil && m.Kind != kindHere {
		err = fmt.Errorf("%w: %q answers another question", ErrMessage, m.Kind)
	}
	return m, err
}

// save stores when the contacts were seen.
func (p *Presence) save() error {
	p.mu.Lock()
	all := map[identity.Address]int64{}
	for _, d := range p.order {
		if !d.seen.LastSeen.IsZero() {
			all[d.peer.Address] = d.seen.LastSeen.UnixMilli()
		}
	}
	unsaved := p.unsaved
	p.unsaved, p.saved = false, time.Now()
	p.mu.Unlock()
	if !unsaved {
		return nil
	}
	if err := p.cfg.Files.WriteJSON(file, all); err != nil {
		return fmt.Errorf("store when contacts were seen: %w", err)
	}
	return nil
}

// poke puts a reminder into a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
