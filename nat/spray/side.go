package spray

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	natstun "porchlight/nat/stun"
)

// Limits of what a [Side] may say.
const (
	// MaxSide is the largest encoded Side in bytes.
	MaxSide = 200
	// MaxSockets is how many further sockets one side opens at most.
	MaxSockets = 256
	// SmallSockets is how many it opens with less than SmallMemory bytes of
	// memory.
	SmallSockets = 64
	SmallMemory  = 64 << 20
	// MinSockets is how few still make a spray worth its packets.
	MinSockets = 16

	maxDelta = 64   // ports between successive mappings
	maxBlock = 2048 // ports, the largest block that carriers give a subscriber
)

// ErrSide means that a description of a NAT is not usable.
var ErrSide = errors.New("unusable description of a nat")

// Side is what one device tells the other about its NAT.
type Side struct {
	// Mapping is the NAT's behaviour in the words of nat/stun; Unknown is
	// not allowed.
	Mapping natstun.Dependence `json:"mapping"`
	// Mapped is where the shared socket is seen. Of a hard NAT only the IP
	// address matters.
	Mapped netip.AddrPort `json:"mapped"`
	// Last is the port of the freshest mapping of a hard NAT, and Delta the
	// step from one mapping to the next; 0: none was seen.
	Last  uint16 `json:"last,omitempty"`
	Delta int    `json:"delta,omitempty"`
	// Block is how far new ports have been from each other, if that was
	// little: a carrier's NAT that gives each subscriber a block of ports.
	// 0: they are all over the place.
	Block int `json:"block,omitempty"`
	// Sockets is how many further sockets the device is willing to open.
	Sockets int `json:"sockets,omitempty"`
}

// Hard says whether the NAT gives each remote endpoint another port.
func (s Side) Hard() bool {
	return s.Mapping == natstun.AddressDependent || s.Mapping == natstun.AddressAndPortDependent
}

// Sequential says whether the ports of a hard NAT can be predicted.
func (s Side) Sequential() bool { return s.Hard() && s.Delta != 0 && s.Last != 0 }

// Validate returns nil or an error that wraps [ErrSide]. Only IPv4 is known
// here: no kind of NAT that needs spraying is in use with IPv6.
func (s Side) Validate() error {
	switch s.Mapping {
	case natstun.None, natstun.EndpointIndependent, natstun.AddressDependent, natstun.AddressAndPortDependent:
	default:
		return fmt.Errorf("%w: mapping %q", ErrSide, s.Mapping)
	}
	switch {
	case !s.Mapped.Addr().Is4() || s.Mapped.Port() == 0:
		return fmt.Errorf("%w: address %v", ErrSide, s.Mapped)
	case s.Delta < -maxDelta || s.Delta > maxDelta || s.Delta != 0 && s.Last == 0:
		return fmt.Errorf("%w: steps of %d from port %d", ErrSide, s.Delta, s.Last)
	case s.Block < 0 || s.Block > maxBlock || s.Block != 0 && s.Last == 0:
		return fmt.Errorf("%w: block of %d around port %d", ErrSide, s.Block, s.Last)
	case s.Sockets < 0 || s.Sockets > MaxSockets:
		return fmt.Errorf("%w: %d sockets", ErrSide, s.Sockets)
	}
	return nil
}

// Encode returns the JSON that [ParseSide] reads.
func (s Side) Encode() ([]byte, error) {
	s.Mapped = netip.AddrPortFrom(s.Mapped.Addr().Unmap(), s.Mapped.Port())
	if err := s.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode side: %w", err)
	}
	return b, nil
}

// ParseSide reads and validates what a peer has sent. Its errors wrap
// [ErrSide].
func ParseSide(b []byte) (Side, error) {
	if len(b) > MaxSide {
		return Side{}, fmt.Errorf("%w: %d bytes, at most %d", ErrSide, len(b), MaxSide)
	}
	var s Side
	if err := json.Unmarshal(b, &s); err != nil {
		return Side{}, fmt.Errorf("%w: %w", ErrSide, err)
	}
	s.Mapped = netip.AddrPortFrom(s.Mapped.Addr().Unmap(), s.Mapped.Port())
	if err := s.Validate(); err != nil {
		return Side{}, err
	}
	return s, nil
}

// DefaultSockets is what this machine should offer in [Side.Sockets]:
// [MaxSockets], or [SmallSockets] with less than [SmallMemory].
func DefaultSockets() int {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return SmallSockets
	}
	return socketsFor(uint64(info.Totalram) * uint64(info.Unit))
}

func socketsFor(memory uint64) int {
	if memory < SmallMemory {
		return SmallSockets
	}
	return MaxSockets
}
