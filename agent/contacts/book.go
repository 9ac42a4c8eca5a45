package contacts

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"porchlight/agent/identity"
)

const (
	// MaxContacts is how many contacts a device keeps.
	MaxContacts = 500
	// MaxName is the length of the longest name, in characters.
	MaxName = 40

	file = "contacts.json"
)

// Errors a caller can tell apart.
var (
	ErrUnknown = errors.New("no such contact")
	ErrTaken   = errors.New("the name belongs to another contact")
	ErrBlocked = errors.New("the device is blocked")
	ErrName    = errors.New("unusable name")
)

// Role says how close a contact is.
type Role string

// The roles a contact can have.
const (
	Me     Role = "me"
	Friend Role = "friend"
	None   Role = ""
)

// ParseRole reads a role as the command line writes it.
func ParseRole(s string) (Role, error) {
	switch s {
	case "me", "friend":
		return Role(s), nil
	case "", "none":
		return None, nil
	}
	return None, fmt.Errorf("unknown role %q; use me, friend or none", s)
}

// Contact is an address with a local name.
type Contact struct {
	Name    string        `json:"name"`
	Link    identity.Link `json:"link"`
	Role    Role          `json:"role"`
	Blocked bool          `json:"blocked,omitempty"`
	// Hidden says that the contact does not see when this device is on-line.
	Hidden bool `json:"hidden,omitempty"`
}

// Owners tells which devices belong to whom.
type Owners interface {
	// OwnerOf returns the owner of a device, zero if it is nobody's or that
	// is not known.
	OwnerOf(device identity.Address) identity.Address
	// Devices lists those of an owner.
	Devices(owner identity.Address) []identity.Address
	// Mine is the owner of this device, zero if it is nobody's.
	Mine() identity.Address
}

// nobodyOwns is where no owner is known.
type nobodyOwns struct{}

func (nobodyOwns) OwnerOf(identity.Address) identity.Address   { return identity.Address{} }
func (nobodyOwns) Devices(identity.Address) []identity.Address { return nil }
func (nobodyOwns) Mine() identity.Address                      { return identity.Address{} }

// Files is where the book is kept.
type Files interface {
	ReadJSON(name string, v any) error
	WriteJSON(name string, v any) error
}

// Book is the contacts of a device.
type Book struct {
	files   Files
	owners  Owners
	changed func()
	mu      sync.RWMutex
	list    []Contact
}

// Open reads the book.
func Open(files Files) (*Book, error) {
	b := &Book{files: files, owners: nobodyOwns{}, changed: func() {}}
	if err := files.ReadJSON(file, &b.list); err != nil {
		return nil, fmt.Errorf("read the contacts: %w", err)
	}
	return b, nil
}

// Use sets who knows the owners of devices, and who is told when the book has
// changed; before the book is shared.
func (b *Book) Use(owners Owners, changed func()) { b.owners, b.changed = owners, changed }

// List returns all contacts, by name.
func (b *Book) List() []Contact {
	b.mu.RLock()
	defer b.mu.RUnlock()
	list := slices.Clone(b.list)
	slices.SortFunc(list, func(x, y Contact) int { return strings.Compare(x.Name, y.Name) })
	return list
}

// Get returns the contact with an address, or the person whose device has it.
// The owner's other devices are contacts without being in the book.
func (b *Book) Get(a identity.Address) (Contact, bool) {
	owner := b.owners.OwnerOf(a)
	b.mu.RLock()
	defer b.mu.RUnlock()
	if i := b.index(a); i >= 0 {
		return b.list[i], true
	}
	if owner.IsZero() {
		return Contact{}, false
	}
	if i := b.index(owner); i >= 0 {
		return b.list[i], true
	}
	if owner == b.owners.Mine() {
		return Contact{Link: identity.Link{Address: a}, Role: Me}, true
	}
	return Contact{}, false
}

// Devices lists the devices of a contact: its own address, or those of the
// person it names.
func (b *Book) Devices(c Contact) []identity.Address {
	if c.Link.Address.Kind() == identity.KindOwner {
		return b.owners.Devices(c.Link.Address)
	}
	return []identity.Address{c.Link.Address}
}

func (b *Book) index(a identity.Address) int {
	return slices.IndexFunc(b.list, func(c Contact) bool { return c.Link.Address == a })
}

// Add adds a contact, or changes the name, role and hints of one that is
// known; a block stays.
func (b *Book) Add(link identity.Link, name string, role Role) (Contact, error) {
	if err := checkName(name); err != nil {
		return Contact{}, err
	}
	c := Contact{Name: name, Link: link, Role: role}
	return c, b.change(func(list []Contact) ([]Contact, error) {
		i := slices.IndexFunc(list, func(c Contact) bool { return c.Link.Address == link.Address })
		if j := find(list, name); j >= 0 && j != i {
			return nil, fmt.Errorf("%q: %w; choose another", name, ErrTaken)
		}
		if i >= 0 {
			c.Blocked, c.Hidden = list[i].Blocked, list[i].Hidden
			if len(c.Link.At)+len(c.Link.Via) == 0 {
				c.Link = list[i].Link // a bare address knows less
			}
			list[i] = c
			return list, nil
		}
		if len(list) >= MaxContacts {
			return nil, fmt.Errorf("there are %d contacts already; remove one first", MaxContacts)
		}
		return append(list, c), nil
	})
}

// Remove forgets a contact, by name or address.
func (b *Book) Remove(name string) error {
	return b.change(func(list []Contact) ([]Contact, error) {
		i := find(list, name)
		if i < 0 {
			return nil, fmt.Errorf("%q: %w", name, ErrUnknown)
		}
		return slices.Delete(list, i, i+1), nil
	})
}

// Block blocks or unblocks a contact, by name or address. An address that is
// no contact becomes a blocked one.
func (b *Book) Block(name string, blocked bool) error {
	return b.change(func(list []Contact) ([]Contact, error) {
		i := find(list, name)
		if i < 0 {
			a, err := identity.ParseAddress(name)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", name, ErrUnknown)
			}
			list = append(list, Contact{Name: "blocked-" + a.Short(), Link: identity.Link{Address: a}})
			i = len(list) - 1
		}
		list[i].Blocked = blocked
		return list, nil
	})
}

// Hide has a contact see this device as off-line always, or ends that.
func (b *Book) Hide(name string, hidden bool) error {
	return b.change(func(list []Contact) ([]Contact, error) {
		i := find(list, name)
		if i < 0 {
			return nil, fmt.Errorf("%q: %w", name, ErrUnknown)
		}
		list[i].Hidden = hidden
		return list, nil
	})
}

// change stores a changed copy of the list, and keeps the old one if that fails.
func (b *Book) change(f func([]Contact) ([]Contact, error)) error {
	if err := b.replace(f); err != nil {
		return err
	}
	b.changed()
	return nil
}

func (b *Book) replace(f func([]Contact) ([]Contact, error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, err := f(slices.Clone(b.list))
	if err != nil {
		return err
	}
	if err := b.files.WriteJSON(file, list); err != nil {
		return fmt.Errorf("store the contacts: %w", err)
	}
	b.list = list
	return nil
}

func find(list []Contact, name string) int {
	return slices.IndexFunc(list, func(c Contact) bool {
		return c.Name == name || c.Link.Address.String() == name
	})
}

// Resolve turns what a person types, a name, an address or a link, into a
// link with every hint there is.
func (b *Book) Resolve(text string) (identity.Link, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if i := find(b.list, text); i >= 0 {
		return b.list[i].Link, nil
	}
	link, err := identity.ParseLink(text)
	if err != nil {
		if strings.ContainsRune(text, ':') || len(text) >= identity.AddressLength-2 {
			return identity.Link{}, err
		}
		return identity.Link{}, fmt.Errorf("%q: %w; see: porchlight contacts list", text, ErrUnknown)
	}
	if i := b.index(link.Address); i >= 0 && len(link.At)+len(link.Via) == 0 {
		return b.list[i].Link, nil
	}
	return link, nil
}

// Hints returns what the link of a contact says about where a device is. The
// places of a person's link are where one of their devices was: any may ask
// there, the key decides.
func (b *Book) Hints(a identity.Address) (at []netip.AddrPort, via []identity.Via) {
	if c, ok := b.Get(a); ok {
		return c.Link.At, c.Link.Via
	}
	return nil, nil
}

// Admit refuses blocked devices.
func (b *Book) Admit(a identity.Address) error {
	if c, ok := b.Get(a); ok && c.Blocked {
		return ErrBlocked
	}
	return nil
}

// Allows reports whether a device is among those a grant names.
func (b *Book) Allows(a identity.Address, who []string) bool {
	c, known := b.Get(a)
	if c.Blocked || a.IsZero() {
		return false
	}
	for _, w := range who {
		switch {
		case w == "everybody":
			return true
		case !known:
			if w == a.String() {
				return true
			}
		case w == "friends" && (c.Role == Friend || c.Role == Me),
			w == "me" && c.Role == Me,
			w == c.Name, w == a.String():
			return true
		}
	}
	return false
}

// Reserved words of grants cannot be names.
var reserved = []string{"everybody", "friends", "me", "nobody", "none"}

func checkName(name string) error {
	switch {
	case name == "" || utf8.RuneCountInString(name) > MaxName || !utf8.ValidString(name):
		return fmt.Errorf("%w: it needs 1 to %d characters", ErrName, MaxName)
	case slices.Contains(reserved, name):
		return fmt.Errorf("%w: %q means a group; choose another", ErrName, name)
	case strings.ContainsAny(name, ":/?@ ") || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w %q: letters, digits, - _ and . are fine; spaces and : / ? @ are not", ErrName, name)
	case len(name) == identity.AddressLength:
		return fmt.Errorf("%w: 56 characters would look like an address; choose a shorter one", ErrName)
	}
	return nil
}
