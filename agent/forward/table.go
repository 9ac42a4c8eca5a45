package forward

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// MaxExposed is how many services a device exposes at most.
const MaxExposed = 64

// Errors of the table.
var (
	// ErrExists says that the name is taken.
	ErrExists = errors.New("that is exposed already; end it first with: porchlight unexpose")
	// ErrUnknown says that nothing of that name is exposed.
	ErrUnknown = errors.New("nothing of that name is exposed; see: porchlight exposed")
	// ErrTooMany says that MaxExposed is reached.
	ErrTooMany = fmt.Errorf("at most %d services can be exposed; end one first with: porchlight unexpose", MaxExposed)
)

// Store keeps the list. Save replaces the whole of it atomically.
type Store interface {
	Load() ([]Exposed, error)
	Save([]Exposed) error
}

// Table is what a device exposes, safe for concurrent use.
type Table struct {
	store  Store
	refuse func(netip.AddrPort) error

	mu   sync.RWMutex
	list []Exposed // sorted; elements are never changed
}

// Open loads the table. refuse says why a target must not be exposed, or nil;
// it is asked when one is added and whenever one is used. See KeepPorts.
func Open(store Store, refuse func(netip.AddrPort) error) (*Table, error) {
	list, err := store.Load()
	if err != nil {
		return nil, fmt.Errorf("load exposed services: %w", err)
	}
	t := &Table{store: store, refuse: refuse}
	for _, e := range list {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("load exposed service %q: %w", e.Name, err)
		}
		if t.list, err = with(t.list, e); err != nil {
			return nil, fmt.Errorf("load exposed service %q: %w", e.Name, err)
		}
	}
	return t, nil
}

// List returns what is exposed, by name.
func (t *Table) List() []Exposed {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.list)
}

// Add exposes one more.
func (t *Table) Add(e Exposed) error {
	if err := e.check(); err != nil {
		return err
	}
	if err := t.refuse(e.Target); err != nil {
		return fmt.Errorf("expose %s: %w", e.Target, err)
	}
	return t.change(func(list []Exposed) ([]Exposed, error) { return with(list, e) })
}

// Remove ends one; its connections and flows end within a second.
func (t *Table) Remove(network, name string) error {
	return t.change(func(list []Exposed) ([]Exposed, error) {
		i, ok := search(list, network, name)
		if !ok {
			return nil, fmt.Errorf("%s %s: %w", network, name, ErrUnknown)
		}
		return slices.Delete(list, i, i+1), nil
	})
}

// change saves a changed copy of the list before it counts.
func (t *Table) change(f func([]Exposed) ([]Exposed, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	list, err := f(slices.Clone(t.list))
	if err != nil {
		return err
	}
	if err := t.store.Save(list); err != nil {
		return fmt.Errorf("save exposed services: %w", err)
	}
	t.list = list
	return nil
}

// find returns what is exposed under a name and may be.
func (t *Table) find(network, name string) (Exposed, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i, ok := search(t.list, network, name)
	if !ok || t.refuse(t.list[i].Target) != nil {
		return Exposed{}, false
	}
	return t.list[i], true
}

// with returns list with e in its place.
func with(list []Exposed, e Exposed) ([]Exposed, error) {
	if len(list) >= MaxExposed {
		return nil, ErrTooMany
	}
	i, taken := search(list, e.Network, e.Name)
	if taken {
		return nil, fmt.Errorf("%s %s: %w", e.Network, e.Name, ErrExists)
	}
	return slices.Insert(list, i, e), nil
}

func search(list []Exposed, network, name string) (int, bool) {
	return slices.BinarySearchFunc(list, Exposed{Name: name, Network: network}, func(a, b Exposed) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Network, b.Network))
	})
}
