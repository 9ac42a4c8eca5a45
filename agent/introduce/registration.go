package introduce

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/overlay"
	"porchlight/agent/sealed"
	"porchlight/nat/relay"
)

const (
	// DefaultPeriod is how often a device registers that does not say it.
	DefaultPeriod = 14 * time.Second
	// A device may say that it registers every minPeriod to maxPeriod.
	minPeriod = 5 * time.Second
	maxPeriod = 10 * time.Minute
	// missedRenewals is after how many periods without a registration a device
	// is taken for gone.
	missedRenewals = 3
	// MaxOthers is how many other rendezvous a registration names.
	MaxOthers = 4
	// MaxReachable is how many addresses a device may say it can be called at.
	MaxReachable = 4
	// lastUnixS is the last time that is believed: the year 2200.
	lastUnixS = 7258118400
)

// Registration is what a rendezvous gives a device that registers.
type Registration struct {
	// Ticket lets the device use the rendezvous as relay; nil if it is none.
	Ticket *relay.Ticket
	// Others lists other rendezvous, MaxOthers at most, for the day on which
	// this one is gone.
	Others []identity.Via
	// You is where the rendezvous sees the device; zero if it does not say.
	You netip.AddrPort
	// UnixS is the time there, in seconds since 1970; 0 if it does not say.
	UnixS int64
}

// registrationBody is a Registration as it is sent.
type registrationBody struct {
	Ticket *relay.Ticket  `json:"ticket,omitempty"`
	Others []fellow       `json:"others,omitempty"`
	You    netip.AddrPort `json:"you,omitzero"`
	UnixS  int64          `json:"unix_s,omitempty"`
}

type fellow struct {
	Address identity.Address `json:"address"`
	At      netip.AddrPort   `json:"at"`
}

// checked returns what of a registration makes sense; the rest is left out,
// since the registration itself stands.
func (b registrationBody) checked(at, own identity.Address) Registration {
	r := Registration{Ticket: b.Ticket, UnixS: b.UnixS}
	for _, o := range b.Others {
		device := o.Address.Kind() == identity.KindDevice && o.Address != at && o.Address != own
		if device && usable(o.At) && len(r.Others) < MaxOthers {
			r.Others = append(r.Others, identity.Via(o))
		}
	}
	if usable(b.You) {
		r.You = netip.AddrPortFrom(b.You.Addr().Unmap(), b.You.Port())
	}
	if r.UnixS < 0 || r.UnixS > lastUnixS {
		r.UnixS = 0
	}
	return r
}

// usable reports whether somebody may be at an address.
func usable(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && a.Addr().Zone() == "" && !a.Addr().IsMulticast() && !a.Addr().IsUnspecified()
}

// registerBody is what a device says that registers.
type registerBody struct {
	Epoch sealed.Nonce `json:"epoch"`
	// EveryS is after how many seconds it will register again; 0 stands for
	// DefaultPeriod.
	EveryS int `json:"every_s,omitempty"`
	// At lists where it can be called itself, MaxReachable at most.
	At []netip.AddrPort `json:"at,omitempty"`
}

// reachable returns what of At makes sense.
func (b registerBody) reachable() (at []netip.AddrPort) {
	for _, a := range b.At {
		if usable(a) && len(at) < MaxReachable {
			at = append(at, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	return at
}

// period is how often the device registers, within what is allowed.
func (b registerBody) period() time.Duration {
	switch {
	case b.EveryS <= 0:
		return DefaultPeriod
	case b.EveryS > int(maxPeriod/time.Second):
		return maxPeriod
	}
	return max(time.Duration(b.EveryS)*time.Second, minPeriod)
}

// epochBody tells the epoch of a device.
type epochBody struct {
	Epoch sealed.Nonce `json:"epoch"`
}

// registration is what a rendezvous keeps of a device. Server.mu guards it.
type registration struct {
	epoch    sealed.Nonce
	until    time.Time // when it ends unless it is renewed
	watchers map[identity.Address]watch
	// told are the rendezvous that the device was told of last.
	told []fellow
}

// register notes that the caller wants to be introduced to others.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return
	}
	var body registerBody
	if json.Unmarshal(b, &body) != nil || body.Epoch == (sealed.Nonce{}) {
		http.Error(w, "the body is {\"epoch\":…}", http.StatusBadRequest)
		return
	}
	if !s.cfg.Willing() {
		http.Error(w, "this device introduces nobody at this moment", http.StatusForbidden)
		return
	}
	caller := overlay.Caller(r)
	if !s.enter(caller, body) {
		// Whoever knows nobody else has to learn of somebody.
		w.WriteHeader(http.StatusServiceUnavailable)
		json.NewEncoder(w).Encode(registrationBody{Others: s.others(caller), UnixS: time.Now().Unix()})
		return
	}
	if at := body.reachable(); len(at) > 0 && s.cfg.Reachable != nil {
		s.cfg.Reachable(caller, at)
	}
	json.NewEncoder(w).Encode(s.registrationFor(caller))
}

// enter begins or renews a registration; false if there are too many.
func (s *Server) enter(caller identity.Address, body registerBody) bool {
	until := time.Now().Add(missedRenewals * body.period())
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.registrations[caller]
	if old == nil && len(s.registrations) >= maxCallers {
		s.endAbsent(time.Time{})
	}
	if old == nil && len(s.registrations) >= maxCallers {
		return false
	}
	if old == nil {
		old = &registration{}
		s.registrations[caller] = old
	}
	old.epoch, old.until = body.Epoch, until
	select {
	case s.entered <- struct{}{}:
	default:
	}
	return true
}

func (s *Server) registrationFor(caller identity.Address) registrationBody {
	body := registrationBody{Ticket: s.cfg.Ticket(caller), UnixS: time.Now().Unix()}
	if s.cfg.Seen != nil {
		body.You = s.cfg.Seen(caller)
	}
	if all := s.others(caller); s.news(caller, all) {
		body.Others = all
	}
	return body
}

// others lists other rendezvous for a device.
func (s *Server) others(caller identity.Address) (all []fellow) {
	if s.cfg.Others == nil {
		return nil
	}
	for _, v := range s.cfg.Others(caller) {
		if v.Address != caller && len(all) < MaxOthers {
			all = append(all, fellow(v))
		}
	}
	return all
}

// news reports whether a registered device has not been told of these
// rendezvous: they would be half of each answer's bytes.
func (s *Server) news(caller identity.Address, others []fellow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.registrations[caller]
	if r == nil || slices.Equal(r.told, others) {
		return false
	}
	r.told = others
	return true
}

// unregister ends the caller's registration.
func (s *Server) unregister(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.end(overlay.Caller(r))
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// endAbsent ends the registrations whose session is gone or, as now is told,
// that were not renewed; s.mu is held.
func (s *Server) endAbsent(now time.Time) {
	for a, r := range s.registrations {
		if s.cfg.Sessions.Current(a) == nil || now.After(r.until) {
			s.end(a)
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
		absent(w)
		return
	}
	json.NewEncoder(w).Encode(epochBody{epoch})
}

// absent is the answer about a device that is not registered here.
func absent(w http.ResponseWriter) {
	http.Error(w, "the device is not registered here", http.StatusNotFound)
}

// registered returns the epoch of a device that is introduced at this moment:
// it asked for that, its session lives, and this device is willing.
func (s *Server) registered(a identity.Address) (epoch sealed.Nonce, ok bool) {
	s.mu.Lock()
	r := s.registrations[a]
	if r != nil {
		epoch = r.epoch
	}
	s.mu.Unlock()
	return epoch, r != nil && s.cfg.Willing() && s.cfg.Sessions.Current(a) != nil
}
