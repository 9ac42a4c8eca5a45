package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/contacts"
	"porchlight/agent/identity"
	"porchlight/agent/join"
)

const (
	// Socket is the name of the socket in the state folder.
	Socket = "control.sock"
	// Upgrade is the protocol name that turns a request into a stream.
	Upgrade = "porchlight-stream"

	// maxPath is the length of the longest path of a socket, in bytes
	// (unix(7): sun_path holds 108 with the closing zero).
	maxPath = 107
	// maxBody is the size of the largest request body, in bytes.
	maxBody = 64 << 10
)

// Overlay is what the API needs of the overlay.
type Overlay interface {
	Dial(ctx context.Context, to identity.Address, service string) (net.Conn, error)
	Connected() []identity.Address
}

// Shares is what the API needs of the shared folders.
type Shares interface {
	List() []api.Share
	Add(api.Share) (api.Share, error)
	Remove(name string) error
}

// Work is what the API needs of donated work.
type Work interface {
	Donate() api.Donate
	SetDonate(api.Donate) error
}

// Paths tells how packets reach a device.
type Paths interface {
	Info(identity.Address) join.Info
	// Remember keeps a link's hints for the calls that follow.
	Remember(identity.Link)
	// Prepare is Remember for a device that may be called soon.
	Prepare(identity.Link)
}

// Config is what a Server needs.
type Config struct {
	// Address is the device's own.
	Address  identity.Address
	Status   func() api.Status
	Netcheck func(context.Context) api.Netcheck
	Contacts *contacts.Book
	Overlay  Overlay
	Paths    Paths
	Shares   Shares
	Work     Work
	Requests Requests
	Devices  Devices
	Messages Messages
	Services Services
	// Best chooses, of what a link names, the device to call: itself, or the
	// best of a person's.
	Best func(context.Context, identity.Link) (identity.Address, error)
	// Lookup finds where a device is.
	Lookup func(context.Context, identity.Link, LookupWish) (api.Lookup, error)
	// HangUp ends the sessions with a device that was blocked.
	HangUp func(identity.Address)
	Logger *slog.Logger
}

// handler answers one request with a value that becomes JSON.
type handler func(w http.ResponseWriter, r *http.Request) (any, error)

// Server answers the API.
type Server struct {
	cfg    Config
	routes *http.ServeMux
	local  *http.ServeMux

	server *http.Server
	done   chan struct{}
	ctx    context.Context // ends when the server closes
	cancel context.CancelFunc

	mu       sync.Mutex // held to begin a request, and to close
	requests sync.WaitGroup
}

// New returns a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, routes: http.NewServeMux(), local: http.NewServeMux()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	on := func(mux *http.ServeMux) func(string, handler) {
		return func(pattern string, h handler) {
			mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				r.Body = http.MaxBytesReader(w, r.Body, maxBody)
				v, err := h(w, r)
				reply(w, v, err)
			})
		}
	}
	handle := on(s.routes)
	handle("GET /api/v1/status", s.status)
	handle("GET /api/v1/netcheck", s.netcheck)
	handle("GET /api/v1/resolve", s.resolve)
	handle("GET /api/v1/path", s.path)
	handle("GET /api/v1/lookup", s.lookup)
	handle("GET /api/v1/contacts", s.listContacts)
	handle("POST /api/v1/contacts", s.addContact)
	handle("DELETE /api/v1/contacts/{name}", s.removeContact)
	handle("PUT /api/v1/contacts/{name}/blocked", s.blockContact)
	handle("GET /api/v1/shares", s.listShares)
	handle("POST /api/v1/shares", s.addShare)
	handle("DELETE /api/v1/shares/{name}", s.removeShare)
	handle("GET /api/v1/donate", s.donate)
	handle("PUT /api/v1/donate", s.setDonate)
	s.peopleRoutes(handle)
	s.local.Handle("/", s.routes)
	// Keys and whatever holds a connection are for the commands alone.
	on(s.local)("GET /api/v1/owner/words", s.words)
	on(s.local)("POST /api/v1/owner/backup", s.backup)
	on(s.local)("POST /api/v1/owner/restore", s.restore)
	s.local.HandleFunc("POST /api/v1/forward", s.forward)
	s.local.HandleFunc("GET /api/v1/ping", s.ping)
	s.local.HandleFunc("GET /api/v1/dial", s.dial)
	return s
}

// Routes returns the routes the console may use too.
func (s *Server) Routes() http.Handler { return s.routes }

// Start listens on the socket at path.
func (s *Server) Start(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("the control socket's path %s is longer than %d bytes; choose a shorter folder with --state", path, maxPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace the control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return fmt.Errorf("protect the control socket: %w", err)
	}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.server.Serve(listener)
	}()
	return nil
}

// serve counts the requests, so that Close can wait for them and for the
// streams they turned into.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	s.requests.Add(1)
	s.mu.Unlock()
	defer s.requests.Done()
	s.local.ServeHTTP(w, r)
}

// Close ends all requests and streams and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	if s.server == nil {
		return nil
	}
	err := s.server.Close()
	<-s.done
	s.requests.Wait()
	return err
}

func (s *Server) status(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Status(), nil
}

func (s *Server) netcheck(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.cfg.Netcheck(r.Context()), nil
}

// peer finds the device a request is about and keeps the hints of a link.
func (s *Server) peer(r *http.Request) (identity.Link, error) {
	link, err := s.cfg.Contacts.Resolve(r.URL.Query().Get("peer"))
	if err != nil {
		return identity.Link{}, err
	}
	if link.Address == s.cfg.Address {
		return identity.Link{}, errOwn
	}
	if err := s.cfg.Contacts.Admit(link.Address); err != nil {
		return identity.Link{}, fmt.Errorf("%s: %w; let it in again with: porchlight contacts unblock", link.Address.Short(), err)
	}
	s.cfg.Paths.Remember(link)
	return link, nil
}

// device finds the device a request is about: a person's best.
func (s *Server) device(r *http.Request) (identity.Address, error) {
	link, err := s.peer(r)
	if err != nil {
		return identity.Address{}, err
	}
	to, err := s.cfg.Best(r.Context(), link)
	return to, unreached(err)
}

func (s *Server) resolve(_ http.ResponseWriter, r *http.Request) (any, error) {
	address, err := s.device(r)
	return map[string]identity.Address{"address": address}, err
}

func (s *Server) path(_ http.ResponseWriter, r *http.Request) (any, error) {
	address, err := s.device(r)
	if err != nil {
		return nil, err
	}
	info := s.cfg.Paths.Info(address)
	return api.Path{Path: info.Path, Local: info.Local, Remote: info.Remote, Reason: info.Reason}, nil
}

func (s *Server) listContacts(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Status().Contacts, nil
}

func (s *Server) addContact(_ http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read[struct {
		Link identity.Link `json:"link"`
		Name string        `json:"name"`
		Role string        `json:"role"`
		Note string        `json:"note"`
	}](r)
	if err != nil {
		return nil, err
	}
	role, err := contacts.ParseRole(body.Role)
	if err != nil {
		return nil, Invalid(err)
	}
	if body.Link.Address == s.cfg.Address {
		return nil, errOwn
	}
	if err := checkNote(body.Note); err != nil {
		return nil, err
	}
	before, known := s.cfg.Contacts.Get(body.Link.Address)
	c, err := s.cfg.Contacts.Add(body.Link, body.Name, role)
	if err != nil {
		return nil, err
	}
	s.cfg.Paths.Prepare(body.Link)
	if known && before.Link.Address == body.Link.Address && body.Note == "" {
		return c, nil // another name or role is no reason to ask again
	}
	return c, s.cfg.Requests.Ask(c.Link, body.Note)
}

func (s *Server) removeContact(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	link, err := s.cfg.Contacts.Resolve(name)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Contacts.Remove(name); err != nil {
		return nil, err
	}
	return nil, s.cfg.Requests.Forget(link.Address)
}

func (s *Server) blockContact(_ http.ResponseWriter, r *http.Request) (any, error) {
	blocked, err := read[bool](r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := s.cfg.Contacts.Block(name, blocked); err != nil || !blocked {
		return nil, err
	}
	if c, err := s.contact(name); err == nil {
		for _, device := range s.cfg.Contacts.Devices(c) {
			s.cfg.HangUp(device)
		}
	}
	return nil, nil
}

func (s *Server) listShares(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Shares.List(), nil
}

func (s *Server) addShare(_ http.ResponseWriter, r *http.Request) (any, error) {
	share, err := read[api.Share](r)
	if err != nil {
		return nil, err
	}
	return s.cfg.Shares.Add(share)
}

func (s *Server) removeShare(_ http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.cfg.Shares.Remove(r.PathValue("name"))
}

func (s *Server) donate(http.ResponseWriter, *http.Request) (any, error) {
	return s.cfg.Work.Donate(), nil
}

func (s *Server) setDonate(_ http.ResponseWriter, r *http.Request) (any, error) {
	d, err := read[api.Donate](r)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Work.SetDonate(d); err != nil {
		return nil, err
	}
	return s.cfg.Work.Donate(), nil
}

// dial turns the request into a stream to a service of a peer.
func (s *Server) dial(w http.ResponseWriter, r *http.Request) {
	to, err := s.device(r)
	if err != nil {
		reply(w, nil, err)
		return
	}
	stream, err := s.cfg.Overlay.Dial(r.Context(), to, r.URL.Query().Get("service"))
	if err != nil {
		reply(w, nil, unreached(err))
		return
	}
	defer stream.Close()
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", Upgrade)
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	s.carry(conn, buffered.Reader, stream)
}

// carry copies both ways until both are done, or the server closes.
func (s *Server) carry(conn net.Conn, from *bufio.Reader, stream net.Conn) {
	hangUp := func() {
		conn.Close()
		// A Write that waits for the peer is ended by its deadline only.
		stream.SetDeadline(time.Unix(1, 0))
	}
	stop := context.AfterFunc(s.ctx, hangUp)
	defer stop()
	up := make(chan struct{})
	go func() {
		defer close(up)
		io.Copy(stream, from)
		if half, ok := stream.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	if _, err := io.Copy(conn, stream); err != nil {
		hangUp() // the peer is lost or the command is gone
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	// The command has read everything; it closes when it wants nothing more.
	<-up
}
