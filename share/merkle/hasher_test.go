package merkle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// pattern is the content of the vectors: the high half of a linear
// congruential generator seeded with the length.
func pattern(n int) []byte {
	b, x := make([]byte, n), uint32(n)
	for i := range b {
		x = x*1103515245 + 12345
		b[i] = byte(x >> 16)
	}
	return b
}

// slow is BEP 52 read literally: all leaves, padded, folded level by level.
func slow(b []byte, pieceSize int) (root Hash, layer []Hash) {
	var row []Hash
	for i := 0; i < len(b); i += LeafSize {
		row = append(row, sha256.Sum256(b[i:min(i+LeafSize, len(b))]))
	}
	if len(row) == 0 {
		return Hash{}, nil
	}
	n := 1
	for n < len(row) || len(b) > pieceSize && n < pieceSize/LeafSize {
		n *= 2
	}
	row = append(row, make([]Hash, n-len(row))...)
	for width := LeafSize; ; width *= 2 {
		if width == pieceSize {
			layer = append(layer, row[:(len(b)+pieceSize-1)/pieceSize]...)
		}
		if len(row) == 1 {
			break
		}
		up := make([]Hash, len(row)/2)
		for i := range up {
			up[i] = sha256.Sum256(append(row[2*i][:], row[2*i+1][:]...))
		}
		row = up
	}
	if len(b) <= pieceSize {
		layer = []Hash{row[0]}
	}
	return row[0], layer
}

func hashAll(t testing.TB, b []byte, step int) *Info {
	t.Helper()
	h := NewHasher(int64(len(b)))
	for rest := b; len(rest) > 0; {
		n := min(step, len(rest))
		if _, err := h.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	info, err := h.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

var edges = []int{0, 1, LeafSize - 1, LeafSize, LeafSize + 1, 2*LeafSize - 1,
	2 * LeafSize, 3 * LeafSize, MinPieceSize - 1, MinPieceSize,
	MinPieceSize + 1, 2*MinPieceSize - 1, 2 * MinPieceSize,
	2*MinPieceSize + 1, 5*MinPieceSize + 7, 8 * MinPieceSize}

func TestHasherEqualsTheSlowTree(t *testing.T) {
	for _, n := range edges {
		b := pattern(n)
		root, layer := slow(b, MinPieceSize)
		for _, step := range []int{1 << 20, LeafSize, 5000, 16385} {
			in := hashAll(t, b, step)
			if in.Root != root || fmt.Sprint(in.Layer) != fmt.Sprint(layer) {
				t.Errorf("%d bytes in steps of %d: root %v, want %v", n, step, in.Root, root)
			}
			if err := in.Check(); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
}

func TestRootsAreThoseOfLibtorrent(t *testing.T) {
	for line := range strings.Lines(libtorrentVectors) {
		var size, pieces int
		var root, first, last string
		if _, err := fmt.Sscan(line, &size, &root, &first, &last, &pieces); err != nil {
			t.Fatalf("vector %q: %v", line, err)
		}
		in := hashAll(t, pattern(size), 1<<20)
		if in.Root.String() != root {
			t.Errorf("%d bytes: root %v, want %s", size, in.Root, root)
		}
		if pieces == 0 { // torrents leave the layer of a single piece out
			continue
		}
		if len(in.Layer) != pieces || in.Layer[0].String() != first || in.Layer[pieces-1].String() != last {
			t.Errorf("%d bytes: layer of %d pieces differs", size, len(in.Layer))
		}
	}
}

func TestLargerPiecesGiveTheSameRoot(t *testing.T) {
	// One leaf more than 1 GiB, all of one block: pieces become 128 KiB.
	size := int64(MinPieceSize*MaxPieces + LeafSize)
	block := pattern(LeafSize)
	piece := func(leaves int) Hash {
		var p PieceHasher
		p.Write(bytes.Repeat(block, leaves))
		return p.Sum(size)
	}
	layer := make([]Hash, Pieces(size))
	layer[0] = piece(8)
	for i := range layer {
		layer[i] = layer[0]
	}
	layer[len(layer)-1] = piece(1)
	var leaves stack
	leaf := Hash(sha256.Sum256(block))
	for range size / LeafSize {
		leaves.push(leaf)
	}
	if got, want := LayerRoot(size, layer), leaves.sum(levels(leaves.count), 0); got != want {
		t.Fatalf("root %v over %d pieces, want %v", got, len(layer), want)
	}
}

func TestPieceSizeKeepsTheLayerShort(t *testing.T) {
	for _, c := range []struct {
		size, piece int64
		pieces      int
	}{
		{0, 64 << 10, 0}, {1, 64 << 10, 1}, {64 << 10, 64 << 10, 1}, {64<<10 + 1, 64 << 10, 2},
		{1 << 30, 64 << 10, MaxPieces}, {1<<30 + 1, 128 << 10, MaxPieces/2 + 1},
		{16 << 30, 1 << 20, MaxPieces}, {1 << 40, 64 << 20, MaxPieces}, {MaxSize, 64 << 30, MaxPieces},
	} {
		if PieceSize(c.size) != c.piece || Pieces(c.size) != c.pieces {
			t.Errorf("%d bytes: %d pieces of %d, want %d of %d", c.size, Pieces(c.size), PieceSize(c.size), c.pieces, c.piece)
		}
	}
}

func TestHasherRefusesAnotherLength(t *testing.T) {
	h := NewHasher(10)
	if _, err := h.Info(); !errors.Is(err, ErrSize) {
		t.Fatalf("empty: %v", err)
	}
	if _, err := h.Write(make([]byte, 11)); !errors.Is(err, ErrSize) {
		t.Fatalf("eleven of ten bytes: %v", err)
	}
	if _, err := h.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Write([]byte{0}); !errors.Is(err, ErrSize) {
		t.Fatalf("one byte more: %v", err)
	}
}

func TestPieceHasherChecksEachPieceAlone(t *testing.T) {
	b := pattern(3*MinPieceSize + 100)
	in := hashAll(t, b, 1<<20)
	var p PieceHasher
	for i := range in.Layer {
		p.Reset()
		piece := b[i*MinPieceSize:][:in.PieceLen(i)]
		p.Write(piece[:77])
		p.Write(piece[77:])
		if p.Len() != int64(len(piece)) || p.Sum(in.Size) != in.Layer[i] {
			t.Errorf("piece %d differs", i)
		}
	}
	// A piece abandoned half-way leaves nothing behind.
	p.Reset()
	p.Write(b[:LeafSize+5])
	p.Reset()
	p.Write(b[:MinPieceSize])
	if p.Sum(in.Size) != in.Layer[0] {
		t.Error("piece after an abandoned one differs")
	}
}

func FuzzHasher(f *testing.F) {
	for _, n := range edges {
		f.Add(pattern(n), uint16(4096))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint16) {
		root, layer := slow(b, MinPieceSize)
		in := hashAll(t, b, int(step)+1)
		if in.Root != root || len(in.Layer) != len(layer) {
			t.Fatalf("%d bytes: %v, want %v", len(b), in.Root, root)
		}
	})
}

func BenchmarkHasherAgainstPlainSHA256(b *testing.B) {
	data := bytes.Repeat(pattern(1<<16), 128)
	b.SetBytes(int64(len(data)))
	var tree, plain float64
	for b.Loop() {
		tree += seconds(func() { hashAll(b, data, 128<<10) })
		plain += seconds(func() { sha256.Sum256(data) })
	}
	b.ReportMetric(tree/plain, "tree/plain")
}
