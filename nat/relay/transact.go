package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pion/stun/v2"
)

// Retransmission, RFC 8489 §6.2.1, with a shorter start than its 500 ms:
// first bytes depend on it and requests are few.
const (
	firstRTO      = 200 * time.Millisecond
	maxRTO        = 1600 * time.Millisecond
	requestTime   = 8 * time.Second // in all, and over TCP
	maxPending    = 128             // transactions at once
	staleAttempts = 3
	// padTo makes a first Allocate long enough to be answered: a relay like
	// ours never replies with more than it got, and its reply has 120 bytes.
	// The padding is a SOFTWARE of 124 characters; 127 are allowed.
	padTo = 164
)

// errStale asks for another attempt with the nonce just learnt.
var errStale = errors.New("nonce stale")

// credentials are the long-term credentials of RFC 8489 §9.2.
type credentials struct {
	username string
	password Secret

	mu    sync.Mutex
	realm string
	nonce string
	key   stun.MessageIntegrity
}

func newCredentials(t Ticket, nonce string) credentials {
	return credentials{
		username: t.Username, password: t.Password, realm: t.Realm, nonce: nonce,
		key: stun.NewLongTermIntegrity(t.Username, t.Realm, string(t.Password)),
	}
}

// known reports whether a request can be signed.
func (c *credentials) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nonce != "" && c.realm != ""
}

// learn takes realm and nonce from a 401 or 438, and reports whether a request
// signed anew may fare better: after 438 always, after 401 with another realm.
func (c *credentials) learn(m message) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	again = m.errorCode() == 438
	if nonce := m.attribute(attrNonce); len(nonce) > 0 {
		c.nonce = string(nonce)
	}
	if realm := m.attribute(attrRealm); len(realm) > 0 && string(realm) != c.realm {
		c.realm = string(realm)
		c.key = stun.NewLongTermIntegrity(c.username, c.realm, string(c.password))
		again = true
	}
	return again
}

func (c *credentials) setters() (set []stun.Setter, key stun.MessageIntegrity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []stun.Setter{
		stun.NewUsername(c.username), stun.NewRealm(c.realm), stun.NewNonce(c.nonce), c.key, stun.Fingerprint,
	}, c.key
}

func lifetime(seconds uint32) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrLifetime, Value: binary.BigEndian.AppendUint32(nil, seconds)}
}

// setter writes REQUESTED-ADDRESS-FAMILY where it says more than its absence.
func (f Family) setter() []stun.Setter {
	if f == IPv4 {
		return nil
	}
	return []stun.Setter{stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{byte(f), 0, 0, 0}}}
}

func transportUDP() stun.Setter {
	return stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}
}

type peerSetter netip.AddrPort

// AddTo writes XOR-PEER-ADDRESS.
func (p peerSetter) AddTo(m *stun.Message) error {
	ap := netip.AddrPort(p)
	x := stun.XORMappedAddress{IP: ap.Addr().AsSlice(), Port: int(ap.Port())}
	return x.AddToAs(m, stun.AttrXORPeerAddress)
}

// handshake allocates: in one exchange if the ticket brought a nonce that is
// still good, in two otherwise. Then it starts the keeper.
func (a *Allocation) handshake(ctx context.Context, extra ...stun.Setter) error {
	if !a.creds.known() {
		if err := a.challenge(ctx); err != nil {
			return err
		}
	}
	set := append(extra, a.opts.Family.setter()...)
	set = append(set, transportUDP(), lifetime(defaultLifetime))
	reply, err := a.request(ctx, typeAllocate, set...)
	if err != nil {
		return err
	}
	relayed, ok := reply.address(attrRelayed)
	if !ok {
		return fmt.Errorf("%w: reply without relayed address", errMalformed)
	}
	if got := familyOf(relayed.Addr()); got != a.opts.Family {
		a.refresh(ctx, 0)
		return fmt.Errorf("%w: it gave %v", ErrFamily, got)
	}
	a.relayed = relayed
	a.mapped, _ = reply.address(attrMapped)
	a.open.Store(true)
	a.wg.Add(1)
	go a.keeper()
	return nil
}

// challenge sends an unsigned Allocate to learn realm and nonce.
func (a *Allocation) challenge(ctx context.Context) error {
	msg, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest),
		transportUDP(), stun.NewSoftware(strings.Repeat(" ", padTo-stunHeader-8-4-8)), stun.Fingerprint)
	if err != nil {
		return fmt.Errorf("build allocate request: %w", err)
	}
	reply, err := a.exchange(ctx, msg)
	if err != nil {
		return err
	}
	if reply.errorCode() != 401 {
		return challengeError(reply)
	}
	a.creds.learn(reply)
	return nil
}

// challengeError is for a relay that does not ask who we are.
func challengeError(m message) error {
	if m.errorCode() == 0 {
		return fmt.Errorf("%w: it asks for none", ErrRefused)
	}
	return replyError(m)
}

func (a *Allocation) refresh(ctx context.Context, seconds uint32) (message, error) {
	return a.request(ctx, typeRefresh, lifetime(seconds))
}

// request performs one signed request, again when the nonce was stale.
func (a *Allocation) request(ctx context.Context, method uint16, set ...stun.Setter) (message, error) {
	for range staleAttempts {
		reply, err := a.signed(ctx, method, set)
		if !errors.Is(err, errStale) {
			return reply, err
		}
	}
	return message{}, fmt.Errorf("%w: relay keeps changing its nonce", ErrLost)
}

func (a *Allocation) signed(ctx context.Context, method uint16, set []stun.Setter) (message, error) {
	seal, key := a.creds.setters()
	all := []stun.Setter{stun.TransactionID, stun.NewType(stun.Method(method), stun.ClassRequest)}
	all = append(append(all, set...), seal...)
	msg, err := stun.Build(all...)
	if err != nil {
		return message{}, fmt.Errorf("build relay request: %w", err)
	}
	reply, err := a.exchange(ctx, msg)
	if err != nil {
		return message{}, err
	}
	if reply.kind == method|classSuccess {
		return reply, verify(reply, key)
	}
	if code := reply.errorCode(); (code == 438 || code == 401) && a.creds.learn(reply) {
		return message{}, errStale
	}
	return message{}, replyError(reply)
}

// verify checks that a success comes from somebody who knows the password.
func verify(m message, key stun.MessageIntegrity) error {
	d := stun.Message{Raw: m.raw}
	if err := d.Decode(); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	if err := key.Check(&d); err != nil {
		return fmt.Errorf("verify reply of relay: %w", err)
	}
	return nil
}

// replyError says what an error response means (RFC 8656 §19). pion sends
// some without a code.
func replyError(m message) error {
	code := m.errorCode()
	switch code {
	case 486, 508, 300:
		return fmt.Errorf("%w (%d)", ErrFull, code)
	case 440:
		return fmt.Errorf("%w (%d)", ErrFamily, code)
	case 437:
		return fmt.Errorf("%w (%d)", ErrLost, code)
	case 403, 443, 0:
		return fmt.Errorf("%w (%d)", ErrPeerRefused, code)
	}
	return fmt.Errorf("%w (%d)", ErrRefused, code)
}

// exchange sends a request until its response arrives, ctx ends, or the
// allocation does.
func (a *Allocation) exchange(ctx context.Context, msg *stun.Message) (message, error) {
	answer, err := a.expect(msg.TransactionID)
	if err != nil {
		return message{}, err
	}
	defer a.forgetTransaction(msg.TransactionID)
	a.countRoundTrip()
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	rto := firstRTO
	if a.conn.reliable() {
		rto = requestTime
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var sendErr error
	for {
		select {
		case m := <-answer:
			return m, nil
		case <-a.ctx.Done():
			return message{}, context.Cause(a.ctx)
		case <-ctx.Done():
			return message{}, errors.Join(fmt.Errorf("%w: no answer: %w", ErrLost, ctx.Err()), sendErr)
		case <-timer.C:
			if sendErr = a.conn.write(msg.Raw); sendErr != nil && a.conn.reliable() {
				return message{}, fmt.Errorf("%w: %w", ErrLost, sendErr)
			}
			timer.Reset(rto)
			rto = min(2*rto, maxRTO)
		}
	}
}

func (a *Allocation) countRoundTrip() {
	if !a.open.Load() {
		a.roundTrips++
	}
}

func (a *Allocation) expect(id [12]byte) (chan message, error) {
	a.txMu.Lock()
	defer a.txMu.Unlock()
	if len(a.pending) >= maxPending {
		return nil, fmt.Errorf("relay transactions: %w", ErrTooMany)
	}
	answer := make(chan message, 1)
	a.pending[id] = answer
	return answer, nil
}

func (a *Allocation) forgetTransaction(id [12]byte) {
	a.txMu.Lock()
	defer a.txMu.Unlock()
	delete(a.pending, id)
}

// settle hands a response to who waits for it; others are dropped.
func (a *Allocation) settle(m message) {
	id := [12]byte(m.raw[8:stunHeader])
	a.txMu.Lock()
	answer := a.pending[id]
	delete(a.pending, id)
	a.txMu.Unlock()
	if answer != nil {
		answer <- message{kind: m.kind, raw: append([]byte(nil), m.raw...)}
	}
}
