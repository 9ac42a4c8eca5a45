package owner

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"porchlight/agent/identity"
)

const (
	// MaxOwners is how many other owners' rosters are kept.
	MaxOwners = 500
	// MaxProofs is how many devices' proofs are remembered; one more makes
	// any of them forgotten.
	MaxProofs = 1024

	keyFile   = "owner.key"
	ownFile   = "owner.json"
	knownFile = "owners.json"
)

// Errors a caller can tell apart.
var (
	ErrOwned    = errors.New("this device has an owner already; take it out first: porchlight devices leave")
	ErrNoOwner  = errors.New("this device has no owner yet; make one: porchlight devices invite, or join one: porchlight devices join CODE")
	ErrNoKey    = errors.New("the owner's key does not lie on this device; go to the one it was made on, or restore it from your words")
	ErrFull     = fmt.Errorf("an owner has at most %d devices; revoke one first", MaxDevices)
	ErrUnlisted = errors.New("the device is not among the owner's")
	ErrUnwanted = errors.New("nobody here knows that owner")
	ErrStale    = errors.New("a newer list of devices is known")
)

// Files is where the store keeps what must not be forgotten: each file is
// replaced whole or not at all, with mode 0600. A missing file leaves v as it is.
type Files interface {
	ReadJSON(name string, v any) error
	WriteJSON(name string, v any) error
}

// Config is what a Store needs. Presign and Wanted must not call the Store.
type Config struct {
	// Device shows the owner's certificates from the moment there are any.
	Device *identity.Device
	Files  Files
	// Wanted says whose rosters are kept besides the own; nil keeps none.
	Wanted func(owner identity.Address) bool
	// Presign makes what the owner's other devices publish in its name, at
	// most MaxPresigned bytes; nil if there is nothing.
	Presign func(key ed25519.PrivateKey, roster []byte, version uint64) []byte
	// Newest asks others for the newest roster of an owner whose key is being
	// restored; nil, or no bytes, if nobody has one.
	Newest func(ctx context.Context, owner identity.Address) []byte
	// Now is the wall clock, time.Now if nil. It only helps a restored key,
	// of which nobody knows the newest roster, to begin above it.
	Now    func() time.Time
	Logger *slog.Logger
}

// Store is what a device knows of owners: its own and others.
type Store struct {
	cfg      Config
	changing sync.Mutex // held while a file is being changed

	mu         sync.RWMutex
	key        *identity.Owner
	own        own
	known      []known // in the order they were learnt
	proofs     map[identity.Address]proof
	invitation *invitation
	changed    chan struct{}
}

// own is what belongs to this device, as it lies in owner.json.
type own struct {
	Owner       identity.Address            `json:"owner"`
	Certificate []byte                      `json:"certificate,omitempty"`
	Leaf        []byte                      `json:"leaf,omitempty"`
	Signed      []byte                      `json:"roster,omitempty"`
	Presigned   []byte                      `json:"presigned,omitempty"`
	Edition     edition                     `json:"edition"`
	Names       map[identity.Address]string `json:"names,omitempty"`

	roster Roster
}

// edition orders what is presigned: by roster, and by how often it was renewed.
type edition struct {
	Version uint64 `json:"version"`
	Renewed uint64 `json:"renewed"`
}

func (e edition) after(o edition) bool {
	return e.Version > o.Version || e.Version == o.Version && e.Renewed > o.Renewed
}

// known is another owner's newest roster, as it lies in owners.json.
type known struct {
	Owner  identity.Address `json:"owner"`
	Signed []byte           `json:"roster"`

	roster Roster
}

// proof is what a device's certificates said in a session.
type proof struct {
	owner   identity.Address
	version uint64
}

// keyForm is the content of owner.key; without a seed there is no key.
type keyForm struct {
	Form string `json:"form,omitempty"`
	Seed []byte `json:"seed,omitempty"`
}

// Open reads the store, and makes the device show its certificates.
func Open(cfg Config) (*Store, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wanted == nil {
		cfg.Wanted = func(identity.Address) bool { return false }
	}
	s := &Store{cfg: cfg, proofs: map[identity.Address]proof{}, changed: make(chan struct{})}
	if err := errors.Join(s.readKey(), s.readOwn(), s.readKnown()); err != nil {
		return nil, fmt.Errorf("read the owners: %w", err)
	}
	return s, s.present()
}

func (s *Store) readKey() error {
	var k keyForm
	if err := s.cfg.Files.ReadJSON(keyFile, &k); err != nil {
		return err
	}
	if k.Form == "" && len(k.Seed) == 0 {
		return nil
	}
	if k.Form != BackupHeader || len(k.Seed) != ed25519.SeedSize {
		return fmt.Errorf("%s is damaged; restore it from your words, or move it away", keyFile)
	}
	s.key = identity.OwnerFromSeed(k.Seed)
	return nil
}

func (s *Store) readOwn() (err error) {
	if err := s.cfg.Files.ReadJSON(ownFile, &s.own); err != nil || s.own.Owner.IsZero() {
		return err
	}
	s.own.roster, err = readRoster(s.own.Owner, s.own.Signed)
	if err == nil {
		err = s.checkLeaf(s.own)
	}
	if err != nil {
		return fmt.Errorf("%s is damaged: %w; restore it, or move it away and join again", ownFile, err)
	}
	return nil
}

// readKnown leaves out what is damaged: others have it, and will tell.
func (s *Store) readKnown() error {
	var all []known
	if err := s.cfg.Files.ReadJSON(knownFile, &all); err != nil {
		return err
	}
	for _, k := range all {
		var err error
		if k.roster, err = readRoster(k.Owner, k.Signed); err != nil {
			s.cfg.Logger.Warn("a stored list of devices is damaged", "owner", k.Owner.Short(), "err", err)
			continue
		}
		s.known = append(s.known, k)
	}
	return nil
}

// checkLeaf checks that the certificates are the owner's, for this device.
func (s *Store) checkLeaf(o own) error {
	if o.Leaf == nil {
		return nil
	}
	p, err := identity.ParseCertificates([][]byte{o.Leaf, o.Certificate})
	if err != nil {
		return err
	}
	if p.Owner != o.Owner || p.Device != s.cfg.Device.Address() {
		return fmt.Errorf("%w: it is made for %s under %s", identity.ErrCertificate, p.Device.Short(), p.Owner.Short())
	}
	return nil
}

// listed reports whether this device is its owner's at this moment; s.mu or
// s.changing is held.
func (s *Store) listed() bool {
	return s.own.Leaf != nil && s.own.roster.Lists(s.cfg.Device.Address())
}

// holds reports whether the owner's key lies here; s.mu or s.changing is held.
func (s *Store) holds() bool { return s.key != nil && s.key.Address() == s.own.Owner }

// present makes the device show what it is now.
func (s *Store) present() error {
	if s.listed() {
		return s.cfg.Device.Present(s.own.Leaf, s.own.Certificate)
	}
	return s.cfg.Device.Present(nil, nil)
}

// keep stores what is this device's own; s.changing is held.
func (s *Store) keep(o own) (err error) {
	if !o.Owner.IsZero() {
		if o.roster, err = readRoster(o.Owner, o.Signed); err != nil {
			return err
		}
	}
	if err := s.checkLeaf(o); err != nil {
		return err
	}
	if err := s.cfg.Files.WriteJSON(ownFile, o); err != nil {
		return fmt.Errorf("store the owner: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = o
	s.signal()
	return s.present()
}

// keepKey stores the owner's key, or forgets it; s.changing is held.
func (s *Store) keepKey(key *identity.Owner) error {
	var form keyForm
	if key != nil {
		form = keyForm{Form: BackupHeader, Seed: key.Seed()}
	}
	if err := s.cfg.Files.WriteJSON(keyFile, form); err != nil {
		return fmt.Errorf("store the owner's key: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
	s.signal()
	return nil
}

// signal tells who waits for a change; s.mu is held.
func (s *Store) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of rosters, of
// the own owner or of the invitation, and when a newer roster is heard of.
func (s *Store) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Learn takes over an owner's roster if it is newer than the one known.
// ErrStale says that it is older, ErrUnwanted that nobody here wants it,
// ErrRoster that the owner did not make it so.
func (s *Store) Learn(owner identity.Address, signed []byte) (changed bool, err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	have, old := s.roster(owner)
	if old != nil && bytes.Equal(old, signed) {
		return false, nil
	}
	mine := !owner.IsZero() && owner == s.own.Owner
	if !mine && !s.cfg.Wanted(owner) {
		return false, fmt.Errorf("list of owner %s: %w", owner.Short(), ErrUnwanted)
	}
	signed = bytes.Clone(signed)
	r, err := ParseRoster(owner, signed)
	if err != nil {
		return false, err
	}
	if r.Version <= have.Version {
		return false, fmt.Errorf("list %d of owner %s: %w: %d", r.Version, owner.Short(), ErrStale, have.Version)
	}
	if mine {
		return true, s.learnOwn(r, signed)
	}
	return true, s.learnKnown(known{Owner: owner, Signed: signed, roster: r})
}

// learnOwn takes over a roster of the own owner; s.changing is held.
func (s *Store) learnOwn(r Roster, signed []byte) error {
	o := s.own
	o.Signed = signed
	if s.holds() {
		o.Presigned, o.Edition = s.presign(s.key, signed, r.Version), edition{Version: r.Version}
	}
	return s.keep(o)
}

// learnKnown takes over another owner's roster, and forgets those that nobody
// wants any more; s.changing is held.
func (s *Store) learnKnown(k known) error {
	all := slices.DeleteFunc(slices.Clone(s.known), func(o known) bool {
		return o.Owner != k.Owner && !s.cfg.Wanted(o.Owner)
	})
	if i := slices.IndexFunc(all, func(o known) bool { return o.Owner == k.Owner }); i >= 0 {
		all[i] = k
	} else if len(all) < MaxOwners {
		all = append(all, k)
	} else {
		return fmt.Errorf("list of owner %s: %d owners are known already; remove a contact first", k.Owner.Short(), MaxOwners)
	}
	if err := s.cfg.Files.WriteJSON(knownFile, all); err != nil {
		return fmt.Errorf("store the owners: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = all
	s.signal()
	return nil
}

// presign makes what the owner's devices publish.
func (s *Store) presign(key *identity.Owner, signed []byte, version uint64) []byte {
	if s.cfg.Presign == nil {
		return nil
	}
	b := s.cfg.Presign(key.Private(), signed, version)
	if len(b) > MaxPresigned {
		s.cfg.Logger.Error("too much is presigned", "bytes", len(b), "limit", MaxPresigned)
		return nil
	}
	return b
}
