package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
)

// Key blinding makes one key into a different one for each period, as Tor's
// onion services do (rend-spec-v3, appendix "Key derivation for blinded
// keys"; draft-irtf-cfrg-signature-key-blinding is the same for any Ed25519
// key). With A = a·B the address's key,
//
//	h  = SHA-512("porchlight blind 1" ‖ context ‖ A ‖ kind ‖ period) mod L
//	A' = h·(8·A)        who knows the address computes it
//	a' = 8·h·a mod L    who holds the key computes it; a'·B = A'
//
// Kind is one byte and period eight, high byte first; what follows the context
// has a fixed length, so two contexts can never be read as one.
//
// The cofactor. Tor clamps h so that it is a multiple of 8; reduced modulo L,
// as scalars are here, it would be one no more. The 8 therefore multiplies the
// point, where it removes any part of small order before h is applied: A' lies
// in the group of prime order whatever the address holds. An address whose
// key is such a part alone has no blinded key (the product is the neutral
// element); one that adds such a part to an honest key gets another h, and no
// more than a blinded key of its own. Encodings that are not canonical are
// refused, so that a point has one address.
//
// Why periods cannot be linked. A generates the group of prime order, and h is
// the hash of something that holds all of A: to somebody who does not know A,
// the A' of each period is a uniformly random point, independent of the others
// (in the random-oracle model). Signatures say no more: each verifies under its
// own A', which is hashed into it, and its nonce comes from a secret of that A'
// alone. Somebody who knows A computes A' of every period, and sees them all.
//
// a' is as secret as a: with it and A, a can be computed.
const (
	blindLabel  = "porchlight blind 1"
	prefixLabel = "porchlight blind prefix 1"
)

// ErrNoPoint says that an address holds no key that can be blinded.
var ErrNoPoint = errors.New("the address holds no usable point of the curve")

// Blinded returns the public key that stands for the address in one context
// and period. It is an ordinary Ed25519 key. The error is ErrNoPoint.
func (a Address) Blinded(context string, period uint64) ([32]byte, error) {
	point, err := new(edwards25519.Point).SetBytes(a.key[:])
	if err != nil || !bytes.Equal(point.Bytes(), a.key[:]) {
		return [32]byte{}, fmt.Errorf("blind %s: %w", a.Short(), ErrNoPoint)
	}
	point.MultByCofactor(point)
	point.ScalarMult(a.blind(context, period), point)
	if point.Equal(edwards25519.NewIdentityPoint()) == 1 {
		return [32]byte{}, fmt.Errorf("blind %s: %w", a.Short(), ErrNoPoint)
	}
	return [32]byte(point.Bytes()), nil
}

// blind returns h.
func (a Address) blind(context string, period uint64) *edwards25519.Scalar {
	h := sha512.New()
	h.Write([]byte(blindLabel))
	h.Write([]byte(context))
	h.Write(a.key[:])
	h.Write(binary.BigEndian.AppendUint64([]byte{byte(a.kind)}, period))
	return uniform(h.Sum(nil))
}

// SignBlinded signs a message so that it verifies under the device's blinded
// key of the context and period (Ed25519, RFC 8032 §5.1.6). The same message
// always gets the same signature.
func (d *Device) SignBlinded(context string, period uint64, message []byte) [64]byte {
	return signBlinded(d.private, d.address, context, period, message)
}

// SignBlindedWith does what [Device.SignBlinded] does for any private key and
// the kind of address that its public key stands for.
func SignBlindedWith(private ed25519.PrivateKey, kind Kind, context string, period uint64, message []byte) [64]byte {
	a := NewAddress(private.Public().(ed25519.PublicKey), kind)
	return signBlinded(private, a, context, period, message)
}

func signBlinded(private ed25519.PrivateKey, a Address, context string, period uint64, message []byte) [64]byte {
	secret := sha512.Sum512(private.Seed())
	scalar := multiply(clamped(secret[:32]), multiply(eight(), a.blind(context, period)))
	key := new(edwards25519.Point).ScalarBaseMult(scalar).Bytes()

	// The prefix of RFC 8032, one for each blinded key: equal messages of two
	// periods then have unlike nonces, and so nothing in common.
	prefix := hash([]byte(prefixLabel), secret[32:], key)
	nonce := uniform(hash(prefix, message))
	r := new(edwards25519.Point).ScalarBaseMult(nonce).Bytes()
	k := uniform(hash(r, key, message))
	s := edwards25519.NewScalar().MultiplyAdd(k, scalar, nonce)
	return [64]byte(append(r, s.Bytes()...))
}

func hash(parts ...[]byte) []byte {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// uniform reduces 64 bytes modulo L; it fails for other lengths only.
func uniform(b []byte) *edwards25519.Scalar {
	s, err := edwards25519.NewScalar().SetUniformBytes(b)
	if err != nil {
		panic("identity: a hash of another length: " + err.Error())
	}
	return s
}

// clamped is the private scalar of RFC 8032 §5.1.5 from 32 bytes.
func clamped(b []byte) *edwards25519.Scalar {
	s, err := edwards25519.NewScalar().SetBytesWithClamping(b)
	if err != nil {
		panic("identity: a secret of another length: " + err.Error())
	}
	return s
}

func eight() *edwards25519.Scalar {
	return uniform(append([]byte{8}, make([]byte, 63)...))
}

func multiply(x, y *edwards25519.Scalar) *edwards25519.Scalar {
	return edwards25519.NewScalar().Multiply(x, y)
}
