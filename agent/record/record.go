package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"porchlight/agent/identity"
)

const (
	// MaxAt and MaxVia are how many addresses and rendezvous a record names.
	MaxAt  = identity.MaxHints
	MaxVia = identity.MaxHints
	// MaxRecord is the size of the largest record in bytes, extensions
	// included: it fits the small size of an item.
	MaxRecord = MaxSmallBody

	version   = 1
	fixedSize = 21
)

// Errors of Encode and Decode.
var (
	ErrRecord  = errors.New("not a record")
	ErrVersion = errors.New("a record of another version; the other device runs a newer program")
)

// Flags say what a device offers. Unknown flags are kept as they are.
type Flags uint16

// The flags.
const (
	// Reachable says that strangers were shown to get in at an address in At.
	Reachable Flags = 1 << iota
	// Introduces says that the device introduces others.
	Introduces
	// Relays says that it forwards packets for others.
	Relays
)

// NAT is the kind of router in front of a device, as far as it decides how to
// reach it. Unknown numbers stand for NATUnknown.
type NAT byte

// The kinds of NAT.
const (
	NATUnknown NAT = 0
	NATNone    NAT = 1 // no translation
	NATEasy    NAT = 2 // endpoint-independent mapping: a punch gets in
	NATHard    NAT = 3 // another port for each destination
	NATNoUDP   NAT = 4 // no UDP gets out
)

func (n NAT) String() string {
	switch n {
	case NATNone:
		return "none"
	case NATEasy:
		return "easy"
	case NATHard:
		return "hard"
	case NATNoUDP:
		return "no-udp"
	}
	return "unknown"
}

// Record is what a device says about where it can be reached.
type Record struct {
	// Seq tells newer from older: the device's own count, at most MaxSeq.
	Seq int64
	// At lists where strangers get in, best first: global addresses.
	At []netip.AddrPort
	// Via lists the rendezvous that introduce the device, best first.
	Via   []identity.Via
	Flags Flags
	NAT   NAT
	// Owner is whose device it says it is, the zero Address if nobody's, and
	// Roster the version of the owner's list of devices that it has. The list
	// itself tells whether the owner agrees.
	Owner  identity.Address
	Roster uint64
}

// Encode returns the record's bytes, at most MaxRecord, or ErrRecord if it says
// what no record may say.
func (r Record) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, MaxRecord)
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Seq))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Flags))
	b = append(b, byte(r.NAT))
	b = binary.BigEndian.AppendUint64(b, r.Roster)
	if r.Owner.IsZero() {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = append(b, r.Owner.Key()...)
	}
	b = append(b, byte(len(r.At)))
	for _, at := range r.At {
		b = appendAddrPort(b, at)
	}
	b = append(b, byte(len(r.Via)))
	for _, v := range r.Via {
		b = append(b, v.Address.Key()...)
		b = appendAddrPort(b, v.At)
	}
	return b, nil
}

func (r Record) check() error {
	switch {
	case r.Seq < 0 || r.Seq > MaxSeq:
		return fmt.Errorf("%w: seq %d", ErrRecord, r.Seq)
	case len(r.At) > MaxAt || len(r.Via) > MaxVia:
		return fmt.Errorf("%w: %d addresses and %d rendezvous, of at most %d and %d",
			ErrRecord, len(r.At), len(r.Via), MaxAt, MaxVia)
	case r.Owner.IsZero() && r.Roster != 0:
		return fmt.Errorf("%w: a list of devices without an owner", ErrRecord)
	case !r.Owner.IsZero() && r.Owner.Kind() != identity.KindOwner:
		return fmt.Errorf("%w: its owner is a %v", ErrRecord, r.Owner.Kind())
	}
	for _, at := range r.At {
		if !reachable(at) {
			return fmt.Errorf("%w: nobody can be reached at %v", ErrRecord, at)
		}
	}
	for _, v := range r.Via {
		if v.Address.Kind() != identity.KindDevice || !reachable(v.At) {
			return fmt.Errorf("%w: no rendezvous can be %v at %v", ErrRecord, v.Address.Short(), v.At)
		}
	}
	return nil
}

// reachable refuses what the hints of a link refuse. IPv4 has one form only.
func reachable(at netip.AddrPort) bool {
	ip := at.Addr()
	return at.IsValid() && at.Port() != 0 && ip.Zone() == "" && !ip.Is4In6() &&
		!ip.IsMulticast() && !ip.IsUnspecified()
}

func appendAddrPort(b []byte, at netip.AddrPort) []byte {
	family := byte(6)
	if at.Addr().Is4() {
		family = 4
	}
	b = append(append(b, family), at.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, at.Port())
}

// Decode reads what Encode wrote. Extensions are passed over. Errors:
// ErrVersion, ErrRecord.
func Decode(b []byte) (Record, error) {
	if len(b) > MaxRecord {
		return Record{}, fmt.Errorf("%w: %d bytes of at most %d", ErrRecord, len(b), MaxRecord)
	}
	if len(b) > 0 && b[0] != version {
		return Record{}, fmt.Errorf("%w (%d instead of %d)", ErrVersion, b[0], version)
	}
	p := parser{rest: b}
	r := p.record()
	p.extensions()
	if p.short {
		return Record{}, fmt.Errorf("%w: it is cut short", ErrRecord)
	}
	if p.wrong != "" {
		return Record{}, fmt.Errorf("%w: %s", ErrRecord, p.wrong)
	}
	return r, r.check()
}

// parser takes bytes off the front. After the first thing that is not as it
// should be it gives zeros only.
type parser struct {
	rest  []byte
	short bool
	wrong string
}

func (p *parser) take(n int) []byte {
	if p.short || p.wrong != "" || n > len(p.rest) {
		p.short = p.short || p.wrong == ""
		p.rest = nil
		return make([]byte, n)
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) refuse(why string) {
	if !p.short && p.wrong == "" {
		p.wrong = why
	}
	p.rest = nil
}

func (p *parser) record() Record {
	b := p.take(fixedSize)
	r := Record{
		Flags:  Flags(binary.BigEndian.Uint16(b[9:])),
		NAT:    NAT(b[11]),
		Roster: binary.BigEndian.Uint64(b[12:]),
	}
	seq := binary.BigEndian.Uint64(b[1:])
	if seq > MaxSeq {
		p.refuse("its seq is out of range")
		return r
	}
	r.Seq = int64(seq)
	switch b[20] {
	case 0:
	case 1:
		r.Owner = identity.NewAddress(p.take(32), identity.KindOwner)
	default:
		p.refuse("byte 20 is neither 0 nor 1")
	}
	for range p.count(MaxAt) {
		r.At = append(r.At, p.addrPort())
	}
	for range p.count(MaxVia) {
		a := identity.NewAddress(p.take(32), identity.KindDevice)
		r.Via = append(r.Via, identity.Via{Address: a, At: p.addrPort()})
	}
	return r
}

func (p *parser) count(limit int) int {
	n := int(p.take(1)[0])
	if n > limit {
		p.refuse(fmt.Sprintf("a list of %d where at most %d are allowed", n, limit))
		return 0
	}
	return n
}

func (p *parser) addrPort() netip.AddrPort {
	var ip netip.Addr
	switch family := p.take(1)[0]; family {
	case 4:
		ip = netip.AddrFrom4([4]byte(p.take(4)))
	case 6:
		ip = netip.AddrFrom16([16]byte(p.take(16)))
	default:
		p.refuse(fmt.Sprintf("an address of family %d", family))
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(p.take(2)))
}

// extensions passes over what newer programs say.
func (p *parser) extensions() {
	for len(p.rest) > 0 {
		header := p.take(2)
		p.take(int(header[1]))
	}
}
