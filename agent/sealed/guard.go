package sealed

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
)

// maxSeen is how many sessions a Guard remembers before it begins a new
// epoch: 4096 offers of 16 bytes each are more than a home sees in a day.
const maxSeen = 4096

// ErrReplayed says that a message was seen before.
var ErrReplayed = errors.New("replayed message")

// ErrEpoch says that a message was made for another epoch: it is old, or its
// sender does not know the present one.
var ErrEpoch = errors.New("message of another epoch")

// Nonce is 16 random bytes: an epoch or a session id.
type Nonce [16]byte

// NewNonce returns a random Nonce.
func NewNonce() (n Nonce) {
	rand.Read(n[:])
	return n
}

// MarshalText writes a Nonce as 32 hexadecimal digits.
func (n Nonce) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(n[:])), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Nonce) UnmarshalText(b []byte) error {
	if len(b) != 2*len(n) {
		return fmt.Errorf("a nonce has %d hexadecimal digits, not %d", 2*len(n), len(b))
	}
	_, err := hex.Decode(n[:], b)
	return err
}

// Guard lets each session of the present epoch through once.
type Guard struct {
	mu    sync.Mutex
	epoch Nonce
	seen  map[Nonce]struct{}
}

// NewGuard returns a Guard with a fresh epoch.
func NewGuard() *Guard { return &Guard{epoch: NewNonce(), seen: map[Nonce]struct{}{}} }

// Epoch returns the present epoch.
func (g *Guard) Epoch() Nonce {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch
}

// Admit returns nil for the first message of a session in the present epoch.
func (g *Guard) Admit(epoch, session Nonce) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if epoch != g.epoch {
		return ErrEpoch
	}
	if _, ok := g.seen[session]; ok {
		return ErrReplayed
	}
	g.seen[session] = struct{}{}
	if len(g.seen) >= maxSeen {
		g.epoch, g.seen = NewNonce(), map[Nonce]struct{}{}
	}
	return nil
}
