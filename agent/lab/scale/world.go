package scale

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/dht"
	"porchlight/agent/identity"
	"porchlight/agent/reach"
)

const (
	// perMinute is how many devices start in a minute while all come up.
	perMinute = 1000
	// contactsEach is how many contacts a device has: all the same number, of
	// anybody, both ways.
	contactsEach = 20
	// restartEvery and moveEvery are how often a device restarts and how often
	// its address changes, downFor how long a restart takes.
	restartEvery = 72 * time.Hour
	moveEvery    = 24 * time.Hour
	downFor      = 10 * time.Second
)

// epoch is the wall time of the start.
var epoch = time.Unix(1_800_000_000, 0)

// world is all devices, the network between them and the clock.
type world struct {
	clock
	cfg     Config
	rng     *rand.Rand
	devices []*device
	index   map[identity.Address]*device
	nodes   map[netip.AddrPort]*device // who is at an address now
	used    map[netip.Addr]bool
	free    [][]byte

	keys map[keyOf][32]byte

	trace     uint64
	datagrams uint64
	refused   uint64 // datagrams that NATs let in nowhere
	storm     *storm
	born      births
	full      int // registrations refused for want of room
	conflicts int
	unstored  int
	// answerSize is the size of the answer to a registration.
	answerSize float64
}

// births is how long devices took from their first start.
type births struct {
	registered, enough, published []time.Duration
	last                          time.Duration // when the last of these was
}

// device is one of them. What is in a life ends with it; the rest is on its disk.
type device struct {
	id     int32
	public bool
	self   *identity.Device
	place  place
	spent  [purposes]traffic

	// On the disk.
	fellows  *reach.Fellows
	saved    []netip.AddrPort // nodes of the DHT
	seqs     int64
	contacts []*contact
	mentor   hint // whose link it began with
	via      []hint

	// Of this life.
	up       bool
	life     uint32
	core     *dht.Core
	wake     time.Duration
	flows    map[netip.AddrPort]time.Duration
	helpers  []*helper
	rests    map[*device]time.Duration // until when full rendezvous are left alone
	looking  bool
	visits   []session
	found    map[int32]*finding
	busy     int
	waiting  []*contact
	doubts   allowance
	told     bool // Announce was called
	schedule schedule

	// As rendezvous.
	clients map[int32]*client
	hints   allowance
	notes   float64 // carried

	// held counts the registrations of this device, served those of others here.
	held, served int
	counted      time.Duration

	began      time.Duration
	registered bool          // ever
	enough     bool          // ever
	stored     bool          // ever
	recovered  time.Duration // after the others left; negative until then
}

// hint is a device and where it is said to be.
type hint struct {
	of *device
	at place
}

// valid says whether the device can be called there.
func (h hint) valid() bool { return h.of != nil && h.of.up && h.of.public && h.of.place == h.at }

// files is a disk that keeps nothing: what a device remembers stays in memory.
type files struct{}

func (files) ReadJSON(string, any) error  { return nil }
func (files) WriteJSON(string, any) error { return nil }

func newWorld(cfg Config) (*world, error) {
	w := &world{
		cfg:   cfg,
		rng:   rand.New(rand.NewPCG(cfg.Seed, 1)),
		index: map[identity.Address]*device{},
		nodes: map[netip.AddrPort]*device{},
		used:  map[netip.Addr]bool{},
		keys:  map[keyOf][32]byte{},
		trace: 14695981039346656037,
	}
	for i := range cfg.Devices {
		d, err := w.newDevice(int32(i))
		if err != nil {
			return nil, err
		}
		w.devices = append(w.devices, d)
		w.index[d.self.Address()] = d
	}
	w.choosePublic()
	if err := w.acquaint(); err != nil {
		return nil, err
	}
	w.answerSize = answerSize(w.devices[0])
	return w, nil
}

func (w *world) newDevice(id int32) (*device, error) {
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		binary.BigEndian.PutUint64(seed[i:], w.rng.Uint64())
	}
	d := &device{id: id, self: identity.FromSeed(seed[:])}
	var err error
	d.fellows, err = reach.OpenFellows(files{}, d.self.Address())
	if err != nil {
		return nil, fmt.Errorf("make a device: %w", err)
	}
	return d, nil
}

// choosePublic makes the first device public, and others by chance until there
// are enough.
func (w *world) choosePublic() {
	n := max(1, (len(w.devices)*publicShare+50)/100)
	w.devices[0].public = true
	for _, i := range w.rng.Perm(len(w.devices) - 1)[:n-1] {
		w.devices[i+1].public = true
	}
	for _, d := range w.devices {
		if d.public {
			d.clients = map[int32]*client{}
		}
	}
}

var errLonely = errors.New("too few devices for so many contacts")

// acquaint gives every device the same number of contacts, by chance: a graph
// from shuffled pairs, where a pair that is no use is shuffled again.
func (w *world) acquaint() error {
	n := len(w.devices)
	if n < 2*contactsEach {
		return fmt.Errorf("%d devices: %w", n, errLonely)
	}
	for range contactsEach / 2 {
		// A ring through all in a random order gives each two contacts.
		order := w.rng.Perm(n)
		for i, a := range order {
			x, y := w.devices[a], w.devices[order[(i+1)%n]]
			if x.contact(y) == nil {
				cx, cy := &contact{owner: x, peer: y}, &contact{owner: y, peer: x}
				cx.other, cy.other = cy, cx
				x.contacts, y.contacts = append(x.contacts, cx), append(y.contacts, cy)
			}
		}
	}
	return nil
}

// contact returns the contact that a device is, nil if it is none.
func (d *device) contact(of *device) *contact {
	for _, c := range d.contacts {
		if c.peer == of {
			return c
		}
	}
	return nil
}

// wall is the time that devices see.
func (w *world) wall() time.Time { return epoch.Add(w.now) }

// soon does something of a device's life when a time has passed, if that life
// has not ended.
func (w *world) soon(d *device, wait time.Duration, do func()) {
	life := d.life
	w.after(wait, func() {
		if d.up && d.life == life {
			do()
		}
	})
}

// spread returns d, a quarter longer or shorter (agent/people/device.go).
func (w *world) spread(d time.Duration) time.Duration { return d - d/4 + w.upTo(d/2) }

// upTo is a random time below d.
func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Uint64() % uint64(d))
}

// start begins a life of a device.
func (w *world) start(d *device) {
	if d.place == (place{}) {
		d.place, d.began = w.newPlace(), w.now
		w.beginWith(d)
		w.soonRestarts(d)
	}
	d.up = true
	d.life++
	w.nodes[d.place.node()] = d
	pcg := rand.NewPCG(w.rng.Uint64(), 2)
	d.core = dht.NewCore(dht.CoreConfig{
		Start: epoch, Random: pcg.Uint64, IPv4: true,
		Send:     func(to netip.AddrPort, b []byte) error { return w.send(d, to, b) },
		ReadOnly: func() bool { return !d.public },
		Bootstrap: func() []netip.AddrPort {
			nodes := append([]netip.AddrPort{}, d.saved...)
			for _, l := range d.fellows.Links() {
				nodes = append(nodes, netip.AddrPortFrom(l.At[0].Addr(), port+dhtOffset))
			}
			return nodes
		},
	})
	d.flows, d.found = map[netip.AddrPort]time.Duration{}, map[int32]*finding{}
	d.helpers, d.visits, d.waiting, d.busy, d.told, d.looking = nil, nil, nil, 0, false, false
	d.schedule = schedule{}
	d.doubts, d.hints = newAllowance(hintsPerMinute/60.0, hintsBurst), newAllowance(tellPerSecond, tellBurst)
	for _, c := range d.contacts {
		c.reset()
	}
	d.wake = 0
	w.arm(d)
	w.look(d)
	w.scout(d)
	w.changed(d)
	if d.public {
		w.soon(d, lackAfter, func() { w.announce(d) })
	}
}

// beginWith gives a new device the link of a contact that is there already, or
// of anybody.
func (w *world) beginWith(d *device) {
	var there []*device
	for _, c := range d.contacts {
		if c.peer.callable() {
			there = append(there, c.peer)
		}
	}
	if len(there) == 0 {
		there = slices.DeleteFunc(slices.Clone(w.devices[:d.id]), func(o *device) bool { return !o.callable() })
	}
	if len(there) == 0 {
		return
	}
	o := there[w.rng.IntN(len(there))]
	d.mentor, d.via = hint{of: o, at: o.place}, o.rendezvous()
	if c := d.contact(o); c != nil {
		c.via = d.via
		if o.public {
			c.at = o.place
		}
	}
}

// callable says whether a link of the device would name a way to it.
func (d *device) callable() bool { return d.up && (d.public || len(d.rendezvous()) > 0) }

// soonRestarts plans the days of a device: restarts and other addresses.
func (w *world) soonRestarts(d *device) {
	var restart, move func()
	restart = func() {
		w.after(restartEvery/2+w.upTo(restartEvery), restart)
		if d.up {
			w.stop(d)
			life := d.life
			w.after(downFor, func() {
				if d.life == life && !d.up {
					w.start(d)
				}
			})
		}
	}
	move = func() {
		w.after(moveEvery/2+w.upTo(moveEvery), move)
		if d.up {
			w.move(d)
		}
	}
	// The first ones are as if the device had always been there.
	w.after(w.upTo(restartEvery), restart)
	w.after(w.upTo(moveEvery), move)
}

// stop ends a life in order: contacts and rendezvous hear of it.
func (w *world) stop(d *device) {
	w.takeLeave(d)
	d.saved = d.core.Nodes()
	w.unregisterAll(d)
	w.sendAway(d, false)
	w.end(d)
}

// vanish ends a life without a word, for good.
func (w *world) vanish(d *device) {
	for _, h := range d.helpers {
		w.forsake(d, h)
	}
	w.sendAway(d, true)
	w.end(d)
	d.life++ // no restart follows
}

func (w *world) end(d *device) {
	w.settleCounts(d)
	d.held = 0
	d.up = false
	delete(w.nodes, d.place.node())
	d.core, d.flows, d.found, d.helpers, d.rests = nil, nil, nil, nil, nil
}

// move gives a device another address.
func (w *world) move(d *device) {
	delete(w.nodes, d.place.node())
	if d.public {
		w.sendAway(d, true) // who is registered here finds nobody
	}
	d.place = w.newPlace()
	w.nodes[d.place.node()] = d
	clear(d.flows)
	d.visits = nil
	d.core.Moved(w.wall())
	w.arm(d)
	w.reconnect(d)
	w.changed(d)
	w.round(d, true)
}
