package owner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"porchlight/agent/identity"
)

const (
	// MaxName is the length of the longest name of a device, in characters.
	MaxName = 40
	// MaxPresigned is the size of what may be presigned, in bytes.
	MaxPresigned = 32 << 10
)

// ErrName is wrapped by the refusal of a device's name.
var ErrName = errors.New("unusable name")

// sane is a moment no clock that was set is before.
var sane = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// Create makes an owner, whose first device is this one, called name ("" for
// none). Where a key lies here already, as after a power cut or when this
// device was revoked, the owner is that key's.
func (s *Store) Create(ctx context.Context, name string) error {
	s.mu.RLock()
	key := s.key
	s.mu.RUnlock()
	if key != nil {
		return s.Restore(ctx, key, name)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.key != nil || s.listed() {
		return ErrOwned
	}
	if err := checkName(name); err != nil {
		return err
	}
	// The key comes first: a roster whose key is lost would be of no use.
	key = identity.NewOwner()
	if err := s.keepKey(key); err != nil {
		return err
	}
	return s.certify(key, Roster{}, name)
}

// Restore puts an owner's key (FromWords, FromBackup) onto this device and
// makes it one of the owner's, above the newest roster that anybody knows.
// ErrFull says that the key is here now, but no place for the device: revoke
// another, then call Create.
func (s *Store) Restore(ctx context.Context, key *identity.Owner, name string) error {
	var told []byte
	if s.cfg.Newest != nil {
		told = s.cfg.Newest(ctx, key.Address())
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if (s.listed() || s.holds()) && s.own.Owner != key.Address() || s.listed() && s.holds() {
		return ErrOwned
	}
	if err := checkName(name); err != nil {
		return err
	}
	err := s.certify(key, s.base(key.Address(), told), name)
	if err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	return errors.Join(s.keepKey(key), err)
}

// base returns the roster to go on from: the newest of what is stored and what
// others told. If there is none, one may still exist that nobody here can
// reach: the seconds since 1970, if the clock is set, are above any version
// that single changes have reached. If it is not, contacts refuse the new
// roster as stale, and tell; then it is signed once more.
func (s *Store) base(owner identity.Address, told []byte) Roster {
	r, _ := s.roster(owner)
	if other, err := ParseRoster(owner, told); err == nil && other.Version > r.Version {
		r = other
	}
	if now := s.cfg.Now(); r.Version == 0 && now.After(sane) {
		r.Version = uint64(now.Unix())
	}
	return r
}

// certify signs a roster above base that lists this device; s.changing is held.
func (s *Store) certify(key *identity.Owner, base Roster, name string) (err error) {
	self := s.cfg.Device.Address()
	o := own{Owner: key.Address()}
	if s.own.Owner == o.Owner {
		o = s.own
	}
	if o.Certificate, err = key.Certificate(); err != nil {
		return err
	}
	devices, full := base.Devices, false
	if !base.Lists(self) {
		if full = len(devices) >= MaxDevices; !full {
			devices = append(slices.Clone(devices), self)
		}
	}
	if o, err = s.sign(o, key, base.Version, devices); err != nil {
		return err
	}
	if full {
		o.Leaf = nil
		return errors.Join(s.keep(o), ErrFull)
	}
	if o.Leaf, err = key.Certify(self, o.Edition.Version); err != nil {
		return err
	}
	if name != "" {
		o.Names[self] = name
	}
	return s.keep(o)
}

// sign gives o a roster one above a version, and all that depends on it.
func (s *Store) sign(o own, key *identity.Owner, above uint64, devices []identity.Address) (own, error) {
	if above == math.MaxUint64 {
		return o, fmt.Errorf("owner %s has used up all versions of its list; make a new owner", o.Owner.Short())
	}
	version := above + 1
	o.Signed = signRoster(key, version, devices)
	o.Presigned, o.Edition = s.presign(key, o.Signed, version), edition{Version: version}
	names := map[identity.Address]string{}
	for _, d := range devices {
		if n := o.Names[d]; n != "" {
			names[d] = n
		}
	}
	o.Names = names
	return o, nil
}

// Revoke takes a device off the owner's roster. Spread tells others.
func (s *Store) Revoke(device identity.Address) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.holds() {
		return ErrNoKey
	}
	if !s.own.roster.Lists(device) {
		return fmt.Errorf("revoke %s: %w", device.Short(), ErrUnlisted)
	}
	rest := slices.DeleteFunc(slices.Clone(s.own.roster.Devices), func(d identity.Address) bool { return d == device })
	o, err := s.sign(s.own, s.key, s.own.roster.Version, rest)
	if err != nil {
		return err
	}
	return s.keep(o)
}

// Renew presigns afresh for the same roster, as what was presigned runs out.
func (s *Store) Renew() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.holds() {
		return ErrNoKey
	}
	o := s.own
	o.Presigned = s.presign(s.key, o.Signed, o.roster.Version)
	o.Edition.Renewed++
	return s.keep(o)
}

// Leave makes this device nobody's, and forgets the owner's key if it lies
// here. The owner's other devices go on listing it until it is revoked; where
// the key lies here, revoke this device first, and spread that.
func (s *Store) Leave() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.own.Owner.IsZero() && s.key == nil {
		return ErrNoOwner
	}
	s.Cancel()
	// The key goes first: left behind, it would come back with Create.
	if s.key != nil {
		if err := s.keepKey(nil); err != nil {
			return err
		}
	}
	// Nobody who was revoked meanwhile may come back by what was known before.
	if o := s.own; !o.Owner.IsZero() {
		if err := s.learnKnown(known{Owner: o.Owner, Signed: o.Signed, roster: o.roster}); err != nil {
			s.cfg.Logger.Warn("the list of devices is forgotten", "owner", o.Owner.Short(), "err", err)
		}
	}
	return s.keep(own{})
}

// Rename changes what one of the owner's devices is called here.
func (s *Store) Rename(device identity.Address, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.own.roster.Lists(device) {
		return fmt.Errorf("rename %s: %w", device.Short(), ErrUnlisted)
	}
	o := s.own
	if o.Names = maps.Clone(o.Names); o.Names == nil {
		o.Names = map[identity.Address]string{}
	}
	o.Names[device] = name
	return s.keep(o)
}

// Words returns the owner's key as words to write down.
func (s *Store) Words() (string, error) {
	key, err := s.holder()
	if err != nil {
		return "", err
	}
	return Words(key), nil
}

// Backup returns the owner's key as a file, sealed if there is a passphrase.
func (s *Store) Backup(passphrase string) ([]byte, error) {
	key, err := s.holder()
	if err != nil {
		return nil, err
	}
	return Backup(key, passphrase), nil
}

func (s *Store) holder() (*identity.Owner, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.holds() {
		return nil, ErrNoKey
	}
	return s.key, nil
}

func checkName(name string) error {
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > MaxName || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: a device's has at most %d characters, none of them a control character", ErrName, MaxName)
	}
	return nil
}
