package spray

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/pion/stun/v2"

	"porchlight/nat/probe"
	natstun "porchlight/nat/stun"
)

// Limits of what is read and of the credentials.
const (
	// MaxProbe is the largest datagram in bytes that is looked at: a
	// question with the longest user name parts.
	MaxProbe = headerSize + attrHeader + 2*MaxUfrag + 4 + attrHeader + integritySize + attrHeader + 4
	// MaxUfrag is the longest user name part, in bytes. Together they must
	// stay below the 513 that nat/stun lets pass.
	MaxUfrag = 128

	headerSize    = 20
	attrHeader    = 4
	integritySize = 24
)

// ErrCredentials means that the credentials of a [Config] are not usable.
var ErrCredentials = errors.New("unusable probe credentials")

// kind is what a datagram turned out to be.
type kind int

const (
	foreign      kind = iota // dropped unread: not for this spray
	forged                   // looked right, but the key was wrong
	question                 // "do you hear this?"
	chosen                   // "this way it will be: do you hear this?"
	answer                   // to a question of ours
	chosenAnswer             // to our announcement of the choice
)

// shared stands for the shared socket where further ones have numbers from 0.
const shared = -1

// link is one way between the two: a socket of ours and a remote address.
type link struct {
	socket int
	remote netip.AddrPort
}

// wire makes and reads the datagrams of one spray. Questions are those of
// nat/probe: STUN Binding requests with short-term credentials (RFC 8489
// §9.1); the choice has USE-CANDIDATE (RFC 8445 §7.1.2) in front of
// MESSAGE-INTEGRITY. Transaction ids are a keyed hash of the link, so that
// thousands of questions need no memory; a question repeated keeps its id.
type wire struct {
	ours, theirs probe.Credentials
	// in is how questions to us begin after the header: USERNAME, padded.
	in     []byte
	out    stun.Username
	theirK stun.MessageIntegrity
	secret [32]byte
}

func newWire(ours, theirs probe.Credentials) (*wire, error) {
	for _, c := range []probe.Credentials{ours, theirs} {
		if c.Ufrag == "" || len(c.Ufrag) > MaxUfrag || strings.Contains(c.Ufrag, ":") || c.Pwd == "" {
			return nil, ErrCredentials
		}
	}
	if ours.Ufrag == theirs.Ufrag {
		return nil, fmt.Errorf("%w: both ends have one name", ErrCredentials)
	}
	w := &wire{
		ours: ours, theirs: theirs,
		out:    stun.NewUsername(theirs.Ufrag + ":" + ours.Ufrag),
		theirK: stun.NewShortTermIntegrity(theirs.Pwd),
	}
	m, err := stun.Build(stun.BindingRequest, stun.NewUsername(ours.Ufrag+":"+theirs.Ufrag))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	w.in = bytes.Clone(m.Raw[headerSize:])
	rand.Read(w.secret[:])
	return w, nil
}

// id is the transaction id of a question over l.
func (w *wire) id(l link, choice bool) (id [stun.TransactionIDSize]byte) {
	var b [len(w.secret) + 4 + 16 + 2 + 1]byte
	rest := b[copy(b[:], w.secret[:]):]
	binary.BigEndian.PutUint32(rest, uint32(l.socket))
	addr := l.remote.Addr().As16()
	copy(rest[4:], addr[:])
	binary.BigEndian.PutUint16(rest[20:], l.remote.Port())
	if choice {
		rest[22] = 1
	}
	sum := sha256.Sum256(b[:])
	copy(id[:], sum[:])
	return id
}

// ask makes a question over l, or tells that l was chosen.
func (w *wire) ask(l link, choice bool) ([]byte, error) {
	setters := []stun.Setter{stun.NewTransactionIDSetter(w.id(l, choice)), stun.BindingRequest, w.out}
	if choice {
		setters = append(setters, stun.RawAttribute{Type: stun.AttrUseCandidate})
	}
	m, err := stun.Build(append(setters, w.theirK, stun.Fingerprint)...)
	if err != nil {
		return nil, fmt.Errorf("make a probe: %w", err)
	}
	return m.Raw, nil
}

// read tells what came over l, and how to answer it. What is not for us is
// recognised by comparing bytes; only what passes that is decoded and its key
// checked.
func (w *wire) read(b []byte, l link) (kind, []byte) {
	if len(b) < headerSize || len(b) > MaxProbe {
		return foreign, nil
	}
	switch binary.BigEndian.Uint16(b) {
	case stun.BindingRequest.Value():
		return w.readQuestion(b)
	case stun.BindingSuccess.Value():
		return w.readAnswer(b, l), nil
	}
	return foreign, nil
}

func (w *wire) readQuestion(b []byte) (kind, []byte) {
	rest, found := bytes.CutPrefix(b[headerSize:], w.in)
	if !found || natstun.Check(b) != nil {
		return foreign, nil
	}
	reply, err := probe.Answer(b, w.ours)
	if err != nil {
		return forged, nil
	}
	if len(rest) >= 2 && stun.AttrType(binary.BigEndian.Uint16(rest)) == stun.AttrUseCandidate {
		return chosen, reply
	}
	return question, reply
}

func (w *wire) readAnswer(b []byte, l link) kind {
	got := [stun.TransactionIDSize]byte(b[8:headerSize])
	what := foreign
	switch got {
	case w.id(l, false):
		what = answer
	case w.id(l, true):
		what = chosenAnswer
	}
	if what == foreign || natstun.Check(b) != nil {
		return foreign
	}
	if _, err := probe.Answered(b, w.theirs); err != nil {
		return forged
	}
	return what
}
