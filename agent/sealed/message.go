package sealed

import (
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"fmt"

	"porchlight/agent/identity"
)

// Version is the one version of the format. Others are refused, so that no
// helper can talk two devices down to something weaker.
const Version = 1

const (
	// MaxMessage is the size of the largest sealed message, in bytes: it fits
	// one datagram.
	MaxMessage = 1200
	// MaxBody is the size of the largest body that fits.
	MaxBody = MaxMessage - overhead

	overhead = 1 + 32 + 16 + ed25519.PublicKeySize + ed25519.SignatureSize
)

// Errors of Open.
var (
	ErrVersion  = errors.New("sealed message of another version")
	ErrMessage  = errors.New("sealed message cannot be opened with this device's key")
	ErrForged   = errors.New("sealed message is not signed by the sender it names")
	ErrTooLarge = errors.New("sealed message is too large")
)

func context(purpose string, to identity.Address) []byte {
	return append([]byte(fmt.Sprintf("porchlight sealed %d %s ", Version, purpose)), to.Key()...)
}

// Seal signs body as from and encrypts it to the device to, for one purpose.
func Seal(from *identity.Device, to identity.Address, purpose string, body []byte) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, len(body), MaxBody)
	}
	recipient, err := to.ECDH()
	if err != nil {
		return nil, err
	}
	key, err := hpke.NewDHKEMPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("seal to %s: %w", to.Short(), err)
	}
	info := context(purpose, to)
	plain := from.Address().Key()
	plain = append(plain, from.Sign(append(info, body...))...)
	plain = append(plain, body...)
	box, err := hpke.Seal(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, plain)
	if err != nil {
		return nil, fmt.Errorf("seal to %s: %w", to.Short(), err)
	}
	return append([]byte{Version}, box...), nil
}

// Open decrypts a message to this device and returns its sender and body.
func Open(to *identity.Device, purpose string, message []byte) (identity.Address, []byte, error) {
	if len(message) > MaxMessage {
		return identity.Address{}, nil, fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, len(message), MaxMessage)
	}
	if len(message) < overhead {
		return identity.Address{}, nil, fmt.Errorf("%w: it is cut short", ErrMessage)
	}
	if message[0] != Version {
		return identity.Address{}, nil, fmt.Errorf("%w: %d instead of %d", ErrVersion, message[0], Version)
	}
	private, err := to.ECDH()
	if err != nil {
		return identity.Address{}, nil, err
	}
	key, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		return identity.Address{}, nil, err
	}
	info := context(purpose, to.Address())
	plain, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, message[1:])
	if err != nil {
		return identity.Address{}, nil, ErrMessage
	}
	return verify(info, plain)
}

func verify(info, plain []byte) (identity.Address, []byte, error) {
	from := identity.NewAddress(plain[:ed25519.PublicKeySize], identity.KindDevice)
	signature := plain[ed25519.PublicKeySize : ed25519.PublicKeySize+ed25519.SignatureSize]
	body := plain[ed25519.PublicKeySize+ed25519.SignatureSize:]
	if !from.Verify(append(info, body...), signature) {
		return identity.Address{}, nil, ErrForged
	}
	return from, body, nil
}
