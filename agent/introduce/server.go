package introduce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
	"porchlight/nat/relay"
)

// Service is the name of the service on the overlay.
const Service = "introduce"

const (
	// offersPerMinute is how many offers a device may have carried in a
	// minute, and how many of one sender are answered.
	offersPerMinute = 20
	// openedPerMinute is how many offers from one session are opened at all:
	// a rendezvous brings the offers of many senders, and one of them must not
	// use up the allowance of the others.
	openedPerMinute = 10 * offersPerMinute
	// maxCallers is how many callers' rates and registrations are remembered.
	maxCallers = 1024
	// carryLimit is how long a rendezvous waits for the answer.
	carryLimit = 5 * time.Second
	// maxBody is the size of the largest request body that is no sealed
	// message, in bytes.
	maxBody = 512
)

// Answerer answers offers made to this device.
type Answerer interface {
	Answer(ctx context.Context, from identity.Address, offer Offer) (Offer, error)
}

// Sessions tells whom a rendezvous has a session with.
type Sessions interface {
	Current(identity.Address) *overlay.Session
	Client(service string) *http.Client
}

// Config is what a Server needs.
type Config struct {
	Device   *identity.Device
	Sessions Sessions
	Answerer Answerer
	// Welcome says whether offers of a device are wanted at all.
	Welcome func(identity.Address) bool
	// Willing says whether this device introduces others at this moment.
	Willing func() bool
	// Ticket makes a relay ticket for a device that registers; nil if this
	// device relays nothing for it.
	Ticket func(identity.Address) *relay.Ticket
	// WelcomeNote says how notes of a device are received; while it is nil,
	// they are not.
	WelcomeNote func(identity.Address) Reception
	// Told takes a note and returns the answer, MaxNote bytes at most. With an
	// error the sender sees what it would see if this device were not there.
	Told func(ctx context.Context, from identity.Address, body []byte) (answer []byte, err error)
	// Left takes a hint that a device has left, which may be wrong or forged:
	// from a rendezvous, or about a device that was registered here. It must
	// not wait for anything. nil drops the hints.
	Left func(of identity.Address)
	// Reachable takes where a device that registers says that it can be called
	// itself; its word, of usable addresses. nil drops it.
	Reachable func(a identity.Address, at []netip.AddrPort)
	// Others lists other rendezvous for a device that registers here, and
	// Seen tells where a device's packets come from. nil says nothing.
	Others func(caller identity.Address) []identity.Via
	Seen   func(identity.Address) netip.AddrPort
	// Reach begins a session to a watcher's rendezvous, so that the watcher can
	// be told through it. Where that is, is a stranger's word: Reach refuses
	// what must not be dialled. nil tells only those who have a session.
	Reach  func(ctx context.Context, back identity.Via) error
	Logger *slog.Logger
}

// lane is one sort of message: each has limits of its own, so that notes use
// up nothing of what calls need.
type lane struct {
	path                      string
	carried, opened, answered *limits
	// answer opens a message and makes the sealed answer; known says that its
	// sender may have this device watched.
	answer func(ctx context.Context, message []byte) (answer []byte, known bool, err error)
	// refuse is the one answer to whatever is not wanted: a stranger learns
	// nothing from it.
	refuse func(http.ResponseWriter)
}

// Server answers the service on one device, for itself and as rendezvous.
type Server struct {
	cfg    Config
	guard  *sealed.Guard
	client *http.Client
	mux    *http.ServeMux

	offers, notes *lane
	strangers     *rate.Limiter

	entered chan struct{} // has one element if a device registered
	hints   hints
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu            sync.Mutex
	registrations map[identity.Address]*registration
	watches       int // of all registrations
}

// NewServer returns a Server.
func NewServer(cfg Config) *Server {
	s := &Server{
		cfg:           cfg,
		guard:         sealed.NewGuard(),
		client:        cfg.Sessions.Client(Service),
		mux:           http.NewServeMux(),
		strangers:     rate.NewLimiter(rate.Every(time.Minute/strangersPerMinute), strangersPerMinute),
		entered:       make(chan struct{}, 1),
		hints:         newHints(),
		registrations: map[identity.Address]*registration{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.offers = &lane{
		path:    "/v1/offer",
		carried: newLimits(offersPerMinute), opened: newLimits(openedPerMinute), answered: newLimits(offersPerMinute),
		answer: s.openAndAnswer,
		refuse: func(w http.ResponseWriter) { http.Error(w, "refused", http.StatusForbidden) },
	}
	s.notes = &lane{
		path:    "/v1/note",
		carried: newLimits(carriedNotesPerMinute), opened: newLimits(openedNotesPerMinute), answered: newLimits(notesPerMinute),
		answer: s.told,
		refuse: absent,
	}
	s.mux.HandleFunc("PUT /v1/register", s.register)
	s.mux.HandleFunc("DELETE /v1/register", s.unregister)
	s.mux.HandleFunc("GET /v1/epoch", s.epoch)
	s.mux.HandleFunc("POST /v1/offer", s.offers.serve(s))
	s.mux.HandleFunc("POST /v1/note", s.notes.serve(s))
	s.mux.HandleFunc("POST /v1/left", s.left)
	return s
}

// Epoch returns the device's own epoch, to be told to its rendezvous.
func (s *Server) Epoch() sealed.Nonce { return s.guard.Epoch() }

// ServeHTTP answers one request of the service. Who asks is told by the
// session (overlay.Caller), so a request without a caller is refused.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if overlay.Caller(r).IsZero() {
		http.Error(w, "no device proved its key for this request", http.StatusUnauthorized)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// serve answers a message to this device, or carries one to a device that is
// registered here.
func (l *lane) serve(s *Server) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		to, err := identity.ParseAddress(r.URL.Query().Get("to"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		limit := l.carried
		if to == s.cfg.Device.Address() {
			limit = l.opened
		}
		if !limit.allow(overlay.Caller(r), time.Now()) {
			http.Error(w, "too many messages; wait a minute", http.StatusTooManyRequests)
			return
		}
		message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, sealed.MaxMessage))
		if err != nil {
			http.Error(w, "the body is one sealed message", http.StatusRequestEntityTooLarge)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), carryLimit)
		defer cancel()
		if to == s.cfg.Device.Address() {
			s.answer(ctx, w, l, message)
			return
		}
		if _, ok := s.registered(to); !ok {
			absent(w)
			return
		}
		s.carry(ctx, w, r, l, to, message)
	}
}

// carry hands the message on as it is and the answer back.
func (s *Server) carry(ctx context.Context, w http.ResponseWriter, r *http.Request, l *lane, to identity.Address, message []byte) {
	response, err := ask(ctx, s.client, http.MethodPost, to, l.path+"?to="+to.String(), message)
	if err != nil {
		http.Error(w, "the device did not answer", http.StatusGatewayTimeout)
		return
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		if l == s.notes && response.Header.Get(knownHeader) != "" {
			s.watch(to, r)
		}
	case http.StatusForbidden, http.StatusTooManyRequests:
	case http.StatusConflict:
		s.renew(ctx, to)
	case http.StatusNotFound:
		if l == s.notes {
			absent(w)
			return
		}
		fallthrough
	default:
		// A status is the device's word too: only those of this service pass.
		http.Error(w, "the device did not answer as it should", http.StatusBadGateway)
		return
	}
	w.WriteHeader(response.StatusCode)
	io.Copy(w, io.LimitReader(response.Body, sealed.MaxMessage))
}

// renew asks a registered device for its epoch, which it changed since it
// registered, so that whoever asks next is told the new one.
func (s *Server) renew(ctx context.Context, of identity.Address) {
	epoch, err := fetchEpoch(ctx, s.client, of, of)
	if err != nil {
		s.cfg.Logger.Debug("no new epoch", "peer", of.Short(), "err", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.registrations[of]; r != nil {
		r.epoch = epoch
	}
}

func (s *Server) answer(ctx context.Context, w http.ResponseWriter, l *lane, message []byte) {
	answer, known, err := l.answer(ctx, message)
	switch {
	case err == nil:
		if known {
			w.Header().Set(knownHeader, "1")
		}
		w.Write(answer)
	case errors.Is(err, sealed.ErrEpoch):
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		s.cfg.Logger.Debug("message refused", "path", l.path, "err", err)
		l.refuse(w)
	}
}

func (s *Server) openAndAnswer(ctx context.Context, message []byte) (sealedAnswer []byte, known bool, err error) {
	from, offer, err := open(s.cfg.Device, purposeOffer, message)
	if err != nil {
		return nil, false, err
	}
	// Only who is welcome may fill the Guard's memory, or learn that the
	// epoch is another.
	if !s.cfg.Welcome(from) {
		return nil, false, fmt.Errorf("offer of %s is not wanted", from.Short())
	}
	if !s.offers.answered.allow(from, time.Now()) {
		return nil, false, fmt.Errorf("too many offers of %s", from.Short())
	}
	if err := s.guard.Admit(offer.Epoch, offer.Session); err != nil {
		return nil, false, err
	}
	answer, err := s.cfg.Answerer.Answer(ctx, from, offer)
	if err != nil {
		return nil, false, err
	}
	answer.Session = offer.Session
	sealedAnswer, err = seal(s.cfg.Device, from, purposeAnswer, answer)
	return sealedAnswer, false, err
}
