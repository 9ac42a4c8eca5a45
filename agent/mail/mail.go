package mail

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"porchlight/agent/identity"
)

// Service is the name of the service on the overlay.
const Service = "mail"

const (
	messagesLog = "messages.log"
	heldLog     = "held.log"
)

// Waits until a message that was not confirmed is tried again, and until what
// is held for another device is.
var (
	ownWaits  = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour}
	heldWaits = []time.Duration{10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 80 * time.Minute, 2 * time.Hour}
)

// Config is what a Mail needs; every field but FS has to be set. The functions
// are called from many goroutines and never with a lock held.
type Config struct {
	// Device is this device, whose key seals and opens.
	Device *identity.Device
	// Client makes requests to the service of others: overlay.Client(Service).
	Client *http.Client
	// FS is where the logs are kept; nil keeps everything in memory.
	FS FS
	// Known returns the contact, a person or a device, that a device belongs
	// to, and false for strangers and blocked ones. It is asked for devices of
	// the owner too.
	Known func(device identity.Address) (contact identity.Address, ok bool)
	// Devices lists the devices of a contact, the best first; of a contact that
	// is a device, itself.
	Devices func(contact identity.Address) []identity.Address
	// Own lists the owner's devices; this one may be among them.
	Own func() []identity.Address
	// Helpers lists devices that may hold a message for a recipient, the best
	// first: own ones and friends' that are on-line.
	Helpers func(recipient identity.Address) []identity.Address
	// Online says whether a device can be reached at this moment.
	Online func(device identity.Address) bool
	// MayDeposit says for whom this device holds messages: own and friends'.
	MayDeposit func(from identity.Address) bool
	// Now is the wall clock, and whether it was set since the device started.
	Now    func() (wall time.Time, set bool)
	Logger *slog.Logger
}

// Mail sends, receives and holds messages on one device.
type Mail struct {
	cfg     Config
	self    identity.Address
	handler http.Handler
	limits  limits

	mu      sync.Mutex
	closed  bool
	store   *store
	mailbox *mailbox
	changes chan struct{}
	damaged int

	carry, hold *courier
	cancel      context.CancelFunc
	running     sync.WaitGroup
}

// ErrClosed says that the Mail was closed.
var ErrClosed = errors.New("the mail is closed")

// New reads the logs. Nothing is sent before Start.
func New(cfg Config) (*Mail, error) {
	m := &Mail{
		cfg:     cfg,
		self:    cfg.Device.Address(),
		limits:  newLimits(),
		store:   newStore(),
		mailbox: &mailbox{now: time.Now},
		changes: make(chan struct{}),
	}
	m.carry = newCourier(ownWaits, m.carryTo)
	m.hold = newCourier(heldWaits, m.pushHeld)
	m.handler = m.routes()
	if cfg.FS == nil {
		return m, nil
	}
	if err := m.load(cfg.FS); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Mail) load(fs FS) (err error) {
	var bad int
	if m.store.log, bad, err = openJournal(fs, messagesLog, m.store.apply); err != nil {
		return fmt.Errorf("messages: %w", err)
	}
	m.store.dropped = 0
	if bad > 0 {
		// A message may be missing between two that wait: by way of helpers
		// alone, the recipient would wait for it until it expires.
		for _, o := range m.store.out {
			m.store.renew(o, newStream())
		}
		m.mend("messages", bad, m.store.log, m.store.live)
	}
	if m.mailbox.log, bad, err = openJournal(fs, heldLog, m.mailbox.apply); err != nil {
		return fmt.Errorf("messages held for others: %w", err)
	}
	if bad > 0 {
		m.mend("messages held for others", bad, m.mailbox.log, m.mailbox.live)
	}
	return nil
}

// mend writes a damaged log anew without its damaged places.
func (m *Mail) mend(what string, bad int, log *journal, live func() []byte) {
	m.damaged += bad
	m.cfg.Logger.Warn("a log was damaged; what could be read was kept", "log", what, "places", bad)
	if err := log.compact(true, live); err != nil {
		m.cfg.Logger.Warn("a damaged log was not mended", "log", what, "err", err)
	}
}

// Start begins to deliver. It returns at once; ctx has no say afterwards.
func (m *Mail) Start(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.cancel != nil {
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	for device, o := range m.store.out {
		if len(o.parcels) > 0 {
			m.carry.call(device, fresh, 0)
		}
	}
	for _, i := range m.mailbox.items {
		m.hold.call(i.to, fresh, heldWaits[0])
	}
	m.running.Go(func() { m.carry.loop(ctx) })
	m.running.Go(func() { m.hold.loop(ctx) })
	return nil
}

// Close ends every delivery, waits for them and closes the logs.
func (m *Mail) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	cancel := m.cancel
	m.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	m.running.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.store.log.close(), m.mailbox.log.close())
}

// Handler answers the service: overlay.Serve(Service, m.Handler()).
func (m *Mail) Handler() http.Handler { return m.handler }

// Changed returns a channel that is closed at the next change of any message;
// ask for it before reading, and again after it was closed.
func (m *Mail) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// notify tells about a change; m.mu is held.
func (m *Mail) notify() {
	close(m.changes)
	m.changes = make(chan struct{})
}

// commit makes a record of messages part of the state; m.mu is held.
func (m *Mail) commit(record []byte, durable bool) error {
	if m.closed {
		return ErrClosed
	}
	if err := m.store.commit(record, durable); err != nil {
		return err
	}
	m.notify()
	if err := m.store.log.compact(false, m.store.live); err != nil {
		m.cfg.Logger.Warn("the log of messages stays large", "err", err)
	}
	return nil
}

// Send writes a text to a contact. When it returns nil the message is on this
// device's disk and will be delivered, held by helpers, or expire after
// Lifetime. Errors: ErrText, ErrNoDevice, ErrFull, or that of the disk.
func (m *Mail) Send(contact identity.Address, text string) (Message, error) {
	if err := checkText(text); err != nil {
		return Message{}, err
	}
	devices, own := m.recipients(contact)
	if len(devices) == 0 {
		return Message{}, fmt.Errorf("send to %s: %w", contact.Short(), ErrNoDevice)
	}
	message, err := m.write(contact, text, devices, own)
	if err != nil {
		return Message{}, fmt.Errorf("send to %s: %w", contact.Short(), err)
	}
	for _, d := range append(devices, own...) {
		m.carry.call(d, fresh, 0)
	}
	return message, nil
}

// recipients lists the devices of a contact and the owner's other ones.
func (m *Mail) recipients(contact identity.Address) (devices, own []identity.Address) {
	for _, d := range m.cfg.Devices(contact) {
		if m.sendable(d) && !slices.Contains(devices, d) && len(devices) < maxDevices {
			devices = append(devices, d)
		}
	}
	for _, d := range m.cfg.Own() {
		if d != m.self && d.Kind() == identity.KindDevice && !slices.Contains(devices, d) &&
			!slices.Contains(own, d) && len(own) < maxDevices {
			own = append(own, d)
		}
	}
	return devices, own
}

// sendable says whether a message may go to a device now: it may have been
// revoked or blocked since it was written.
func (m *Mail) sendable(device identity.Address) bool {
	if device == m.self || device.Kind() != identity.KindDevice {
		return false
	}
	_, ok := m.cfg.Known(device)
	return ok || slices.Contains(m.cfg.Own(), device)
}

func (m *Mail) write(contact identity.Address, text string, devices, own []identity.Address) (Message, error) {
	e := &entry{contact: contact, out: true, text: text, state: Waiting}
	rand.Read(e.id[:])
	if wall, set := m.cfg.Now(); set {
		e.written, e.created = wall.UnixMilli(), wall.Unix()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.store.room(devices, len(devices)+len(own)) {
		return Message{}, ErrFull
	}
	var places []place
	for i, d := range append(slices.Clone(devices), own...) {
		stream, seq := m.store.nextPlace(d)
		places = append(places, place{d, stream, seq, i >= len(devices)})
	}
	if err := m.commit(encodeSent(e, places), true); err != nil {
		return Message{}, err
	}
	return e.message(), nil
}

// Came tells that a device is on-line now. It returns at once.
func (m *Mail) Came(device identity.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for to, o := range m.store.out {
		switch {
		case len(o.parcels) == 0:
		case to == device:
			m.carry.call(to, came, 0)
		case slices.ContainsFunc(o.parcels, func(p *parcel) bool { return len(p.helpers) < maxHelpers }):
			// The device may be a helper for what no two helpers hold yet.
			m.carry.call(to, nudge, 0)
		}
	}
	if slices.ContainsFunc(m.mailbox.items, func(i *heldItem) bool { return i.to == device }) {
		m.hold.call(device, came, 0)
	}
}

// List returns messages with a contact in the order in which they came to this
// device: those after the one named, or the last ones if it is "" or no longer
// kept. The zero contact stands for all; at most limit are returned, all if it
// is not positive.
func (m *Mail) List(contact identity.Address, afterID string, limit int) []Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Message{}
	found := false
	for _, e := range m.store.entries {
		if !contact.IsZero() && e.contact != contact {
			continue
		}
		list = append(list, e.message())
		if list[len(list)-1].ID == afterID {
			list, found = list[:0], true
		}
	}
	if limit > 0 && len(list) > limit {
		if found {
			return list[:limit]
		}
		return list[len(list)-limit:]
	}
	return list
}

// Unread counts the messages of a contact that came since MarkRead; the zero
// contact stands for all.
func (m *Mail) Unread(contact identity.Address) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.store.entries {
		if (contact.IsZero() || e.contact == contact) && !e.read && !e.out {
			n++
		}
	}
	return n
}

// MarkRead notes that the owner has seen all messages of a contact. It writes
// nothing if that is known.
func (m *Mail) MarkRead(contact identity.Address) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.store.entries {
		if e.contact == contact && !e.read && !e.out {
			return m.commit(appendAddress([]byte{recordRead}, contact), false)
		}
	}
	return nil
}

// Stats says how much is kept.
type Stats struct {
	// Messages are those of all conversations, Dropped those that were given
	// up for newer ones since the start.
	Messages int
	Dropped  int64
	// Pending are copies that no recipient has confirmed.
	Pending int
	// Held and HeldBytes are what lies here for others.
	Held, HeldBytes int
	// LogBytes are both logs on disk; Damaged counts places in them that could
	// not be read at the start.
	LogBytes int64
	Damaged  int
}

// Stats returns how much is kept.
func (m *Mail) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{
		Messages: len(m.store.entries), Dropped: m.store.dropped, Pending: m.store.pending,
		Held: len(m.mailbox.items), HeldBytes: m.mailbox.bytes, Damaged: m.damaged,
	}
	for _, log := range []*journal{m.store.log, m.mailbox.log} {
		if log != nil {
			s.LogBytes += log.size
		}
	}
	return s
}
