package mail

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

func address(n byte) identity.Address { return device(n).Address() }

// world is a network in memory: requests go straight to handlers of devices
// that are on-line.
type world struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[identity.Address]*node
	// meddle may change or swallow a request on its way; nil lets all pass.
	meddle func(from, to identity.Address, r *http.Request, body []byte) (drop bool)
	count  map[string]int // requests by method and path
}

// node is one device of the world, which survives its Mail.
type node struct {
	world    *world
	device   *identity.Device
	fs       *crashFS
	mail     *Mail
	online   bool
	person   identity.Address // who it belongs to; itself if nobody
	friends  []identity.Address
	helpers  []identity.Address
	wall     time.Time // zero: not set
	handler  http.Handler
	inMemory bool
}

func newWorld(t *testing.T) *world {
	return &world{t: t, nodes: map[identity.Address]*node{}, count: map[string]int{}}
}

// add makes a device that belongs to nobody, is on-line, and knows all others.
func (w *world) add(n byte) *node {
	node := &node{world: w, device: device(n), fs: newCrashFS(), online: true}
	node.person = node.device.Address()
	w.mu.Lock()
	w.nodes[node.address()] = node
	w.mu.Unlock()
	node.start()
	return node
}

func (n *node) address() identity.Address { return n.device.Address() }

func (n *node) config() Config {
	w := n.world
	cfg := Config{
		Device: n.device,
		Client: &http.Client{Transport: transport{n}},
		FS:     n.fs,
		Known: func(a identity.Address) (identity.Address, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			o := w.nodes[a]
			if o == nil || (n.friends != nil && !slices.Contains(n.friends, o.person)) {
				return identity.Address{}, false
			}
			return o.person, true
		},
		Devices: func(contact identity.Address) (list []identity.Address) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for a, o := range w.nodes {
				if o.person == contact {
					list = append(list, a)
				}
			}
			slices.SortFunc(list, identity.Address.Compare)
			return list
		},
		Own: func() (list []identity.Address) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for a, o := range w.nodes {
				if o.person == n.person {
					list = append(list, a)
				}
			}
			return list
		},
		Helpers: func(identity.Address) (list []identity.Address) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, h := range n.helpers {
				if o := w.nodes[h]; o != nil && o.online {
					list = append(list, h)
				}
			}
			return list
		},
		Online: func(a identity.Address) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.nodes[a] != nil && w.nodes[a].online
		},
		MayDeposit: func(a identity.Address) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.nodes[a] != nil && (n.friends == nil || slices.Contains(n.friends, w.nodes[a].person))
		},
		Now: func() (time.Time, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return n.wall, !n.wall.IsZero()
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	if n.inMemory {
		cfg.FS = nil
	}
	return cfg
}

func (n *node) start() {
	n.world.t.Helper()
	m, err := New(n.config())
	if err != nil {
		n.world.t.Fatal(err)
	}
	n.world.mu.Lock()
	n.mail, n.handler = m, m.Handler()
	n.world.mu.Unlock()
	m.Start(context.Background())
}

// set switches a device on or off; the others are told that it came.
func (n *node) set(online bool) {
	n.world.mu.Lock()
	n.online = online
	var others []*Mail
	for _, o := range n.world.nodes {
		if online && o != n && o.online {
			others = append(others, o.mail)
		}
	}
	n.world.mu.Unlock()
	for _, o := range others {
		o.Came(n.address())
	}
}

// answerBy lets another handler answer in the place of the device's own.
func (n *node) answerBy(h http.Handler) {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.handler = h
}

func (n *node) setWall(wall time.Time) {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.wall = wall
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.mail.Close()
	}
}

func (w *world) requests(methodPath string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[methodPath]
}

type transport struct{ from *node }

var errOffline = errors.New("off-line")

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := identity.ParseAddress(r.URL.Host)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w := t.from.world
	w.mu.Lock()
	node := w.nodes[to]
	up := node != nil && node.online && t.from.online
	meddle := w.meddle
	w.count[r.Method+" "+r.URL.Path]++
	var handler http.Handler
	if up {
		handler = node.handler
	}
	w.mu.Unlock()
	if !up || r.Context().Err() != nil {
		return nil, errOffline
	}
	if meddle != nil && meddle(t.from.address(), to, r, body) {
		return nil, errOffline
	}
	return ask(handler, t.from.address(), r.Method, r.URL.String(), body), nil
}

// ask makes one request of a device to a handler.
func ask(h http.Handler, from identity.Address, method, url string, body []byte) *http.Response {
	r := httptest.NewRequest(method, url, bytes.NewReader(body))
	r = r.WithContext(overlay.WithCaller(context.Background(), from))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Result()
}

func (n *node) send(to *node, text string) Message {
	n.world.t.Helper()
	m, err := n.mail.Send(to.person, text)
	if err != nil {
		n.world.t.Fatal(err)
	}
	return m
}

// has fails unless the texts of a conversation are these, in this order.
func (n *node) has(with *node, want ...string) {
	n.world.t.Helper()
	var got []string
	for _, m := range n.mail.List(with.person, "", 0) {
		got = append(got, m.Text)
	}
	if !slices.Equal(got, want) {
		n.world.t.Errorf("%s has %q, want %q", n.address().Short(), got, want)
	}
}

// states fails unless the states of a conversation are these.
func (n *node) states(with *node, want ...State) {
	n.world.t.Helper()
	var got []State
	for _, m := range n.mail.List(with.person, "", 0) {
		got = append(got, m.State)
	}
	if !slices.Equal(got, want) {
		n.world.t.Errorf("%s has states %q, want %q", n.address().Short(), got, want)
	}
}

// inBubble runs a test where time passes at once.
func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		f(t, w)
	})
}

// pass lets time go by.
func pass(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}
