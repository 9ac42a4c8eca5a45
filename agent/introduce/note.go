package introduce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

const (
	// MaxNote is how many bytes a note or its answer may have.
	MaxNote = sealed.MaxBody - noteHeader

	noteHeader = 2 * len(sealed.Nonce{})

	purposeNote       = "note"
	purposeNoteAnswer = "note answer"
)

const (
	// carriedNotesPerMinute is how many notes a caller may have carried in a
	// minute: who comes on-line tells all its contacts, and many may be
	// registered at one rendezvous.
	carriedNotesPerMinute = 120
	// openedNotesPerMinute is how many that come by one session are opened.
	openedNotesPerMinute = 600
	// notesPerMinute is how many of one sender are heard.
	notesPerMinute = 12
	// strangersPerMinute is how many of all strangers together are heard, so
	// that a thousand of them are no more of a burden than a few.
	strangersPerMinute = 30
)

// Reception is how the notes of a device are received.
type Reception int

// The receptions there are. Only Known may have us watched.
const (
	// Unheard notes are dropped, and answered as if this device were not there.
	Unheard Reception = iota
	// Unanswered notes are heard, and answered as if it were not there.
	Unanswered
	// Stranger's notes are heard as often as those of all strangers may be.
	Stranger
	// Known senders' notes are heard and answered.
	Known
)

// ErrNote is wrapped by errors about a note's form.
var ErrNote = errors.New("unusable note")

// errUnwanted says that a note is answered as if the device were not there.
var errUnwanted = errors.New("note is not wanted")

// note is what is sealed: bytes 0–15 the recipient's epoch, zero in answers,
// 16–31 the session, which is new in each note and repeated in its answer, and
// from 32 on the body.
type note struct {
	epoch, session sealed.Nonce
	body           []byte
}

func sealNote(from *identity.Device, to identity.Address, purpose string, n note) ([]byte, error) {
	b := append(n.epoch[:], n.session[:]...)
	return sealed.Seal(from, to, purpose, append(b, n.body...))
}

func openNote(to *identity.Device, purpose string, message []byte) (identity.Address, note, error) {
	from, b, err := sealed.Open(to, purpose, message)
	if err != nil {
		return identity.Address{}, note{}, err
	}
	n, err := parseNote(b)
	return from, n, err
}

func parseNote(b []byte) (n note, err error) {
	if len(b) < noteHeader {
		return note{}, fmt.Errorf("%w: it has %d bytes, fewer than its header", ErrNote, len(b))
	}
	copy(n.epoch[:], b)
	copy(n.session[:], b[len(n.epoch):])
	n.body = b[noteHeader:]
	return n, nil
}

// told opens a note and returns the sealed answer. ok says that the sender is
// known, so that it may watch.
func (s *Server) told(ctx context.Context, message []byte) (answer []byte, known bool, err error) {
	from, n, err := openNote(s.cfg.Device, purposeNote, message)
	if err != nil {
		return nil, false, err
	}
	how := Unheard
	if s.cfg.WelcomeNote != nil {
		how = s.cfg.WelcomeNote(from)
	}
	// Only who is heard may fill the Guard's memory, and only who is answered
	// may learn that the epoch is another.
	if err := s.hear(from, how, n); err != nil {
		return nil, false, err
	}
	reply, err := s.cfg.Told(ctx, from, n.body)
	if how == Unanswered {
		return nil, false, errUnwanted
	}
	if err != nil {
		return nil, false, err
	}
	answer, err = sealNote(s.cfg.Device, from, purposeNoteAnswer, note{session: n.session, body: reply})
	return answer, how == Known, err
}

// hear returns nil for a note that is within the limits and new.
func (s *Server) hear(from identity.Address, how Reception, n note) error {
	switch now := time.Now(); {
	case how == Unheard:
		return fmt.Errorf("%w from %s", errUnwanted, from.Short())
	case !s.notes.answered.allow(from, now):
		return fmt.Errorf("too many notes of %s", from.Short())
	case how == Stranger && !s.strangers.AllowN(now, 1):
		return fmt.Errorf("too many notes of strangers, %s among them", from.Short())
	}
	err := s.guard.Admit(n.epoch, n.session)
	if err != nil && how == Unanswered {
		return errUnwanted
	}
	return err
}
