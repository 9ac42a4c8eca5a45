package overlay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"

	"porchlight/agent/identity"
)

// protocol is the ALPN identifier (RFC 7301). A device that offers only
// another one is refused: there is nothing weaker to fall back to.
const protocol = "porchlight/1"

// ErrImpostor says that another device answered than the one dialled.
var ErrImpostor = errors.New("another device answered than the one called")

// tlsConfig returns the configuration for both ends. With a peer, only that
// device is accepted; without, any that proves a key. Each handshake shows the
// certificates of its moment: an owner may come and go meanwhile.
func tlsConfig(device *identity.Device, peer identity.Address) *tls.Config {
	present := func() (*tls.Certificate, error) {
		certificate, err := device.Certificate()
		return &certificate, err
	}
	return &tls.Config{
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return present() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return present() },
		ClientAuth:           tls.RequireAnyClientCert,
		NextProtos:           []string{protocol},
		MinVersion:           tls.VersionTLS13,
		// A name is sent by nobody and no authority is known here: the key in
		// the first certificate is compared instead, and TLS has proved that
		// the peer holds it (RFC 8446 §4.4.3). The second names its owner.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			return verifyPeer(raw, peer)
		},
	}
}

func verifyPeer(raw [][]byte, want identity.Address) error {
	got, err := identity.ParseCertificates(raw)
	if err != nil {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	if !want.IsZero() && got.Device != want {
		return fmt.Errorf("%w: %s instead of %s", ErrImpostor, got.Device.Short(), want.Short())
	}
	return nil
}

// prove returns whose session it is, and tells the owner that its certificates
// prove.
func (o *Overlay) prove(conn *quic.Conn) (identity.Proof, error) {
	proof, err := identity.FromCertificates(conn.ConnectionState().TLS.PeerCertificates)
	if err == nil && !proof.Owner.IsZero() && o.cfg.Proved != nil {
		o.cfg.Proved(proof.Device, proof.Owner, proof.Version)
	}
	return proof, err
}

// Owner returns the owner that the device's certificates proved when the
// session began, and the version of the owner's list of devices they were made
// for; zero if they named none. Whether the device is still its owner's, the
// list knows.
func (s *Session) Owner() (identity.Address, uint64) { return s.proof.Owner, s.proof.Version }
