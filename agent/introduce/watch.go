package introduce

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
)

const (
	// MaxBack is how many rendezvous a watcher may name to be told through.
	MaxBack = 2

	// maxWatchers is how many devices may watch one, maxWatches how many
	// watches there are in all. One too many of a device is not taken; when
	// there are too many in all, the device with most of them loses one.
	maxWatchers = 64
	maxWatches  = 4096
	// watchFor is how long a watch lasts that is not renewed by a note.
	watchFor = 2 * time.Hour
	// lookEvery is how often registrations are looked after, while there are any.
	lookEvery = 2 * time.Second

	// maxHints is how many watchers wait to be told; those beyond are not told.
	// hintWorkers tell them, hintsPerSecond in all but maxBurst at once, each
	// within hintLimit.
	maxHints       = 1024
	hintWorkers    = 4
	hintsPerSecond = 20
	maxBurst       = 100
	hintLimit      = 5 * time.Second
	// dialsPerMinute is how many sessions are begun on behalf of one watcher.
	dialsPerMinute = 12
	// hintsPerMinute is how many hints are taken from one caller.
	hintsPerMinute = 240

	// knownHeader is set in the response of a device that knows the sender of
	// the note, who may watch it therefore.
	knownHeader = "Porchlight-Known"
)

// watch is that one device wants to hear when another leaves.
type watch struct {
	back  []identity.Via
	until time.Time
}

// hint is one device to be told that another has left.
type hint struct {
	of, watcher identity.Address
	back        []identity.Via
}

// hints is what is to be told, and how fast.
type hints struct {
	queue         chan hint
	rate          *rate.Limiter
	dialed, taken *limits
}

func newHints() hints {
	return hints{
		queue:  make(chan hint, maxHints),
		rate:   rate.NewLimiter(hintsPerSecond, maxBurst),
		dialed: newLimits(dialsPerMinute),
		taken:  newLimits(hintsPerMinute),
	}
}

// Start begins to look after registrations, so that watchers are told when one
// ends. Until then they are told nothing.
func (s *Server) Start() {
	s.running.Go(s.look)
	for range hintWorkers {
		s.running.Go(s.tell)
	}
}

// Close ends what Start began and waits for it.
func (s *Server) Close() error {
	s.cancel()
	s.running.Wait()
	return nil
}

// look ends the registrations of devices that are gone. Without any it sleeps.
func (s *Server) look() {
	for {
		select {
		case <-s.entered:
		case <-s.ctx.Done():
			return
		}
		for left := 1; left > 0; {
			select {
			case <-time.After(lookEvery):
			case <-s.ctx.Done():
				return
			}
			s.mu.Lock()
			s.endAbsent(time.Now())
			left = len(s.registrations)
			s.mu.Unlock()
		}
	}
}

// watch notes that the sender of a note wants to hear when its recipient
// leaves, if the request says so.
func (s *Server) watch(of identity.Address, r *http.Request) {
	query := r.URL.Query()
	if query.Get("watch") == "" {
		return
	}
	back, err := parseBack(query["back"])
	if err != nil {
		s.cfg.Logger.Debug("watch refused", "peer", overlay.Caller(r).Short(), "err", err)
		return
	}
	s.addWatch(of, overlay.Caller(r), watch{back, time.Now().Add(watchFor)})
}

func (s *Server) addWatch(of, watcher identity.Address, w watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reg := s.registrations[of]
	if reg == nil {
		return
	}
	if reg.watchers == nil {
		reg.watchers = map[identity.Address]watch{}
	}
	if _, known := reg.watchers[watcher]; !known {
		if len(reg.watchers) >= maxWatchers {
			s.forgetExpired(reg, time.Now())
		}
		if len(reg.watchers) >= maxWatchers {
			return
		}
		if s.watches >= maxWatches {
			s.forgetWatch()
		}
		s.watches++
	}
	reg.watchers[watcher] = w
}

// forgetExpired drops the watches of a device that ended; s.mu is held.
func (s *Server) forgetExpired(reg *registration, now time.Time) {
	for a, w := range reg.watchers {
		if now.After(w.until) {
			delete(reg.watchers, a)
			s.watches--
		}
	}
}

// forgetWatch drops one watch of the device that has most; s.mu is held.
func (s *Server) forgetWatch() {
	var most *registration
	for _, reg := range s.registrations {
		if most == nil || len(reg.watchers) > len(most.watchers) {
			most = reg
		}
	}
	for a := range most.watchers {
		delete(most.watchers, a)
		s.watches--
		return
	}
}

// end ends the registration of a device and has its watchers told; s.mu is held.
func (s *Server) end(of identity.Address) {
	reg := s.registrations[of]
	if reg == nil {
		return
	}
	delete(s.registrations, of)
	s.watches -= len(reg.watchers)
	s.put(hint{of: of, watcher: s.cfg.Device.Address()})
	now := time.Now()
	for a, w := range reg.watchers {
		if now.Before(w.until) {
			s.put(hint{of, a, w.back})
		}
	}
}

func (s *Server) put(h hint) {
	select {
	case s.hints.queue <- h:
	default:
		s.cfg.Logger.Warn("watcher is not told: too many wait", "peer", h.watcher.Short(), "waiting", maxHints)
	}
}

// tell tells watchers until the Server is closed.
func (s *Server) tell() {
	for {
		select {
		case h := <-s.hints.queue:
			s.tellOne(h)
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Server) tellOne(h hint) {
	if h.watcher == s.cfg.Device.Address() {
		if s.cfg.Left != nil {
			s.cfg.Left(h.of)
		}
		return
	}
	if s.hints.rate.Wait(s.ctx) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, hintLimit)
	defer cancel()
	err := s.deliver(ctx, h)
	if err != nil {
		s.cfg.Logger.Debug("watcher is not told", "peer", h.watcher.Short(), "err", err)
	}
}

// deliver brings a hint to a watcher over a session that exists, or else to a
// rendezvous that the watcher named.
func (s *Server) deliver(ctx context.Context, h hint) error {
	if s.cfg.Sessions.Current(h.watcher) != nil {
		return s.postLeft(ctx, h.watcher, h, false)
	}
	err := errors.New("no session, and no rendezvous was named")
	for _, back := range h.back {
		if err = s.deliverBy(ctx, back, h); err == nil {
			return nil
		}
	}
	return err
}

func (s *Server) deliverBy(ctx context.Context, back identity.Via, h hint) error {
	if back.Address == s.cfg.Device.Address() || s.cfg.Reach == nil {
		return fmt.Errorf("rendezvous %s: no way there", back.Address.Short())
	}
	if s.cfg.Sessions.Current(back.Address) == nil {
		if !s.hints.dialed.allow(h.watcher, time.Now()) {
			return fmt.Errorf("rendezvous %s: too many calls for one device", back.Address.Short())
		}
		if err := s.cfg.Reach(ctx, back); err != nil {
			return fmt.Errorf("rendezvous %s: %w", back.Address.Short(), err)
		}
	}
	return s.postLeft(ctx, back.Address, h, true)
}

// postLeft makes the request that tells a watcher, or has it told.
func (s *Server) postLeft(ctx context.Context, at identity.Address, h hint, pass bool) error {
	target := "/v1/left?of=" + url.QueryEscape(h.of.String())
	if pass {
		target += "&to=" + url.QueryEscape(h.watcher.String())
	}
	response, err := ask(ctx, s.client, http.MethodPost, at, target, nil)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("tell %s: %s", at.Short(), response.Status)
	}
	return nil
}

// left takes a hint for this device, or passes one on to a watcher that is
// registered here.
func (s *Server) left(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	of, err := identity.ParseAddress(query.Get("of"))
	to := s.cfg.Device.Address()
	if err == nil && query.Has("to") {
		to, err = identity.ParseAddress(query.Get("to"))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.hints.taken.allow(overlay.Caller(r), time.Now()) {
		http.Error(w, "too many hints; wait a minute", http.StatusTooManyRequests)
		return
	}
	if to == s.cfg.Device.Address() {
		if s.cfg.Left != nil {
			s.cfg.Left(of)
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if _, ok := s.registered(to); !ok {
		absent(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), hintLimit)
	defer cancel()
	if err := s.postLeft(ctx, to, hint{of: of, watcher: to}, false); err != nil {
		http.Error(w, "the device did not answer", http.StatusGatewayTimeout)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// parseBack reads where a watcher can be told: ADDRESS@IP:PORT, MaxBack times.
func parseBack(texts []string) ([]identity.Via, error) {
	if len(texts) > MaxBack {
		return nil, fmt.Errorf("%d rendezvous for the way back are more than %d", len(texts), MaxBack)
	}
	var all []identity.Via
	for _, text := range texts {
		who, where, _ := strings.Cut(text, "@")
		address, err := identity.ParseAddress(who)
		if err != nil {
			return nil, err
		}
		at, err := netip.ParseAddrPort(where)
		if err != nil {
			return nil, fmt.Errorf("rendezvous for the way back: %w", err)
		}
		if !usable(at) || address.Kind() != identity.KindDevice {
			return nil, fmt.Errorf("rendezvous for the way back: nobody can be reached at %v", at)
		}
		all = append(all, identity.Via{Address: address, At: netip.AddrPortFrom(at.Addr().Unmap(), at.Port())})
	}
	return all, nil
}
