package overlay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"porchlight/agent/identity"
)

// protocol is the ALPN identifier (RFC 7301). A device that offers only
// another one is refused: there is nothing weaker to fall back to.
const protocol = "porchlight/1"

// ErrImpostor says that another device answered than the one dialled.
var ErrImpostor = errors.New("another device answered than the one called")

// tlsConfig returns the configuration for both ends. With a peer, only that
// device is accepted; without, any that proves a key.
func tlsConfig(device *identity.Device, peer identity.Address) (*tls.Config, error) {
	certificate, err := device.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAnyClientCert,
		NextProtos:   []string{protocol},
		MinVersion:   tls.VersionTLS13,
		// A name is sent by nobody and a chain proves nothing here: the key
		// in the one certificate is compared instead, and TLS has proved
		// that the peer holds it (RFC 8446 §4.4.3).
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			return verifyPeer(raw, peer)
		},
	}, nil
}

func verifyPeer(raw [][]byte, want identity.Address) error {
	var certs []*x509.Certificate
	for _, der := range raw {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("peer's certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	got, err := identity.FromCertificates(certs)
	if err != nil {
		return err
	}
	if !want.IsZero() && got != want {
		return fmt.Errorf("%w: %s instead of %s", ErrImpostor, got.Short(), want.Short())
	}
	return nil
}
