package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"porchlight/share/wire"
)

const (
	// MaxShares is the largest number of shares on a device.
	MaxShares = 256
	// MaxShareName is the length in bytes of the longest name of a share.
	MaxShareName = 64
	// MaxWho is the largest number of entries in a read or write list.
	MaxWho = 256
)

var (
	// ErrName says that a share's name is not usable.
	ErrName = errors.New("a share's name has 1 to 64 bytes of UTF-8, no slash, backslash or control character, no dot in front and no space around it; choose another with --name")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("there is a share of that name; choose another with --name or remove that one first")
	// ErrNoShare says that there is no share of that name.
	ErrNoShare = errors.New("no share of that name; list them to see the names")
	// ErrTooMany says that MaxShares or MaxWho is reached.
	ErrTooMany = errors.New("too many shares, or too many entries in a list of who may")
	// ErrDir says that a folder cannot be shared.
	ErrDir = errors.New("not a folder that can be shared")
)

// Share is a folder that is served.
type Share struct {
	// Name is the first part of its paths.
	Name string `json:"name"`
	// Dir is the folder, absolute, with symbolic links resolved.
	Dir string `json:"dir"`
	// Read and Write say who may; what the entries mean, Grants knows. An
	// empty list means what Grants makes of it.
	Read  []string `json:"read,omitempty"`
	Write []string `json:"write,omitempty"`
}

// Store keeps the list of shares. Save replaces the whole list atomically.
type Store interface {
	Load() ([]Share, error)
	Save([]Share) error
}

// Shares is the set of shared folders, safe for concurrent use.
type Shares struct {
	store  Store
	refuse func(dir string) error

	mu   sync.RWMutex
	list []Share // sorted by name; elements are never changed
}

// Open loads the shares kept in store. refuse is asked before a folder is
// added, with its resolved absolute path, and returns why it must not be
// shared or nil; see Keep.
func Open(store Store, refuse func(dir string) error) (*Shares, error) {
	list, err := store.Load()
	if err != nil {
		return nil, fmt.Errorf("load shares: %w", err)
	}
	s := &Shares{store: store, refuse: refuse}
	for _, sh := range list {
		if err := checkShare(sh); err != nil {
			return nil, fmt.Errorf("load share %q: %w", sh.Name, err)
		}
		if err := s.insertable(sh.Name); err != nil {
			return nil, fmt.Errorf("load share %q: %w", sh.Name, err)
		}
		s.list = with(s.list, sh)
	}
	return s, nil
}

// Keep returns a function for Open that refuses "/" and every folder that is,
// contains or lies in one of dirs, as the device's state folder must be.
func Keep(dirs ...string) func(dir string) error {
	kept := make([]string, len(dirs))
	for i, d := range dirs {
		kept[i] = resolved(d)
	}
	return func(dir string) error {
		if dir == "/" {
			return fmt.Errorf("share the whole device: %w; choose a folder in it", ErrDir)
		}
		for _, k := range kept {
			if within(dir, k) || within(k, dir) {
				return fmt.Errorf("share %s, which holds this device's keys: %w; choose another folder", dir, ErrDir)
			}
		}
		return nil
	}
}

func resolved(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return filepath.Clean(dir)
}

func within(dir, parent string) bool {
	return dir == parent || strings.HasPrefix(dir, strings.TrimSuffix(parent, "/")+"/")
}

// Add shares the folder dir under name, or under the folder's own name if
// name is "". Errors are ErrName, ErrExists, ErrTooMany, ErrDir, what the
// refuse function said, or the store's; then nothing has changed.
func (s *Shares) Add(dir, name string, read, write []string) (Share, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return Share{}, fmt.Errorf("share %s: %w", dir, err)
	}
	if !fi.IsDir() {
		return Share{}, fmt.Errorf("share %s: %w", dir, ErrDir)
	}
	sh := Share{Name: name, Dir: resolved(dir), Read: slices.Clone(read), Write: slices.Clone(write)}
	if name == "" {
		sh.Name = filepath.Base(sh.Dir)
	}
	if err := checkShare(sh); err != nil {
		return Share{}, fmt.Errorf("share %s as %.80q: %w", dir, sh.Name, err)
	}
	if s.refuse != nil {
		if err := s.refuse(sh.Dir); err != nil {
			return Share{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.insertable(sh.Name); err != nil {
		return Share{}, fmt.Errorf("share %s as %q: %w", dir, sh.Name, err)
	}
	return sh, s.save(with(s.list, sh))
}

// Remove ends a share; the folder stays as it is. The error is ErrNoShare or
// the store's, then nothing has changed.
func (s *Shares) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(sh Share) bool { return sh.Name == name })
	if i < 0 {
		return fmt.Errorf("remove share %q: %w", name, ErrNoShare)
	}
	return s.save(slices.Delete(slices.Clone(s.list), i, i+1))
}

// List returns the shares, sorted by name.
func (s *Shares) List() []Share {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.list)
}

func (s *Shares) find(name string) (Share, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sh := range s.list {
		if sh.Name == name {
			return sh, true
		}
	}
	return Share{}, false
}

func (s *Shares) save(list []Share) error {
	if err := s.store.Save(slices.Clone(list)); err != nil {
		return fmt.Errorf("save shares: %w", err)
	}
	s.list = list
	return nil
}

// insertable refuses names that differ in case only: a share may be mounted
// where case does not count.
func (s *Shares) insertable(name string) error {
	if len(s.list) >= MaxShares {
		return ErrTooMany
	}
	for _, sh := range s.list {
		if strings.EqualFold(sh.Name, name) {
			return ErrExists
		}
	}
	return nil
}

func with(list []Share, sh Share) []Share {
	list = append(slices.Clone(list), sh)
	slices.SortFunc(list, func(a, b Share) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func checkShare(sh Share) error {
	if !wire.ValidName(sh.Name) || len(sh.Name) > MaxShareName || strings.TrimSpace(sh.Name) != sh.Name {
		return ErrName
	}
	if !filepath.IsAbs(sh.Dir) {
		return ErrDir
	}
	if len(sh.Read) > MaxWho || len(sh.Write) > MaxWho {
		return ErrTooMany
	}
	return nil
}
