package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// Owner is a person's private key, which certifies devices. Its String never
// shows it.
type Owner struct {
	private ed25519.PrivateKey
	address Address
}

// NewOwner makes a new owner's key.
func NewOwner() *Owner {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return OwnerFromSeed(seed)
}

// OwnerFromSeed returns the owner with the given seed (32 bytes, RFC 8032).
func OwnerFromSeed(seed []byte) *Owner {
	private := ed25519.NewKeyFromSeed(seed)
	return &Owner{private: private, address: NewAddress(private.Public().(ed25519.PublicKey), KindOwner)}
}

// Address returns the owner's address, of KindOwner.
func (o *Owner) Address() Address { return o.address }

// String never shows the key.
func (o *Owner) String() string { return "owner " + o.address.Short() + " [redacted]" }

// GoString never shows the key either.
func (o *Owner) GoString() string { return o.String() }

// Sign signs a message with the owner's key (Ed25519, RFC 8032).
func (o *Owner) Sign(message []byte) []byte { return ed25519.Sign(o.private, message) }

// Seed returns the secret 32 bytes the key is made of, for a backup.
func (o *Owner) Seed() []byte { return o.private.Seed() }

// Private returns the key itself, for signatures under keys that are derived
// from it. Nothing else has a use for it.
func (o *Owner) Private() ed25519.PrivateKey { return o.private }

// Certificate returns the owner's self-signed certificate (DER), the second of
// the two that a device of the owner shows.
func (o *Owner) Certificate() ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: o.address.String()},
		NotBefore:             earliest,
		NotAfter:              latest,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, o.private.Public(), o.private)
	if err != nil {
		return nil, fmt.Errorf("make the owner's certificate: %w", err)
	}
	return der, nil
}

// Certify returns the certificate (DER) that says device is this owner's, made
// for a version (1 or more) of the owner's list of devices.
func (o *Owner) Certify(device Address, version uint64) ([]byte, error) {
	leaf := leafTemplate(device)
	leaf.SerialNumber = new(big.Int).SetUint64(version)
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: o.address.String()}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, device.Key(), o.private)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", device.Short(), err)
	}
	return der, nil
}

// earliest and latest are the widest dates X.509 can say (RFC 5280 §4.1.2.5):
// the clock of a router starts in 1970.
var (
	earliest = time.Unix(0, 0).UTC()
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// leafTemplate is what every certificate of a device says.
func leafTemplate(device Address) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: device.String()},
		NotBefore:    earliest,
		NotAfter:     latest,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}
