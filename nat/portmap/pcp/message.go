package pcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// Port is where a router takes requests (RFC 6887 §19.1, RFC 6886 §3.1).
	Port = 5351
	// AnnouncePort is where it sends what it says unasked.
	AnnouncePort = 5350

	// MaxMessage is the largest PCP message in bytes (RFC 6887 §7).
	MaxMessage = 1100

	version    = 2
	headerSize = 24
	mapSize    = headerSize + 36
	responded  = 0x80

	opAnnounce = 0
	opMap      = 1
)

// ErrMalformed is what every parser error wraps.
var ErrMalformed = errors.New("malformed message")

// Protocol numbers of IANA, as MAP wants them.
const (
	TCP = 6
	UDP = 17
)

// Nonce ties a mapping to the one who made it (RFC 6887 §11.1).
type Nonce [12]byte

// Result is the result code of a PCP answer (RFC 6887 §7.4).
type Result uint8

// The result codes.
const (
	Success Result = iota
	UnsupportedVersion
	NotAuthorized
	MalformedRequest
	UnsupportedOpcode
	UnsupportedOption
	MalformedOption
	NetworkFailure
	NoResources
	UnsupportedProtocol
	UserExceededQuota
	CannotProvideExternal
	AddressMismatch
	ExcessiveRemotePeers
)

var resultNames = [...]string{
	"success", "version not supported", "not authorized", "malformed request", "opcode not supported",
	"option not supported", "malformed option", "network failure", "no resources", "protocol not supported",
	"quota exceeded", "cannot provide that external port", "address mismatch", "too many remote peers",
}

// Error says the code in words.
func (r Result) Error() string {
	if int(r) < len(resultNames) {
		return "router answers: " + resultNames[r]
	}
	return fmt.Sprintf("router answers: unknown pcp result %d", uint8(r))
}

// MapRequest asks for one mapping, or with Lifetime 0 for its end.
type MapRequest struct {
	// Client is the address that the request is sent from.
	Client netip.Addr
	Nonce  Nonce
	// Protocol is [TCP] or [UDP].
	Protocol uint8
	Internal uint16
	// Suggested is what the client would like, or had; the zero port means any.
	Suggested netip.AddrPort
	Lifetime  time.Duration
}

// Append appends the message (RFC 6887 §7.1, §11.1).
func (r MapRequest) Append(b []byte) []byte {
	b = appendHeader(b, opMap, seconds(r.Lifetime), r.Client)
	b = append(b, r.Nonce[:]...)
	b = append(b, r.Protocol, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.Internal)
	b = binary.BigEndian.AppendUint16(b, r.Suggested.Port())
	return appendAddr(b, r.Suggested.Addr(), r.Client.Is4())
}

// appendAnnounce appends an ANNOUNCE request (RFC 6887 §14.1).
func appendAnnounce(b []byte, client netip.Addr) []byte {
	return appendHeader(b, opAnnounce, 0, client)
}

func appendHeader(b []byte, op byte, lifetime uint32, client netip.Addr) []byte {
	b = append(b, version, op, 0, 0)
	b = binary.BigEndian.AppendUint32(b, lifetime)
	return appendAddr(b, client, client.Is4())
}

// appendAddr appends 16 bytes; "none" is all-zeros in the family asked for
// (RFC 6887 §5).
func appendAddr(b []byte, a netip.Addr, is4 bool) []byte {
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
		if is4 {
			a = netip.IPv4Unspecified()
		}
	}
	a16 := a.As16()
	return append(b, a16[:]...)
}

func seconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Second, 0), 1<<32-1))
}

// Response is an answer to MAP or ANNOUNCE, or an unasked ANNOUNCE.
type Response struct {
	Result Result
	// Map tells MAP from ANNOUNCE.
	Map bool
	// Lifetime is granted, or with an error how long it will last.
	Lifetime time.Duration
	// Epoch is the router's clock in seconds (see [Epoch]).
	Epoch uint32

	// Whole says that the MAP fields below were present. They may be missing
	// from errors that a router of another version sends.
	Whole    bool
	Nonce    Nonce
	Protocol uint8
	Internal uint16
	External netip.AddrPort
}

// ParseResponse reads one datagram (RFC 6887 §7.2, §8.3, §11.1). It refuses
// requests, other versions, lengths that are no multiple of four or above
// [MaxMessage], and options that do not fit.
func ParseResponse(b []byte) (Response, error) {
	var r Response
	if len(b) < headerSize || len(b) > MaxMessage || len(b)%4 != 0 {
		return r, fmt.Errorf("pcp answer of %d bytes: %w", len(b), ErrMalformed)
	}
	if b[0] != version || b[1]&responded == 0 {
		return r, fmt.Errorf("pcp answer of version %d, opcode %#x: %w", b[0], b[1], ErrMalformed)
	}
	r.Result = Result(b[3])
	r.Lifetime = time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second
	r.Epoch = binary.BigEndian.Uint32(b[8:])
	switch b[1] &^ responded {
	case opAnnounce:
		return r, checkOptions(b[headerSize:])
	case opMap:
		r.Map = true
	default:
		return r, fmt.Errorf("pcp answer with opcode %#x: %w", b[1], ErrMalformed)
	}
	if len(b) < mapSize {
		if r.Result == Success {
			return r, fmt.Errorf("pcp map answer of %d bytes: %w", len(b), ErrMalformed)
		}
		return r, nil
	}
	r.readMap(b[headerSize:mapSize])
	return r, checkOptions(b[mapSize:])
}

func (r *Response) readMap(b []byte) {
	r.Whole = true
	r.Nonce = Nonce(b[:12])
	r.Protocol = b[12]
	r.Internal = binary.BigEndian.Uint16(b[16:])
	addr := netip.AddrFrom16([16]byte(b[20:36])).Unmap()
	r.External = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[18:]))
}

// checkOptions walks the options (RFC 6887 §7.3); each is padded to four bytes.
func checkOptions(b []byte) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("pcp option cut short: %w", ErrMalformed)
		}
		size := 4 + (int(binary.BigEndian.Uint16(b[2:]))+3)&^3
		if size > len(b) {
			return fmt.Errorf("pcp option of %d bytes in %d: %w", size, len(b), ErrMalformed)
		}
		b = b[size:]
	}
	return nil
}
