package directory_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porchlight/agent/directory"
	"porchlight/agent/identity"
	"porchlight/agent/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func device(n byte) *identity.Device { return identity.FromSeed(bytes.Repeat([]byte{n}, 32)) }

func address(n byte) identity.Address { return device(n).Address() }

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func reachableAt(s string) record.Record { return record.Record{At: []netip.AddrPort{at(s)}} }

// ownersKey signs as the device does that holds an owner's key.
type ownersKey struct{ record.OwnerKey }

func newOwner(n byte) ownersKey {
	return ownersKey{record.OwnerKey{Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))}}
}

func (o ownersKey) address() identity.Address {
	return identity.NewAddress(o.Private.Public().(ed25519.PublicKey), identity.KindOwner)
}

func (o ownersKey) presign(t *testing.T, roster []byte, version uint64, n int) record.Presigned {
	t.Helper()
	p, err := record.Presign(o, o.address(), roster, version, record.PeriodAt(o.address(), time.Now()), n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var errNothing = errors.New("nothing there")

// table is a fake of the distributed hash table: as many equal nodes as it
// takes, which keep items for two hours. With get or put set it is hostile.
type table struct {
	get func(ctx context.Context, key [32]byte, enough func(record.Item) bool) (record.Item, error)
	put func(ctx context.Context, item record.Item) (int, error)

	mu    sync.Mutex
	items map[[32]byte]kept
	gets  int
	puts  []kept
}

type kept struct {
	item record.Item
	when time.Time
}

func (b *table) Put(ctx context.Context, item record.Item) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.puts = append(b.puts, kept{item, time.Now()})
	if b.put != nil {
		b.mu.Unlock()
		defer b.mu.Lock()
		return b.put(ctx, item)
	}
	if old, ok := b.items[item.Key]; !item.Verify() || ok && old.item.Seq > item.Seq && time.Since(old.when) < 2*time.Hour {
		return 0, errors.New("302 sequence number less than current")
	}
	if b.items == nil {
		b.items = map[[32]byte]kept{}
	}
	b.items[item.Key] = kept{item, time.Now()}
	return 8, nil
}

func (b *table) Get(ctx context.Context, key [32]byte, _ []byte, floor int64, enough func(record.Item) bool) (record.Item, error) {
	b.mu.Lock()
	b.gets++
	k, ok := b.items[key]
	b.mu.Unlock()
	if b.get != nil {
		return b.get(ctx, key, enough)
	}
	select { // a search takes a while
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return record.Item{}, ctx.Err()
	}
	if !ok || time.Since(k.when) > 2*time.Hour || k.item.Seq < floor {
		return record.Item{}, errNothing
	}
	for range 8 {
		if enough(k.item) {
			break
		}
	}
	return k.item, nil
}

// log returns what was put so far, and forgets it.
func (b *table) log() []kept {
	b.mu.Lock()
	defer b.mu.Unlock()
	puts := b.puts
	b.puts = nil
	return puts
}

func (b *table) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	gets := b.gets
	b.gets = 0
	return gets
}

// disk is a state folder in memory that counts writes.
type disk struct {
	mu     sync.Mutex
	files  map[string][]byte
	writes int
	fail   error
}

func (f *disk) ReadJSON(name string, v any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.files[name]; ok {
		return json.Unmarshal(b, v)
	}
	return nil
}

func (f *disk) WriteJSON(name string, v any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.fail != nil {
		return f.fail
	}
	b, err := json.Marshal(v)
	if f.files == nil {
		f.files = map[string][]byte{}
	}
	f.files[name] = b
	return err
}

func (f *disk) written() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// home is what a Directory in a test lives in. Its fields may be changed by set.
type home struct {
	*directory.Directory
	mu    sync.Mutex
	self  record.Record
	skew  time.Duration
	lost  bool // the clock is not known
	owned func() (identity.Address, []byte, record.Presigned, bool)
	logs  bytes.Buffer
}

// Write takes what is logged.
func (h *home) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs.Write(b)
}

// logged returns how often something was logged.
func (h *home) logged(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.logs.String(), text)
}

func (h *home) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// newHome makes a Directory for device n; it is not started.
func newHome(n byte, b *table, f *disk) *home {
	h := &home{}
	h.Directory = directory.New(directory.Config{
		Device: device(n),
		Table:  b,
		Self: func() record.Record {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.self
		},
		Now: func() (time.Time, bool) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return time.Now().Add(h.skew), !h.lost
		},
		Files: f,
		Owned: func() (identity.Address, []byte, record.Presigned, bool) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.owned == nil {
				return identity.Address{}, nil, record.Presigned{}, false
			}
			return h.owned()
		},
		Logger: slog.New(slog.NewTextHandler(h, nil)),
	})
	return h
}

// seqOf opens an item that a device put just now.
func seqOf(t *testing.T, n byte, k kept, skew time.Duration) (seq int64, period uint64) {
	t.Helper()
	p := record.PeriodAt(address(n), k.when.Add(skew))
	for _, period := range []uint64{p, p + 1} {
		if _, seq, err := record.Open(address(n), period, k.item); err == nil {
			return seq, period
		}
	}
	t.Fatalf("what was put at %v belongs to no period of the device", k.when)
	return 0, 0
}
