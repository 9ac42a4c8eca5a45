package forward

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"porchlight/agent/identity"
)

// SetLimits shortens what tests wait for.
func (s *Server) SetLimits(idle, dial time.Duration) { s.idle, s.dial = idle, dial }

// SetIdle shortens what tests wait for.
func (f *Forwarder) SetIdle(d time.Duration) { f.idle = d }

// Age makes all flows of the Server look as if they had been quiet for d more.
func (s *Server) Age(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.open {
		u.last.after.Add(-int64(d))
	}
}

// ParseLocal is parseLocal.
func ParseLocal(local, name string) (netip.AddrPort, error) { return parseLocal(local, name) }

// ReadQuestion is readQuestion.
func ReadQuestion(r io.Reader) (network, name string, only bool, err error) {
	q, err := readQuestion(r)
	return q.network, q.name, q.only, err
}

// AppendQuestion is question.append.
func AppendQuestion(network, name string, only bool) ([]byte, error) {
	return question{network, name, only}.append(nil)
}

// Carry is carry.
func Carry(ctx context.Context, a, b net.Conn) { carry(ctx, a.(half), b.(half)) }

// Begin reports whether a caller may have one more.
func (s *Server) Begin(caller identity.Address, e Exposed) bool { return s.begin(caller, e) != nil }
