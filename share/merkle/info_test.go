package merkle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

func encode(t testing.TB, in *Info) []byte {
	t.Helper()
	b, err := in.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != EncodedLen(in.Size) {
		t.Fatalf("%d bytes written, EncodedLen says %d", len(b), EncodedLen(in.Size))
	}
	return b
}

func TestInfoSurvivesTheWire(t *testing.T) {
	for _, n := range edges {
		in := hashAll(t, pattern(n), 1<<20)
		got, err := Read(bytes.NewReader(encode(t, in)), MaxSize)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got.Root != in.Root || got.Size != in.Size || len(got.Layer) != len(in.Layer) {
			t.Errorf("%d bytes: %+v", n, got)
		}
	}
}

func TestReadRefusesWhatIsNotALayer(t *testing.T) {
	good := encode(t, hashAll(t, pattern(3*MinPieceSize), 1<<20))
	change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
	put := func(at int, v uint64) []byte {
		return change(func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b })
	}
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"empty", nil, io.EOF},
		{"another magic", change(func(b []byte) []byte { b[3] = '2'; return b }), ErrFormat},
		{"reserved bytes in use", change(func(b []byte) []byte { b[7] = 1; return b }), ErrFormat},
		{"piece size 0", put(16, 0), ErrFormat},
		{"piece size of another file", put(16, 128<<10), ErrFormat},
		{"negative size", put(8, 1<<63), ErrSize},
		{"size above the limit", put(8, MaxSize+1), ErrSize},
		{"size above the caller's limit", put(8, 1<<21), ErrSize},
		{"1e9 entries promised", put(8, 1e9*MinPieceSize), ErrSize},
		{"cut in a hash", good[:len(good)-33], io.ErrUnexpectedEOF},
		{"cut before the root", good[:len(good)-32], io.ErrUnexpectedEOF},
		{"wrong hash", change(func(b []byte) []byte { b[headerSize] ^= 1; return b }), ErrRoot},
		{"wrong root", change(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), ErrRoot},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Read(bytes.NewReader(c.in), 1<<20); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestReadTakesTheLargestLayerAndNoLarger(t *testing.T) {
	for _, c := range []struct {
		size int64
		ok   bool
	}{{MaxSize - 1, true}, {MaxSize, true}, {MaxSize + 1, false}} {
		r, err := NewReader(bytes.NewReader(AppendHeader(nil, c.size)), MaxSize)
		if (err == nil) != c.ok {
			t.Errorf("%d bytes: %v", c.size, err)
		}
		if err == nil && r.left > MaxPieces {
			t.Errorf("%d bytes: %d pieces", c.size, r.left)
		}
	}
}

func TestParseHashReadsWhatStringPrints(t *testing.T) {
	h := Hash{1, 0xab, 31: 0xff}
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("g", 64), strings.Repeat("a", 65), strings.Repeat("é", 32)} {
		if _, err := ParseHash(bad); !errors.Is(err, ErrHash) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, n := range edges[:8] {
		f.Add(encode(f, hashAll(f, pattern(n), 1<<20)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := Read(bytes.NewReader(b), MaxSize)
		if err != nil {
			return
		}
		if out := encode(t, in); !bytes.Equal(out, b[:len(out)]) {
			t.Fatal("reading and writing differ")
		}
	})
}
