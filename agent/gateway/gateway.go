package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"porchlight/agent/identity"
)

// DefaultAddress is where the gateway listens unless told otherwise.
const DefaultAddress = "127.0.0.1:8461"

const (
	// MaxHeader is the size of the largest request header that is read, in
	// bytes; maxTarget that of the largest path with its query.
	MaxHeader = 16 << 10
	maxTarget = 8 << 10
	// perContact and inAll are how many requests may be on their way at once.
	// Further ones are asked to try again.
	perContact = 32
	inAll      = 128
	// answerLimit is how long a contact may take for the first byte of an
	// answer, being found included; storeLimit the same after an upload, which
	// it first has to put on its disk.
	answerLimit = 30 * time.Second
	storeLimit  = 5 * time.Minute
	// stallLimit is how long an answer may go without a byte. One that moves
	// may take as long as it takes.
	stallLimit = time.Minute
)

// ErrUnknown is what Resolve wraps when there is no such contact.
var ErrUnknown = errors.New("no such contact")

// Entry is one contact in the list.
type Entry struct {
	// Name is the petname, Label its form in a host name; see Labels.
	Name, Label string
	Online      bool
	// LastSeenUnixMS is 0 if the contact was never seen.
	LastSeenUnixMS int64
}

// Config is what a Gateway needs. Resolve and Client must be set.
type Config struct {
	// Resolve finds the contact with a label, or with an address of 56
	// characters. The error wraps ErrUnknown if there is none; any other is
	// shown as a contact that is not on-line.
	Resolve func(ctx context.Context, name string) (identity.Address, error)
	// Client sends requests to the service "share" of the device whose address
	// is the URL's host. It must not follow redirects.
	Client *http.Client
	// Contacts lists those to be shown; nil stands for none.
	Contacts func() []Entry
	Logger   *slog.Logger
}

// Gateway shows contacts in a browser. It starts nothing that would need
// stopping.
type Gateway struct {
	cfg    Config
	limits limits
	secret [32]byte // of the tokens

	mu   sync.Mutex
	busy map[identity.Address]int
	all  int
}

// limits are the times of the package's constants, shorter in tests.
type limits struct{ answer, store, stall time.Duration }

// New returns a Gateway.
func New(cfg Config) *Gateway {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Contacts == nil {
		cfg.Contacts = func() []Entry { return nil }
	}
	g := &Gateway{
		cfg:    cfg,
		limits: limits{answer: answerLimit, store: storeLimit, stall: stallLimit},
		busy:   map[identity.Address]int{},
	}
	rand.Read(g.secret[:])
	return g
}

// Server returns a server for the gateway, with its limits. Whoever starts it
// closes it.
func (g *Gateway) Server() *http.Server {
	return &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    MaxHeader,
		ErrorLog:          slog.NewLogLogger(g.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// Handler returns the gateway as a handler. It looks for the address it is
// reached at under http.LocalAddrContextKey, where servers put it.
func (g *Gateway) Handler() http.Handler { return http.HandlerFunc(g.serve) }

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "same-origin")
	w.Header().Set("Cache-Control", "private, no-cache")
	w.Header().Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	w.Header().Set("Vary", "Accept, Origin, Sec-Fetch-Site, Sec-Fetch-Mode, Sec-Fetch-Dest")
	p, no := g.check(r)
	if no != nil {
		g.cfg.Logger.Debug("gateway request refused", "code", no.code, "source", r.RemoteAddr)
		g.fail(w, r, place{}, no)
		return
	}
	switch {
	case p.prefix != "" && (p.path == "" || !g.isOwn(p)):
		redirect(w, r, "/~"+p.name+"."+g.token(p.name)+"/"+strings.TrimPrefix(p.path, "/"))
	case p.name != "":
		g.proxy(w, r, p)
	case p.path == "/":
		g.index(w, r)
	default:
		g.fail(w, r, p, notHere)
	}
}

// redirect leads to another path of ours.
func redirect(w http.ResponseWriter, r *http.Request, path string) {
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	// With the host, so that a path of two slashes leads nowhere else.
	w.Header().Set("Location", "http://"+r.Host+path)
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// take enters a request to a contact; false if there are too many.
func (g *Gateway) take(a identity.Address) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= inAll || g.busy[a] >= perContact {
		return false
	}
	g.all++
	g.busy[a]++
	return true
}

func (g *Gateway) release(a identity.Address) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.busy[a]--; g.busy[a] == 0 {
		delete(g.busy, a)
	}
}
