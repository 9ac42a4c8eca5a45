package ice

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Limits of what a peer may signal.
const (
	// MaxCandidates is how many remote candidates are used; the rest is
	// dropped. Sixteen are eight interfaces with two addresses each.
	MaxCandidates = 16
	// MaxCandidateText is the longest text of a candidate in bytes. The
	// longest real one has 55.
	MaxCandidateText = 64

	minUfrag, maxUfrag = 4, 256  // characters, RFC 8445 §5.3
	minPwd, maxPwd     = 22, 256 // characters, RFC 8445 §5.3
)

// Kinds of candidates.
const (
	Host   = "host"   // an address of an interface
	Srflx  = "srflx"  // what a STUN server saw
	Mapped = "mapped" // a port mapping on the router
	Learnt = "prflx"  // not signalled: learnt from a check (only in a [Pair])
)

// ErrCandidate means that a text is no candidate.
var ErrCandidate = errors.New("not a candidate")

// ErrDescription means that the peer's description cannot be used.
var ErrDescription = errors.New("unusable ice description")

// Candidate is an address at which a device may be reached. Its text, also
// in JSON, is "host 192.168.1.2:4001".
type Candidate struct {
	Kind string
	Addr netip.AddrPort
}

// String returns the text form.
func (c Candidate) String() string { return c.Kind + " " + c.Addr.String() }

// MarshalText implements encoding.TextMarshaler.
func (c Candidate) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler by [ParseCandidate].
func (c *Candidate) UnmarshalText(text []byte) error {
	parsed, err := ParseCandidate(string(text))
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}

// ParseCandidate reads the text form. IPv4 inside IPv6 becomes IPv4; zones,
// port 0 and kinds that are not signalled are refused with [ErrCandidate].
func ParseCandidate(text string) (Candidate, error) {
	if len(text) > MaxCandidateText {
		return Candidate{}, fmt.Errorf("%w: %d bytes", ErrCandidate, len(text))
	}
	kind, addr, found := strings.Cut(text, " ")
	if !found || kind != Host && kind != Srflx && kind != Mapped {
		return Candidate{}, fmt.Errorf("%w: %q", ErrCandidate, text)
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return Candidate{}, fmt.Errorf("%w: %w", ErrCandidate, err)
	}
	if ap.Port() == 0 || ap.Addr().Zone() != "" {
		return Candidate{}, fmt.Errorf("%w: %q", ErrCandidate, text)
	}
	return Candidate{Kind: kind, Addr: canonical(ap)}, nil
}

func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Description is what one side tells the other before the checks. Whoever
// knows it can make the device answer checks: send it sealed.
type Description struct {
	Ufrag      string      `json:"ufrag"`
	Pwd        string      `json:"pwd"`
	Candidates []Candidate `json:"candidates"`
}

// String leaves the password out.
func (d Description) String() string {
	return fmt.Sprintf("{%s [redacted] %v}", d.Ufrag, d.Candidates)
}

// GoString leaves the password out.
func (d Description) GoString() string { return d.String() }

// LogValue leaves the password out.
func (d Description) LogValue() slog.Value { return slog.StringValue(d.String()) }

// Validate checks the credentials (RFC 8445 §5.3). A description without
// candidates is valid: the peer may still reach us.
func (d Description) Validate() error {
	switch {
	case !iceChars(d.Ufrag, minUfrag, maxUfrag):
		return fmt.Errorf("%w: ufrag", ErrDescription)
	case !iceChars(d.Pwd, minPwd, maxPwd):
		return fmt.Errorf("%w: password", ErrDescription)
	}
	return nil
}

// iceChars says whether s consists of ice-char (RFC 8839 §5.4).
func iceChars(s string, shortest, longest int) bool {
	if len(s) < shortest || len(s) > longest {
		return false
	}
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && c != '+' && c != '/' {
			return false
		}
	}
	return true
}

// Pair is what [Agent.Connect] found.
type Pair struct {
	// Local is the address of ours that the peer sees, with the kind it was
	// signalled as, or prflx.
	Local Candidate
	// Remote is where to send.
	Remote Candidate
	RTT    time.Duration
}
