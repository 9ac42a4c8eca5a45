package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

const (
	// Scheme is the URI scheme of a link.
	Scheme = "porchlight"
	// MaxLink is the length of the longest link that is read, in bytes.
	MaxLink = 1024
	// MaxHints is how many hints of each sort a link may carry.
	MaxHints = 4
)

// ErrLink is wrapped by every error of ParseLink.
var ErrLink = errors.New("not a link")

// Via names a rendezvous that may introduce the device.
type Via struct {
	Address Address
	At      netip.AddrPort
}

// Link is an address with hints where to look for it first:
//
//	porchlight:ADDRESS?at=IP:PORT&via=ADDRESS@IP:PORT&dev=ADDRESS
//
// Hints are only hints: whoever answers there has to prove the key.
type Link struct {
	Address Address
	// At lists where the device itself was reachable.
	At []netip.AddrPort
	// Via lists rendezvous that may introduce it.
	Via []Via
	// Devices lists devices of the person whom the link names; their
	// certificates tell whether they are that.
	Devices []Address
}

// String returns the link's text.
func (l Link) String() string {
	var hints []string
	for _, at := range l.At {
		hints = append(hints, "at="+at.String())
	}
	for _, v := range l.Via {
		hints = append(hints, "via="+v.Address.String()+"@"+v.At.String())
	}
	for _, d := range l.Devices {
		hints = append(hints, "dev="+d.String())
	}
	s := Scheme + ":" + l.Address.String()
	if len(hints) > 0 {
		s += "?" + strings.Join(hints, "&")
	}
	return s
}

// ParseLink reads a link, or a bare address as a link without hints. Unknown
// hints are passed over, so that newer devices can say more.
func ParseLink(s string) (Link, error) {
	s = strings.TrimSpace(s)
	if len(s) > MaxLink {
		return Link{}, fmt.Errorf("%w: longer than %d characters", ErrLink, MaxLink)
	}
	rest, found := strings.CutPrefix(s, Scheme+":")
	if !found && strings.Contains(s, ":") {
		return Link{}, fmt.Errorf("%w: it has to begin with %q", ErrLink, Scheme+":")
	}
	text, query, _ := strings.Cut(rest, "?")
	address, err := ParseAddress(text)
	if err != nil {
		return Link{}, fmt.Errorf("%w: %w", ErrLink, err)
	}
	// A + in a query stands for a space, which no hint contains.
	values, err := url.ParseQuery(query)
	if err != nil {
		return Link{}, fmt.Errorf("%w: its hints cannot be read: %w", ErrLink, err)
	}
	link := Link{Address: address}
	if link.At, err = parseHints(values["at"], parseAt); err != nil {
		return Link{}, err
	}
	if link.Via, err = parseHints(values["via"], parseVia); err != nil {
		return Link{}, err
	}
	if link.Devices, err = parseHints(values["dev"], parseDevice); err != nil {
		return Link{}, err
	}
	return link, nil
}

func parseHints[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	if len(texts) > MaxHints {
		return nil, fmt.Errorf("%w: more than %d hints of one sort", ErrLink, MaxHints)
	}
	var hints []T
	for _, text := range texts {
		hint, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%w: hint %q: %w", ErrLink, text, err)
		}
		hints = append(hints, hint)
	}
	return hints, nil
}

func parseAt(s string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("a hint needs a literal IP and a port: %w", err)
	}
	if at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().IsMulticast() || at.Addr().IsUnspecified() {
		return netip.AddrPort{}, errors.New("nobody can be reached there")
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

func parseVia(s string) (Via, error) {
	who, where, found := strings.Cut(s, "@")
	if !found {
		return Via{}, errors.New("a via hint is ADDRESS@IP:PORT")
	}
	address, err := ParseAddress(who)
	if err != nil {
		return Via{}, err
	}
	at, err := parseAt(where)
	return Via{Address: address, At: at}, err
}

func parseDevice(s string) (Address, error) {
	a, err := ParseAddress(s)
	if err == nil && a.Kind() != KindDevice {
		err = errors.New("a dev hint names a device")
	}
	return a, err
}

// MarshalText and UnmarshalText make a Link its text in JSON.
func (l Link) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *Link) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLink(string(b))
	return err
}
