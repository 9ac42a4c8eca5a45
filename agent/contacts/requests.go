package contacts

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"porchlight/agent/identity"
)

const (
	// MaxPending is how many requests wait for the owner's answer. One more
	// takes the place of the oldest.
	MaxPending = 50
	// MaxRefused is how many who were refused are remembered, the latest.
	MaxRefused = 200
	// strangersWrite is the least pause between two writes to flash that
	// strangers cause.
	strangersWrite = 10 * time.Minute

	requestsFile = "requests.json"
)

// Standing is how far two contacts know of each other.
type Standing string

// The standings there are. Nothing is known of a contact that neither asked nor
// was asked.
const (
	Asked   Standing = "asked"
	Mutual  Standing = "mutual"
	Unasked Standing = ""
)

// Request is somebody who asks to become a contact.
type Request struct {
	// Address is who asks, a person or a device, From the device that did.
	Address identity.Address `json:"address"`
	From    identity.Address `json:"from"`
	// Name and Note are a stranger's words, checked by whoever took them.
	Name     string        `json:"name"`
	Note     string        `json:"note"`
	Link     identity.Link `json:"link"`
	Received time.Time     `json:"received"`
}

// Bond is where the owner stands with a contact.
type Bond struct {
	Address  identity.Address `json:"address"`
	Standing Standing         `json:"standing"`
	// Unsent says that our request, or our yes to one, did not arrive so far.
	Unsent bool   `json:"unsent,omitempty"`
	Note   string `json:"note,omitempty"`
}

// ledger is what is stored.
type ledger struct {
	Pending []Request          `json:"pending"` // oldest first
	Refused []identity.Address `json:"refused"` // oldest first
	Bonds   []Bond             `json:"bonds"`
}

func (l ledger) clone() ledger {
	return ledger{slices.Clone(l.Pending), slices.Clone(l.Refused), slices.Clone(l.Bonds)}
}

func (l *ledger) pending(a identity.Address) int {
	return slices.IndexFunc(l.Pending, func(r Request) bool { return r.Address == a })
}

func (l *ledger) bond(a identity.Address) int {
	return slices.IndexFunc(l.Bonds, func(b Bond) bool { return b.Address == a })
}

func (l *ledger) setBond(b Bond) error {
	if i := l.bond(b.Address); i >= 0 {
		l.Bonds[i] = b
		return nil
	}
	if len(l.Bonds) >= MaxContacts {
		return fmt.Errorf("there are %d contacts already; remove one first", MaxContacts)
	}
	l.Bonds = append(l.Bonds, b)
	return nil
}

// take removes and returns a pending request.
func (l *ledger) take(a identity.Address) (r Request, ok bool) {
	i := l.pending(a)
	if i < 0 {
		return Request{}, false
	}
	r = l.Pending[i]
	l.Pending = slices.Delete(l.Pending, i, i+1)
	return r, true
}

// unrefuse forgives whoever was refused before.
func (l *ledger) unrefuse(all ...identity.Address) {
	l.Refused = slices.DeleteFunc(l.Refused, func(a identity.Address) bool { return slices.Contains(all, a) })
}

// Requests is who asked and was asked to become a contact.
type Requests struct {
	files Files

	mu      sync.Mutex
	kept    ledger
	unsaved bool
	written time.Time
}

// OpenRequests reads the requests.
func OpenRequests(files Files) (*Requests, error) {
	r := &Requests{files: files}
	if err := files.ReadJSON(requestsFile, &r.kept); err != nil {
		return nil, fmt.Errorf("read the requests: %w", err)
	}
	return r, nil
}

// Pending returns the requests that wait for an answer, the latest first.
func (r *Requests) Pending() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.kept.Pending)
	slices.Reverse(all)
	return all
}

// Put keeps a stranger's request until it is answered, in place of an earlier
// one of the same address. It returns whose request had to make room, zero if
// none had. Strangers cause one write in ten minutes; a request that comes
// within them is lost when power is.
func (r *Requests) Put(request Request) (dropped identity.Address, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.kept.pending(request.Address); i >= 0 {
		r.kept.Pending[i] = request
	} else {
		if len(r.kept.Pending) >= MaxPending {
			dropped = r.kept.Pending[0].Address
			r.kept.Pending = slices.Delete(r.kept.Pending, 0, 1)
		}
		r.kept.Pending = append(r.kept.Pending, request)
	}
	r.unsaved = true
	if time.Since(r.written) < strangersWrite {
		return dropped, nil
	}
	return dropped, r.write(r.kept)
}

// Flush stores what strangers changed, if it was not for long enough; in any
// case at the end.
func (r *Requests) Flush(end bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.unsaved || !end && time.Since(r.written) < strangersWrite {
		return nil
	}
	return r.write(r.kept)
}

// write stores a ledger and makes it the present one; r.mu is held.
func (r *Requests) write(l ledger) error {
	if err := r.files.WriteJSON(requestsFile, l); err != nil {
		return fmt.Errorf("store the requests: %w", err)
	}
	r.kept, r.unsaved, r.written = l, false, time.Now()
	return nil
}

// change stores a changed copy, and keeps the old one if that fails.
func (r *Requests) change(f func(*ledger) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.kept.clone()
	if err := f(&l); err != nil {
		return err
	}
	return r.write(l)
}

// Accept turns a pending request into a mutual contact whose yes is unsent.
func (r *Requests) Accept(a identity.Address) (request Request, err error) {
	err = r.change(func(l *ledger) error {
		var ok bool
		if request, ok = l.take(a); !ok {
			return fmt.Errorf("request of %s: %w", a.Short(), ErrUnknown)
		}
		l.unrefuse(a, request.From)
		return l.setBond(Bond{Address: a, Standing: Mutual, Unsent: true})
	})
	return request, err
}

// Refuse forgets a pending request and remembers who made it.
func (r *Requests) Refuse(a identity.Address) error {
	return r.change(func(l *ledger) error {
		request, ok := l.take(a)
		if !ok {
			return fmt.Errorf("request of %s: %w", a.Short(), ErrUnknown)
		}
		l.unrefuse(a, request.From)
		l.Refused = append(l.Refused, a)
		if request.From != a && !request.From.IsZero() {
			l.Refused = append(l.Refused, request.From)
		}
		l.Refused = l.Refused[max(0, len(l.Refused)-MaxRefused):]
		return nil
	})
}

// Refused reports whether a device or person was refused.
func (r *Requests) Refused(a identity.Address) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.kept.Refused, a)
}

// Ask notes that the owner added a contact that is to be asked. If it has asked
// already, that is a yes.
func (r *Requests) Ask(a identity.Address, note string) error {
	return r.change(func(l *ledger) error {
		l.unrefuse(a)
		if request, ok := l.take(a); ok {
			l.unrefuse(request.From)
			return l.setBond(Bond{Address: a, Standing: Mutual, Unsent: true})
		}
		if i := l.bond(a); i >= 0 && l.Bonds[i].Standing == Mutual {
			return nil
		}
		return l.setBond(Bond{Address: a, Standing: Asked, Unsent: true, Note: note})
	})
}

// Settle notes that what was to be sent to a contact arrived, and the standing
// that its answer gave. Of whom nothing is known, only Mutual is noted.
func (r *Requests) Settle(a identity.Address, standing Standing) error {
	r.mu.Lock()
	i := r.kept.bond(a)
	same := i < 0 && standing != Mutual
	if i >= 0 {
		b := r.kept.Bonds[i]
		if b.Standing == Mutual {
			standing = Mutual
		}
		same = b.Standing == standing && !b.Unsent
	}
	r.mu.Unlock()
	if same {
		return nil
	}
	return r.change(func(l *ledger) error { return l.setBond(Bond{Address: a, Standing: standing}) })
}

// Bonds returns where the owner stands with all who asked or were asked.
func (r *Requests) Bonds() []Bond {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.kept.Bonds)
}

// Standing returns where the owner stands with a contact.
func (r *Requests) Standing(a identity.Address) Standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.kept.bond(a); i >= 0 {
		return r.kept.Bonds[i].Standing
	}
	return Unasked
}

// Forget forgets where the owner stands with a contact that was removed.
func (r *Requests) Forget(a identity.Address) error {
	if r.Standing(a) == Unasked {
		return nil
	}
	return r.change(func(l *ledger) error {
		l.Bonds = slices.DeleteFunc(l.Bonds, func(b Bond) bool { return b.Address == a })
		return nil
	})
}

// SuggestName returns a name a contact may have, close to what a stranger calls
// itself, and that taken does not report.
func SuggestName(name string, a identity.Address, taken func(string) bool) string {
	base := strings.Map(func(r rune) rune {
		switch {
		case strings.ContainsRune(":/?@ ", r):
			return '-'
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(name), ""))
	if checkName(base) != nil {
		base = "contact-" + a.Short()
	}
	if !taken(base) {
		return base
	}
	runes := []rune(base)
	base = string(runes[:min(len(runes), MaxName-4)])
	for i := 2; ; i++ {
		if name := fmt.Sprint(base, "-", i); i > MaxContacts || !taken(name) {
			return name
		}
	}
}
