package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

const (
	// MaxCertificate is the size of the largest certificate a peer may show,
	// in bytes (DER). Ours have less than 450.
	MaxCertificate = 1024
	// MaxCertificates is how many a peer may show: its own and its owner's.
	MaxCertificates = 2
)

// ErrCertificate is wrapped by every refusal of FromCertificates.
var ErrCertificate = errors.New("unusable certificate")

// Certificate returns what the device shows in a TLS handshake: one
// self-signed certificate, or the one its owner gave it and the owner's. It is
// valid always: which keys it holds is all that counts.
func (d *Device) Certificate() (tls.Certificate, error) {
	if chain := d.chain.Load(); chain != nil {
		return tls.Certificate{Certificate: *chain, PrivateKey: d.private}, nil
	}
	template := leafTemplate(d.address)
	der, err := x509.CreateCertificate(rand.Reader, template, template, d.private.Public(), d.private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the device's certificate: %w", err)
	}
	// Whoever is first decides: an owner's chain that came meanwhile stays.
	d.chain.CompareAndSwap(nil, &[][]byte{der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: d.private}, nil
}

// Present makes the device show the certificate its owner gave it (Certify)
// and the owner's own, both DER, from the next handshake on. Without leaf it
// shows its self-signed one again.
func (d *Device) Present(leaf, owner []byte) error {
	if leaf == nil {
		d.chain.Store(nil)
		return nil
	}
	proof, err := ParseCertificates([][]byte{leaf, owner})
	if err != nil {
		return err
	}
	if proof.Device != d.address {
		return fmt.Errorf("%w: it is made for %s, not for this device", ErrCertificate, proof.Device.Short())
	}
	d.chain.Store(&[][]byte{leaf, owner})
	return nil
}

// Proof is what the certificates of a peer prove.
type Proof struct {
	Device Address
	// Owner is who certified the device, zero if nobody did.
	Owner Address
	// Version is that of the owner's list of devices which the certificate
	// was made for, 0 without Owner.
	Version uint64
}

// ParseCertificates is FromCertificates of the DER forms.
func ParseCertificates(ders [][]byte) (Proof, error) {
	if len(ders) == 0 || len(ders) > MaxCertificates {
		return Proof{}, countError(len(ders))
	}
	certs := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if len(der) > MaxCertificate {
			return Proof{}, sizeError(len(der))
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return Proof{}, fmt.Errorf("%w: %w", ErrCertificate, err)
		}
		certs[i] = cert
	}
	return FromCertificates(certs)
}

// FromCertificates returns the device that proved, in the TLS handshake, to
// hold the key of the first certificate, and the owner of the second one, who
// signed the first. Dates are not looked at: no clock is needed.
func FromCertificates(certs []*x509.Certificate) (Proof, error) {
	if len(certs) == 0 || len(certs) > MaxCertificates {
		return Proof{}, countError(len(certs))
	}
	for _, cert := range certs {
		if len(cert.Raw) > MaxCertificate {
			return Proof{}, sizeError(len(cert.Raw))
		}
	}
	leaf, issuer := certs[0], certs[len(certs)-1]
	device, err := subject(leaf, KindDevice)
	if err != nil {
		return Proof{}, err
	}
	if string(leaf.RawIssuer) != string(issuer.RawSubject) {
		return Proof{}, fmt.Errorf("%w: its issuer is not the one beside it", ErrCertificate)
	}
	if len(certs) == 1 {
		return Proof{Device: device}, nil
	}
	return owned(device, leaf, issuer)
}

// owned checks the second certificate, and that it signed the first.
func owned(device Address, leaf, issuer *x509.Certificate) (Proof, error) {
	owner, err := subject(issuer, KindOwner)
	if err != nil {
		return Proof{}, err
	}
	if string(owner.key[:]) == string(device.key[:]) {
		return Proof{}, fmt.Errorf("%w: a device is not its own owner", ErrCertificate)
	}
	if !leaf.SerialNumber.IsUint64() || leaf.SerialNumber.Sign() == 0 {
		return Proof{}, fmt.Errorf("%w: its number is no version", ErrCertificate)
	}
	if err := issuer.CheckSignatureFrom(issuer); err != nil {
		return Proof{}, fmt.Errorf("%w: the owner's: %w", ErrCertificate, err)
	}
	if err := leaf.CheckSignatureFrom(issuer); err != nil {
		return Proof{}, fmt.Errorf("%w: not by owner %s: %w", ErrCertificate, owner.Short(), err)
	}
	return Proof{Device: device, Owner: owner, Version: leaf.SerialNumber.Uint64()}, nil
}

// subject returns the address a certificate is about. Name and use must say
// the same kind, so that neither key can ever pass for the other's.
func subject(cert *x509.Certificate, kind Kind) (Address, error) {
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return Address{}, fmt.Errorf("%w: it holds no Ed25519 key", ErrCertificate)
	}
	a := NewAddress(key, kind)
	isCA := cert.BasicConstraintsValid && cert.IsCA
	if cert.Subject.CommonName != a.String() || isCA != (kind == KindOwner) {
		return Address{}, fmt.Errorf("%w: it is not one of kind %s", ErrCertificate, kind)
	}
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return Address{}, fmt.Errorf("%w: it asks for something unknown", ErrCertificate)
	}
	return a, nil
}

func countError(n int) error {
	return fmt.Errorf("%w: the peer shows %d instead of 1 to %d", ErrCertificate, n, MaxCertificates)
}

func sizeError(n int) error {
	return fmt.Errorf("%w: %d bytes of at most %d", ErrCertificate, n, MaxCertificate)
}
