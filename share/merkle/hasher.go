package merkle

import (
	"crypto/sha256"
	"hash"
)

// PieceHasher hashes the bytes of one piece, written in order in parts of any
// length. Its zero value is ready.
type PieceHasher struct {
	tree stack
	part hash.Hash // an unfinished leaf
	fill int       // bytes in part
	size int64
}

// Write adds bytes; it never returns an error.
func (p *PieceHasher) Write(b []byte) (int, error) {
	n := len(b)
	p.size += int64(n)
	if p.fill > 0 {
		b = b[p.fillLeaf(b):]
	}
	for len(b) >= LeafSize {
		p.tree.push(sha256.Sum256(b[:LeafSize]))
		b = b[LeafSize:]
	}
	if len(b) > 0 {
		p.fillLeaf(b)
	}
	return n, nil
}

// fillLeaf adds to the unfinished leaf and returns how much of b went in.
func (p *PieceHasher) fillLeaf(b []byte) int {
	if p.part == nil {
		p.part = sha256.New()
	}
	n := min(len(b), LeafSize-p.fill)
	p.part.Write(b[:n])
	p.fill += n
	if p.fill == LeafSize {
		p.closeLeaf()
	}
	return n
}

func (p *PieceHasher) closeLeaf() {
	var h Hash
	p.part.Sum(h[:0])
	p.part.Reset()
	p.fill = 0
	p.tree.push(h)
}

// Len returns the number of bytes written since the start or the last Reset.
func (p *PieceHasher) Len() int64 { return p.size }

// Reset makes p ready for another piece.
func (p *PieceHasher) Reset() {
	if p.fill > 0 {
		p.part.Reset()
	}
	p.tree.count, p.fill, p.size = 0, 0, 0
}

// Sum closes the piece and returns its hash within a file of fileSize bytes:
// over a full piece's leaves, or, where the whole file is one piece, over the
// next power of two of its own. Write must not follow before Reset.
func (p *PieceHasher) Sum(fileSize int64) Hash {
	if p.fill > 0 {
		p.closeLeaf()
	}
	piece := PieceSize(fileSize)
	if fileSize <= piece {
		return p.tree.sum(levels(p.tree.count), 0)
	}
	return p.tree.sum(levels(piece/LeafSize), 0)
}

// Hasher hashes a whole file of a size known beforehand, written in order.
type Hasher struct {
	info Info
	cur  PieceHasher
	size int64 // bytes written
}

// NewHasher returns a Hasher for a file of size bytes, which is between 0 and
// MaxSize.
func NewHasher(size int64) *Hasher {
	return &Hasher{info: Info{Size: size, Layer: make([]Hash, 0, Pieces(size))}}
}

// Write adds bytes. It returns ErrSize, taking nothing in, once the file is
// longer than announced.
func (h *Hasher) Write(b []byte) (int, error) {
	if int64(len(b)) > h.info.Size-h.size {
		return 0, ErrSize
	}
	h.size += int64(len(b))
	n := len(b)
	for len(b) > 0 {
		want := h.info.PieceLen(len(h.info.Layer)) - h.cur.Len()
		part := b[:min(int64(len(b)), want)]
		h.cur.Write(part)
		b = b[len(part):]
		if int64(len(part)) == want {
			h.info.Layer = append(h.info.Layer, h.cur.Sum(h.info.Size))
			h.cur.Reset()
		}
	}
	return n, nil
}

// Len returns the number of bytes written so far.
func (h *Hasher) Len() int64 { return h.size }

// Layer returns the hashes of the pieces completed so far; the slice is valid
// until the next Write and must not be changed.
func (h *Hasher) Layer() []Hash { return h.info.Layer }

// Info returns the tree once all bytes are written, ErrSize before that.
func (h *Hasher) Info() (*Info, error) {
	if h.size != h.info.Size {
		return nil, ErrSize
	}
	info := h.info
	info.Root = LayerRoot(info.Size, info.Layer)
	return &info, nil
}
