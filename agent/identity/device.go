package identity

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"

	"filippo.io/edwards25519"
)

// keyFile is the name of the device key in the state folder.
const keyFile = "device.key"

// keyHeader marks the file and the version of its form: the header, a space,
// and the 32-byte seed of RFC 8032 §5.1.5 in base64.
const keyHeader = "porchlight-device-key-1"

// Files is where the key is kept: a state folder with durable, atomic writes.
type Files interface {
	ReadFile(name string) ([]byte, error)
	WriteFile(name string, data []byte) error
}

// Device is this device's private key. Its String never shows it.
type Device struct {
	private ed25519.PrivateKey
	address Address
	// chain is what the device shows in handshakes (DER), nil until asked for.
	chain atomic.Pointer[[][]byte]
}

// Load reads the device's key, or makes and stores it at the first start. A
// damaged key is an error: a new one would be another device.
func Load(files Files) (*Device, error) {
	b, err := files.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return create(files)
	}
	if err != nil {
		return nil, fmt.Errorf("read the device key: %w", err)
	}
	seed, ok := strings.CutPrefix(strings.TrimSpace(string(b)), keyHeader+" ")
	raw, err := base64.StdEncoding.DecodeString(seed)
	if !ok || err != nil || len(raw) != ed25519.SeedSize {
		return nil, fmt.Errorf("the device key in %s is damaged; restore it from your copy, or move the file away to become a new device", keyFile)
	}
	return FromSeed(raw), nil
}

func create(files Files) (*Device, error) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	text := keyHeader + " " + base64.StdEncoding.EncodeToString(seed) + "\n"
	if err := files.WriteFile(keyFile, []byte(text)); err != nil {
		return nil, fmt.Errorf("store the device key: %w", err)
	}
	return FromSeed(seed), nil
}

// FromSeed returns the device with the given seed (32 bytes, RFC 8032).
func FromSeed(seed []byte) *Device {
	private := ed25519.NewKeyFromSeed(seed)
	return &Device{private: private, address: NewAddress(private.Public().(ed25519.PublicKey), KindDevice)}
}

// Address returns the device's address.
func (d *Device) Address() Address { return d.address }

// String never shows the key.
func (d *Device) String() string { return "device " + d.address.Short() + " [redacted]" }

// GoString never shows the key either.
func (d *Device) GoString() string { return d.String() }

// Sign signs a message with the device's key (Ed25519, RFC 8032).
func (d *Device) Sign(message []byte) []byte { return ed25519.Sign(d.private, message) }

// Derive returns 32 secret bytes that only this device can compute, different
// for each purpose and the same at every start.
func (d *Device) Derive(purpose string) [32]byte {
	sum := sha512.Sum512(append([]byte("porchlight derive 1 "+purpose+" "), d.private.Seed()...))
	return [32]byte(sum[:32])
}

// ECDH returns the X25519 key that belongs to the signing key by the
// birational map (RFC 7748 §4.1), so that one address serves both uses.
func (d *Device) ECDH() (*ecdh.PrivateKey, error) {
	h := sha512.Sum512(d.private.Seed())
	return ecdh.X25519().NewPrivateKey(h[:32])
}

// ECDH returns the X25519 public key that belongs to the address.
func (a Address) ECDH() (*ecdh.PublicKey, error) {
	point, err := new(edwards25519.Point).SetBytes(a.key[:])
	if err != nil {
		return nil, fmt.Errorf("address %s holds no point of the curve: %w", a.Short(), err)
	}
	return ecdh.X25519().NewPublicKey(point.BytesMontgomery())
}

// Verify checks a signature of the address's key.
func (a Address) Verify(message, signature []byte) bool {
	return ed25519.Verify(a.key[:], message, signature)
}
