package dht

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"time"
)

// tokenSize is the length of our tokens in bytes.
const tokenSize = 8

// tokens gives out write tokens: proofs that an address gets what is sent to
// it (BEP 5).
type tokens struct {
	secret   [2][16]byte // now, before
	rotated  time.Duration
	prepared bool
}

// rotate changes the secret when it is old.
func (t *tokens) rotate(now time.Duration, random func() uint64) {
	age := now - t.rotated
	if t.prepared && age < tokenLife {
		return
	}
	t.secret[1] = t.secret[0]
	t.secret[0] = randomSecret(random)
	if !t.prepared || age >= 2*tokenLife {
		t.secret[1] = randomSecret(random)
	}
	t.prepared, t.rotated = true, now
}

func randomSecret(random func() uint64) (s [16]byte) {
	binary.BigEndian.PutUint64(s[:8], random())
	binary.BigEndian.PutUint64(s[8:], random())
	return s
}

func mint(secret [16]byte, ip netip.Addr) []byte {
	a := ip.As16()
	sum := sha1.Sum(append(secret[:], a[:]...))
	return sum[:tokenSize]
}

// give returns the token of an address, which rotate has made ready.
func (t *tokens) give(ip netip.Addr) []byte { return mint(t.secret[0], ip) }

// good says whether a token was given to ip with this secret or the one
// before.
func (t *tokens) good(token []byte, ip netip.Addr) bool {
	for _, s := range t.secret {
		if subtle.ConstantTimeCompare(token, mint(s, ip)) == 1 {
			return true
		}
	}
	return false
}
