package people

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"porchlight/agent/identity"
)

const (
	// version of the notes; others are refused.
	version = 1
	// maxMessage is the size of the largest note, in bytes; package introduce
	// carries a little more.
	maxMessage = 1000
	// MaxName is the length of the longest name that is told, in characters.
	MaxName = 40
	// MaxNote is the length of the longest text of a request, in characters,
	// and maxNoteBytes in bytes.
	MaxNote      = 200
	maxNoteBytes = 600

	bootDigits = 16
)

// The kinds of notes, and of their answers.
const (
	kindHere    = "here"    // presence; answered by "here"
	kindRequest = "request" // answered by "asked" or "mutual"
	kindAccept  = "accept"  // answered by "mutual"
	kindAsked   = "asked"
	kindMutual  = "mutual"
)

// ErrMessage is wrapped by errors about a note's content.
var ErrMessage = errors.New("unusable note")

// message is the body of a note or of its answer. What a kind does not use is
// left out, and passed over.
type message struct {
	V    int    `json:"v"`
	Kind string `json:"k"`
	// Of "here". Boot is random for each life of the sender and N rises within
	// it; Roster is the version of the list of its owner's devices.
	Boot   string `json:"boot,omitempty"`
	N      uint64 `json:"n,omitempty"`
	On     bool   `json:"on,omitempty"`
	Roster uint64 `json:"roster,omitempty"`
	// Name is what the sender, or its owner in a request, is called.
	Name string `json:"name,omitempty"`
	// Of "request" and "accept": the link of who asks or accepts, and a text.
	Link *identity.Link `json:"link,omitempty"`
	Note string         `json:"note,omitempty"`
}

// encode writes a message. Hints of its link that do not fit are left out.
func (m message) encode() ([]byte, error) {
	m.V = version
	if m.Link != nil {
		link := *m.Link
		m.Link = &link
	}
	for {
		var buf bytes.Buffer
		e := json.NewEncoder(&buf)
		e.SetEscapeHTML(false)
		if err := e.Encode(m); err != nil {
			return nil, err
		}
		b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
		switch {
		case len(b) <= maxMessage:
			return b, nil
		case m.Link != nil && len(m.Link.Via) > 0:
			m.Link.Via = m.Link.Via[:len(m.Link.Via)-1]
		case m.Link != nil && len(m.Link.At) > 0:
			m.Link.At = m.Link.At[:len(m.Link.At)-1]
		default:
			return nil, fmt.Errorf("%w: it has %d bytes of at most %d", ErrMessage, len(b), maxMessage)
		}
	}
}

func parse(b []byte) (message, error) {
	var m message
	if len(b) > maxMessage {
		return m, fmt.Errorf("%w: it has %d bytes of at most %d", ErrMessage, len(b), maxMessage)
	}
	if !utf8.Valid(b) {
		return m, fmt.Errorf("%w: it is not UTF-8", ErrMessage)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if err := m.check(); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return m, nil
}

func (m message) check() error {
	if m.V != version {
		return fmt.Errorf("it is of version %d instead of %d", m.V, version)
	}
	if err := checkText(m.Name, MaxName); err != nil {
		return fmt.Errorf("the name %w", err)
	}
	switch m.Kind {
	case kindHere:
		if _, err := hex.DecodeString(m.Boot); err != nil || len(m.Boot) != bootDigits || m.N == 0 {
			return errors.New("it counts nothing")
		}
	case kindRequest, kindAccept:
		if m.Link == nil || m.Link.Address.IsZero() {
			return errors.New("it has no link")
		}
		if err := checkNote(m.Note); err != nil {
			return err
		}
	case kindAsked, kindMutual:
	default:
		return fmt.Errorf("its kind is %q", m.Kind)
	}
	return nil
}

func checkNote(s string) error {
	if len(s) > maxNoteBytes {
		return fmt.Errorf("the text has %d bytes of at most %d; make it shorter", len(s), maxNoteBytes)
	}
	if err := checkText(s, MaxNote); err != nil {
		return fmt.Errorf("the text %w", err)
	}
	return nil
}

// checkText refuses what could mislead who reads a stranger's words: characters
// that nobody sees and those that turn the direction of others.
func checkText(s string, limit int) error {
	if !utf8.ValidString(s) {
		return errors.New("is not UTF-8")
	}
	if n := utf8.RuneCountInString(s); n > limit {
		return fmt.Errorf("has %d characters of at most %d; make it shorter", n, limit)
	}
	if strings.ContainsFunc(s, invisible) {
		return errors.New("has control characters; leave them out")
	}
	return nil
}

func invisible(r rune) bool {
	return unicode.IsControl(r) || r == 0x200e || r == 0x200f || r == 0x2028 || r == 0x2029 ||
		r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}

// clip makes a name of the owner's one that can be told.
func clip(name string) string {
	name = strings.Map(func(r rune) rune {
		if invisible(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if runes := []rune(name); len(runes) > MaxName {
		name = string(runes[:MaxName])
	}
	return name
}
