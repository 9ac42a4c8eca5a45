package introduce

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
	"porchlight/nat/ice"
	"porchlight/nat/spray"
	"porchlight/nat/tcppunch"
)

const (
	// MaxCandidates is how many candidates an offer may carry.
	MaxCandidates = 16
	// MaxRelays is how many relayed addresses an offer may carry, and MaxTCP
	// how many addresses at which its sender accepts connections.
	MaxRelays = 2
	MaxTCP    = 2

	purposeOffer  = "offer"
	purposeAnswer = "answer"
)

// Offer says how its sender can be reached at this moment. An answer has the
// same form.
type Offer struct {
	// Epoch is the recipient's, as it told its rendezvous; empty in answers.
	Epoch sealed.Nonce `json:"epoch"`
	// Session is new in each offer and repeated in its answer.
	Session sealed.Nonce `json:"session"`
	// ICE holds the credentials and candidates (RFC 8445 §5.3).
	ICE ice.Description `json:"ice"`
	// Relay lists relayed addresses of the sender (RFC 8656 §2).
	Relay []netip.AddrPort `json:"relay,omitempty"`
	// Mapping is the sender's NAT behaviour in the words of RFC 4787.
	Mapping string `json:"mapping,omitempty"`
	// NoUDP says that the sender's network carries no UDP.
	NoUDP bool `json:"no_udp,omitempty"`
	// Lost says that the sender has no path to the recipient any more, so that
	// the recipient's own leads nowhere either.
	Lost bool `json:"lost,omitempty"`
	// TCPAt lists where the sender accepts TCP connections that carry packets
	// in frames (RFC 4571).
	TCPAt []netip.AddrPort `json:"tcp_at,omitempty"`
	// Spray and TCP are what the sender brings against routers that ICE alone
	// does not get through. They are measured for this exchange, which goes
	// over a relayed session.
	Spray *spray.Side     `json:"spray,omitempty"`
	TCP   *tcppunch.Local `json:"tcp,omitempty"`
}

// Second says that the sender tries more than ICE.
func (o Offer) Second() bool { return o.Spray != nil || o.TCP != nil }

// ErrOffer is wrapped by errors about an offer's content.
var ErrOffer = errors.New("unusable offer")

func parseOffer(b []byte) (Offer, error) {
	var o Offer
	if err := json.Unmarshal(b, &o); err != nil {
		return Offer{}, fmt.Errorf("%w: %w", ErrOffer, err)
	}
	if err := o.ICE.Validate(); err != nil {
		return Offer{}, fmt.Errorf("%w: %w", ErrOffer, err)
	}
	for _, a := range slices.Concat(o.Relay, o.TCPAt) {
		if !a.IsValid() || a.Port() == 0 || a.Addr().Zone() != "" {
			return Offer{}, fmt.Errorf("%w: address %v", ErrOffer, a)
		}
	}
	if len(o.ICE.Candidates) > MaxCandidates || len(o.Relay) > MaxRelays || len(o.TCPAt) > MaxTCP {
		return Offer{}, fmt.Errorf("%w: %d candidates, %d relays, %d addresses for TCP are too many",
			ErrOffer, len(o.ICE.Candidates), len(o.Relay), len(o.TCPAt))
	}
	return o, o.checkRouters()
}

// checkRouters checks what an offer says about its sender's routers.
func (o Offer) checkRouters() error {
	if o.Spray != nil {
		if err := o.Spray.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrOffer, err)
		}
	}
	if o.TCP != nil {
		if err := o.TCP.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrOffer, err)
		}
	}
	return nil
}

func seal(from *identity.Device, to identity.Address, purpose string, o Offer) ([]byte, error) {
	// Candidates come best first; whatever does not fit one datagram is left out.
	for {
		b, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		message, err := sealed.Seal(from, to, purpose, b)
		if !errors.Is(err, sealed.ErrTooLarge) || len(o.ICE.Candidates) == 0 {
			return message, err
		}
		o.ICE.Candidates = o.ICE.Candidates[:len(o.ICE.Candidates)-1]
	}
}

func open(to *identity.Device, purpose string, message []byte) (identity.Address, Offer, error) {
	from, body, err := sealed.Open(to, purpose, message)
	if err != nil {
		return identity.Address{}, Offer{}, err
	}
	o, err := parseOffer(body)
	return from, o, err
}
