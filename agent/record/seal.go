package record

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"porchlight/agent/identity"
)

const (
	// SmallValue and LargeValue are the sizes a value can have, in bytes.
	SmallValue = 512
	LargeValue = 896
	// MaxSmallBody and MaxBody are the sizes of the largest bodies that fit.
	MaxSmallBody = SmallValue - overhead
	MaxBody      = LargeValue - overhead
	// MaxSeq is the highest seq.
	MaxSeq = 1<<62 - 1

	overhead   = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead + lengthSize
	lengthSize = 2
	// context separates these blinded keys from those of other uses.
	context = "record"
)

// Errors of Seal and Open.
var (
	ErrTooLarge = errors.New("the body is too large for an item")
	ErrSeq      = errors.New("the seq is out of range")
	ErrForeign  = errors.New("the item belongs to another address or period")
	ErrForged   = errors.New("the item is not signed by its key")
	ErrDamaged  = errors.New("the item's value cannot be opened")
)

// Signer signs with the blinded keys of one address: an *identity.Device, or
// an owner's key.
type Signer interface {
	SignBlinded(context string, period uint64, message []byte) [64]byte
}

// Seal wraps a body (at most MaxBody bytes) for the item of an address in a
// period. The signer must hold the address's key. The same arguments give the
// same item. Errors: ErrTooLarge, ErrSeq, identity.ErrNoPoint.
func Seal(signer Signer, a identity.Address, period uint64, seq int64, body []byte) (Item, error) {
	item, err := wrap(a, period, seq, body)
	if err != nil {
		return Item{}, fmt.Errorf("seal a record of %s: %w", a.Short(), err)
	}
	item.Signature = signer.SignBlinded(context, period, SignedBytes(nil, item.Seq, item.Value))
	return item, nil
}

// wrap makes an item without signature.
func wrap(a identity.Address, period uint64, seq int64, body []byte) (Item, error) {
	if len(body) > MaxBody {
		return Item{}, fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, len(body), MaxBody)
	}
	if seq < 0 || seq > MaxSeq {
		return Item{}, fmt.Errorf("%w: %d", ErrSeq, seq)
	}
	key, err := a.Blinded(context, period)
	if err != nil {
		return Item{}, err
	}
	size := SmallValue
	if len(body) > MaxSmallBody {
		size = LargeValue
	}
	item := Item{Key: key, Seq: WireSeq(a, period, seq)}
	item.Value = encrypt(secretsOf(a, period), item, pad(body, size))
	return item, nil
}

func pad(body []byte, size int) []byte {
	plain := make([]byte, size-overhead+lengthSize)
	binary.BigEndian.PutUint16(plain, uint16(len(body)))
	copy(plain[lengthSize:], body)
	return plain
}

// Key returns the key under which the item of an address lies in a period; its
// salt is empty.
func Key(a identity.Address, period uint64) ([32]byte, error) { return a.Blinded(context, period) }

// Open verifies an item that was found under the key of an address in a period
// and returns its body and seq. Errors: ErrForeign, ErrForged, ErrDamaged,
// identity.ErrNoPoint.
func Open(a identity.Address, period uint64, item Item) (body []byte, seq int64, err error) {
	key, err := Key(a, period)
	if err != nil {
		return nil, 0, err
	}
	if item.Key != key || len(item.Salt) > 0 {
		return nil, 0, ErrForeign
	}
	if !item.Verify() {
		return nil, 0, ErrForged
	}
	if len(item.Value) != SmallValue && len(item.Value) != LargeValue {
		return nil, 0, fmt.Errorf("%w: a size of %d bytes", ErrDamaged, len(item.Value))
	}
	seq = item.Seq - mask(a, period)
	if seq < 0 || seq > MaxSeq {
		return nil, 0, ErrSeq
	}
	body, err = decrypt(secretsOf(a, period), item)
	return body, seq, err
}

// secrets are what address and period give: an AEAD, and a key for nonces.
type secrets struct {
	box   cipher.AEAD
	nonce []byte
}

func secretsOf(a identity.Address, period uint64) secrets {
	d := digest("porchlight record key 1", a, period)
	box, err := chacha20poly1305.NewX(d[:chacha20poly1305.KeySize])
	if err != nil {
		panic("record: a key of another length: " + err.Error())
	}
	return secrets{box: box, nonce: d[chacha20poly1305.KeySize:]}
}

// nonceFor is the synthetic nonce: a function of all that is encrypted, which
// nobody can compute or foresee without the address.
func (s secrets) nonceFor(item Item, plain []byte) []byte {
	h := hmac.New(sha512.New, s.nonce)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(item.Seq)))
	h.Write(plain)
	return h.Sum(nil)[:chacha20poly1305.NonceSizeX]
}

// bound is what the ciphertext belongs to.
func bound(item Item) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(item.Key[:]), uint64(item.Seq))
}

func encrypt(s secrets, item Item, plain []byte) []byte {
	nonce := s.nonceFor(item, plain)
	return s.box.Seal(nonce, nonce, plain, bound(item))
}

func decrypt(s secrets, item Item) ([]byte, error) {
	nonce, sealed := item.Value[:chacha20poly1305.NonceSizeX], item.Value[chacha20poly1305.NonceSizeX:]
	plain, err := s.box.Open(nil, nonce, sealed, bound(item))
	if err != nil {
		return nil, ErrDamaged
	}
	size := int(binary.BigEndian.Uint16(plain))
	if size > len(plain)-lengthSize {
		return nil, fmt.Errorf("%w: it claims %d bytes", ErrDamaged, size)
	}
	body, rest := plain[lengthSize:lengthSize+size], plain[lengthSize+size:]
	if len(bytes.TrimLeft(rest, "\x00")) > 0 {
		return nil, fmt.Errorf("%w: something follows the body", ErrDamaged)
	}
	return body, nil
}
