package record_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"porchlight/agent/identity"
	"porchlight/agent/record"
)

func unhex[T ~[32]byte | ~[64]byte](t *testing.T, s string, convert func([]byte) T) T {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return convert(b)
}

// The test vectors 1 and 2 of BEP 44.
func TestSignedBytesOfBEP44(t *testing.T) {
	tests := []struct{ salt, buffer, signature, target string }{
		{"", "3:seqi1e1:v12:Hello World!",
			"305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
			"4a533d47ec9c7d95b1ad75f576cffc641853b750"},
		{"foobar", "4:salt6:foobar3:seqi1e1:v12:Hello World!",
			"6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
			"411eba73b6f087ca51a3795d9c8c938d365e32c1"},
	}
	for _, tt := range tests {
		item := record.Item{Salt: []byte(tt.salt), Seq: 1, Value: []byte("Hello World!")}
		item.Key = unhex(t, "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548", func(b []byte) [32]byte { return [32]byte(b) })
		item.Signature = unhex(t, tt.signature, func(b []byte) [64]byte { return [64]byte(b) })
		if got := string(record.SignedBytes(item.Salt, item.Seq, item.Value)); got != tt.buffer {
			t.Errorf("SignedBytes = %q, want %q", got, tt.buffer)
		}
		if target := sha1.Sum(append(item.Key[:], item.Salt...)); hex.EncodeToString(target[:]) != tt.target {
			t.Errorf("the vector is written down wrongly: target %x", target)
		}
		if !item.Verify() {
			t.Errorf("salt %q: the signature does not verify", tt.salt)
		}
		item.Seq++
		if item.Verify() {
			t.Errorf("salt %q: it verifies with another seq", tt.salt)
		}
	}
}

func seal(t testing.TB, d *identity.Device, period uint64, seq int64, body []byte) record.Item {
	t.Helper()
	item, err := record.Seal(d, d.Address(), period, seq, body)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	d := device(1)
	sizes := map[int]int{
		0: record.SmallValue, 1: record.SmallValue, record.MaxSmallBody: record.SmallValue,
		record.MaxSmallBody + 1: record.LargeValue, record.MaxBody: record.LargeValue,
	}
	for size, want := range sizes {
		body := bytes.Repeat([]byte{7}, size)
		for _, seq := range []int64{0, 1, 1_800_000_000, record.MaxSeq} {
			item := seal(t, d, 20000, seq, body)
			if len(item.Value) != want || len(item.Value) > 900 || len(item.Salt) != 0 {
				t.Errorf("a body of %d bytes takes %d", size, len(item.Value))
			}
			got, gotSeq, err := record.Open(d.Address(), 20000, item)
			if err != nil || gotSeq != seq || !bytes.Equal(got, body) {
				t.Errorf("size %d, seq %d: Open = %d bytes, seq %d, %v", size, seq, len(got), gotSeq, err)
			}
		}
	}
	if _, err := record.Seal(d, d.Address(), 1, 0, make([]byte, record.MaxBody+1)); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("one byte too much: %v", err)
	}
	for _, seq := range []int64{-1, record.MaxSeq + 1} {
		if _, err := record.Seal(d, d.Address(), 1, seq, nil); !errors.Is(err, record.ErrSeq) {
			t.Errorf("seq %d: %v", seq, err)
		}
	}
	if _, err := record.Seal(d, identity.Address{}, 1, 0, nil); !errors.Is(err, identity.ErrNoPoint) {
		t.Errorf("nobody's address: %v", err)
	}
}

func TestTheLargestRecordTakesTheSmallSize(t *testing.T) {
	if n := len(seal(t, device(1), 1, 1, encode(t, full())).Value); n != record.SmallValue {
		t.Errorf("%d bytes", n)
	}
}

func TestOpenRefuses(t *testing.T) {
	d := device(1)
	good := seal(t, d, 20000, 5, []byte("body"))
	spoiled := func(spoil func(*record.Item)) record.Item {
		item := good
		item.Value = bytes.Clone(good.Value)
		spoil(&item)
		return item
	}
	// signed makes an item that only its maker's mischief distinguishes.
	signed := func(spoil func(*record.Item)) record.Item {
		item := spoiled(spoil)
		item.Signature = d.SignBlinded("record", 20000, record.SignedBytes(item.Salt, item.Seq, item.Value))
		return item
	}
	next := seal(t, d, 20001, 5, []byte("body"))
	tests := map[string]struct {
		item record.Item
		want error
	}{
		"another period":        {next, record.ErrForeign},
		"another device":        {seal(t, device(2), 20000, 5, nil), record.ErrForeign},
		"a salt":                {spoiled(func(i *record.Item) { i.Salt = []byte("x") }), record.ErrForeign},
		"another key":           {spoiled(func(i *record.Item) { i.Key[0] ^= 1 }), record.ErrForeign},
		"another seq":           {spoiled(func(i *record.Item) { i.Seq++ }), record.ErrForged},
		"a flipped bit":         {spoiled(func(i *record.Item) { i.Value[100] ^= 1 }), record.ErrForged},
		"a flipped signature":   {spoiled(func(i *record.Item) { i.Signature[40] ^= 1 }), record.ErrForged},
		"nothing":               {record.Item{}, record.ErrForeign},
		"signed, a flipped bit": {signed(func(i *record.Item) { i.Value[100] ^= 1 }), record.ErrDamaged},
		"signed, another seq":   {signed(func(i *record.Item) { i.Seq++ }), record.ErrDamaged},
		"signed, seq below 0":   {signed(func(i *record.Item) { i.Seq = 0 }), record.ErrSeq},
		"signed, highest seq":   {signed(func(i *record.Item) { i.Seq = 1<<63 - 1 }), record.ErrSeq},
		"signed, one byte more": {signed(func(i *record.Item) { i.Value = append(i.Value, 0) }), record.ErrDamaged},
		"signed, one byte less": {signed(func(i *record.Item) { i.Value = i.Value[1:] }), record.ErrDamaged},
		"signed, empty":         {signed(func(i *record.Item) { i.Value = nil }), record.ErrDamaged},
		"signed, too large":     {signed(func(i *record.Item) { i.Value = make([]byte, record.MaxValue+1) }), record.ErrForged},
		"signed, next's value":  {signed(func(i *record.Item) { i.Value = next.Value }), record.ErrDamaged},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := record.Open(d.Address(), 20000, tt.item); !errors.Is(err, tt.want) {
				t.Errorf("Open = %v, want %v", err, tt.want)
			}
		})
	}
	if _, _, err := record.Open(identity.Address{}, 1, good); !errors.Is(err, identity.ErrNoPoint) {
		t.Errorf("nobody's address: %v", err)
	}
}

func TestTheSameIsSealedAlikeAndNothingElse(t *testing.T) {
	d := device(1)
	first := seal(t, d, 7, 5, []byte("body"))
	again := seal(t, d, 7, 5, []byte("body"))
	if !bytes.Equal(first.Value, again.Value) || first.Signature != again.Signature {
		t.Error("the same body with the same seq became other bytes")
	}
	nonces := map[string]bool{}
	for seq := range int64(50) {
		for size := range 20 {
			nonces[string(seal(t, d, 7, seq, make([]byte, size)).Value[:24])] = true
		}
	}
	if len(nonces) != 1000 {
		t.Errorf("%d nonces for 1000 different items", len(nonces))
	}
}

// A table that keeps the items of many devices over many periods, and knows no
// address, has nothing that would tell which two belong together.
func TestItemsOfTwoPeriodsHaveNothingInCommon(t *testing.T) {
	const devices, periods = 8, 8
	body := encode(t, full())
	var items []record.Item
	for n := range byte(devices) {
		for p := range uint64(periods) {
			items = append(items, seal(t, device(n), 20000+p, 1_800_000_000, body))
		}
	}
	type piece struct {
		name string
		of   func(record.Item) string
	}
	pieces := []piece{
		{"key", func(i record.Item) string { return string(i.Key[:]) }},
		{"first half of the signature", func(i record.Item) string { return string(i.Signature[:32]) }},
		{"second half of the signature", func(i record.Item) string { return string(i.Signature[32:]) }},
		{"nonce", func(i record.Item) string { return string(i.Value[:24]) }},
		{"tag", func(i record.Item) string { return string(i.Value[len(i.Value)-16:]) }},
		{"seq", func(i record.Item) string { return time.Unix(i.Seq, 0).String() }},
	}
	for _, p := range pieces {
		seen := map[string]bool{}
		for _, item := range items {
			seen[p.of(item)] = true
		}
		if len(seen) != len(items) {
			t.Errorf("%d items share a %s", len(items)-len(seen), p.name)
		}
	}
	blocks := map[string]bool{}
	for _, item := range items {
		if len(item.Salt) != 0 || len(item.Value) != record.SmallValue {
			t.Errorf("salt of %d, value of %d bytes: they differ from the others'", len(item.Salt), len(item.Value))
		}
		for block := range slices.Chunk(item.Value, 8) {
			blocks[string(block)] = true
		}
	}
	if want := len(items) * record.SmallValue / 8; len(blocks) != want {
		t.Errorf("%d of %d blocks of 8 bytes occur twice", want-len(blocks), want)
	}
}

// The seqs in one order in two periods would link them; their distances within
// one period stay, as readers need them.
func TestSeqIsHiddenBetweenPeriodsAndOrderedWithin(t *testing.T) {
	a := device(1).Address()
	distances := map[int64]bool{}
	for p := range uint64(100) {
		if record.WireSeq(a, p, 9) != record.WireSeq(a, p, 5)+4 {
			t.Fatal("distances changed within a period")
		}
		distances[record.WireSeq(a, p+1, 5)-record.WireSeq(a, p, 5)] = true
		if w := record.WireSeq(a, p, 5); w < 5 || w >= 1<<50+5 {
			t.Errorf("seq 5 became %d", w)
		}
	}
	if len(distances) != 100 {
		t.Errorf("only %d different steps between 100 periods", len(distances))
	}
}

func TestPeriods(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	offsets := map[time.Duration]bool{}
	for n := range byte(100) {
		a := device(n).Address()
		p := record.PeriodAt(a, now)
		start := record.PeriodStart(a, p)
		if start.After(now) || !now.Before(record.PeriodStart(a, p+1)) {
			t.Errorf("%v is not in the period that begins %v", now, start)
		}
		if record.PeriodAt(a, start) != p || record.PeriodAt(a, start.Add(-time.Second)) != p-1 {
			t.Errorf("period %d does not begin at %v", p, start)
		}
		if record.PeriodStart(a, p+1).Sub(start) != record.PeriodLength {
			t.Error("a period is not 24 hours long")
		}
		offsets[start.Sub(now.Truncate(24*time.Hour))] = true
	}
	if len(offsets) < 95 {
		t.Errorf("only %d different beginnings of 100", len(offsets))
	}
	for _, early := range []time.Time{{}, time.Unix(-1e9, 0)} {
		if p := record.PeriodAt(device(1).Address(), early); p != 0 {
			t.Errorf("%v is in period %d", early, p)
		}
	}
}

// ownersKey signs as the holder of an owner's key does.
type ownersKey struct{ record.OwnerKey }

func newOwner(n byte) ownersKey {
	return ownersKey{record.OwnerKey{Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))}}
}

func (o ownersKey) address() identity.Address {
	return identity.NewAddress(o.Private.Public().(ed25519.PublicKey), identity.KindOwner)
}

func TestAnOwnersKeyIsNotPrinted(t *testing.T) {
	k := newOwner(3).OwnerKey
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, k); s != "owner's key [redacted]" {
			t.Errorf("%s prints %q", format, s)
		}
	}
}

func TestOthersPutWhatWasPresigned(t *testing.T) {
	o, roster := newOwner(3), bytes.Repeat([]byte("device"), 100)
	p, err := record.Presign(o, o.address(), roster, 12, 20000, 5)
	if err != nil {
		t.Fatal(err)
	}
	p, err = record.ParsePresigned(p.Bytes()) // as it comes to a device
	if err != nil || p.Version() != 12 || p.IsZero() {
		t.Fatalf("ParsePresigned: version %d, %v", p.Version(), err)
	}
	for period := uint64(20000); period < 20005; period++ {
		item, err := p.Item(o.address(), roster, period)
		if err != nil {
			t.Fatal(err)
		}
		body, seq, err := record.Open(o.address(), period, item)
		if err != nil || seq != 12 || !bytes.Equal(body, roster) {
			t.Errorf("period %d: %d bytes, seq %d, %v", period, len(body), seq, err)
		}
	}
	for _, period := range []uint64{0, 19999, 20005, 1<<64 - 1} {
		if _, err := p.Item(o.address(), roster, period); !errors.Is(err, record.ErrPeriod) {
			t.Errorf("period %d: %v", period, err)
		}
	}
	if _, err := p.Item(o.address(), roster[1:], 20000); !errors.Is(err, record.ErrForged) {
		t.Errorf("another body: %v", err)
	}
	if _, err := p.Item(newOwner(4).address(), roster, 20000); !errors.Is(err, record.ErrForged) {
		t.Errorf("another owner: %v", err)
	}
}

func TestPresignLimits(t *testing.T) {
	o := newOwner(3)
	for n, want := range map[int]error{-1: record.ErrPresigned, 0: record.ErrPresigned, 1: nil,
		record.MaxPresigned - 1: nil, record.MaxPresigned: nil, record.MaxPresigned + 1: record.ErrPresigned} {
		p, err := record.Presign(o, o.address(), []byte("r"), 1, 20000, n)
		if !errors.Is(err, want) {
			t.Errorf("%d periods: %v", n, err)
		}
		if err == nil && len(p.Bytes()) > record.MaxPresignedSize {
			t.Errorf("%d periods take %d bytes", n, len(p.Bytes()))
		}
	}
	if _, err := record.Presign(o, o.address(), make([]byte, record.MaxBody+1), 1, 20000, 1); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("a large body: %v", err)
	}
	if _, err := record.Presign(newOwner(4), o.address(), nil, 1, 20000, 1); !errors.Is(err, record.ErrForged) {
		t.Errorf("another's key: %v", err)
	}
	if _, err := record.Presign(o, o.address(), nil, 1<<63, 20000, 1); !errors.Is(err, record.ErrPresigned) {
		t.Errorf("a high version: %v", err)
	}
	if _, err := record.Presign(o, o.address(), nil, 1, 1<<63, 1); !errors.Is(err, record.ErrPresigned) {
		t.Errorf("a far period: %v", err)
	}
}

func TestParsePresignedRefuses(t *testing.T) {
	o := newOwner(3)
	p, err := record.Presign(o, o.address(), []byte("r"), 1, 20000, 3)
	if err != nil {
		t.Fatal(err)
	}
	good := p.Bytes()
	for n := range good {
		if _, err := record.ParsePresigned(good[:n:n]); !errors.Is(err, record.ErrPresigned) {
			t.Errorf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	set := func(i int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[i:], to)
		return b
	}
	largest := make([]byte, record.MaxPresignedSize)
	copy(largest, set(17, 0x01, 0x90)[:19])
	if _, err := record.ParsePresigned(largest); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	tests := map[string][]byte{
		"another version":   set(0, 2),
		"a far period":      set(1, 1),
		"a high version":    set(9, 0x40),
		"no signatures":     append(bytes.Clone(good[:17]), 0, 0),
		"fewer than it has": set(17, 0, 2),
		"one byte more":     append(bytes.Clone(good), 0),
		"above the limit":   append(largest, make([]byte, 64)...),
	}
	for name, b := range tests {
		if _, err := record.ParsePresigned(b); !errors.Is(err, record.ErrPresigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePresigned(f *testing.F) {
	o := newOwner(3)
	p, _ := record.Presign(o, o.address(), []byte("r"), 1, 20000, 2)
	f.Add(p.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := record.ParsePresigned(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Bytes(), b) {
			t.Fatalf("%x became %x", b, p.Bytes())
		}
		first, _ := p.Periods()
		p.Item(o.address(), []byte("r"), first)
	})
}

// FuzzOpen signs what the fuzzer makes, as a peer gone bad would.
func FuzzOpen(f *testing.F) {
	d := device(1)
	good := seal(f, d, 7, 5, []byte("body"))
	f.Add(good.Value, good.Seq)
	large := seal(f, d, 7, 5, make([]byte, record.MaxBody))
	f.Add(large.Value, large.Seq)
	f.Fuzz(func(t *testing.T, value []byte, seq int64) {
		item := record.Item{Key: good.Key, Seq: seq, Value: value}
		item.Signature = d.SignBlinded("record", 7, record.SignedBytes(nil, seq, value))
		body, got, err := record.Open(d.Address(), 7, item)
		if err != nil {
			return
		}
		if again := seal(t, d, 7, got, body); len(again.Value) <= len(value) && again.Seq != seq {
			t.Fatalf("seq %d was read as %d", seq, got)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	d, body := device(1), make([]byte, 300)
	rand.Read(body)
	item := seal(b, d, 20000, 1_800_000_000, body)
	for b.Loop() {
		record.Open(d.Address(), 20000, item)
	}
}
