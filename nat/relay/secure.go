package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrPin says that another server answered over TLS than the one that gave the
// ticket.
var ErrPin = errors.New("relay's certificate is not the ticket's: ask the relay for a new ticket")

// ownCertificate makes a certificate that nobody needs to trust, since tickets
// carry its hash. It names nobody and is valid at any time: devices boot in
// 1970.
func ownCertificate() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make relay certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5: no end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make relay certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func serverTLS(c *tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{*c},
		MinVersion:             tls.VersionTLS12, // stock clients
		SessionTicketsDisabled: true,
	}
}

// pinOf is the hash of a certificate in DER as tickets carry it: SHA-256 in
// unpadded URL-safe base64.
func pinOf(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// pinned accepts the one certificate with the hash, whoever signed it and
// whatever it says. TLS has proved that the server holds its key.
func pinned(pin string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // replaced by VerifyConnection
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || pinOf(state.PeerCertificates[0].Raw) != pin {
				return ErrPin
			}
			return nil
		},
	}
}
