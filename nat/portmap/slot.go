package portmap

import "time"

// slot names a port that is wanted.
type slot struct {
	transport string
	v6        bool
}

// held is a mapping, and the way that made it.
type held struct {
	Mapping
	way *way
	// renew is when half of the lease is over; zero for permanent mappings.
	renew time.Time
	// stale mappings stood before the network changed or the router was
	// restarted; they stay in the State until the next look is over.
	stale bool
	// also are mappings that share the router's entry with this one. The
	// router may know the entry by theirs: miniupnpd lets nobody but the last
	// to ask remove it.
	also []*held
}

// maxAlso is how many of these are remembered.
const maxAlso = 4

func (m *Mapper) newHeld(mapping Mapping, w *way) *held {
	h := &held{Mapping: mapping, way: w}
	if mapping.Lifetime > 0 {
		h.renew = time.Now().Add(max(mapping.Lifetime/2, m.pace.minRenew))
	}
	return h
}

// betterThan compares two mappings for the same slot: public first, then the
// better route, then the better method.
func (h *held) betterThan(o *held) bool {
	if a, b := isPublic(h.External.Addr()), isPublic(o.External.Addr()); a != b {
		return a
	}
	if h.way.order != o.way.order {
		return h.way.order < o.way.order
	}
	return rank(h.Method) < rank(o.Method)
}

// sharedWith reports whether removing one would remove the other: the methods
// of a router often work on one table.
func (h *held) sharedWith(o *held) bool {
	return h.Gateway == o.Gateway && h.Transport == o.Transport && h.External.Port() == o.External.Port()
}

// inherit remembers a mapping that shares the router's entry with h, and those
// that shared it with that one. One by the same method is h itself, made anew.
func (h *held) inherit(o *held) {
	all := append(h.also, o.also...)
	if o.Method != h.Method {
		all = append(all, o)
	}
	h.also = all[:min(len(all), maxAlso)]
}

// same reports whether m is this mapping, however often renewed since.
func (h *held) same(m Mapping) bool {
	return h.Method == m.Method && h.Transport == m.Transport && h.Gateway == m.Gateway &&
		h.Internal == m.Internal && h.External == m.External
}

// distrust counts how often mappings of one way turned out to lead nowhere.
type distrust struct {
	count int
	until time.Time
}

// doubt names what is distrusted.
type doubt struct {
	method  Method
	gateway string
	slot    slot
}

// distrustFor is how long a way that led nowhere is not taken again. Until
// then it had one chance with another port, as the last resort.
const distrustFor = time.Hour
