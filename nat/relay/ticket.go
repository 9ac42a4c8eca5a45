package relay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// Ticket lifetimes.
const (
	DefaultTicketTTL = 5 * time.Minute
	MaxTicketTTL     = time.Hour

	realm = "pl" // short: it is part of every unauthenticated reply
)

// Secret is text that must not reach a log; formatting yields "[redacted]".
// JSON carries the text.
type Secret string

// String hides the text.
func (Secret) String() string { return "[redacted]" }

// GoString hides the text from %#v.
func (Secret) GoString() string { return "[redacted]" }

// LogValue hides the text from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Ticket allows its holder one allocation over UDP and one over TCP or TLS. It
// travels to the client over an authenticated session.
type Ticket struct {
	Username string   `json:"username"`
	Password Secret   `json:"password"`
	Realm    string   `json:"realm"`
	UDP      []string `json:"udp,omitempty"` // "ip:port", best first
	TCP      []string `json:"tcp,omitempty"` // "ip:port", best first
	TLS      []string `json:"tls,omitempty"` // "ip:port", best first
	// Nonces stand beside UDP. Each spares the first round trip there; it may
	// be stale, empty or missing.
	Nonces []string `json:"nonces,omitempty"`
	// Pin is the SHA-256 of the certificate at TLS, in unpadded URL-safe
	// base64: the only one the client accepts.
	Pin string `json:"pin,omitempty"`
	// ExpiresIn counts from the moment the ticket was made. A running
	// allocation outlives its ticket.
	ExpiresIn time.Duration `json:"expires_in_ns"`
}

// Class says how much of the device a client may use.
type Class uint8

// The classes of clients.
const (
	Stranger Class = iota
	Friend
)

// Grant says for whom a ticket is.
type Grant struct {
	Client string        // stable tag of the client's key; limits are counted by it
	Peer   netip.Addr    // the only address the client may reach; zero: any public one
	Class  Class         // Stranger if not set
	TTL    time.Duration // DefaultTicketTTL if 0, at most MaxTicketTTL
}

// clientTag names a client in tickets and accounts.
type clientTag [8]byte

func tagOf(client string) clientTag {
	sum := sha256.Sum256([]byte(client))
	return clientTag(sum[:8])
}

type sessionID [8]byte

// claim is what a valid username says.
type claim struct {
	expires time.Duration // since the start of the server
	session sessionID
	class   Class
	client  clientTag
	peer    netip.Addr
}

// Reasons for refusing a username; they become the keys of Stats.Refused.
var (
	errForged     = errors.New("ticket forged")
	errOtherStart = errors.New("ticket from another start of the relay")
	errExpired    = errors.New("ticket expired")
)

const (
	claimSize     = 8 + 4 + 8 + 1 + 8
	maxUsername   = 64 // characters; ours have 39, 44 or 60
	passwordBytes = sha256.Size
)

// mint makes and reads tickets. Its clock starts with it.
type mint struct {
	secret []byte
	epoch  [8]byte
	since  func() time.Duration
}

func newMint(secret []byte, since func() time.Duration) *mint {
	m := &mint{secret: secret, since: since}
	if len(secret) == 0 {
		m.secret = make([]byte, 32)
		rand.Read(m.secret)
	}
	rand.Read(m.epoch[:])
	return m
}

// issue returns the credentials for a grant and how long they last.
func (m *mint) issue(g Grant) (username string, password Secret, ttl time.Duration) {
	ttl = g.TTL
	if ttl <= 0 {
		ttl = DefaultTicketTTL
	}
	ttl = min(ttl, MaxTicketTTL)
	var session sessionID
	rand.Read(session[:])
	tag := tagOf(g.Client)

	b := append(make([]byte, 0, claimSize+16), m.epoch[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32((m.since()+ttl)/time.Second))
	b = append(b, session[:]...)
	b = append(b, byte(g.Class))
	b = append(b, tag[:]...)
	b = append(b, g.Peer.Unmap().AsSlice()...)
	username = base64.RawURLEncoding.EncodeToString(b)
	return username, m.password(username), ttl
}

func (m *mint) password(username string) Secret {
	mac := hmac.New(sha256.New, m.secret)
	mac.Write([]byte(username))
	return Secret(base64.RawURLEncoding.EncodeToString(mac.Sum(make([]byte, 0, passwordBytes))))
}

// read decodes a username. That it was issued here is proved only when the
// message carrying it verifies under password(username). An expired claim is
// returned together with errExpired.
func (m *mint) read(username string) (claim, error) {
	if len(username) > maxUsername {
		return claim{}, errForged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(username)
	if err != nil || len(b) != claimSize && len(b) != claimSize+4 && len(b) != claimSize+16 {
		return claim{}, errForged
	}
	if [8]byte(b) != m.epoch {
		return claim{}, errOtherStart
	}
	c := claim{
		expires: time.Duration(binary.BigEndian.Uint32(b[8:])) * time.Second,
		session: sessionID(b[12:]),
		class:   Class(b[20]),
		client:  clientTag(b[21:]),
	}
	if len(b) > claimSize {
		c.peer, _ = netip.AddrFromSlice(b[claimSize:])
	}
	if c.class > Friend {
		return claim{}, errForged
	}
	if m.since() >= c.expires {
		return c, errExpired
	}
	return c, nil
}
