package beacon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"porchlight/agent/identity"
)

const (
	// Interval is the time between two beacons, Jitter how much shorter or
	// longer it may be.
	Interval = 30 * time.Second
	Jitter   = 3 * time.Second
	// Fresh is how long what was heard is believed: three intervals and a bit.
	Fresh = 95 * time.Second

	// answerJitter spreads the answers of many devices to a newcomer.
	answerJitter = 200 * time.Millisecond
	// answerGap is the least time between two answers.
	answerGap = time.Second
	// sendGap is the least time between any two beacons.
	sendGap = 150 * time.Millisecond
)

// quick are the times between the beacons of a start or a move: one may be
// lost, or come before the others listen.
var quick = []time.Duration{0, 300 * time.Millisecond, 600 * time.Millisecond}

// ErrClosed says that the beacon does not run: it was closed, or never started.
var ErrClosed = errors.New("the LAN beacon is off")

// Config is what a Beacon needs. Device and Port must be set. The functions
// are called from several goroutines; they must not block, nor call Start,
// Close, KnownChanged or Find.
type Config struct {
	Device *identity.Device
	// Port is the device's UDP port.
	Port uint16
	// DHTPort is the UDP port of the device's DHT node, 0 if it has none; nil
	// stands for never.
	DHTPort func() uint16
	// Known lists the devices to be recognised: contacts' and the owner's own.
	// It is asked at Start and at each KnownChanged. Addresses of owners are
	// passed over, and so is what exceeds MaxKnown.
	Known func() []identity.Address
	// Invite returns the key material of the invitation that is open; nil
	// stands for none ever.
	Invite func() (material [32]byte, open bool)
	// OnHeard is told of each beacon of a known device. News says that its
	// boot or its addresses were not known before, or no longer.
	OnHeard func(a identity.Address, news bool)
	// Loopback adds the loopback interface, for agents on one machine.
	Loopback bool
	Logger   *slog.Logger
}

// Beacon says that this device is here, and hears others.
type Beacon struct {
	cfg   Config
	ether ether
	boot  boot

	kick    chan struct{} // wakes the sender, which looks at the fields below
	done    chan struct{}
	running sync.WaitGroup
	life    sync.Mutex // Start and Close
	started bool
	closed  bool
	knowing sync.Mutex // one KnownChanged at a time

	mu       sync.Mutex
	counter  uint32
	networks []netip.Prefix // of the last look
	looked   time.Time
	plan     plan
	table    table
	limits   limiter
	searches map[*search]struct{}
	counts   Counts
}

// New returns a Beacon that does nothing before Start.
func New(cfg Config) *Beacon {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Beacon{
		cfg:      cfg,
		ether:    &sockets{loopback: cfg.Loopback, log: cfg.Logger},
		kick:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		limits:   limiter{sources: map[netip.Addr]*bucket{}},
		searches: map[*search]struct{}{},
	}
	b.table = newTable()
	rand.Read(b.boot[:])
	return b
}

// Start opens the sockets and begins to send and to hear. The error says that
// the port cannot be had.
func (b *Beacon) Start() error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.closed || b.started {
		return ErrClosed
	}
	b.KnownChanged()
	if err := b.ether.Start(b.hear); err != nil {
		return errors.Join(err, b.ether.Close())
	}
	b.started = true
	b.Moved()
	b.running.Go(b.send)
	return nil
}

// Close stops everything and waits for it. What was heard stays readable.
func (b *Beacon) Close() error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	close(b.done)
	err := b.ether.Close()
	b.running.Wait()
	if err != nil {
		return fmt.Errorf("close the LAN beacon: %w", err)
	}
	return nil
}

// Moved says that addresses or interfaces have changed: others are told at once.
func (b *Beacon) Moved() {
	b.mu.Lock()
	b.looked = time.Time{}
	b.plan.series(time.Now())
	b.mu.Unlock()
	b.wake()
}

func (b *Beacon) wake() {
	select {
	case b.kick <- struct{}{}:
	default: // it will look anyway
	}
}

// plan says when the next beacon is due. Its times are zero for never.
type plan struct {
	left     int       // of the quick ones
	regular  time.Time // next quick or regular beacon
	answer   time.Time // an answer is owed
	answered time.Time // the last one
	sent     time.Time
}

func (p *plan) series(now time.Time) {
	p.left, p.regular = len(quick), now
}

// owe plans an answer, unless there is one already.
func (p *plan) owe(now time.Time) {
	if !p.answer.IsZero() {
		return
	}
	p.answer = now.Add(mathrand.N(answerJitter))
	if free := p.answered.Add(answerGap); !p.answered.IsZero() && p.answer.Before(free) {
		p.answer = free
	}
}

// next is when a beacon is due.
func (p *plan) next() time.Time {
	at := p.regular
	if !p.answer.IsZero() && p.answer.Before(at) {
		at = p.answer
	}
	if free := p.sent.Add(sendGap); !p.sent.IsZero() && at.Before(free) {
		at = free
	}
	return at
}

// fulfil notes that a beacon goes out now, which is every answer owed too.
func (p *plan) fulfil(now time.Time) {
	p.sent = now
	if !p.answer.IsZero() {
		p.answer, p.answered = time.Time{}, now
	}
	if p.regular.After(now) {
		return
	}
	if p.left = max(0, p.left-1); p.left > 0 {
		p.regular = now.Add(quick[len(quick)-p.left])
		return
	}
	p.regular = now.Add(Interval - Jitter + mathrand.N(2*Jitter))
}

// send runs until Close.
func (b *Beacon) send() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-b.done:
			return
		case <-b.kick:
		case <-timer.C:
		}
		now := time.Now()
		b.mu.Lock()
		due := !b.plan.next().After(now)
		if due {
			b.plan.fulfil(now)
		}
		timer.Reset(b.plan.next().Sub(now))
		b.mu.Unlock()
		if due {
			b.say()
		}
	}
}

// say sends one beacon, and a second one while an invitation is open.
func (b *Beacon) say() {
	b.look(true)
	b.ether.Send(b.write(addressKey(b.cfg.Device.Address()), kindHere))
	if material, open := b.invitation(); open {
		b.ether.Send(b.write(codeKey(material), kindInvite))
	}
}

func (b *Beacon) invitation() ([32]byte, bool) {
	if b.cfg.Invite == nil {
		return [32]byte{}, false
	}
	return b.cfg.Invite()
}

func (b *Beacon) write(k key, what kind) []byte {
	var dht uint16
	if b.cfg.DHTPort != nil {
		dht = b.cfg.DHTPort()
	}
	b.mu.Lock()
	b.counter++
	m := body{kind: what, boot: b.boot, counter: b.counter, port: b.cfg.Port, addresses: candidates(b.networks)}
	b.mu.Unlock()
	d := seal(k, b.cfg.Device, dht, m)
	b.mu.Lock()
	b.table.note(nonce(d[nonceAt:tagAt]), identity.Address{}) // it comes back
	b.mu.Unlock()
	return d
}

// lookAgain is how old the list of our networks may be when a beacon comes.
const lookAgain = 10 * time.Second

// look returns this machine's networks, from the system if it must or if what
// is known is old.
func (b *Beacon) look(must bool) []netip.Prefix {
	now := time.Now()
	b.mu.Lock()
	networks := b.networks
	must = must || b.looked.IsZero() || now.Sub(b.looked) > lookAgain
	if must {
		b.looked = now // others need not look meanwhile
	}
	b.mu.Unlock()
	if !must {
		return networks
	}
	networks = b.ether.Networks()
	b.mu.Lock()
	b.networks = networks
	b.mu.Unlock()
	return networks
}
