package overlay

import (
	"sync"

	"github.com/quic-go/quic-go"

	"porchlight/agent/identity"
)

// maxTokens is how many devices' tokens are kept, one each.
const maxTokens = 256

// tokens keeps what devices gave us to prove our address with, when we call
// them again (RFC 9000 §8.1.3). quic-go would sort them by server name, which
// nobody sends here.
type tokens struct {
	mu   sync.Mutex
	kept map[identity.Address]*quic.ClientToken
}

// of returns the store of one device's tokens.
func (t *tokens) of(device identity.Address) quic.TokenStore { return tokensOf{t, device} }

// tokensOf implements quic.TokenStore for one device, whatever the key.
type tokensOf struct {
	all    *tokens
	device identity.Address
}

// Pop returns the token, which works once.
func (s tokensOf) Pop(string) *quic.ClientToken {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	token := s.all.kept[s.device]
	delete(s.all.kept, s.device)
	return token
}

// Put keeps the latest token, if need be in place of any other device's.
func (s tokensOf) Put(_ string, token *quic.ClientToken) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if s.all.kept == nil {
		s.all.kept = map[identity.Address]*quic.ClientToken{}
	}
	if s.all.kept[s.device] == nil && len(s.all.kept) >= maxTokens {
		for device := range s.all.kept {
			delete(s.all.kept, device)
			break
		}
	}
	s.all.kept[s.device] = token
}
