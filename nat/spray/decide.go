package spray

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Method is how the two look for each other.
type Method string

// The methods.
const (
	// Birthday: one side opens many random ports, the other tries random
	// ports until it meets one.
	Birthday Method = "birthday"
	// Window: one side opens many ports in a row, the other tries ports
	// after the last one known, a stride apart.
	Window Method = "window"
	// Predict: both open ports in a row towards those that the other will
	// open.
	Predict Method = "predict"
)

// Reasons why [Decide] makes no plan.
var (
	// ErrHopeless means that no number of probes that is polite to send can
	// find a way. The next step is a relay, for good.
	ErrHopeless = errors.New("no direct udp way can be found")
	// ErrEasy means that neither NAT needs spraying: ICE finds the way, or
	// something else than the NATs is in it.
	ErrEasy = errors.New("neither nat needs spraying")
)

// Numbers of the methods.
const (
	rowSockets = 64 // opened in a row: enough to be met in a few probes

	// The prober gives the other side this long to open its ports. The
	// answerer starts half a round trip before the asker does.
	headStartAsking    = 40 * time.Millisecond
	headStartAnswering = 160 * time.Millisecond
)

// Plan is what one side does. Both sides make their plans from the same two
// descriptions, so they fit together.
type Plan struct {
	Method Method
	// Opens says that we open Sockets further sockets and send openers to
	// Target. Sprays says that we try ports of Target's IP address from the
	// shared socket. Under Predict both sides open.
	Opens, Sprays bool
	// Chooses says that we take the first way that works in both
	// directions; the other side follows.
	Chooses bool
	// Asking is whether we started it.
	Asking  bool
	Sockets int
	// Target is where the other side's shared socket is seen.
	Target netip.AddrPort
	// Last, Delta and Block describe the other side's new ports; see [Side].
	Last         uint16
	Delta, Block int
}

// Decide makes our plan; exactly one of the two sides is asking. Errors wrap
// [ErrSide], [ErrEasy] or [ErrHopeless].
func Decide(ours, theirs Side, asking bool) (Plan, error) {
	if err := errors.Join(ours.Validate(), theirs.Validate()); err != nil {
		return Plan{}, err
	}
	p := Plan{Asking: asking, Target: theirs.Mapped, Last: theirs.Last, Delta: theirs.Delta, Block: theirs.Block}
	switch {
	case !ours.Hard() && !theirs.Hard():
		return Plan{}, ErrEasy
	case ours.Mapped.Addr() == theirs.Mapped.Addr():
		return Plan{}, fmt.Errorf("%w: both are behind the same nat", ErrHopeless)
	case ours.Hard() && theirs.Hard():
		return decideHard(p, ours, theirs)
	}
	hard := ours
	p.Opens, p.Sprays, p.Chooses = true, false, false
	if theirs.Hard() {
		hard = theirs
		p.Opens, p.Sprays, p.Chooses = false, true, true
	}
	p.Method, p.Sockets = Birthday, min(hard.Sockets, MaxSockets)
	if hard.Sequential() {
		p.Method, p.Sockets = Window, min(hard.Sockets, rowSockets)
	}
	return enough(p)
}

// decideHard is for two NATs that give each remote endpoint another port.
func decideHard(p Plan, ours, theirs Side) (Plan, error) {
	switch {
	case ours.Sequential() && theirs.Sequential():
		p.Method, p.Opens, p.Chooses = Predict, true, p.Asking
		p.Sockets = min(ours.Sockets, theirs.Sockets, rowSockets)
		return enough(p)
	case ours.Sequential() || theirs.Sequential():
		return Plan{}, fmt.Errorf("%w: one nat takes random ports, the other a new one for each of them", ErrHopeless)
	}
	return Plan{}, fmt.Errorf("%w: both nats take random ports", ErrHopeless)
}

func enough(p Plan) (Plan, error) {
	if p.Sockets < MinSockets {
		return Plan{}, fmt.Errorf("%w: only %d sockets, %d are needed", ErrHopeless, p.Sockets, MinSockets)
	}
	return p, nil
}

// headStart is how long probes wait for the other side's ports.
func (p Plan) headStart() time.Duration {
	if p.Asking {
		return headStartAsking
	}
	return headStartAnswering
}
