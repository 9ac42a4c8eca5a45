package introduce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/sealed"
)

// Errors of a Client.
var (
	ErrNotHere    = errors.New("the device is not registered at this rendezvous")
	ErrRefused    = errors.New("the device refused")
	ErrUnwilling  = errors.New("the device introduces nobody at this moment")
	ErrRendezvous = errors.New("the rendezvous failed")
)

// maxRegistration is the size of the largest answer to a registration, in
// bytes: a ticket has less than 1 KiB, MaxOthers rendezvous have 600 bytes.
const maxRegistration = 4096

// maxEpochs is how many devices' epochs a Client remembers.
const maxEpochs = 256

// Client makes the requests of the service.
type Client struct {
	device *identity.Device
	http   *http.Client

	learning sync.Mutex
	learnt   map[identity.Address]sealed.Nonce // as told last; any may be over
}

// NewClient returns a Client that asks as device.
func NewClient(device *identity.Device, sessions Sessions) *Client {
	return &Client{device: device, http: sessions.Client(Service), learnt: map[identity.Address]sealed.Nonce{}}
}

// Register asks a rendezvous to introduce others to this device from now on,
// and is repeated every DefaultPeriod.
func (c *Client) Register(ctx context.Context, at identity.Address, epoch sealed.Nonce) (Registration, error) {
	return c.RegisterEvery(ctx, at, epoch, DefaultPeriod)
}

// RegisterEvery is Register, repeated every so often instead: the rendezvous
// takes the device for gone when it misses some. A device that can be called
// itself says where. With ErrUnwilling a full rendezvous names others.
func (c *Client) RegisterEvery(ctx context.Context, at identity.Address, epoch sealed.Nonce, every time.Duration, callable ...netip.AddrPort) (Registration, error) {
	body, err := json.Marshal(registerBody{
		Epoch:  epoch,
		EveryS: int(every / time.Second),
		At:     callable[:min(len(callable), MaxReachable)],
	})
	if err != nil {
		return Registration{}, err
	}
	response, err := c.ask(ctx, http.MethodPut, at, "/v1/register", body)
	if err != nil {
		return Registration{}, fmt.Errorf("register at %s: %w", at.Short(), err)
	}
	defer response.Body.Close()
	var r registrationBody
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return Registration{}, ErrUnwilling
	case http.StatusServiceUnavailable: // full: it names others
		if err := decode(response, maxRegistration, &r); err != nil {
			return Registration{}, errors.Join(ErrUnwilling, err)
		}
		return r.checked(at, c.device.Address()), ErrUnwilling
	default:
		return Registration{}, fmt.Errorf("register at %s: %w: %s", at.Short(), ErrRendezvous, response.Status)
	}
	if err := decode(response, maxRegistration, &r); err != nil {
		return Registration{}, fmt.Errorf("register at %s: %w", at.Short(), err)
	}
	return r.checked(at, c.device.Address()), nil
}

// Unregister tells a rendezvous that this device leaves, so that whoever
// watches it hears of it at once.
func (c *Client) Unregister(ctx context.Context, at identity.Address) error {
	response, err := c.ask(ctx, http.MethodDelete, at, "/v1/register", nil)
	if err != nil {
		return fmt.Errorf("unregister at %s: %w", at.Short(), err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("unregister at %s: %w: %s", at.Short(), ErrRendezvous, response.Status)
	}
	return nil
}

// decode reads a JSON body of at most limit bytes.
func decode(response *http.Response, limit int64, v any) error {
	b, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("%w: its answer is larger than %d bytes", ErrRendezvous, limit)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrRendezvous, err)
	}
	return nil
}

// Offer sends an offer to a device by way of a rendezvous, or of the device
// itself where there is a session, and returns its answer.
func (c *Client) Offer(ctx context.Context, via, to identity.Address, offer Offer) (answer Offer, err error) {
	err = c.exchange(ctx, via, to, errand{
		target: "/v1/offer?to=" + to.String(),
		seal: func(epoch, session sealed.Nonce) ([]byte, error) {
			offer.Epoch, offer.Session = epoch, session
			return seal(c.device, to, purposeOffer, offer)
		},
		open: func(message []byte) (from identity.Address, session sealed.Nonce, err error) {
			from, answer, err = open(c.device, purposeAnswer, message)
			return from, answer.Session, err
		},
	})
	if err != nil {
		return Offer{}, fmt.Errorf("offer to %s: %w", to.Short(), err)
	}
	return answer, nil
}

// Watch asks a rendezvous to tell when the recipient of a note has left.
type Watch struct {
	// Back lists rendezvous of the sender that it can be told through, MaxBack
	// at most; those beyond are left out.
	Back []identity.Via
}

// Tell sends a note of at most MaxNote bytes to a device by way of a
// rendezvous, or of the device itself where there is a session, and returns
// its answer. A watch is asked of the rendezvous; nil asks for none. The error
// wraps ErrNotHere if the device is not there, or wants no note of ours.
func (c *Client) Tell(ctx context.Context, via, to identity.Address, body []byte, watch *Watch) (answer []byte, err error) {
	err = c.exchange(ctx, via, to, errand{
		target: "/v1/note?to=" + to.String() + watch.query(),
		seal: func(epoch, session sealed.Nonce) ([]byte, error) {
			return sealNote(c.device, to, purposeNote, note{epoch, session, body})
		},
		open: func(message []byte) (identity.Address, sealed.Nonce, error) {
			from, n, err := openNote(c.device, purposeNoteAnswer, message)
			answer = n.body
			return from, n.session, err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("note to %s: %w", to.Short(), err)
	}
	return answer, nil
}

// query is what a watch adds to the target of a note.
func (w *Watch) query() string {
	if w == nil {
		return ""
	}
	values := url.Values{"watch": {"1"}}
	for _, v := range w.Back[:min(len(w.Back), MaxBack)] {
		values.Add("back", v.Address.String()+"@"+v.At.String())
	}
	return "&" + values.Encode()
}

// errand is one message to be carried: how it is made and its answer read.
type errand struct {
	target string // path and query
	seal   func(epoch, session sealed.Nonce) ([]byte, error)
	open   func(answer []byte) (from identity.Address, session sealed.Nonce, err error)
}

// exchange sends a message in the recipient's epoch, as far as it is known.
func (c *Client) exchange(ctx context.Context, via, to identity.Address, e errand) error {
	epoch, known := c.epoch(to)
	if !known {
		var err error
		if epoch, err = c.Learn(ctx, via, to); err != nil {
			return err
		}
	}
	err := c.once(ctx, via, to, e, epoch)
	if errors.Is(err, sealed.ErrEpoch) {
		// The device began a new epoch since we, or its rendezvous, were told.
		if epoch, err = c.Learn(ctx, via, to); err == nil {
			err = c.once(ctx, via, to, e, epoch)
		}
	}
	return err
}

// once sends a message made for one epoch.
func (c *Client) once(ctx context.Context, via, to identity.Address, e errand, epoch sealed.Nonce) error {
	session := sealed.NewNonce()
	message, err := e.seal(epoch, session)
	if err != nil {
		return err
	}
	response, err := c.ask(ctx, http.MethodPost, via, e.target, message)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := statusError(response); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, sealed.MaxMessage+1))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	from, answered, err := e.open(answer)
	if err != nil {
		return fmt.Errorf("open the answer: %w", err)
	}
	if from != to || answered != session {
		return fmt.Errorf("open the answer: %w", sealed.ErrReplayed)
	}
	return nil
}

// Learn asks a rendezvous, or the device itself, for a device's epoch and
// remembers it: a message to it then takes one round trip less.
func (c *Client) Learn(ctx context.Context, via, of identity.Address) (sealed.Nonce, error) {
	epoch, err := fetchEpoch(ctx, c.http, via, of)
	if err != nil {
		return epoch, err
	}
	c.learning.Lock()
	defer c.learning.Unlock()
	if _, known := c.learnt[of]; !known && len(c.learnt) >= maxEpochs {
		for a := range c.learnt {
			delete(c.learnt, a)
			break
		}
	}
	c.learnt[of] = epoch
	return epoch, nil
}

// epoch returns what was learnt about a device last.
func (c *Client) epoch(of identity.Address) (sealed.Nonce, bool) {
	c.learning.Lock()
	defer c.learning.Unlock()
	epoch, known := c.learnt[of]
	return epoch, known
}

// fetchEpoch asks via for the epoch of a device.
func fetchEpoch(ctx context.Context, client *http.Client, via, of identity.Address) (sealed.Nonce, error) {
	var body epochBody
	response, err := ask(ctx, client, http.MethodGet, via, "/v1/epoch?of="+of.String(), nil)
	if err != nil {
		return body.Epoch, fmt.Errorf("ask %s for %s: %w", via.Short(), of.Short(), err)
	}
	defer response.Body.Close()
	if err := statusError(response); err != nil {
		return body.Epoch, fmt.Errorf("ask %s for %s: %w", via.Short(), of.Short(), err)
	}
	if err := decode(response, maxBody, &body); err != nil {
		return body.Epoch, fmt.Errorf("ask %s for %s: %w", via.Short(), of.Short(), err)
	}
	return body.Epoch, nil
}

func (c *Client) ask(ctx context.Context, method string, at identity.Address, target string, body []byte) (*http.Response, error) {
	return ask(ctx, c.http, method, at, target, body)
}

// ask makes one request to a device.
func ask(ctx context.Context, client *http.Client, method string, at identity.Address, target string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+at.String()+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

func statusError(response *http.Response) error {
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return ErrNotHere
	case http.StatusConflict:
		return sealed.ErrEpoch
	case http.StatusForbidden:
		return ErrRefused
	}
	return fmt.Errorf("%w: %s", ErrRendezvous, response.Status)
}
