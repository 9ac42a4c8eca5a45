package record

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"porchlight/agent/identity"
)

const (
	// MaxPresigned is for how many periods a list can be signed in advance.
	MaxPresigned = 400
	// MaxPresignedSize is the size of the largest Presigned in bytes.
	MaxPresignedSize = presignedHeader + MaxPresigned*signatureSize

	presignedHeader = 19
	signatureSize   = 64
)

// Errors of Presigned.
var (
	ErrPresigned = errors.New("not a set of signatures made in advance")
	ErrPeriod    = errors.New("nothing was signed for this period; start the device that holds the owner's key")
)

// Presigned are the signatures of one body for successive periods. With it and
// the body any device can put the item of an owner whose key it does not hold.
type Presigned struct {
	first      uint64
	seq        int64
	signatures [][signatureSize]byte
}

// Presign signs a body as the item of an address for n periods (1 to
// MaxPresigned), with the version of the body as seq. The signer must hold the
// address's key. Errors: ErrPresigned, ErrForged and those of Seal.
func Presign(signer Signer, a identity.Address, body []byte, version, first uint64, n int) (Presigned, error) {
	if n < 1 || n > MaxPresigned || first > maxPeriod-MaxPresigned || version > MaxSeq {
		return Presigned{}, fmt.Errorf("%w: version %d for %d periods from %d; 1 to %d are possible",
			ErrPresigned, version, n, first, MaxPresigned)
	}
	p := Presigned{first: first, seq: int64(version)}
	for i := range uint64(n) {
		item, err := Seal(signer, a, first+i, p.seq, body)
		if err == nil && i == 0 && !item.Verify() {
			err = fmt.Errorf("sign for %s in advance: %w: the key is another's", a.Short(), ErrForged)
		}
		if err != nil {
			return Presigned{}, err
		}
		p.signatures = append(p.signatures, item.Signature)
	}
	return p, nil
}

// OwnerKey makes an owner's private key a Signer. It never shows the key.
type OwnerKey struct{ Private ed25519.PrivateKey }

// SignBlinded implements Signer for the address of kind owner.
func (k OwnerKey) SignBlinded(context string, period uint64, message []byte) [64]byte {
	return identity.SignBlindedWith(k.Private, identity.KindOwner, context, period, message)
}

// String never shows the key.
func (k OwnerKey) String() string { return "owner's key [redacted]" }

// GoString never shows the key either.
func (k OwnerKey) GoString() string { return k.String() }

// maxPeriod is beyond the year 10,000.
const maxPeriod = 3_000_000

// IsZero reports whether p holds nothing.
func (p Presigned) IsZero() bool { return len(p.signatures) == 0 }

// Version is the version of the body that was signed.
func (p Presigned) Version() uint64 { return uint64(p.seq) }

// Periods returns the first period that is signed and the first one after it
// that is not.
func (p Presigned) Periods() (first, end uint64) { return p.first, p.first + uint64(len(p.signatures)) }

// Item returns the item of the address in a period, if the period is covered
// and the body is the one that was signed. Errors: ErrPeriod, ErrForged and
// those of Seal.
func (p Presigned) Item(a identity.Address, body []byte, period uint64) (Item, error) {
	if first, end := p.Periods(); period < first || period >= end {
		return Item{}, fmt.Errorf("%w: period %d is not among %d to %d", ErrPeriod, period, first, end)
	}
	item, err := wrap(a, period, p.seq, body)
	if err != nil {
		return Item{}, fmt.Errorf("item of %s: %w", a.Short(), err)
	}
	item.Signature = p.signatures[period-p.first]
	if !item.Verify() {
		return Item{}, fmt.Errorf("item of %s: %w: another body or another address was signed", a.Short(), ErrForged)
	}
	return item, nil
}

// Bytes returns p in the form that ParsePresigned reads.
func (p Presigned) Bytes() []byte {
	b := make([]byte, 0, presignedHeader+len(p.signatures)*signatureSize)
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, p.first)
	b = binary.BigEndian.AppendUint64(b, uint64(p.seq))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.signatures)))
	for i := range p.signatures {
		b = append(b, p.signatures[i][:]...)
	}
	return b
}

// ParsePresigned reads what Bytes wrote, at most MaxPresignedSize bytes. It
// cannot tell whether the signatures are good: Item does. The error is
// ErrPresigned.
func ParsePresigned(b []byte) (Presigned, error) {
	if len(b) > MaxPresignedSize {
		return Presigned{}, fmt.Errorf("%w: %d bytes of at most %d", ErrPresigned, len(b), MaxPresignedSize)
	}
	if len(b) < presignedHeader {
		return Presigned{}, fmt.Errorf("%w: it is cut short", ErrPresigned)
	}
	if b[0] != version {
		return Presigned{}, fmt.Errorf("%w: version %d instead of %d", ErrPresigned, b[0], version)
	}
	first, seq := binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
	n, rest := int(binary.BigEndian.Uint16(b[17:])), b[presignedHeader:]
	if n < 1 || n > MaxPresigned || len(rest) != n*signatureSize || first > maxPeriod-MaxPresigned || seq > MaxSeq {
		return Presigned{}, fmt.Errorf("%w: %d signatures in %d bytes", ErrPresigned, n, len(b))
	}
	p := Presigned{first: first, seq: int64(seq), signatures: make([][signatureSize]byte, n)}
	for i := range p.signatures {
		copy(p.signatures[i][:], rest[i*signatureSize:])
	}
	return p, nil
}
