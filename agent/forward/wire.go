package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Service is the name of the overlay service.
const Service = "forward"

const (
	version = 1
	// askLimit is how long a caller may take to ask.
	askLimit = 10 * time.Second
	// answerLimit is how long an answer may take: the other device's attempt
	// to reach the target, and a slow path.
	answerLimit = 20 * time.Second

	wireTCP byte = 1
	wireUDP byte = 2
	// wireOnly set: it is only asked whether the service is offered.
	wireOnly byte = 0x80
)

// answer is the byte that follows a question.
type answer byte

const (
	answerYes answer = iota
	answerNotOffered
	answerRefused
	answerSilent
	answerBusy
)

// Errors of what was asked of another device.
var (
	// ErrNotOffered says that there is no such service, or not for this device.
	ErrNotOffered = errors.New("not offered to this device")
	// ErrRefused says that nothing listens at the target.
	ErrRefused = errors.New("nothing listens there")
	// ErrSilent says that the target does not answer.
	ErrSilent = errors.New("the machine behind it does not answer")
	// ErrBusy says that too many connections or flows are open.
	ErrBusy = errors.New("too many are open at once")
	// ErrNoAnswer says that the stream ended before the answer.
	ErrNoAnswer = errors.New("no answer")
)

// question is what a caller asks for.
type question struct {
	network, name string
	only          bool
}

func (q question) append(b []byte) ([]byte, error) {
	if err := checkName(q.name); err != nil {
		return nil, err
	}
	var what byte
	switch q.network {
	case "tcp":
		what = wireTCP
	case "udp":
		what = wireUDP
	default:
		return nil, fmt.Errorf("%w, not %q", ErrNetwork, q.network)
	}
	if q.only {
		what |= wireOnly
	}
	return append(append(b, version, what, byte(len(q.name))), q.name...), nil
}

func readQuestion(r io.Reader) (q question, err error) {
	var b [3 + MaxName]byte
	if _, err := io.ReadFull(r, b[:3]); err != nil {
		return q, fmt.Errorf("read what is asked for: %w", err)
	}
	if b[0] != version {
		return q, fmt.Errorf("unknown version %d", b[0])
	}
	switch b[1] &^ wireOnly {
	case wireTCP:
		q.network = "tcp"
	case wireUDP:
		q.network = "udp"
	default:
		return q, fmt.Errorf("unknown network %d", b[1])
	}
	q.only = b[1]&wireOnly != 0
	n := int(b[2])
	if n > MaxName {
		return q, fmt.Errorf("%w; %d bytes", ErrName, n)
	}
	if _, err := io.ReadFull(r, b[3:3+n]); err != nil {
		return q, fmt.Errorf("read what is asked for: %w", err)
	}
	q.name = string(b[3 : 3+n])
	return q, checkName(q.name)
}

// Ask asks, over a stream to Service, for a service of the other device, and
// waits 20 s at most for the answer. Without an error the stream is from then
// on the connection to it. The error says what to do and is one of ErrName,
// ErrNetwork, ErrNotOffered, ErrRefused, ErrSilent, ErrBusy and ErrNoAnswer, or
// the stream's own.
func Ask(conn net.Conn, network, name string) error {
	return ask(conn, question{network: network, name: name})
}

func ask(conn net.Conn, q question) error {
	b, err := q.append(nil)
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(answerLimit))
	defer conn.SetDeadline(time.Time{})
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("ask for %s %s: %w", q.network, q.name, err)
	}
	var a [1]byte
	if _, err := io.ReadFull(conn, a[:]); err == io.EOF {
		return fmt.Errorf("%w about %s %s: the connection was lost, or the other device runs another version; try again", ErrNoAnswer, q.network, q.name)
	} else if err != nil {
		return fmt.Errorf("ask for %s %s: %w", q.network, q.name, err)
	}
	return q.explain(answer(a[0]))
}

// explain turns an answer into words that end with the next step.
func (q question) explain(a answer) error {
	flag := ""
	if q.network == "udp" {
		flag = " --udp"
	}
	what := q.network + " " + q.name
	switch a {
	case answerYes:
		return nil
	case answerNotOffered:
		return fmt.Errorf("%s is %w; on the other one: porchlight expose %s --to NAME%s", what, ErrNotOffered, q.name, flag)
	case answerRefused:
		return fmt.Errorf("%s is exposed, but %w; start the program on the other device", what, ErrRefused)
	case answerSilent:
		return fmt.Errorf("%s is exposed, but %w; see whether it is on", what, ErrSilent)
	case answerBusy:
		return fmt.Errorf("%s: %w; close some, or try again in two minutes", what, ErrBusy)
	}
	return fmt.Errorf("%s: unknown answer %d; the other device runs a later version", what, a)
}
