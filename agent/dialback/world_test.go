package dialback

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/nat/probe"
)

// world carries requests between devices that have sessions, and knocks
// between their addresses.
type world struct {
	mu    sync.Mutex
	nodes map[identity.Address]*node
	asked []string // "path at seed"
	dead  map[string]bool
}

// node is one device: a server, a client, and an address outside.
type node struct {
	world    *world
	seed     byte
	address  identity.Address
	at       netip.AddrPort
	also     netip.AddrPort // by the other family
	sent     []netip.AddrPort
	server   *Server
	client   *Client
	expected map[string]func([]byte, netip.AddrPort)
	filter   func(from netip.AddrPort, network string) bool // nil lets all in
	knocks   []Knock
	unable   bool
	noUDP    bool
	willing  bool
}

func newWorld() *world { return &world{nodes: map[identity.Address]*node{}, dead: map[string]bool{}} }

func (w *world) add(seed byte, at string) *node {
	n := &node{
		world: w, seed: seed, address: device(seed), at: netip.MustParseAddrPort(at), willing: true,
		expected: map[string]func([]byte, netip.AddrPort){},
	}
	n.server = NewServer(Config{
		Sessions: n, Observed: w.observed, Knocker: n, Register: n.register, Willing: func() bool { return n.willing },
		NoUDP: func() bool { return n.noUDP }, Logger: slog.New(slog.DiscardHandler),
	})
	n.client = NewClient(n, n.register)
	w.nodes[n.address] = n
	return n
}

// register is the socket of a node.
func (n *node) register(ufrag string, handle func([]byte, netip.AddrPort)) (Endpoint, error) {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.expected[ufrag] = handle
	return &endpoint{n, ufrag, handle}, nil
}

type endpoint struct {
	node   *node
	ufrag  string
	handle func([]byte, netip.AddrPort)
}

// Send delivers a question to who claimed its user name, and an answer to all.
func (e *endpoint) Send(b []byte, to netip.AddrPort) error {
	w := e.node.world
	w.mu.Lock()
	e.node.sent = append(e.node.sent, to)
	var handlers []func([]byte, netip.AddrPort)
	for _, n := range w.nodes {
		if n.at != to && n.also != to {
			continue
		}
		ufrag, err := probe.Asked(b)
		for claimed, handle := range n.expected {
			if err != nil || ufrag == claimed {
				handlers = append(handlers, handle)
			}
		}
	}
	w.mu.Unlock()
	for _, handle := range handlers {
		handle(b, e.node.at)
	}
	return nil
}

func (e *endpoint) Close() error {
	e.node.world.mu.Lock()
	defer e.node.world.mu.Unlock()
	delete(e.node.expected, e.ufrag)
	return nil
}

func (w *world) observed(a identity.Address) (netip.AddrPort, bool) {
	n := w.nodes[a]
	if n == nil || !n.at.IsValid() {
		return netip.AddrPort{}, false
	}
	return n.at, true
}

func (w *world) count(path string, seed byte) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.asked {
		if a == fmt.Sprint(path, " at ", seed) {
			n++
		}
	}
	return n
}

// Connected lists everybody else.
func (n *node) Connected() (all []identity.Address) {
	for a := range n.world.nodes {
		if a != n.address {
			all = append(all, a)
		}
	}
	return all
}

func (n *node) Client(string) *http.Client { return &http.Client{Transport: n} }

// RoundTrip asks the device that the host of the URL names.
func (n *node) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := identity.ParseAddress(r.URL.Host)
	if err != nil {
		return nil, err
	}
	other := n.world.nodes[to]
	n.world.mu.Lock()
	n.world.asked = append(n.world.asked, fmt.Sprint(r.URL.Path, " at ", other.seed))
	n.world.mu.Unlock()
	w := httptest.NewRecorder()
	other.server.ServeHTTP(w, r.Clone(overlay.WithCaller(r.Context(), n.address)))
	return w.Result(), nil
}

// Knock delivers a knock from a fresh port of this node, if the filter of the
// one it is for lets it in.
func (n *node) Knock(_ context.Context, k Knock) Outcome {
	n.world.mu.Lock()
	n.knocks = append(n.knocks, k)
	from := netip.AddrPortFrom(n.at.Addr(), uint16(50000+len(n.knocks)))
	var to *node
	for _, other := range n.world.nodes {
		if other.at == k.At || other.also == k.At {
			to = other
		}
	}
	n.world.mu.Unlock()
	if n.unable {
		return Unable
	}
	if to == nil || to.filter != nil && !to.filter(from, k.Network) {
		if k.Network == TCP {
			return Silent
		}
		return Sent
	}
	question, _, err := probe.Ask(k.Key, "test")
	if err != nil {
		return Unable
	}
	if k.Network == TCP {
		if _, err := probe.Answered(to.client.HandleFramed(question, from), k.Key); err != nil {
			return Wrong
		}
		return Answered
	}
	n.world.mu.Lock()
	handle := to.expected[k.Key.Ufrag]
	n.world.mu.Unlock()
	if handle != nil {
		handle(question, from)
	}
	return Sent
}
