package owner

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"porchlight/agent/identity"
)

const (
	// MaxDevices is how many devices an owner has.
	MaxDevices = 16
	// MaxRoster is the size of the largest roster, in bytes.
	MaxRoster = rosterHead + MaxDevices*ed25519.PublicKeySize + ed25519.SignatureSize

	rosterForm    = 1
	rosterHead    = 1 + 8 + 1
	rosterPurpose = "porchlight roster 1 "
)

// ErrRoster is wrapped by every refusal of a roster's bytes.
var ErrRoster = errors.New("unusable list of devices")

// Roster is an owner's list of devices.
type Roster struct {
	Owner   identity.Address
	Version uint64
	Devices []identity.Address
}

// Lists reports whether a device is on the list.
func (r Roster) Lists(device identity.Address) bool { return slices.Contains(r.Devices, device) }

// ParseRoster reads a roster and checks that the owner signed it.
func ParseRoster(owner identity.Address, b []byte) (Roster, error) {
	r, err := readRoster(owner, b)
	if err != nil {
		return Roster{}, err
	}
	body, signature := b[:len(b)-ed25519.SignatureSize], b[len(b)-ed25519.SignatureSize:]
	if !owner.Verify(rosterMessage(owner, body), signature) {
		return Roster{}, fmt.Errorf("%w: owner %s did not sign it", ErrRoster, owner.Short())
	}
	return r, nil
}

// readRoster reads a roster whose signature was checked before it was stored.
func readRoster(owner identity.Address, b []byte) (Roster, error) {
	if owner.Kind() != identity.KindOwner {
		return Roster{}, fmt.Errorf("%w: %s is no owner", ErrRoster, owner.Short())
	}
	if len(b) < rosterHead+ed25519.SignatureSize || len(b) > MaxRoster {
		return Roster{}, fmt.Errorf("%w: it has %d bytes", ErrRoster, len(b))
	}
	n := int(b[9])
	if b[0] != rosterForm || n > MaxDevices || len(b) != rosterHead+n*ed25519.PublicKeySize+ed25519.SignatureSize {
		return Roster{}, fmt.Errorf("%w: form %d, %d devices, %d bytes", ErrRoster, b[0], n, len(b))
	}
	r := Roster{Owner: owner, Version: binary.BigEndian.Uint64(b[1:])}
	if r.Version == 0 {
		return Roster{}, fmt.Errorf("%w: version 0", ErrRoster)
	}
	for i := range n {
		at := rosterHead + i*ed25519.PublicKeySize
		device := identity.NewAddress(b[at:at+ed25519.PublicKeySize], identity.KindDevice)
		if i > 0 && r.Devices[i-1].Compare(device) >= 0 {
			return Roster{}, fmt.Errorf("%w: its devices are not in order", ErrRoster)
		}
		r.Devices = append(r.Devices, device)
	}
	return r, nil
}

// signRoster makes the bytes of a roster.
func signRoster(owner *identity.Owner, version uint64, devices []identity.Address) []byte {
	devices = slices.Clone(devices)
	slices.SortFunc(devices, identity.Address.Compare)
	b := binary.BigEndian.AppendUint64([]byte{rosterForm}, version)
	b = append(b, byte(len(devices)))
	for _, d := range devices {
		b = append(b, d.Key()...)
	}
	return append(b, owner.Sign(rosterMessage(owner.Address(), b))...)
}

func rosterMessage(owner identity.Address, body []byte) []byte {
	return append(append([]byte(rosterPurpose), owner.Key()...), body...)
}
