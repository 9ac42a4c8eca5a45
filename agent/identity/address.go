package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// Kind says what a key stands for.
type Kind byte

// The kinds of keys an address can name.
const (
	KindDevice Kind = 1
	KindOwner  Kind = 2
)

func (k Kind) String() string {
	switch k {
	case KindDevice:
		return "device"
	case KindOwner:
		return "owner"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

const (
	// AddressLength is the length of an address in characters.
	AddressLength = 56

	rawLength      = ed25519.PublicKeySize + checksumLength + 1
	checksumLength = 2
	alphabet       = "abcdefghijklmnopqrstuvwxyz234567"
)

var encoding = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

// ErrAddress is wrapped by every error of ParseAddress.
var ErrAddress = errors.New("not an address")

// Address is the public key of a device or an owner together with its kind.
// It is comparable; the zero Address names nobody.
type Address struct {
	key  [ed25519.PublicKeySize]byte
	kind Kind
}

// NewAddress returns the address of a public key (32 bytes).
func NewAddress(key ed25519.PublicKey, kind Kind) Address {
	a := Address{kind: kind}
	copy(a.key[:], key)
	return a
}

// Key returns the public key.
func (a Address) Key() ed25519.PublicKey { return append(ed25519.PublicKey(nil), a.key[:]...) }

// Kind says whether the key is a device's or an owner's.
func (a Address) Kind() Kind { return a.kind }

// IsZero reports whether a names nobody.
func (a Address) IsZero() bool { return a == Address{} }

// Compare orders addresses by key, for choices both sides must make alike.
func (a Address) Compare(b Address) int { return strings.Compare(string(a.key[:]), string(b.key[:])) }

// String returns the 56 characters people copy.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	raw := make([]byte, 0, rawLength)
	raw = append(raw, a.key[:]...)
	raw = append(raw, checksum(a.key[:], a.kind)...)
	raw = append(raw, byte(a.kind))
	return encoding.EncodeToString(raw)
}

// Short returns the first eight characters, for logs.
func (a Address) Short() string {
	if a.IsZero() {
		return "nobody"
	}
	return a.String()[:8]
}

// MarshalText and UnmarshalText make an Address its text in JSON.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote; empty text is the zero Address.
func (a *Address) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*a = Address{}
		return nil
	}
	*a, err = ParseAddress(string(b))
	return err
}

// ParseAddress reads the 56 characters of an address. Capitals, spaces and
// hyphens between groups are accepted, as people write them.
func ParseAddress(s string) (Address, error) {
	if len(s) > 4*AddressLength {
		return Address{}, fmt.Errorf("%w: far too long; an address has %d characters", ErrAddress, AddressLength)
	}
	text := strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(s))
	for i, r := range text {
		if !strings.ContainsRune(alphabet, r) {
			return Address{}, fmt.Errorf("%w: character %d (%q) cannot be in one; only a–z and 2–7 are", ErrAddress, i+1, r)
		}
	}
	if len(text) != AddressLength {
		return Address{}, fmt.Errorf("%w: it has %d characters instead of %d; copy it whole", ErrAddress, len(text), AddressLength)
	}
	if a, ok := decode(text); ok {
		return a, nil
	}
	return Address{}, explain(text)
}

func decode(text string) (Address, bool) {
	raw, err := encoding.DecodeString(text)
	if err != nil || len(raw) != rawLength {
		return Address{}, false
	}
	key, sum, kind := raw[:32], raw[32:34], Kind(raw[34])
	if string(sum) != string(checksum(key, kind)) || (kind != KindDevice && kind != KindOwner) {
		return Address{}, false
	}
	return NewAddress(key, kind), true
}

// explain finds the place of a single wrong character or of two swapped ones.
// It never says what would be right: the owner compares with the original.
func explain(text string) error {
	for i := 1; i < len(text); i++ {
		b := []byte(text)
		b[i-1], b[i] = b[i], b[i-1]
		if _, ok := decode(string(b)); ok && b[i-1] != b[i] {
			return fmt.Errorf("%w: the checksum is wrong; characters %d and %d (%q) seem to be swapped", ErrAddress, i, i+1, text[i-1:i+1])
		}
	}
	place, found := 0, 0
	for i := range text {
		b := []byte(text)
		for _, c := range []byte(alphabet) {
			b[i] = c
			if _, ok := decode(string(b)); ok {
				place = i
				found++
			}
		}
	}
	if found == 1 {
		return fmt.Errorf("%w: the checksum is wrong; look at character %d (%q)", ErrAddress, place+1, text[place])
	}
	return fmt.Errorf("%w: the checksum is wrong; copy it again", ErrAddress)
}

func checksum(key []byte, kind Kind) []byte {
	h := sha256.New()
	h.Write([]byte("porchlight address 1"))
	h.Write(key)
	h.Write([]byte{byte(kind)})
	return h.Sum(nil)[:checksumLength]
}
