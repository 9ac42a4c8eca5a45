package reach

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"porchlight/agent/identity"
)

const (
	// maxFellows is how many rendezvous are kept over restarts, and
	// maxSuggested how many more are remembered by hearsay.
	maxFellows   = 32
	maxSuggested = 64

	fellowsFile = "rendezvous.json"
)

// Files keeps small files.
type Files interface {
	ReadJSON(name string, v any) error
	WriteJSON(name string, v any) error
}

// Fellows are the rendezvous that the device knows of: those it was registered
// at, kept over restarts, and those it was told of. With them it needs nobody
// who was there at its beginning.
//
// Nothing is written unless a registration stood at a rendezvous, or an
// address of one, that is not in the file yet.
type Fellows struct {
	files Files
	own   identity.Address

	mu        sync.Mutex
	proved    []identity.Link // the latest last
	suggested []identity.Link // the latest last
}

// OpenFellows reads what is known.
func OpenFellows(files Files, own identity.Address) (*Fellows, error) {
	f := &Fellows{files: files, own: own}
	if err := files.ReadJSON(fellowsFile, &f.proved); err != nil {
		return nil, fmt.Errorf("read the known rendezvous: %w", err)
	}
	f.proved = f.proved[max(0, len(f.proved)-maxFellows):]
	return f, nil
}

// Proved notes that a registration stood at a rendezvous.
func (f *Fellows) Proved(link identity.Link) error {
	if len(link.At) == 0 {
		return nil
	}
	link = identity.Link{Address: link.Address, At: link.At[:min(len(link.At), identity.MaxHints)]}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.suggested = without(f.suggested, link.Address)
	i := slices.IndexFunc(f.proved, func(l identity.Link) bool { return l.Address == link.Address })
	if i >= 0 && slices.Equal(f.proved[i].At, link.At) {
		return nil
	}
	list := append(without(f.proved, link.Address), link)
	f.proved = list[max(0, len(list)-maxFellows):]
	if err := f.files.WriteJSON(fellowsFile, f.proved); err != nil {
		return fmt.Errorf("keep a rendezvous: %w", err)
	}
	return nil
}

// Suggest notes what others say of rendezvous. The oldest of too many is
// forgotten.
func (f *Fellows) Suggest(list ...identity.Via) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range list {
		known := func(l identity.Link) bool { return l.Address == v.Address }
		if v.Address == f.own || !v.At.IsValid() || slices.ContainsFunc(f.proved, known) {
			continue
		}
		f.suggested = append(without(f.suggested, v.Address), identity.Link{Address: v.Address, At: []netip.AddrPort{v.At}})
		f.suggested = f.suggested[max(0, len(f.suggested)-maxSuggested):]
	}
}

// Links lists all, the latest proved first and hearsay last.
func (f *Fellows) Links() []identity.Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]identity.Link, 0, len(f.proved)+len(f.suggested))
	for _, l := range slices.Backward(f.proved) {
		all = append(all, l)
	}
	for _, l := range slices.Backward(f.suggested) {
		all = append(all, l)
	}
	return all
}

// For lists at most n of them for a device that registers here, in an order
// that is the same at all times and another for each device, so that not
// everybody goes to the same few.
func (f *Fellows) For(caller identity.Address, n int) (some []identity.Via) {
	links := slices.DeleteFunc(f.Links(), func(l identity.Link) bool { return len(l.At) == 0 || l.Address == caller })
	slices.SortFunc(links, func(a, b identity.Link) int {
		x, y := lot(caller, a.Address), lot(caller, b.Address)
		return bytes.Compare(x[:], y[:])
	})
	for _, l := range links[:min(len(links), n)] {
		some = append(some, identity.Via{Address: l.Address, At: l.At[0]})
	}
	return some
}

func lot(caller, fellow identity.Address) [sha256.Size]byte {
	return sha256.Sum256(append(caller.Key(), fellow.Key()...))
}

func without(list []identity.Link, a identity.Address) []identity.Link {
	return slices.DeleteFunc(slices.Clone(list), func(l identity.Link) bool { return l.Address == a })
}
