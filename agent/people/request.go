package people

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
)

const (
	// maxTries is after how many tries a request or a yes is not sent any more
	// until the next start: after about a month.
	maxTries = 120
	// flushEvery is how often what strangers changed may be stored.
	flushEvery = 10 * time.Minute
)

// requestRetries is when a request that did not arrive is sent again; the last
// one repeats. When the contact comes on-line it is sent at once.
var requestRetries = []time.Duration{15 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour}

// RequestConfig is what Requests need.
type RequestConfig struct {
	Store  *contacts.Requests
	Teller Teller
	// Self is how those who are asked see us: a name and the link of the
	// person or the device.
	Self func() (name string, link identity.Link)
	// ContactOf names the contact that a device, or a person, is or belongs to.
	// It must not call back here, nor a Presence.
	ContactOf func(device identity.Address) (contact identity.Address, known bool)
	// Devices lists the devices of a contact, as far as they are known.
	Devices func(contact identity.Address) []identity.Address
	// Blocked says whether a device, or whom it belongs to, is blocked.
	Blocked func(identity.Address) bool
	// Owned says whether a device belongs to an owner; nil believes nobody.
	Owned  func(ctx context.Context, device, owner identity.Address) bool
	Logger *slog.Logger
}

// Requests asks people to become contacts, and takes what others ask.
type Requests struct {
	cfg     RequestConfig
	wake    chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	begun   bool
	tries   map[identity.Address]try
	changed chan struct{}
}

// try is how often something was sent, and when it will be again.
type try struct {
	n    int
	next time.Time
}

// NewRequests returns Requests that send nothing yet.
func NewRequests(cfg RequestConfig) *Requests {
	r := &Requests{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		tries:   map[identity.Address]try{},
		changed: make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Start begins to send, once Retry is called for the first time.
func (r *Requests) Start(context.Context) error {
	r.running.Go(r.run)
	return nil
}

// Close ends what Start began and stores what is not stored.
func (r *Requests) Close() error {
	r.cancel()
	r.running.Wait()
	return r.cfg.Store.Flush(true)
}

// Changed returns a channel that is closed when the next request comes or the
// next standing changes.
func (r *Requests) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *Requests) notify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// List returns the requests that wait for the owner's answer, the latest first.
func (r *Requests) List() []contacts.Request { return r.cfg.Store.Pending() }

// Standing returns where the owner stands with a contact.
func (r *Requests) Standing(contact identity.Address) contacts.Standing {
	return r.cfg.Store.Standing(contact)
}

// Ask asks a contact that was added to add us too, with a text of at most
// MaxNote characters. It returns at once; what does not arrive is sent again.
// Who was asked already is asked anew, since a request may be dropped where it
// waits.
func (r *Requests) Ask(link identity.Link, note string) error {
	if err := checkNote(note); err != nil {
		return err
	}
	if _, err := r.message(kindRequest, note).encode(); err != nil {
		return err
	}
	if err := r.cfg.Store.Ask(link.Address, note); err != nil {
		return err
	}
	r.again(link.Address)
	r.notify()
	return nil
}

// Accept says yes to a request, whose sender should be a contact by then, and
// returns its link and the name it goes by.
func (r *Requests) Accept(address identity.Address) (link identity.Link, name string, err error) {
	request, err := r.cfg.Store.Accept(address)
	if err != nil {
		return identity.Link{}, "", err
	}
	r.again(address)
	r.notify()
	return request.Link, request.Name, nil
}

// Refuse forgets a request, and whatever its sender asks later. It is not told.
func (r *Requests) Refuse(address identity.Address) error {
	err := r.cfg.Store.Refuse(address)
	r.notify()
	return err
}

// Forget forgets what there was between the owner and a contact that is
// removed.
func (r *Requests) Forget(contact identity.Address) error {
	err := r.cfg.Store.Forget(contact)
	r.notify()
	return err
}

// Retry sends at once what did not arrive: the network is another.
func (r *Requests) Retry() {
	r.mu.Lock()
	r.begun = true
	clear(r.tries)
	r.mu.Unlock()
	poke(r.wake)
}

// online sends at once what did not arrive at the contact of a device.
func (r *Requests) online(device identity.Address) {
	contact := device
	if c, ok := r.cfg.ContactOf(device); ok {
		contact = c
	}
	r.again(contact)
}

func (r *Requests) again(contact identity.Address) {
	r.mu.Lock()
	delete(r.tries, contact)
	r.mu.Unlock()
	poke(r.wake)
}

// refused reports whether a device, or whom it belongs to, was refused.
func (r *Requests) refused(device identity.Address) bool { return r.cfg.Store.Refused(device) }

func (r *Requests) message(kind, note string) message {
	name, link := r.cfg.Self()
	return message{Kind: kind, Name: clip(name), Link: &link, Note: note}
}

// run sends what is unsent, one after the other.
func (r *Requests) run() {
	for {
		wait := min(r.sendDue(), flushEvery)
		select {
		case <-r.wake:
		case <-time.After(wait):
			if err := r.cfg.Store.Flush(false); err != nil {
				r.cfg.Logger.Warn("not stored", "err", err)
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// sendDue sends what is due and returns how long nothing will be.
func (r *Requests) sendDue() time.Duration {
	wait := flushEvery
	for _, bond := range r.cfg.Store.Bonds() {
		if !bond.Unsent {
			continue
		}
		r.mu.Lock()
		t := r.tries[bond.Address]
		begun := r.begun
		r.mu.Unlock()
		if !begun || t.n >= maxTries || r.ctx.Err() != nil {
			continue
		}
		if pause := time.Until(t.next); pause > 0 {
			wait = min(wait, pause)
			continue
		}
		if r.send(bond) {
			continue
		}
		pause := spread(requestRetries[min(t.n, len(requestRetries)-1)])
		wait = min(wait, pause)
		r.mu.Lock()
		if r.tries[bond.Address] == t { // nobody asked for another try meanwhile
			r.tries[bond.Address] = try{t.n + 1, time.Now().Add(pause)}
		}
		r.mu.Unlock()
	}
	return wait
}

// send sends a request, or a yes, to a contact's devices until one answers.
func (r *Requests) send(bond contacts.Bond) bool {
	kind := kindRequest
	if bond.Standing == contacts.Mutual {
		kind = kindAccept
	}
	body, err := r.message(kind, bond.Note).encode()
	if err != nil {
		r.cfg.Logger.Warn("request cannot be sent", "peer", bond.Address.Short(), "err", err)
		return false
	}
	devices := r.cfg.Devices(bond.Address)
	if len(devices) == 0 && bond.Address.Kind() == identity.KindDevice {
		devices = []identity.Address{bond.Address}
	}
	for _, d := range devices {
		err := r.sendTo(d, bond, body)
		if err == nil {
			return true
		}
		r.cfg.Logger.Debug("request is not answered", "peer", d.Short(), "err", err)
	}
	return false
}

func (r *Requests) sendTo(device identity.Address, bond contacts.Bond, body []byte) error {
	ctx, cancel := context.WithTimeout(r.ctx, tellLimit)
	defer cancel()
	b, err := r.cfg.Teller.Tell(ctx, device, body, false)
	if err != nil {
		return err
	}
	m, err := parse(b)
	if err != nil {
		return err
	}
	standing := contacts.Mutual
	switch {
	case m.Kind == kindAsked && bond.Standing == contacts.Asked:
		standing = contacts.Asked
	case m.Kind != kindMutual:
		return fmt.Errorf("%w: %q answers another question", ErrMessage, m.Kind)
	}
	err = r.cfg.Store.Settle(bond.Address, standing)
	r.notify()
	return err
}

// handle answers a request or a yes.
func (r *Requests) handle(ctx context.Context, from identity.Address, m message) (message, error) {
	who := m.Link.Address
	switch {
	case r.cfg.Blocked(who), r.refused(from), r.refused(who):
		return message{}, fmt.Errorf("%s is blocked or was refused: %w", from.Short(), ErrAway)
	case who != from && (r.cfg.Owned == nil || !r.cfg.Owned(ctx, from, who)):
		return message{}, fmt.Errorf("%s speaks for somebody else: %w", from.Short(), ErrAway)
	}
	contact, known := r.cfg.ContactOf(from)
	if !known && who != from {
		contact, known = r.cfg.ContactOf(who)
	}
	if !known {
		contact = who
	}
	if m.Kind == kindAccept {
		return r.accepted(contact)
	}
	if known {
		return message{Kind: kindMutual}, r.settle(contact)
	}
	return message{Kind: kindAsked}, r.keep(from, m)
}

// accepted takes a yes to what we asked; nobody else's is wanted.
func (r *Requests) accepted(contact identity.Address) (message, error) {
	if r.cfg.Store.Standing(contact) == contacts.Unasked {
		return message{}, fmt.Errorf("%s was not asked: %w", contact.Short(), ErrAway)
	}
	return message{Kind: kindMutual}, r.settle(contact)
}

// settle notes that a contact has us among its own.
func (r *Requests) settle(contact identity.Address) error {
	if r.cfg.Store.Standing(contact) == contacts.Mutual {
		return nil
	}
	err := r.cfg.Store.Settle(contact, contacts.Mutual)
	r.notify()
	return err
}

// keep lays a stranger's request before the owner.
func (r *Requests) keep(from identity.Address, m message) error {
	dropped, err := r.cfg.Store.Put(contacts.Request{
		Address:  m.Link.Address,
		From:     from,
		Name:     m.Name,
		Note:     m.Note,
		Link:     *m.Link,
		Received: time.Now(),
	})
	if !dropped.IsZero() {
		r.cfg.Logger.Warn("a request was dropped: too many wait", "peer", dropped.Short(), "limit", contacts.MaxPending)
	}
	r.notify()
	return err
}
