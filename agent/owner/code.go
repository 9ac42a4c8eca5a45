package owner

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/argon2"

	"porchlight/agent/identity"
)

const (
	// CodeLength is the length of a code in characters, without hyphens.
	CodeLength = 13
	// maxTyped is the length of the longest text that is read as a code.
	maxTyped = 4 * CodeLength

	codeAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

	// The cost of turning a code into keys: a 64 MiB router has the memory.
	codeMemory = 8 << 10 // KiB
	codePasses = 3
)

// ErrTyped is wrapped by every error of ParseCode.
var ErrTyped = errors.New("not a code")

// Code is the secret that brings one device under an owner. Its String never
// shows it; Text does.
type Code struct{ *code }

// code is shared by the copies of a Code, so that its keys are derived once.
type code struct {
	text   string
	derive sync.Once
	root   []byte
}

// NewCode returns a random code.
func NewCode() Code {
	b := make([]byte, CodeLength)
	rand.Read(b)
	for i := range b {
		b[i] = codeAlphabet[b[i]%32]
	}
	b[CodeLength-1] = checkCharacter(b[:CodeLength-1])
	return Code{&code{text: string(b)}}
}

// ParseCode reads what a person types: in any case, with or without hyphens
// and spaces.
func ParseCode(s string) (Code, error) {
	if len(s) > maxTyped {
		return Code{}, fmt.Errorf("%w: far too long; one has %d characters", ErrTyped, CodeLength)
	}
	text := strings.ToLower(strings.NewReplacer(" ", "", "-", "", "\t", "", "\r", "", "\n", "").Replace(s))
	for i, r := range text {
		if !strings.ContainsRune(codeAlphabet, r) {
			return Code{}, fmt.Errorf("%w: character %d (%q) cannot be in one; only a–z and 2–7 are", ErrTyped, i+1, r)
		}
	}
	if len(text) != CodeLength {
		return Code{}, fmt.Errorf("%w: it has %d characters instead of %d", ErrTyped, len(text), CodeLength)
	}
	if checkCharacter([]byte(text[:CodeLength-1])) != text[CodeLength-1] {
		return Code{}, fmt.Errorf("%w: a character is wrong, or two are swapped; compare it with the original", ErrTyped)
	}
	return Code{&code{text: text}}, nil
}

// checkCharacter makes the polynomial of all characters, over GF(32) with
// x⁵+x²+1, have the root x: any one wrong character, and any two that are
// swapped, give another value.
func checkCharacter(text []byte) byte {
	sum := 0
	for _, c := range text {
		sum = double(sum) ^ strings.IndexByte(codeAlphabet, c)
	}
	return codeAlphabet[double(sum)]
}

// double multiplies by x in GF(32).
func double(v int) int {
	if v <<= 1; v >= 32 {
		v ^= 0b100101
	}
	return v
}

// Text returns the code as people read it: "abcd-efgh-ijklm".
func (c Code) Text() string {
	return c.text[:4] + "-" + c.text[4:8] + "-" + c.text[8:]
}

// String never shows the code.
func (c Code) String() string { return "code [redacted]" }

// GoString never shows the code either.
func (c Code) GoString() string { return c.String() }

// Meeting is the key pair under which the inviter says where it can be found.
// The first call takes up to some seconds on a small router.
func (c Code) Meeting() *identity.Device {
	seed := c.key("meeting")
	return identity.FromSeed(seed[:])
}

// Tag is what tells the inviter in the local network. The first call takes as
// long as that of Meeting.
func (c Code) Tag() [8]byte {
	k := c.key("tag")
	return [8]byte(k[:8])
}

// key returns a secret of the code for one purpose.
func (c Code) key(purpose string) [sha256.Size]byte {
	c.derive.Do(func() {
		// No salt: the code is random, and both sides must know it by the code alone.
		c.root = argon2.IDKey([]byte(c.text), []byte("porchlight invitation 1"), codePasses, codeMemory, 1, 32)
	})
	return [sha256.Size]byte(macOf(c.root, purpose))
}

// prove returns what shows to the one device that the other knows the code.
func (c Code) prove(purpose string, from, to identity.Address, body []byte) []byte {
	key := c.key("mac")
	return macOf(key[:], purpose, from.Key(), to.Key(), body)
}

// macOf is HMAC-SHA-256 (RFC 2104) over the parts, each after its length.
func macOf(key []byte, purpose string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range append([][]byte{[]byte(purpose)}, parts...) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}
