package directory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

const (
	// maxEntries is how many addresses are remembered. Of more, the least used
	// go: first those that were looked for in vain, then those only heard of,
	// then those that were looked up. Nothing displaces what ranks above it.
	maxEntries = 512
	// freshFor and missingFor are how long an answer is given again without
	// asking the table.
	freshFor   = 30 * time.Second
	missingFor = 10 * time.Second

	cacheFile = "directory-cache.json"
	// maxKept is how many of those that were looked up are kept on flash.
	maxKept = 64
	// keepEvery is how far apart writes of the cache are, keepFirst how long
	// after the start the first may follow.
	keepEvery = 6 * time.Hour
	keepFirst = 10 * time.Minute
)

// The ranks of entries.
const (
	rankMissing = iota
	rankHeard
	rankWanted
)

// entry is what is remembered of an address.
type entry struct {
	rank    int
	found   found     // unless rank is rankMissing
	checked time.Time // when found was last confirmed
	missed  time.Time // when it was last looked for in vain
	used    time.Time
}

// cache remembers what was found. Its methods are called with Directory.mu held.
type cache struct {
	files   Files
	logger  *slog.Logger
	entries map[identity.Address]*entry
	dirty   bool // flash should say something else
	next    time.Time
}

func newCache(files Files, logger *slog.Logger) *cache {
	c := &cache{files: files, logger: logger, entries: map[identity.Address]*entry{}, next: time.Now().Add(keepFirst)}
	var kept map[string][]byte
	if err := files.ReadJSON(cacheFile, &kept); err != nil {
		logger.Warn("what the directory found earlier cannot be read; it is looked up again", "err", err)
		return c
	}
	for text, b := range kept {
		a, err := identity.ParseAddress(text)
		if err != nil || len(c.entries) >= maxKept {
			continue
		}
		if f, ok := unpack(a, b); ok {
			c.entries[a] = &entry{rank: rankWanted, found: f}
		}
	}
	return c
}

// fresh returns what needs no look-up: what was found, or that it is missing.
func (c *cache) fresh(a identity.Address) (f found, missing, ok bool) {
	e := c.entries[a]
	if e == nil {
		return found{}, false, false
	}
	now := time.Now()
	c.want(e)
	if e.rank == rankWanted && !e.checked.IsZero() && now.Sub(e.checked) < freshFor {
		return e.found, false, true
	}
	return found{}, !e.missed.IsZero() && now.Sub(e.missed) < missingFor, false
}

// want notes that somebody asked for an entry.
func (c *cache) want(e *entry) {
	e.used = time.Now()
	if e.rank == rankHeard {
		e.rank, c.dirty = rankWanted, true
	}
}

// floor is the lowest seq that is believed of an address.
func (c *cache) floor(a identity.Address) int64 {
	if e := c.entries[a]; e != nil {
		return e.found.seq
	}
	return 0
}

// take remembers what was found, unless something newer is known, and returns
// what is known then. Wanted says that it was looked up.
func (c *cache) take(a identity.Address, f found, wanted bool) found {
	rank := rankHeard
	if wanted {
		rank = rankWanted
	}
	e := c.place(a, rank)
	if e == nil {
		return f
	}
	if e.rank != rankMissing && f.seq < e.found.seq {
		return e.found
	}
	news := e.rank == rankMissing || rank > e.rank || !alike(a, e.found, f)
	e.rank = max(e.rank, rank)
	c.dirty = c.dirty || news && e.rank == rankWanted
	e.found, e.checked, e.missed = f, time.Now(), time.Time{}
	return f
}

// alike reports whether flash may keep the older of two: they are kept there to
// find a device after a restart, and to refuse an older list of devices then.
func alike(a identity.Address, x, y found) bool {
	if a.Kind() == identity.KindOwner {
		return x.seq == y.seq && bytes.Equal(x.body, y.body)
	}
	return slices.Equal(x.rec.At, y.rec.At) && slices.Equal(x.rec.Via, y.rec.Via) && x.rec.Owner == y.rec.Owner
}

// missed remembers that an address was looked for in vain.
func (c *cache) missed(a identity.Address) {
	if e := c.place(a, rankMissing); e != nil {
		e.missed = time.Now()
	}
}

// place returns the entry of an address. A new one takes the place of the least
// used one of the lowest rank, or is nil if all rank above it.
func (c *cache) place(a identity.Address, rank int) *entry {
	e := c.entries[a]
	if e == nil && len(c.entries) >= maxEntries && !c.evict(rank) {
		return nil
	}
	if e == nil {
		e = &entry{rank: rankMissing}
		c.entries[a] = e
	}
	e.used = time.Now()
	return e
}

func (c *cache) evict(rank int) bool {
	var victim identity.Address
	var least *entry
	for a, e := range c.entries {
		if least == nil || e.rank < least.rank || e.rank == least.rank && e.used.Before(least.used) {
			victim, least = a, e
		}
	}
	if least.rank > rank {
		return false
	}
	c.logger.Debug("the directory forgets an address, for want of room", "peer", victim.Short())
	delete(c.entries, victim)
	return true
}

// Cached returns the last good record of a device, however old it is.
func (d *Directory) Cached(a identity.Address) (record.Record, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.cache.entries[a]
	if e == nil || e.rank == rankMissing || a.Kind() != identity.KindDevice {
		return record.Record{}, false
	}
	e.used = time.Now()
	return e.found.rec, true
}

// CachedOwner returns the last good list of an owner's devices, and its version.
func (d *Directory) CachedOwner(a identity.Address) (roster []byte, version uint64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.cache.entries[a]
	if e == nil || e.rank == rankMissing || a.Kind() != identity.KindOwner {
		return nil, 0, false
	}
	e.used = time.Now()
	return bytes.Clone(e.found.body), uint64(e.found.seq), true
}

// Hints returns where a device was last known to be, as join wants it. Asking
// counts as looking the device up: it is somebody whom this device calls.
func (d *Directory) Hints(a identity.Address) (at []netip.AddrPort, via []identity.Via) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.cache.entries[a]
	if e == nil || e.rank == rankMissing {
		return nil, nil
	}
	d.cache.want(e)
	return slices.Clone(e.found.rec.At), slices.Clone(e.found.rec.Via)
}

// Learn remembers a record that a device itself told, in a session or in a
// signed beacon, and reports whether it is what is known now. A record with a
// lower seq than the known one is refused; seq 0, of a device that has published
// nothing yet, therefore counts only while nothing else is known. What is learnt
// is as good as looked up for 30 s, but goes first when room is short.
func (d *Directory) Learn(a identity.Address, rec record.Record) bool {
	body, err := rec.Encode()
	if err != nil || a.Kind() != identity.KindDevice {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if rec.Seq < d.cache.floor(a) {
		return false
	}
	d.cache.take(a, found{seq: rec.Seq, body: body, rec: rec}, false)
	return d.cache.entries[a] != nil
}

// Forget forgets an address, also on flash, and what is being looked up of it.
func (d *Directory) Forget(a identity.Address) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.cache.entries[a]; e != nil && e.rank == rankWanted {
		d.cache.dirty = true
	}
	delete(d.cache.entries, a)
	delete(d.flights, a)
}

// keep writes to flash what should be there: when the directory closes, and
// otherwise at most every keepEvery.
func (d *Directory) keep(closing bool) error {
	d.mu.Lock()
	c, now := d.cache, time.Now()
	if !c.dirty || !closing && now.Before(c.next) {
		d.mu.Unlock()
		return nil
	}
	c.next, c.dirty = now.Add(keepEvery), false
	kept := c.kept()
	d.mu.Unlock()
	err := c.files.WriteJSON(cacheFile, kept)
	if err == nil {
		return nil
	}
	c.logger.Warn("what the directory found cannot be kept", "err", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	c.dirty = true
	return fmt.Errorf("keep what the directory found: %w", err)
}

// kept are the entries last used of those that were looked up.
func (c *cache) kept() map[string][]byte {
	var list []identity.Address
	for a, e := range c.entries {
		if e.rank == rankWanted {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b identity.Address) int {
		if n := c.entries[b].used.Compare(c.entries[a].used); n != 0 {
			return n
		}
		return a.Compare(b)
	})
	kept := map[string][]byte{}
	for _, a := range list[:min(len(list), maxKept)] {
		f := c.entries[a].found
		kept[a.String()] = append(binary.BigEndian.AppendUint64(nil, uint64(f.seq)), f.body...)
	}
	return kept
}

// unpack reads what kept wrote: 8 bytes of seq, high byte first, and the body.
func unpack(a identity.Address, b []byte) (found, bool) {
	if len(b) < 8 || len(b) > 8+record.MaxBody {
		return found{}, false
	}
	seq := binary.BigEndian.Uint64(b)
	if seq > record.MaxSeq {
		return found{}, false
	}
	f := found{seq: int64(seq), body: b[8:]}
	if valid := validFor(a); valid != nil && !valid(&f) {
		return found{}, false
	}
	return f, true
}
