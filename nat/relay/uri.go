package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxURI is the longest URI accepted, in bytes: the longest name of a host,
// with everything around it.
const MaxURI = 300

const (
	maxName      = 253 // characters of a host name, RFC 1035 §2.3.4 without the root's dot
	maxLabel     = 63
	maxResolved  = 8 // addresses of one name that are used
	plainPort    = 3478
	securePort   = 5349
	transportKey = "?transport="
)

// ErrURI says that a text is no URI of a STUN or TURN server that can be used.
var ErrURI = errors.New("not a stun or turn server")

// URI names a STUN server (RFC 7064) or a TURN server (RFC 7065), such as
// "turn:192.0.2.1", "turns:relay.example:443" or "stun:[2001:db8::1]:3478".
// There is no place in it for a user name or password.
type URI struct {
	Scheme  string // "stun", "stuns", "turn" or "turns"
	Host    string // name or IP address in lower case, without brackets
	Port    uint16 // 3478, with TLS 5349, if the text has none
	Network string // how to ask there: "udp", "tcp" or "tls"
}

// Turn reports whether the server relays.
func (u URI) Turn() bool { return u.Scheme == "turn" || u.Scheme == "turns" }

// secure reports whether the scheme means TLS.
func (u URI) secure() bool { return strings.HasSuffix(u.Scheme, "s") }

// ParseURI reads a URI strictly: whatever the RFCs do not allow, and what
// cannot work here (DTLS, zones, mapped addresses, empty ports), is refused
// with [ErrURI].
func ParseURI(text string) (URI, error) {
	u, err := parseURI(text)
	if err != nil {
		return URI{}, fmt.Errorf("%w: %w", ErrURI, err)
	}
	return u, nil
}

func parseURI(text string) (URI, error) {
	if len(text) > MaxURI {
		return URI{}, fmt.Errorf("%d bytes, at most %d", len(text), MaxURI)
	}
	scheme, rest, found := strings.Cut(text, ":")
	u := URI{Scheme: strings.ToLower(scheme), Port: plainPort, Network: "udp"}
	if !found || !slices.Contains([]string{"stun", "stuns", "turn", "turns"}, u.Scheme) {
		return URI{}, errors.New("it begins with a scheme: stun, stuns, turn or turns")
	}
	if strings.ContainsAny(rest, "@/#") {
		return URI{}, errors.New("after the colon comes the host; user name and password have fields of their own")
	}
	if u.secure() {
		u.Port, u.Network = securePort, "tls"
	}
	rest, err := u.takeTransport(rest)
	if err != nil {
		return URI{}, err
	}
	rest, err = u.takeHost(rest)
	if err != nil || rest == "" {
		return u, err
	}
	return u, u.takePort(rest)
}

// takeTransport reads what stands after the question mark and returns what
// stands before it.
func (u *URI) takeTransport(rest string) (string, error) {
	i := strings.IndexByte(rest, '?')
	if i < 0 {
		return rest, nil
	}
	value, ok := strings.CutPrefix(rest[i:], transportKey)
	switch value = strings.ToLower(value); {
	case !ok || !u.Turn():
		return "", errors.New("only turn and turns take a ?transport=")
	case value == "udp" && u.secure():
		return "", errors.New("dtls is not offered here: leave ?transport=udp out")
	case value == "udp" || value == "tcp" && u.secure(): // said already
	case value == "tcp":
		u.Network = "tcp"
	default:
		return "", fmt.Errorf("transport %q is neither udp nor tcp", value)
	}
	return rest[:i], nil
}

// takeHost reads the host and returns ":port" or "".
func (u *URI) takeHost(rest string) (string, error) {
	end := strings.IndexByte(rest, ':')
	if end < 0 {
		end = len(rest)
	}
	if strings.HasPrefix(rest, "[") {
		end = strings.IndexByte(rest, ']') + 1
		if end == 0 {
			return "", errors.New("bracket without end")
		}
		ip, err := netip.ParseAddr(rest[1 : end-1])
		if err != nil || !ip.Is6() || !usableHost(ip) {
			return "", fmt.Errorf("%q is no usable ipv6 address", rest[:end])
		}
		u.Host = ip.String()
		return rest[end:], nil
	}
	u.Host = strings.ToLower(rest[:end])
	if err := checkHost(u.Host); err != nil {
		return "", err
	}
	return rest[end:], nil
}

func usableHost(ip netip.Addr) bool {
	return ip.Zone() == "" && !ip.Is4In6() && !ip.IsUnspecified() && !ip.IsMulticast()
}

// checkHost admits IPv4 addresses in their one usual form, and host names
// (RFC 1123 §2.1). What ends in a number is an address or nothing.
func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		if !ip.Is4() || !usableHost(ip) {
			return fmt.Errorf("%q is no usable address; an ipv6 address needs brackets", host)
		}
		return nil
	}
	if host == "" || len(host) > maxName {
		return fmt.Errorf("host name of %d characters", len(host))
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		bad := strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
		})
		if bad || label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is no host name", host)
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return fmt.Errorf("%q is no ipv4 address", host)
	}
	return nil
}

// takePort reads ":port".
func (u *URI) takePort(rest string) error {
	digits, ok := strings.CutPrefix(rest, ":")
	port, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || port == 0 || strconv.FormatUint(port, 10) != digits {
		return fmt.Errorf("%q is no port", digits)
	}
	u.Port = uint16(port)
	return nil
}

// String is the shortest text that [ParseURI] reads as u.
func (u URI) String() string {
	text := u.Scheme + ":" + u.Host
	if strings.Contains(u.Host, ":") {
		text = u.Scheme + ":[" + u.Host + "]"
	}
	if usual := u.secure() && u.Port == securePort || !u.secure() && u.Port == plainPort; !usual {
		text += ":" + strconv.Itoa(int(u.Port))
	}
	if u.Network == "tcp" {
		text += transportKey + "tcp"
	}
	return text
}

// A Lookup finds the addresses of a host name.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// Resolve returns where the server is: one address if Host is one, else at
// most eight of those that lookup finds, or the system's resolver if that is
// nil. SRV records (RFC 5928) are not asked for.
func (u URI) Resolve(ctx context.Context, lookup Lookup) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(u.Host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip, u.Port)}, nil
	}
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	found, err := lookup(ctx, u.Host)
	if err != nil {
		return nil, fmt.Errorf("find the addresses of %s: %w", u.Host, err)
	}
	var addrs []netip.AddrPort
	for _, ip := range found {
		a := netip.AddrPortFrom(ip.Unmap(), u.Port)
		if len(addrs) < maxResolved && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("find the addresses of %s: there are none", u.Host)
	}
	return addrs, nil
}
