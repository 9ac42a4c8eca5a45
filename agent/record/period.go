package record

import (
	"crypto/sha512"
	"encoding/binary"
	"time"

	"porchlight/agent/identity"
)

const (
	// PeriodLength is how long an address has the same blinded key.
	PeriodLength = 24 * time.Hour
	// Overlap is how long before its period an item is put already, so that
	// readers whose clock is ahead find it.
	Overlap = 90 * time.Minute

	periodSeconds = int64(PeriodLength / time.Second)
)

// offset is by how many seconds the periods of an address begin earlier than
// the days of UTC: not everybody's key changes in the same second.
func offset(a identity.Address) int64 {
	return int64(derive("porchlight period 1", a, 0) % uint64(periodSeconds))
}

// PeriodAt returns the period of an address at a time. Times before 1970 are
// in period 0.
func PeriodAt(a identity.Address, t time.Time) uint64 {
	return uint64(max(0, t.Unix()+offset(a)) / periodSeconds)
}

// PeriodStart returns when a period of an address begins.
func PeriodStart(a identity.Address, period uint64) time.Time {
	return time.Unix(int64(period)*periodSeconds-offset(a), 0)
}

// mask is what is added to the seqs of one address and period: 50 bits, so
// that a second of this century says nothing beside it.
func mask(a identity.Address, period uint64) int64 {
	return int64(derive("porchlight seq 1", a, period) >> (64 - maskBits))
}

const maskBits = 50

// WireSeq returns the seq that the item of an address and period bears for a
// seq between 0 and MaxSeq.
func WireSeq(a identity.Address, period uint64, seq int64) int64 { return seq + mask(a, period) }

// digest hashes a label, an address and a period: 64 bytes that nobody can
// compute who does not know the address.
func digest(label string, a identity.Address, period uint64) [sha512.Size]byte {
	b := append([]byte(label), a.Key()...)
	b = append(b, byte(a.Kind()))
	return sha512.Sum512(binary.BigEndian.AppendUint64(b, period))
}

func derive(label string, a identity.Address, period uint64) uint64 {
	d := digest(label, a, period)
	return binary.BigEndian.Uint64(d[:])
}
