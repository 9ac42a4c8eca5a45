package tcppunch

import (
	"net/netip"
	"sync/atomic"

	pion "github.com/pion/stun/v2"
	"golang.org/x/time/rate"

	"porchlight/nat"
	"porchlight/nat/stun"
)

const (
	// MaxAnswers is how often one connection is told its address. Asking once
	// is what Prepare does.
	MaxAnswers = 4
	// AnswerRate and AnswerBurst bound the answers of a Responder per second
	// and at once.
	AnswerRate  = 200
	AnswerBurst = 400
)

// Respond answers a Binding request that came in a frame of a TCP connection
// from from with that address (RFC 8489 §6.3.1.1). It returns nil for anything
// else: for requests with a USERNAME, which are questions of sessions and somebody
// else's to answer (nat/probe), for those that want the answer from elsewhere
// (RFC 5780), and where the answer would be larger than the request.
func Respond(b []byte, from netip.AddrPort) []byte {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	if stun.Check(b) != nil || !from.IsValid() || from.Port() == 0 {
		return nil
	}
	m := &pion.Message{Raw: append([]byte(nil), b...)}
	if m.Decode() != nil || m.Type != pion.BindingRequest ||
		m.Contains(pion.AttrUsername) || m.Contains(pion.AttrChangeRequest) {
		return nil
	}
	answer, err := pion.Build(pion.NewTransactionIDSetter(m.TransactionID), pion.BindingSuccess,
		&pion.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}, pion.Fingerprint)
	if err != nil || len(answer.Raw) > len(b) {
		return nil
	}
	return answer.Raw
}

// Responder is the serving half: it tells ends that come in over TCP where from
// they are seen. Make it with [NewResponder].
type Responder struct {
	limit    *rate.Limiter
	answered atomic.Int64
}

// NewResponder returns a Responder with AnswerRate and AnswerBurst.
func NewResponder() *Responder {
	return &Responder{limit: rate.NewLimiter(AnswerRate, AnswerBurst)}
}

// Handler returns a nat.FrameConfig.HandleSTUN for one connection from from. It
// answers MaxAnswers requests at most, and none over the rate. Another handler
// may be called with the same frames: no request is for both.
func (r *Responder) Handler(from netip.AddrPort) func(b []byte, f *nat.Framed) {
	left := MaxAnswers // frames of one connection are handled one by one
	return func(b []byte, f *nat.Framed) {
		answer := Respond(b, from)
		if answer == nil || left == 0 || !r.limit.Allow() {
			return
		}
		left--
		if f.WritePacket(answer) == nil {
			r.answered.Add(1)
		}
	}
}

// Answered is how many requests were answered.
func (r *Responder) Answered() int64 { return r.answered.Load() }
