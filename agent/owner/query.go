package owner

import (
	"bytes"
	"maps"
	"slices"

	"porchlight/agent/identity"
)

// Own is a snapshot of the owner this device belongs to.
type Own struct {
	// Owner is zero if the device never had one.
	Owner identity.Address
	// Version is that of the newest roster known.
	Version uint64
	Devices []identity.Address
	// Names are what the devices were called when they joined.
	Names map[identity.Address]string
	// HoldsKey says that the owner's key lies here: only then can devices be
	// invited and revoked.
	HoldsKey bool
	// Revoked says that the newest roster does not list this device.
	Revoked bool
}

// Own returns what is known of the own owner.
func (s *Store) Own() Own {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Own{
		Owner:    s.own.Owner,
		Version:  s.own.roster.Version,
		Devices:  slices.Clone(s.own.roster.Devices),
		Names:    maps.Clone(s.own.Names),
		HoldsKey: s.holds(),
		Revoked:  !s.own.Owner.IsZero() && !s.listed(),
	}
}

// Owner returns whose this device is; zero if nobody's, or revoked.
func (s *Store) Owner() identity.Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.listed() {
		return identity.Address{}
	}
	return s.own.Owner
}

// Presigned returns what may be published in the owner's name with the newest
// roster; nil if nothing, as while only an older one's is known.
func (s *Store) Presigned() []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.listed() || s.own.Edition.Version != s.own.roster.Version {
		return nil
	}
	return bytes.Clone(s.own.Presigned)
}

// roster returns the newest roster known of an owner; s.mu or s.changing is held.
func (s *Store) roster(owner identity.Address) (Roster, []byte) {
	if owner.IsZero() {
		return Roster{}, nil
	}
	if owner == s.own.Owner {
		return s.own.roster, s.own.Signed
	}
	for _, k := range s.known {
		if k.Owner == owner {
			return k.roster, k.Signed
		}
	}
	return Roster{}, nil
}

// Roster returns the bytes of the newest roster known of an owner; nil if none.
func (s *Store) Roster(owner identity.Address) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, signed := s.roster(owner)
	return bytes.Clone(signed)
}

// Version returns the version of the newest roster known of an owner; 0 if none.
func (s *Store) Version(owner identity.Address) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, _ := s.roster(owner)
	return r.Version
}

// Devices returns an owner's devices: those of its newest roster known, and
// those whose certificates are newer than that.
func (s *Store) Devices(owner identity.Address) []identity.Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, _ := s.roster(owner)
	devices := slices.Clone(r.Devices)
	for device, p := range s.proofs {
		if p.owner == owner && !r.Lists(device) && s.believes(device, p) {
			devices = append(devices, device)
		}
	}
	slices.SortFunc(devices, identity.Address.Compare)
	return devices
}

// OwnerOf returns whose a device is: as it proved itself in a session, else
// as an owner's roster says; zero if nobody's or revoked.
func (s *Store) OwnerOf(device identity.Address) identity.Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p, ok := s.proofs[device]; ok && s.believes(device, p) {
		return p.owner
	}
	if s.own.roster.Lists(device) {
		return s.own.Owner
	}
	for _, k := range s.known {
		// What was known of the own owner before it was the own is no more.
		if k.roster.Lists(device) && k.Owner != s.own.Owner {
			return k.Owner
		}
	}
	return identity.Address{}
}

// believes reports whether a proof still holds; s.mu is held.
func (s *Store) believes(device identity.Address, p proof) bool {
	r, _ := s.roster(p.owner)
	return p.version > r.Version || r.Lists(device)
}

// Prove takes note that a device's certificates named an owner, for a version
// of the owner's roster. It does nothing if a roster says that they are over.
// If the version is above Version(owner), a newer roster is worth asking for,
// and Changed tells.
func (s *Store) Prove(device, owner identity.Address, version uint64) {
	p := proof{owner, version}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.believes(device, p) {
		delete(s.proofs, device)
		return
	}
	if _, again := s.proofs[device]; !again && len(s.proofs) >= MaxProofs {
		for any := range s.proofs {
			delete(s.proofs, any)
			break
		}
	}
	if r, _ := s.roster(owner); s.proofs[device] != p && version > r.Version {
		s.signal()
	}
	s.proofs[device] = p
}

// Outdated reports whether a device has proved that there is a newer roster of
// its owner than the one known.
func (s *Store) Outdated(owner identity.Address) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, _ := s.roster(owner)
	for _, p := range s.proofs {
		if p.owner == owner && p.version > r.Version {
			return true
		}
	}
	return false
}
