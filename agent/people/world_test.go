package people

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/introduce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func address(n int) identity.Address {
	key := make([]byte, 32)
	binary.BigEndian.PutUint32(key, uint32(n))
	return identity.NewAddress(key, identity.KindDevice)
}

func owner(n int) identity.Address {
	key := bytes.Repeat([]byte{0xff}, 32)
	binary.BigEndian.PutUint32(key, uint32(n))
	return identity.NewAddress(key, identity.KindOwner)
}

// files keeps JSON in memory.
type files struct {
	mu     sync.Mutex
	data   map[string][]byte
	writes int
}

func (f *files) ReadJSON(name string, v any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.data[name]; ok {
		return json.Unmarshal(b, v)
	}
	return nil
}

func (f *files) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

func (f *files) WriteJSON(name string, v any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := json.Marshal(v)
	f.data[name], f.writes = b, f.writes+1
	return err
}

// world carries notes as package introduce does, each way in 20 ms.
type world struct {
	mu    sync.Mutex
	nodes map[identity.Address]*member // those that are there
	told  []noted
}

type noted struct {
	from, to identity.Address
	kind     string
	watch    bool
	at       time.Time
}

const latency = 20 * time.Millisecond

func newWorld() *world { return &world{nodes: map[identity.Address]*member{}} }

// notes counts the notes from one device to another; the zero address counts
// those of all.
func (w *world) notes(from, to identity.Address) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.told {
		if (from.IsZero() || t.from == from) && (to.IsZero() || t.to == to) {
			n++
		}
	}
	return n
}

// member is one device of the world.
type member struct {
	*Presence
	w       *world
	address identity.Address
	files   *files

	mu      sync.Mutex
	peers   []Peer
	self    Self
	blocked []identity.Address
	owners  map[identity.Address]identity.Address // of devices
}

// Tell implements Teller.
func (m *member) Tell(ctx context.Context, to identity.Address, body []byte, watch bool) ([]byte, error) {
	message, _ := parse(body)
	m.w.mu.Lock()
	m.w.told = append(m.w.told, noted{m.address, to, message.Kind, watch, time.Now()})
	m.w.mu.Unlock()
	if err := pass(ctx, latency); err != nil {
		return nil, err
	}
	m.w.mu.Lock()
	other := m.w.nodes[to]
	m.w.mu.Unlock()
	err := introduce.ErrNotHere
	var answer []byte
	if other != nil {
		if how := other.Receive(m.address); how != introduce.Unheard {
			answer, err = other.Handle(ctx, m.address, body)
			if how == introduce.Unanswered || err != nil {
				answer, err = nil, introduce.ErrNotHere
			}
		}
	}
	return answer, errors.Join(pass(ctx, latency), err)
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newMember is a device that is there, but has announced nothing yet.
func (w *world) newMember(t *testing.T, n int, contacts ...int) *member {
	t.Helper()
	m := &member{w: w, address: address(n), files: &files{data: map[string][]byte{}}, owners: map[identity.Address]identity.Address{}}
	for _, c := range contacts {
		m.peers = append(m.peers, Peer{Address: address(c), Contact: address(c).String()})
	}
	m.self = Self{Name: "device " + m.address.Short(), Roster: 1}
	m.start(t)
	return m
}

// start begins a life of the device.
func (m *member) start(t *testing.T) {
	t.Helper()
	m.Presence = New(m.config())
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := m.Presence
	t.Cleanup(func() { p.Close() })
	m.w.mu.Lock()
	m.w.nodes[m.address] = m
	m.w.mu.Unlock()
}

func (m *member) config() Config {
	return Config{
		Teller:  m,
		Peers:   func() []Peer { m.mu.Lock(); defer m.mu.Unlock(); return slices.Clone(m.peers) },
		Self:    func() Self { m.mu.Lock(); defer m.mu.Unlock(); return m.self },
		Blocked: func(a identity.Address) bool { return slices.Contains(m.blocked, a) },
		Files:   m.files,
		Logger:  slog.New(slog.DiscardHandler),
	}
}

// vanish is a power cut: nothing is said.
func (m *member) vanish() {
	m.w.mu.Lock()
	delete(m.w.nodes, m.address)
	m.w.mu.Unlock()
	m.locked(func() { m.order = nil }) // takes no leave when the test ends
	m.cancel()
}

// locked runs f with the lock of the Presence.
func (m *member) locked(f func()) {
	m.Presence.mu.Lock()
	defer m.Presence.mu.Unlock()
	f()
}

// word is what the device says of itself next.
func (m *member) word(t *testing.T, on bool) (body []byte) {
	t.Helper()
	m.locked(func() {
		var err error
		if body, err = m.here(on).encode(); err != nil {
			t.Fatal(err)
		}
	})
	return body
}

// device returns what is known of another device.
func (m *member) device(of identity.Address) (d device) {
	m.locked(func() { d = *m.devices[of] })
	return d
}

// hide changes whether a contact sees the device.
func (m *member) hide(from int, hidden bool) {
	m.mu.Lock()
	for i := range m.peers {
		if m.peers[i].Address == address(from) {
			m.peers[i].Hidden = hidden
		}
	}
	m.mu.Unlock()
	m.Refresh()
}

func (m *member) sees(n int) bool { return m.State(address(n)).Online }

// until waits until ok, for a virtual time at most, and returns how long it took.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-time.After(10 * time.Millisecond)
	}
	return time.Since(began)
}

// after lets virtual time pass.
func after(d time.Duration) { <-time.After(d) }

// asking gives a member requests, and the store they are kept in.
func (m *member) asking(t *testing.T) *Requests {
	t.Helper()
	store, err := contacts.OpenRequests(m.files)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRequests(RequestConfig{
		Store:  store,
		Teller: m,
		Self: func() (string, identity.Link) {
			if o, ok := m.owners[m.address]; ok {
				return "Person", identity.Link{Address: o}
			}
			return "Device", identity.Link{Address: m.address}
		},
		ContactOf: func(d identity.Address) (identity.Address, bool) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range m.peers {
				if p.Address == d || p.Contact == d.String() {
					a, _ := identity.ParseAddress(p.Contact)
					return a, true
				}
			}
			return identity.Address{}, false
		},
		Devices: func(contact identity.Address) (all []identity.Address) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range m.peers {
				if p.Contact == contact.String() {
					all = append(all, p.Address)
				}
			}
			return all
		},
		Blocked: func(a identity.Address) bool { return slices.Contains(m.blocked, a) },
		Owned: func(_ context.Context, device, owner identity.Address) bool {
			m.w.mu.Lock()
			other := m.w.nodes[device]
			m.w.mu.Unlock()
			return other != nil && other.owners[device] == owner
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	m.cfg.Requests = r
	return r
}

// add makes a device a contact.
func (m *member) add(a, contact identity.Address) {
	m.mu.Lock()
	m.peers = append(m.peers, Peer{Address: a, Contact: contact.String()})
	m.mu.Unlock()
	m.Refresh()
}
