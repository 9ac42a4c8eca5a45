package owner_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/owner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

func person(n byte) *identity.Owner { return identity.OwnerFromSeed(bytes.Repeat([]byte{n}, 32)) }

// disk keeps files like a state folder; its failAt-th write from now fails.
type disk struct {
	mu     sync.Mutex
	files  map[string][]byte
	writes int
	failAt int
	// late makes the write that fails take place all the same, as when the
	// folder could not be synced after the renaming.
	late bool
}

func newDisk() *disk { return &disk{files: map[string][]byte{}} }

var errDisk = errors.New("the disk is full")

func (d *disk) ReadJSON(name string, v any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	if !ok {
		return nil
	}
	return json.Unmarshal(b, v)
}

func (d *disk) WriteJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if bytes.Equal(d.files[name], b) {
		return nil
	}
	if d.failAt--; d.failAt == 0 {
		if d.late {
			d.files[name] = b
		}
		return errDisk
	}
	d.files[name] = b
	d.writes++
	return nil
}

// failing makes the n-th write from now fail.
func (d *disk) failing(n int) { d.failAt = n }

// world carries requests between nodes.
type world struct {
	mu    sync.Mutex
	nodes map[identity.Address]http.Handler
	// meddle, if set, may answer a request in the place of its recipient.
	meddle func(from, to identity.Address, r *http.Request) *http.Response
}

// node is one device.
type node struct {
	*owner.Store
	world   *world
	device  *identity.Device
	disk    *disk
	cfg     owner.Config
	handler *owner.Handler
	wanted  map[identity.Address]bool
}

func newWorld() *world { return &world{nodes: map[identity.Address]http.Handler{}} }

// add puts a device into the world.
func (w *world) add(t testing.TB, seed byte, change func(*owner.Config)) *node {
	t.Helper()
	n := &node{world: w, device: device(seed), disk: newDisk(), wanted: map[identity.Address]bool{}}
	n.cfg = owner.Config{
		Device: n.device,
		Files:  n.disk,
		Wanted: func(a identity.Address) bool { return n.wanted[a] },
		Presign: func(key ed25519.PrivateKey, roster []byte, version uint64) []byte {
			return append([]byte{byte(version)}, ed25519.Sign(key, roster)...)
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&n.cfg)
	}
	n.reopen(t)
	return n
}

// reopen starts the device anew from what its disk holds.
func (n *node) reopen(t testing.TB) {
	t.Helper()
	s, err := owner.Open(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Store, n.handler = s, owner.NewHandler(s, func(a identity.Address) bool { return !s.OwnerOf(a).IsZero() })
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.world.nodes[n.address()] = n.handler
}

func (n *node) address() identity.Address { return n.device.Address() }

// client is the overlay's client of this device.
func (n *node) client() *http.Client { return &http.Client{Transport: trip{n.world, n.address()}} }

// trip makes requests as one device.
type trip struct {
	world *world
	from  identity.Address
}

func (t trip) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := identity.ParseAddress(r.URL.Host)
	if err != nil {
		return nil, err
	}
	t.world.mu.Lock()
	h, meddle := t.world.nodes[to], t.world.meddle
	t.world.mu.Unlock()
	if meddle != nil {
		if answer := meddle(t.from, to, r); answer != nil {
			return answer, nil
		}
	}
	if h == nil {
		return nil, errors.New("nobody is there")
	}
	w := httptest.NewRecorder()
	request := r.Clone(overlay.WithCaller(r.Context(), t.from))
	if request.Body == nil {
		request.Body = http.NoBody
	}
	h.ServeHTTP(w, request)
	return w.Result(), nil
}

// shown returns what the device's certificates prove at this moment.
func (n *node) shown(t testing.TB) identity.Proof {
	t.Helper()
	c, err := n.device.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	p, err := identity.ParseCertificates(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// meet lets two devices have a session: each learns what the other proves.
func meet(t testing.TB, a, b *node) {
	t.Helper()
	for _, pair := range [][2]*node{{a, b}, {b, a}} {
		if p := pair[0].shown(t); !p.Owner.IsZero() {
			pair[1].Prove(p.Device, p.Owner, p.Version)
		}
	}
}

func (n *node) create(t testing.TB, name string) identity.Address {
	t.Helper()
	if err := n.Create(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return n.Owner()
}

func (n *node) invite(t testing.TB) owner.Code {
	t.Helper()
	i, err := n.Invite(0)
	if err != nil {
		t.Fatal(err)
	}
	return i.Code
}

// bring brings b under a's owner.
func (n *node) bring(t testing.TB, b *node, name string) {
	t.Helper()
	if err := b.Join(t.Context(), b.client(), n.address(), n.invite(t), name); err != nil {
		t.Fatal(err)
	}
}

// check fails the test unless an owner is as wanted.
func check(t testing.TB, what string, got, want identity.Address) {
	t.Helper()
	if got != want {
		t.Errorf("%s: owner %s, want %s", what, got.Short(), want.Short())
	}
}

// closed reports whether a channel is closed by now.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// clock returns a wall clock that says one moment.
func clock(unix int64) func() time.Time { return func() time.Time { return time.Unix(unix, 0) } }
