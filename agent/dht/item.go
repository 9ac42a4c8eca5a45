package dht

import (
	"crypto/ed25519"
	"crypto/sha1"
	"errors"
	"fmt"

	"porchlight/agent/dht/bencode"
)

// Item is a value under a key (BEP 44, mutable), signed by whoever has the
// key.
type Item struct {
	// Key is the ed25519 public key, Salt tells apart several items of one key:
	// at most MaxSalt bytes, nil for none.
	Key  [32]byte
	Salt []byte
	// Seq grows with every change; the higher wins. Not negative.
	Seq int64
	// Value is the content of the byte string that is kept, of at most 996
	// bytes: with its prefix "996:" it reaches MaxValue.
	Value []byte
	// Signature is that of SigningBytes(Salt, Seq, Value).
	Signature [64]byte
}

// SigningBytes returns what the key of an item signs: the bencoded salt, seq
// and v without the dictionary around them (BEP 44). value is the content of
// the byte string, as in [Item.Value].
func SigningBytes(salt []byte, seq int64, value []byte) []byte {
	return signingBytes(salt, seq, bencode.AppendBytes(nil, value))
}

// signingBytes is SigningBytes for a value as it is encoded.
func signingBytes(salt []byte, seq int64, v []byte) []byte {
	var b []byte
	if len(salt) > 0 {
		b = appendField(b, "salt", salt)
	}
	b = appendIntField(b, "seq", seq)
	return append(bencode.AppendString(b, "v"), v...)
}

// Target returns where the item of a key and a salt is kept.
func Target(key [32]byte, salt []byte) ID {
	h := sha1.New()
	h.Write(key[:])
	h.Write(salt)
	return ID(h.Sum(nil))
}

// ImmutableTarget returns where a value without key is kept: under its hash.
// value is the content of the byte string.
func ImmutableTarget(value []byte) ID {
	return sha1.Sum(bencode.AppendBytes(nil, value))
}

// Errors of operations. Node wraps them.
var (
	// ErrNotFound says that nodes answered and none had the item.
	ErrNotFound = errors.New("no node has the item")
	// ErrNoNodes says that nobody answered at all: there is no network, or no
	// address to begin with; add some by Add or Bootstrap.
	ErrNoNodes = errors.New("no node of the directory answered: check the connection, or add the address of one")
	// ErrNotStored says that nodes answered and none took the item.
	ErrNotStored = errors.New("no node took the item")
	// ErrBusy says that MaxLookups operations are running: try again later.
	ErrBusy = errors.New("too many look-ups at once, try again later")
	// ErrClosed says that the node was closed, or the operation given up.
	ErrClosed = errors.New("directory node is closed")
	// ErrItem says that an item can't be kept: too long, or its signature is
	// not that of its key.
	ErrItem = errors.New("not a valid item")
)

// ConflictError says that somebody published under the same key: the item
// was refused, at least by one node.
type ConflictError struct {
	// Seq is the highest seq known, -1 if a node refused without telling. Put
	// again with a higher one.
	Seq int64
	// Code is what nodes answer: 301 (cas does not match) or 302 (seq is not
	// higher).
	Code int
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the directory has a newer item (seq %d, code %d): publish again with a higher seq", e.Seq, e.Code)
}

// check says whether the item is one that nodes may keep.
func (it *Item) check() error {
	v := bencode.AppendBytes(nil, it.Value)
	switch {
	case len(v) > MaxValue:
		return fmt.Errorf("%w: value of %d bytes, at most %d with its prefix", ErrItem, len(v), MaxValue)
	case len(it.Salt) > MaxSalt:
		return fmt.Errorf("%w: salt of %d bytes, at most %d", ErrItem, len(it.Salt), MaxSalt)
	case it.Seq < 0:
		return fmt.Errorf("%w: negative seq", ErrItem)
	case !ed25519.Verify(it.Key[:], signingBytes(it.Salt, it.Seq, v), it.Signature[:]):
		return fmt.Errorf("%w: wrong signature", ErrItem)
	}
	return nil
}
