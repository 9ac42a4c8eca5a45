package probe

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/pion/stun/v2"
)

// ErrProbe says that a datagram is no probe, or not one of ours.
var ErrProbe = errors.New("not a probe of this session")

// ID is the transaction id that an answer repeats.
type ID [stun.TransactionIDSize]byte

// Credentials name one end of a session: a user name part and the key.
type Credentials struct{ Ufrag, Pwd string }

// Ask makes a question to the end named to.
func Ask(to Credentials, from string) ([]byte, ID, error) {
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest,
		stun.NewUsername(to.Ufrag+":"+from),
		stun.NewShortTermIntegrity(to.Pwd),
		stun.Fingerprint,
	)
	if err != nil {
		return nil, ID{}, fmt.Errorf("make a probe: %w", err)
	}
	return bytes.Clone(m.Raw), ID(m.TransactionID), nil
}

// Asked returns the user name part of the end that a question is for.
func Asked(b []byte) (ufrag string, err error) {
	m, err := decode(b)
	if err != nil || m.Type != stun.BindingRequest {
		return "", ErrProbe
	}
	var name stun.Username
	if err := name.GetFrom(m); err != nil {
		return "", ErrProbe
	}
	ufrag, _, found := strings.Cut(name.String(), ":")
	if !found {
		return "", ErrProbe
	}
	return ufrag, nil
}

// Answer checks a question to us and makes the answer.
func Answer(b []byte, us Credentials) ([]byte, error) {
	m, err := decode(b)
	if err != nil || m.Type != stun.BindingRequest {
		return nil, ErrProbe
	}
	key := stun.NewShortTermIntegrity(us.Pwd)
	if err := key.Check(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProbe, err)
	}
	answer, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess, key, stun.Fingerprint)
	if err != nil {
		return nil, fmt.Errorf("answer a probe: %w", err)
	}
	return bytes.Clone(answer.Raw), nil
}

// Answered checks an answer of the end named to and returns what it answers.
func Answered(b []byte, to Credentials) (ID, error) {
	m, err := decode(b)
	if err != nil || m.Type != stun.BindingSuccess {
		return ID{}, ErrProbe
	}
	if err := stun.NewShortTermIntegrity(to.Pwd).Check(m); err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrProbe, err)
	}
	return ID(m.TransactionID), nil
}

func decode(b []byte) (*stun.Message, error) {
	m := &stun.Message{Raw: bytes.Clone(b)}
	return m, m.Decode()
}
