package introduce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

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
// bytes: a ticket has less than 1 KiB.
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

// Register asks a rendezvous to introduce others to this device from now on.
func (c *Client) Register(ctx context.Context, at identity.Address, epoch sealed.Nonce) (Registration, error) {
	body, err := json.Marshal(epochBody{epoch})
	if err != nil {
		return Registration{}, err
	}
	url := "http://" + at.String() + "/v1/register"
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return Registration{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Registration{}, fmt.Errorf("register at %s: %w", at.Short(), err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusForbidden {
		return Registration{}, ErrUnwilling
	}
	if response.StatusCode != http.StatusOK {
		return Registration{}, fmt.Errorf("register at %s: %w: %s", at.Short(), ErrRendezvous, response.Status)
	}
	var r Registration
	if err := decode(response, maxRegistration, &r); err != nil {
		return Registration{}, fmt.Errorf("register at %s: %w", at.Short(), err)
	}
	return r, nil
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
func (c *Client) Offer(ctx context.Context, via, to identity.Address, offer Offer) (Offer, error) {
	epoch, known := c.epoch(to)
	if !known {
		var err error
		if epoch, err = c.Learn(ctx, via, to); err != nil {
			return Offer{}, err
		}
	}
	answer, err := c.exchange(ctx, via, to, offer, epoch)
	if errors.Is(err, sealed.ErrEpoch) {
		// The device began a new epoch since we, or its rendezvous, were told.
		if epoch, err = c.Learn(ctx, via, to); err == nil {
			answer, err = c.exchange(ctx, via, to, offer, epoch)
		}
	}
	return answer, err
}

// Learn asks a rendezvous, or the device itself, for a device's epoch and
// remembers it: an offer to it then takes one round trip less.
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

func (c *Client) exchange(ctx context.Context, via, to identity.Address, offer Offer, epoch sealed.Nonce) (Offer, error) {
	offer.Epoch, offer.Session = epoch, sealed.NewNonce()
	message, err := seal(c.device, to, purposeOffer, offer)
	if err != nil {
		return Offer{}, err
	}
	response, err := post(ctx, c.http, via, to, message)
	if err != nil {
		return Offer{}, fmt.Errorf("offer to %s: %w", to.Short(), err)
	}
	defer response.Body.Close()
	if err := statusError(response); err != nil {
		return Offer{}, fmt.Errorf("offer to %s: %w", to.Short(), err)
	}
	sealedAnswer, err := io.ReadAll(io.LimitReader(response.Body, sealed.MaxMessage+1))
	if err != nil {
		return Offer{}, fmt.Errorf("answer of %s: %w", to.Short(), err)
	}
	from, answer, err := open(c.device, purposeAnswer, sealedAnswer)
	if err != nil {
		return Offer{}, fmt.Errorf("answer of %s: %w", to.Short(), err)
	}
	if from != to || answer.Session != offer.Session {
		return Offer{}, fmt.Errorf("answer of %s: %w", to.Short(), sealed.ErrReplayed)
	}
	return answer, nil
}

// fetchEpoch asks via for the epoch of a device.
func fetchEpoch(ctx context.Context, client *http.Client, via, of identity.Address) (sealed.Nonce, error) {
	var body epochBody
	url := "http://" + via.String() + "/v1/epoch?of=" + of.String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return body.Epoch, err
	}
	response, err := client.Do(request)
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

func post(ctx context.Context, client *http.Client, via, to identity.Address, message []byte) (*http.Response, error) {
	url := "http://" + via.String() + "/v1/offer?to=" + to.String()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(message))
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
