package dialback

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"porchlight/agent/identity"
	"porchlight/nat"
	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

const (
	// askLimit is how long one test may take.
	askLimit = 8 * time.Second
	// grace is how long knocks may come in after the helper has said that
	// they were sent.
	grace = 300 * time.Millisecond
	// maxExpected is how many places are listened for at once.
	maxExpected = 16
)

// Endpoint is a share of the socket; [stun.Endpoint] is one.
type Endpoint interface {
	// Send sends a STUN Binding message.
	Send(b []byte, to netip.AddrPort) error
	Close() error
}

// Register claims the STUN questions for a user name, and the answers to what
// the Endpoint sends; see [OverMux].
type Register func(ufrag string, handle func(b []byte, from netip.AddrPort)) (Endpoint, error)

// OverMux uses the socket that a Mux shares.
func OverMux(m *stun.Mux) Register {
	return func(ufrag string, handle func([]byte, netip.AddrPort)) (Endpoint, error) {
		e, err := m.Register(ufrag, handle)
		if err != nil {
			return nil, err
		}
		return e, nil
	}
}

// Client asks helpers and listens for the knocks. All methods may be called
// concurrently.
type Client struct {
	http     *http.Client
	register Register
	met      *Met

	mu     sync.Mutex
	framed map[string]*waiting
}

// waiting is one place that a knock is expected at.
type waiting struct {
	place int
	key   probe.Credentials
	came  chan<- arrival
}

type arrival struct {
	place int
	from  netip.AddrPort
}

// NewClient returns a Client.
func NewClient(sessions Sessions, register Register) *Client {
	return &Client{
		http:     sessions.Client(Service),
		register: register,
		met:      NewMet(),
		framed:   map[string]*waiting{},
	}
}

// Result is what one test found.
type Result struct {
	// From is where the knock at each place came from, in the order of the
	// places; invalid where none came.
	From []netip.AddrPort
	// By says who was to knock, IP where the helper sees this device, and
	// Outcomes what the one who knocked saw, in the order of the places. All
	// three are empty if every knock came before the helper answered.
	By       By
	IP       netip.Addr
	Outcomes []Outcome
}

// Question is what a test is to find out.
type Question struct {
	// Places are what is knocked at: 1 to MaxPlaces.
	Places []Place
	// Met are the addresses this device sent packets to lately, best the
	// latest first.
	Met []netip.Addr
	// At is where this device's socket is seen by the IP family that is to be
	// tested; invalid if that is the family of the session to the helper.
	At netip.AddrPort
	// Came, if not nil, is called with the number of a place as soon as the
	// first knock comes in there, while Knock waits for the others.
	Came func(place int, from netip.AddrPort)
}

// Knock has somebody knock at this device and waits for that. An error says
// that there was no test; a test in which no knock came is none.
func (c *Client) Knock(ctx context.Context, helper identity.Address, q Question) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	places := q.Places
	question := ask{doors: newDoors(places), At: q.At}
	if err := question.check(); err != nil {
		return Result{}, err
	}
	c.met.tell(&question, q.Met)
	body, err := encode(&question, &question.doors)
	if err != nil {
		return Result{}, err
	}
	came := make(chan arrival, 2*MaxPlaces)
	forget, err := c.expect(question.doors, came)
	if err != nil {
		return Result{}, fmt.Errorf("listen for knocks: %w", err)
	}
	defer forget()
	if q.At.IsValid() {
		stop, err := c.confirm(question.proofKey())
		if err != nil {
			return Result{}, fmt.Errorf("confirm the address: %w", err)
		}
		defer stop()
	}
	answered := make(chan answer, 1)
	var asking sync.WaitGroup
	asking.Go(func() {
		r, err := post(ctx, c.http, helper, "/v1/ask", body)
		answered <- answer{r, err}
	})
	result, err := gather(ctx, q, came, answered)
	cancel()
	asking.Wait()
	return result, err
}

type answer struct {
	report
	err error
}

// gather waits for knocks until all places had theirs, or a while after the
// helper has answered.
func gather(ctx context.Context, q Question, came <-chan arrival, answered <-chan answer) (Result, error) {
	places := len(q.Places)
	result := Result{From: make([]netip.AddrPort, places)}
	missing := places
	var late <-chan time.Time
	for missing > 0 {
		select {
		case a := <-came:
			if !result.From[a.place].IsValid() {
				missing--
				result.From[a.place] = a.from
				if q.Came != nil {
					q.Came(a.place, a.from)
				}
			}
		case a := <-answered:
			answered = nil
			if a.err != nil {
				return Result{}, a.err
			}
			if len(a.Outcomes) != places {
				return Result{}, fmt.Errorf("%w: %d outcomes for %d places", ErrAnswer, len(a.Outcomes), places)
			}
			result.By, result.IP, result.Outcomes = a.By, a.IP, a.Outcomes
			late = time.After(grace)
		case <-late:
			return result, nil
		case <-ctx.Done():
			return Result{}, fmt.Errorf("wait for knocks: %w", ctx.Err())
		}
	}
	return result, nil
}

// expect listens for knocks until forget is called.
func (c *Client) expect(d doors, came chan<- arrival) (forget func(), err error) {
	var closers []Endpoint
	forget = func() {
		c.mu.Lock()
		for i := range d.Places {
			delete(c.framed, d.key(i).Ufrag)
		}
		c.mu.Unlock()
		for _, closer := range closers {
			closer.Close()
		}
	}
	for i, p := range d.Places {
		w := &waiting{place: i, key: d.key(i), came: came}
		if p.Network == TCP {
			if !c.expectFramed(w) {
				err = fmt.Errorf("already %d places are listened for", maxExpected)
			}
		} else {
			var endpoint Endpoint
			if endpoint, err = c.register(w.key.Ufrag, func(b []byte, from netip.AddrPort) { w.take(b, from) }); err == nil {
				closers = append(closers, endpoint)
			}
		}
		if err != nil {
			forget()
			return nil, err
		}
	}
	return forget, nil
}

// confirm answers the helper's question whether this device is where it says.
func (c *Client) confirm(key probe.Credentials) (stop func(), err error) {
	var reply atomic.Pointer[Endpoint]
	endpoint, err := c.register(key.Ufrag, func(b []byte, from netip.AddrPort) {
		e := reply.Load()
		if answer, err := probe.Answer(b, key); err == nil && e != nil {
			(*e).Send(answer, from)
		}
	})
	if err != nil {
		return nil, err
	}
	reply.Store(&endpoint)
	return func() { endpoint.Close() }, nil
}

func (c *Client) expectFramed(w *waiting) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.framed) >= maxExpected {
		return false
	}
	c.framed[w.key.Ufrag] = w
	return true
}

// take notes a knock that has the right key and returns the answer to it. It
// must not block: the socket's reader calls it.
func (w *waiting) take(b []byte, from netip.AddrPort) []byte {
	answer, err := probe.Answer(b, w.key)
	if err != nil {
		return nil
	}
	select {
	case w.came <- arrival{w.place, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}:
	default: // knocks repeat
	}
	return answer
}

// HandleFramed takes a STUN datagram that came in a frame over TCP and returns
// what is to be answered, nil if it is no knock that is waited for. It does not
// block and does not keep b.
func (c *Client) HandleFramed(b []byte, from netip.AddrPort) []byte {
	if len(b) > nat.MaxPacket || stun.Check(b) != nil {
		return nil
	}
	ufrag, err := probe.Asked(b)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	w := c.framed[ufrag]
	c.mu.Unlock()
	if w == nil {
		return nil
	}
	return w.take(b, from)
}
