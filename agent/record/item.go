package record

import (
	"crypto/ed25519"
	"strconv"
)

const (
	// MaxValue is the size of the largest value of an item in bytes, without
	// its bencoded length: BEP 44 allows 1000 with it.
	MaxValue = 996
	// MaxSalt is the size of the largest salt in bytes (BEP 44).
	MaxSalt = 64
)

// Item is a mutable item of BEP 44 whose value is a byte string.
type Item struct {
	// Key is the public key that the item lies under, together with Salt.
	Key  [32]byte
	Salt []byte
	// Seq tells newer from older; the higher one is newer.
	Seq int64
	// Value is the byte string, without its bencoded length.
	Value     []byte
	Signature [64]byte
}

// SignedBytes returns what the signature of a mutable item covers (BEP 44,
// "Signature Verification"): the bencoded pairs of salt, seq and value, the salt
// only where there is one.
func SignedBytes(salt []byte, seq int64, value []byte) []byte {
	b := make([]byte, 0, len(salt)+len(value)+64)
	if len(salt) > 0 {
		b = append(b, "4:salt"...)
		b = appendString(b, salt)
	}
	b = append(b, "3:seqi"...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, "e1:v"...)
	return appendString(b, value)
}

func appendString(b, s []byte) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

// Verify reports whether the item keeps the limits and is signed by its key.
func (i Item) Verify() bool {
	return len(i.Salt) <= MaxSalt && len(i.Value) <= MaxValue && i.Seq >= 0 &&
		ed25519.Verify(i.Key[:], SignedBytes(i.Salt, i.Seq, i.Value), i.Signature[:])
}
