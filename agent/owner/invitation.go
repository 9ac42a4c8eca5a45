package owner

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"porchlight/agent/identity"
)

const (
	// InvitationLife is how long an invitation is open at most.
	InvitationLife = 10 * time.Minute
	// MaxTries is how many wrong codes end an invitation.
	MaxTries = 5

	purposeRequest = "porchlight join 1 request"
	purposeGrant   = "porchlight join 1 grant"
)

// ErrCode says that a code opens nothing. It does not say why: whoever guesses
// learns nothing from it.
var ErrCode = errors.New("the code is wrong, used or too old; get a new one: porchlight devices invite")

// Invitation is a code that brings in one device.
type Invitation struct {
	Code Code
	// Left is how long it stays open.
	Left time.Duration
}

// invitation is the one that is open; its deadline is monotonic time.
type invitation struct {
	code  Code
	until time.Time
	tries int
}

// Invite opens an invitation for at most ttl (InvitationLife if 0 or more than
// that) and ends the one before. It takes up to some seconds on a small router.
func (s *Store) Invite(ttl time.Duration) (Invitation, error) {
	if err := s.mayInvite(); err != nil {
		return Invitation{}, err
	}
	if ttl <= 0 || ttl > InvitationLife {
		ttl = InvitationLife
	}
	code := NewCode()
	code.key("mac")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.invitation = &invitation{code: code, until: time.Now().Add(ttl)}
	s.signal()
	return Invitation{Code: code, Left: ttl}, nil
}

func (s *Store) mayInvite() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case !s.holds() || !s.listed():
		return ErrNoKey
	case len(s.own.roster.Devices) >= MaxDevices:
		return ErrFull
	}
	return nil
}

// Invitation returns the one that is open, if there is one.
func (s *Store) Invitation() (Invitation, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.invitation == nil {
		return Invitation{}, false
	}
	left := time.Until(s.invitation.until)
	return Invitation{Code: s.invitation.code, Left: left}, left > 0
}

// Cancel ends the open invitation, if there is one.
func (s *Store) Cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel()
}

// cancel is Cancel with s.mu held.
func (s *Store) cancel() {
	if s.invitation != nil {
		s.invitation = nil
		s.signal()
	}
}

// request is the body of POST /v1/join.
type request struct {
	Name string `json:"name"`
	// MAC shows that the new device knows the code.
	MAC []byte `json:"mac"`
}

// answer is what POST /v1/join answers: MAC, over the very bytes of Grant,
// shows that the inviter knows the code.
type answer struct {
	Grant json.RawMessage `json:"grant"`
	MAC   []byte          `json:"mac"`
}

// grant is what a new device receives.
type grant struct {
	Certificate []byte `json:"certificate"`
	Leaf        []byte `json:"leaf"`
	update
}

// update is what an owner's devices tell each other.
type update struct {
	Roster    []byte                      `json:"roster"`
	Presigned []byte                      `json:"presigned,omitempty"`
	Edition   edition                     `json:"edition"`
	Names     map[identity.Address]string `json:"names,omitempty"`
}

// update returns what the owner's other devices should know.
func (o own) update() update {
	return update{Roster: o.Signed, Presigned: o.Presigned, Edition: o.Edition, Names: o.Names}
}

// admit brings a device under the owner if it knows the code.
func (s *Store) admit(device identity.Address, r request) (answer, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	code, err := s.try(device, r)
	if err != nil {
		return answer{}, err
	}
	if err := checkName(r.Name); err != nil {
		return answer{}, err
	}
	if err := s.addDevice(device, r.Name); err != nil {
		return answer{}, err
	}
	// What was stored counts: were the answer lost, another code repeats it.
	s.Cancel()
	leaf, err := s.key.Certify(device, s.own.roster.Version)
	if err != nil {
		return answer{}, err
	}
	b, err := json.Marshal(grant{Certificate: s.own.Certificate, Leaf: leaf, update: s.own.update()})
	if err != nil {
		return answer{}, err
	}
	return answer{Grant: b, MAC: code.prove(purposeGrant, s.cfg.Device.Address(), device, b)}, nil
}

// try checks what a device shows against the open invitation, and counts.
func (s *Store) try(device identity.Address, r request) (Code, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.invitation
	if i == nil || !time.Now().Before(i.until) || !s.holds() || !s.listed() {
		return Code{}, ErrCode
	}
	name := sha256.Sum256([]byte(r.Name))
	if !hmac.Equal(r.MAC, i.code.prove(purposeRequest, device, s.cfg.Device.Address(), name[:])) {
		if i.tries++; i.tries >= MaxTries {
			s.cfg.Logger.Warn("the invitation ends: too many wrong codes", "peer", device.Short())
			s.cancel()
		}
		return Code{}, ErrCode
	}
	return i.code, nil
}

// addDevice signs a roster with the device, unless it is listed already;
// s.changing is held.
func (s *Store) addDevice(device identity.Address, name string) (err error) {
	o := s.own
	if !o.roster.Lists(device) {
		if len(o.roster.Devices) >= MaxDevices {
			return ErrFull
		}
		devices := append(slices.Clone(o.roster.Devices), device)
		if o, err = s.sign(o, s.key, o.roster.Version, devices); err != nil {
			return err
		}
	}
	if name != "" {
		if o.Names = maps.Clone(o.Names); o.Names == nil {
			o.Names = map[identity.Address]string{}
		}
		o.Names[device] = name
	}
	return s.keep(o)
}

// accept takes over what an inviter granted this device; s.changing is held.
func (s *Store) accept(inviter identity.Address, g grant) error {
	p, err := identity.ParseCertificates([][]byte{g.Leaf, g.Certificate})
	if err != nil {
		return fmt.Errorf("the certificate from %s: %w", inviter.Short(), err)
	}
	r, err := ParseRoster(p.Owner, g.Roster)
	if err != nil {
		return fmt.Errorf("the list from %s: %w", inviter.Short(), err)
	}
	if !r.Lists(s.cfg.Device.Address()) || !r.Lists(inviter) || p.Version > r.Version {
		return fmt.Errorf("the list from %s: %w", inviter.Short(), ErrUnlisted)
	}
	if have, _ := s.roster(p.Owner); have.Version > r.Version {
		return fmt.Errorf("the list from %s: %w", inviter.Short(), ErrStale)
	}
	o := own{Owner: p.Owner, Certificate: g.Certificate, Leaf: g.Leaf, Signed: g.Roster, roster: r}
	return s.keep(o.with(g.update))
}

// with returns o with what an own device says beside the roster: what is newer
// of the presigned, and the names of those that have none.
func (o own) with(u update) own {
	if len(u.Presigned) <= MaxPresigned && u.Edition.after(o.Edition) {
		o.Presigned, o.Edition = u.Presigned, u.Edition
	}
	names := map[identity.Address]string{}
	maps.Copy(names, o.Names)
	for _, d := range o.roster.Devices {
		if n := u.Names[d]; names[d] == "" && n != "" && checkName(n) == nil {
			names[d] = n
		}
	}
	o.Names = names
	return o
}
