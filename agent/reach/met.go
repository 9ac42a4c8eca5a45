package reach

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// metFor is how long a router may let in an address after the last packet
	// to it: twice what RFC 4787 REQ-5 recommends for a mapping's life.
	metFor = 10 * time.Minute
	// maxMet is how many addresses are remembered; beyond that the oldest is
	// forgotten.
	maxMet = 1024
)

// met remembers which addresses the device sent packets to: a knock from one
// of them proves little.
type met struct {
	mu sync.Mutex
	at map[netip.Addr]time.Time
}

func newMet() *met { return &met{at: map[netip.Addr]time.Time{}} }

func (m *met) note(a netip.Addr, now time.Time) {
	if a = a.Unmap(); !a.IsValid() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.at[a]; !known && len(m.at) >= maxMet {
		oldest := a
		for b, at := range m.at {
			if o, ok := m.at[oldest]; !ok || at.Before(o) {
				oldest = b
			}
		}
		delete(m.at, oldest)
	}
	m.at[a] = now
}

// list returns the addresses, the latest first, and forgets old ones.
func (m *met) list(now time.Time) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.at, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > metFor })
	return slices.SortedFunc(maps.Keys(m.at), func(x, y netip.Addr) int {
		if c := m.at[y].Compare(m.at[x]); c != 0 {
			return c
		}
		return x.Compare(y)
	})
}
