package owner

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"porchlight/agent/identity"
)

const (
	// tellLimit is how long Spread waits for one device, and tellAtOnce how
	// many it tells at once.
	tellLimit  = 15 * time.Second
	tellAtOnce = 4
	// maxReason is how much of an answer that says no is read, in bytes.
	maxReason = 300
)

// Errors of the client.
var (
	ErrStranger = errors.New("whoever answered does not know the code; compare it with the original, and try again")
	ErrAnswer   = errors.New("the device did not answer as it should")
)

// Join brings this device under the owner of inviter by a code; name is what
// this device is called there, "" for nothing. The client is the overlay's for
// Service.
func (s *Store) Join(ctx context.Context, client *http.Client, inviter identity.Address, code Code, name string) error {
	if err := s.mayJoin(); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	self := s.cfg.Device.Address()
	hash := sha256.Sum256([]byte(name))
	ask := request{Name: name, MAC: code.prove(purposeRequest, self, inviter, hash[:])}
	status, b, err := send(ctx, client, http.MethodPost, inviter, "/v1/join", ask, maxUpdate)
	if err != nil {
		return fmt.Errorf("join by way of %s: %w", inviter.Short(), err)
	}
	switch status {
	case http.StatusOK:
	case http.StatusForbidden:
		return ErrCode
	default:
		return fmt.Errorf("join by way of %s: %w: %s", inviter.Short(), ErrAnswer, reason(b))
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("join by way of %s: %w: %w", inviter.Short(), ErrAnswer, err)
	}
	if !hmac.Equal(a.MAC, code.prove(purposeGrant, inviter, self, a.Grant)) {
		return ErrStranger
	}
	var g grant
	if err := json.Unmarshal(a.Grant, &g); err != nil {
		return fmt.Errorf("join by way of %s: %w: %w", inviter.Short(), ErrAnswer, err)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.listed() || s.holds() {
		return ErrOwned
	}
	return s.accept(inviter, g)
}

func (s *Store) mayJoin() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.listed() || s.holds() {
		return ErrOwned
	}
	return nil
}

// Ask returns the newest roster of an owner that a device knows; nil if it
// tells none. The owner's signature was checked.
func Ask(ctx context.Context, client *http.Client, at, owner identity.Address) ([]byte, error) {
	status, b, err := send(ctx, client, http.MethodGet, at, "/v1/roster?of="+owner.String(), nil, MaxRoster)
	if err == nil && status == http.StatusNotFound {
		return nil, nil
	}
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%w: %s", ErrAnswer, reason(b))
	}
	if err == nil {
		_, err = ParseRoster(owner, b)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for the list of owner %s: %w", at.Short(), owner.Short(), err)
	}
	return b, nil
}

// Fetch asks a device for an owner's newest roster and learns it. A device
// that knows none, or an older one, is no error.
func (s *Store) Fetch(ctx context.Context, client *http.Client, at, owner identity.Address) (changed bool, err error) {
	signed, err := Ask(ctx, client, at, owner)
	if err != nil || signed == nil {
		return false, err
	}
	changed, err = s.Learn(owner, signed)
	if errors.Is(err, ErrStale) {
		return false, nil
	}
	return changed, err
}

// Tell tells one device the own owner's roster, and an own device what goes
// with it. If the device knows a newer one, it is learnt, and the error is
// ErrStale.
func (s *Store) Tell(ctx context.Context, client *http.Client, to identity.Address) error {
	s.mu.RLock()
	own, u := s.own.Owner, s.own.update()
	if !s.own.roster.Lists(to) || !s.listed() {
		u = update{Roster: u.Roster}
	}
	s.mu.RUnlock()
	if own.IsZero() {
		return ErrNoOwner
	}
	status, b, err := send(ctx, client, http.MethodPut, to, "/v1/roster?of="+own.String(), u, MaxRoster)
	switch {
	case err == nil && status == http.StatusNoContent:
		return nil
	case err == nil && status == http.StatusConflict:
		if _, err = s.Learn(own, b); err == nil {
			err = ErrStale
		}
	case err == nil:
		err = fmt.Errorf("%w: %s", ErrAnswer, reason(b))
	}
	return fmt.Errorf("tell %s the owner's devices: %w", to.Short(), err)
}

// Spread tells many devices, some at once, and returns those that know now.
func (s *Store) Spread(ctx context.Context, client *http.Client, to []identity.Address) []identity.Address {
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		told []identity.Address
		slot = make(chan struct{}, tellAtOnce)
	)
	for _, a := range to {
		if a == s.cfg.Device.Address() {
			continue
		}
		slot <- struct{}{}
		all.Go(func() {
			defer func() { <-slot }()
			ctx, cancel := context.WithTimeout(ctx, tellLimit)
			defer cancel()
			if err := s.Tell(ctx, client, a); err != nil {
				s.cfg.Logger.Debug("not told", "peer", a.Short(), "err", err)
				return
			}
			mu.Lock()
			told = append(told, a)
			mu.Unlock()
		})
	}
	all.Wait()
	return told
}

// send makes one request and reads at most limit bytes of the answer.
func send(ctx context.Context, client *http.Client, method string, to identity.Address, path string, body any, limit int64) (int, []byte, error) {
	var content io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+to.String()+path, content)
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return 0, nil, err
	}
	if int64(len(b)) > limit {
		return 0, nil, fmt.Errorf("%w: more than %d bytes", ErrAnswer, limit)
	}
	return response.StatusCode, b, nil
}

// reason returns what an answer says, made fit to be shown.
func reason(b []byte) string {
	text := strings.ToValidUTF8(string(b[:min(len(b), maxReason)]), "")
	return fmt.Sprintf("%q", strings.TrimSpace(text))
}
