package stun

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v2"
)

// Errors of [Answer] and [ParseMapped].
var (
	// ErrNotRequest means that a message is no Binding request, or one that
	// is addressed to an ICE agent.
	ErrNotRequest = errors.New("not a plain stun binding request")
	// ErrNotAnswer means that a message does not answer the request at hand.
	ErrNotAnswer = errors.New("not the answer to this stun request")
)

// Request returns a Binding request of at least [MinRequest] bytes with a
// fresh id, for a transport of the caller's own. [ParseMapped] reads the
// answer. The caller sends it again if the transport loses packets.
func Request() ([]byte, TransactionID) { return newRequest() }

// Answer returns the answer to the Binding request b: how its source, from,
// is seen here, or error 420 if the request asks for what only a [Server]
// does (RFC 5780). Send it where b came from and nowhere else, and over UDP
// ask a rate limit first.
//
// The answer has 32 or 40 bytes over IPv4, 44 or 52 over IPv6. That is more
// than a bare header, so that whoever answers datagrams must refuse requests
// shorter than the answer; over TCP the source is proven.
//
// Errors are those of [Check] and [ErrNotRequest].
func Answer(b []byte, from netip.AddrPort) ([]byte, error) {
	if err := Check(b); err != nil {
		return nil, fmt.Errorf("answer stun request: %w", err)
	}
	_, addressed := find(b, attrUsername)
	from = canonical(from)
	if messageType(b) != bindingRequest || addressed || !usable(from) {
		return nil, ErrNotRequest
	}
	for _, typ := range []uint16{attrChangeRequest, attrPadding, attrResponsePort} {
		if _, asked := find(b, typ); asked {
			return build(refusal(b, stun.AttrType(typ)))
		}
	}
	if out := fit(b, success(b, from, stun.Fingerprint)); out != nil {
		return out, nil
	}
	return build(success(b, from))
}

// ParseMapped reads the address in the answer b to the request id. The caller
// has to know that b came from the server that was asked.
//
// Errors are those of [Check], [ErrNotAnswer], [ErrRefused], [ErrNonsense].
func ParseMapped(b []byte, id TransactionID) (netip.AddrPort, error) {
	if err := Check(b); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read stun answer: %w", err)
	}
	if !isResponse(b) || transactionID(b) != id {
		return netip.AddrPort{}, ErrNotAnswer
	}
	a, err := parseAnswer(b)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return a.mapped, a.refused
}

// builder makes one message.
type builder func() (*stun.Message, error)

func build(make builder) ([]byte, error) {
	m, err := make()
	if err != nil {
		return nil, fmt.Errorf("build stun answer: %w", err)
	}
	return m.Raw, nil
}

// success is the answer that tells the mapped address and what else is given.
func success(request []byte, mapped netip.AddrPort, extra ...stun.Setter) builder {
	return func() (*stun.Message, error) {
		set := []stun.Setter{
			stun.NewTransactionIDSetter(transactionID(request)), stun.BindingSuccess,
			&stun.XORMappedAddress{IP: mapped.Addr().AsSlice(), Port: int(mapped.Port())},
		}
		return stun.Build(append(set, extra...)...)
	}
}

// refusal is the 420 of a server that cannot do what an attribute asks.
func refusal(request []byte, unknown ...stun.AttrType) builder {
	return func() (*stun.Message, error) {
		return stun.Build(
			stun.NewTransactionIDSetter(transactionID(request)), stun.BindingError,
			&stun.ErrorCodeAttribute{Code: stun.CodeUnknownAttribute},
			stun.UnknownAttributes(unknown), stun.Fingerprint)
	}
}

// fit returns the first message that is not larger than the request.
func fit(request []byte, builds ...builder) []byte {
	for _, build := range builds {
		m, err := build()
		if err == nil && len(m.Raw) <= len(request) {
			return m.Raw
		}
	}
	return nil
}
