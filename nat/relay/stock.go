package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on the credentials of a stock server (RFC 8489 §14.3).
const (
	MaxUsername = 508 // bytes
	MaxPassword = 508 // bytes; it never travels, but a key is made of it
)

// Stock is a TURN server that knows nothing of tickets, with long-term
// credentials (RFC 8489 §9.2), as a configuration names it:
//
//	{"uri": "turns:relay.example:443", "username": "home", "password": "…"}
//
// The password has a field of its own so that the rest may be shown and logged.
type Stock struct {
	URI      string `json:"uri"` // turn: or turns:, see [URI]
	Username string `json:"username"`
	Password Secret `json:"password"`
}

// Check reports what is wrong with a configured server, without asking it.
func (s Stock) Check() error {
	_, err := s.parse()
	return err
}

func (s Stock) parse() (URI, error) {
	u, err := ParseURI(s.URI)
	switch {
	case err != nil:
		return URI{}, err
	case !u.Turn():
		return URI{}, fmt.Errorf("%w: %s relays nothing; use the scheme turn or turns", ErrURI, u)
	}
	if err := checkText("user name", s.Username, MaxUsername); err != nil {
		return URI{}, fmt.Errorf("%s: %w", u, err)
	}
	if err := checkText("password", string(s.Password), MaxPassword); err != nil {
		return URI{}, fmt.Errorf("%s: %w", u, err)
	}
	return u, nil
}

// checkText refuses what cannot be meant. The text itself is not repeated.
func checkText(what, text string, limit int) error {
	switch {
	case text == "":
		return fmt.Errorf("the %s is empty", what)
	case len(text) > limit:
		return fmt.Errorf("the %s has %d bytes, at most %d", what, len(text), limit)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("the %s is no printable text", what)
	}
	return nil
}

// AllocateStock opens an allocation at a stock server, over the transport that
// its URI says; opts.Network must be empty. With turns: the certificate is
// verified by opts.TLS, or by the system's roots if that is nil, for the host
// of the URI.
func AllocateStock(ctx context.Context, s Stock, opts Options) (*Allocation, error) {
	u, err := s.parse()
	if err != nil {
		return nil, err
	}
	if opts.Network != "" {
		return nil, errors.New("the uri of a stock relay says its network: leave Options.Network empty")
	}
	opts.Network = u.Network
	addrs, err := u.Resolve(ctx, opts.Lookup)
	if err != nil {
		return nil, err
	}
	var secure *tls.Config
	if u.Network == "tls" {
		secure = verified(opts.TLS, u.Host)
	}
	doors := make([]door, 0, len(addrs))
	for _, a := range addrs {
		doors = append(doors, door{addr: a, secure: secure})
	}
	return allocateFirst(ctx, Ticket{Username: s.Username, Password: s.Password}, doors, opts)
}

// verified is the configuration for a server whose certificate names host.
func verified(base *tls.Config, host string) *tls.Config {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		conf = base.Clone()
	}
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	return conf
}
