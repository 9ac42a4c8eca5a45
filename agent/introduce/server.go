package introduce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

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
	// openedPerMinute is how many messages from one session are opened at all:
	// a rendezvous brings the offers of many senders, and one of them must not
	// use up the allowance of the others.
	openedPerMinute = 10 * offersPerMinute
	// maxCallers is how many callers' rates and epochs are remembered.
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

// Registration is what a rendezvous gives a device that registers.
type Registration struct {
	// Ticket lets the device use the rendezvous as relay; nil if it is none.
	Ticket *relay.Ticket `json:"ticket,omitempty"`
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
	Logger *slog.Logger
}

// Server answers the service on one device, for itself and as rendezvous.
type Server struct {
	cfg    Config
	guard  *sealed.Guard
	client *http.Client
	mux    *http.ServeMux

	carried, opened, answered *limits

	mu     sync.Mutex
	epochs map[identity.Address]sealed.Nonce
}

// NewServer returns a Server.
func NewServer(cfg Config) *Server {
	s := &Server{
		cfg:      cfg,
		guard:    sealed.NewGuard(),
		client:   cfg.Sessions.Client(Service),
		mux:      http.NewServeMux(),
		carried:  newLimits(offersPerMinute),
		opened:   newLimits(openedPerMinute),
		answered: newLimits(offersPerMinute),
		epochs:   map[identity.Address]sealed.Nonce{},
	}
	s.mux.HandleFunc("PUT /v1/register", s.register)
	s.mux.HandleFunc("GET /v1/epoch", s.epoch)
	s.mux.HandleFunc("POST /v1/offer", s.offer)
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

// register notes that the caller wants to be introduced to others.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return
	}
	var body epochBody
	if json.Unmarshal(b, &body) != nil || body.Epoch == (sealed.Nonce{}) {
		http.Error(w, "the body is {\"epoch\":…}", http.StatusBadRequest)
		return
	}
	if !s.cfg.Willing() {
		http.Error(w, "this device introduces nobody at this moment", http.StatusForbidden)
		return
	}
	caller := overlay.Caller(r)
	s.mu.Lock()
	_, known := s.epochs[caller]
	if !known && len(s.epochs) >= maxCallers {
		s.forgetAbsent()
	}
	full := !known && len(s.epochs) >= maxCallers
	if !full {
		s.epochs[caller] = body.Epoch
	}
	s.mu.Unlock()
	if full {
		http.Error(w, "too many devices are registered here", http.StatusServiceUnavailable)
		return
	}
	json.NewEncoder(w).Encode(Registration{Ticket: s.cfg.Ticket(caller)})
}

// forgetAbsent drops registrations whose session has ended.
func (s *Server) forgetAbsent() {
	for a := range s.epochs {
		if s.cfg.Sessions.Current(a) == nil {
			delete(s.epochs, a)
		}
	}
}

// epoch tells the epoch of this device or of one registered here.
func (s *Server) epoch(w http.ResponseWriter, r *http.Request) {
	of, err := identity.ParseAddress(r.URL.Query().Get("of"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	epoch, ok := s.guard.Epoch(), true
	if of != s.cfg.Device.Address() {
		epoch, ok = s.registered(of)
	}
	if !ok {
		http.Error(w, "the device is not registered here", http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode(epochBody{epoch})
}

// registered returns the epoch of a device that is introduced at this moment:
// it asked for that, its session lives, and this device is willing.
func (s *Server) registered(a identity.Address) (sealed.Nonce, bool) {
	s.mu.Lock()
	epoch, ok := s.epochs[a]
	s.mu.Unlock()
	return epoch, ok && s.cfg.Willing() && s.cfg.Sessions.Current(a) != nil
}

// offer answers an offer to this device, or carries one to a device that is
// registered here.
func (s *Server) offer(w http.ResponseWriter, r *http.Request) {
	to, err := identity.ParseAddress(r.URL.Query().Get("to"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	limit := s.carried
	if to == s.cfg.Device.Address() {
		limit = s.opened
	}
	if !limit.allow(overlay.Caller(r), time.Now()) {
		http.Error(w, "too many offers; wait a minute", http.StatusTooManyRequests)
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
		s.answer(ctx, w, message)
		return
	}
	if _, ok := s.registered(to); !ok {
		http.Error(w, "the device is not registered here", http.StatusNotFound)
		return
	}
	s.carry(ctx, w, to, message)
}

// carry hands the message on as it is and the answer back.
func (s *Server) carry(ctx context.Context, w http.ResponseWriter, to identity.Address, message []byte) {
	response, err := post(ctx, s.client, to, to, message)
	if err != nil {
		http.Error(w, "the device did not answer", http.StatusGatewayTimeout)
		return
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK, http.StatusForbidden, http.StatusTooManyRequests:
	case http.StatusConflict:
		s.renew(ctx, to)
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
	if _, ok := s.epochs[of]; ok {
		s.epochs[of] = epoch
	}
}

func (s *Server) answer(ctx context.Context, w http.ResponseWriter, message []byte) {
	answer, err := s.openAndAnswer(ctx, message)
	switch {
	case err == nil:
		w.Write(answer)
	case errors.Is(err, sealed.ErrEpoch):
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		// One answer for every refusal: a stranger learns nothing from it.
		s.cfg.Logger.Debug("offer refused", "err", err)
		http.Error(w, "refused", http.StatusForbidden)
	}
}

func (s *Server) openAndAnswer(ctx context.Context, message []byte) ([]byte, error) {
	from, offer, err := open(s.cfg.Device, purposeOffer, message)
	if err != nil {
		return nil, err
	}
	// Only who is welcome may fill the Guard's memory, or learn that the
	// epoch is another.
	if !s.cfg.Welcome(from) {
		return nil, fmt.Errorf("offer of %s is not wanted", from.Short())
	}
	if !s.answered.allow(from, time.Now()) {
		return nil, fmt.Errorf("too many offers of %s", from.Short())
	}
	if err := s.guard.Admit(offer.Epoch, offer.Session); err != nil {
		return nil, err
	}
	answer, err := s.cfg.Answerer.Answer(ctx, from, offer)
	if err != nil {
		return nil, err
	}
	answer.Session = offer.Session
	return seal(s.cfg.Device, from, purposeAnswer, answer)
}
