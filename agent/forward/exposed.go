package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	// MaxName is the length of the longest name, in bytes.
	MaxName = 32
	// MaxWho is how many entries say who may.
	MaxWho = 64
	// maxWhoLength is the length of the longest of them, in bytes.
	maxWhoLength = 128
)

// Errors of what is to be exposed.
var (
	// ErrName says that a name is neither a port nor a word.
	ErrName = errors.New("a service is a port number or a word of 1 to 32 of a–z, 0–9 and “-”")
	// ErrNetwork says that a network is neither of the two.
	ErrNetwork = errors.New(`the network is "tcp" or "udp"`)
	// ErrTarget says that a target cannot be exposed.
	ErrTarget = errors.New("not a target")
	// ErrKept says that a target is the agent's own.
	ErrKept = errors.New("belongs to the agent itself, and is for its owner alone")
	// ErrWho says that a list of who may is not usable.
	ErrWho = fmt.Errorf("who may is a list of at most %d names", MaxWho)
)

// Exposed is one service on this device, or in its network, that others may
// connect to.
type Exposed struct {
	// Name is what they ask for; Network is "tcp" or "udp".
	Name    string `json:"name"`
	Network string `json:"network"`
	// Target is the IP address and port that answers.
	Target netip.AddrPort `json:"target"`
	// To says who may; what the entries mean, Config.Allows knows.
	To []string `json:"to"`
}

// NewExposed makes an Exposed of what people type: target may be a port, which
// is one of this machine's; name may be empty, and is then the target's port;
// network may be empty for "tcp"; an empty list means "me", the owner alone.
func NewExposed(name, network, target string, to []string) (Exposed, error) {
	at, err := parseTarget(target)
	if err != nil {
		return Exposed{}, err
	}
	if name == "" {
		name = strconv.Itoa(int(at.Port()))
	}
	if network == "" {
		network = "tcp"
	}
	if len(to) == 0 {
		to = []string{"me"}
	}
	e := Exposed{Name: name, Network: network, Target: at, To: to}
	return e, e.check()
}

// parseTarget knows no names: whoever answers for a name would choose what is
// exposed.
func parseTarget(text string) (netip.AddrPort, error) {
	if !strings.Contains(text, ":") {
		text = net.JoinHostPort("127.0.0.1", text)
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return at, fmt.Errorf("%q is %w: give PORT, or ADDRESS:PORT with an IP address", text, ErrTarget)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

func (e Exposed) check() error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	if e.Network != "tcp" && e.Network != "udp" {
		return fmt.Errorf("%w, not %q", ErrNetwork, e.Network)
	}
	if len(e.To) == 0 || len(e.To) > MaxWho {
		return ErrWho
	}
	for _, w := range e.To {
		if w == "" || len(w) > maxWhoLength {
			return fmt.Errorf("%w, not %.20q", ErrWho, w)
		}
	}
	return checkTarget(e.Target)
}

// checkTarget refuses what is no single machine's port.
func checkTarget(at netip.AddrPort) error {
	a := at.Addr()
	switch {
	case !at.IsValid() || at.Port() == 0:
		return fmt.Errorf("%s is %w: it has no port", at, ErrTarget)
	case a.IsUnspecified() || a.Is4In6():
		return fmt.Errorf("%s is %w; for this machine write 127.0.0.1:%d", at, ErrTarget, at.Port())
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is %w: many machines have that address", at, ErrTarget)
	}
	return nil
}

func checkName(name string) error {
	if len(name) == 0 || len(name) > MaxName {
		return fmt.Errorf("%w; %.40q has %d bytes", ErrName, name, len(name))
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%w; not %q", ErrName, name)
		}
	}
	return nil
}

// KeepPorts returns a function for Open that refuses TCP and UDP ports of this
// machine which are the agent's own: with them a caller would be an owner.
func KeepPorts(ports ...uint16) func(netip.AddrPort) error {
	return func(at netip.AddrPort) error {
		for _, p := range ports {
			if at.Port() == p && here(at.Addr()) {
				return fmt.Errorf("port %d here %w", p, ErrKept)
			}
		}
		return nil
	}
}

// here reports whether an address is one of this machine's.
func here(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // not known: refusing is the safe side
	}
	for _, one := range all {
		if p, err := netip.ParsePrefix(one.String()); err == nil && p.Addr().Unmap() == a.WithZone("") {
			return true
		}
	}
	return false
}
