package merkle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// headerSize is the length in bytes of what stands before the piece hashes.
const headerSize = 24

const magic = "PLM1"

var (
	// ErrFormat says that bytes are not in the format of this package.
	ErrFormat = errors.New("not a piece layer")
	// ErrRoot says that a piece layer does not belong to its root.
	ErrRoot = errors.New("piece layer and root do not match")
	// ErrSize says that a file's length is not the announced one.
	ErrSize = errors.New("file length differs from the announced one")
)

// Info is what is needed to check a file piece by piece.
type Info struct {
	// Size is the length of the file in bytes.
	Size int64
	// Root names the content: BEP 52 "pieces root", zero for an empty file.
	Root Hash
	// Layer holds one hash for each piece, Pieces(Size) of them.
	Layer []Hash
}

// PieceLen returns the length in bytes of piece i, shorter for the last.
func (in *Info) PieceLen(i int) int64 {
	piece := PieceSize(in.Size)
	return min(piece, in.Size-int64(i)*piece)
}

// Check returns ErrRoot unless the layer is complete and gives the root.
func (in *Info) Check() error {
	if len(in.Layer) != Pieces(in.Size) || LayerRoot(in.Size, in.Layer) != in.Root {
		return ErrRoot
	}
	return nil
}

// LayerRoot returns the root over the complete piece layer of a file of size
// bytes.
func LayerRoot(size int64, layer []Hash) Hash {
	if len(layer) == 0 {
		return Hash{}
	}
	var s stack
	for _, h := range layer {
		s.push(h)
	}
	return s.sum(levels(int64(len(layer))), levels(PieceSize(size)/LeafSize))
}

// EncodedLen returns the length in bytes of a written Info for a file of size
// bytes.
func EncodedLen(size int64) int64 {
	return headerSize + int64(Pieces(size)+1)*int64(len(Hash{}))
}

// AppendHeader appends what stands before the piece hashes.
func AppendHeader(b []byte, size int64) []byte {
	b = append(b, magic+"\x00\x00\x00\x00"...)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	return binary.BigEndian.AppendUint64(b, uint64(PieceSize(size)))
}

// AppendBinary appends the wire format; the error is always nil.
func (in *Info) AppendBinary(b []byte) ([]byte, error) {
	b = AppendHeader(b, in.Size)
	for _, h := range in.Layer {
		b = append(b, h[:]...)
	}
	return append(b, in.Root[:]...), nil
}

// Reader reads an Info as it arrives, one piece hash at a time, with memory
// for one hash only.
type Reader struct {
	r    io.Reader
	size int64
	left int
}

// NewReader reads and checks the header. maxSize is the length in bytes of
// the largest file acceptable; MaxSize bounds it in any case.
func NewReader(r io.Reader, maxSize int64) (*Reader, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, fmt.Errorf("read piece layer header: %w", err)
	}
	if string(b[:8]) != magic+"\x00\x00\x00\x00" {
		return nil, fmt.Errorf("read piece layer header: %w", ErrFormat)
	}
	size := binary.BigEndian.Uint64(b[8:])
	if size > uint64(min(maxSize, MaxSize)) {
		return nil, fmt.Errorf("read piece layer of a file of %d bytes: %w", size, ErrSize)
	}
	if binary.BigEndian.Uint64(b[16:]) != uint64(PieceSize(int64(size))) {
		return nil, fmt.Errorf("read piece size: %w", ErrFormat)
	}
	return &Reader{r: r, size: int64(size), left: Pieces(int64(size))}, nil
}

// Size returns the length of the file in bytes.
func (r *Reader) Size() int64 { return r.size }

// Next returns the next piece hash, or io.EOF after the last. A stream that
// ends too early gives io.ErrUnexpectedEOF.
func (r *Reader) Next() (Hash, error) {
	if r.left == 0 {
		return Hash{}, io.EOF
	}
	r.left--
	return r.hash()
}

// Root returns the root, which follows the last piece hash. The caller checks
// it against the hashes with LayerRoot.
func (r *Reader) Root() (Hash, error) { return r.hash() }

func (r *Reader) hash() (Hash, error) {
	var h Hash
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return h, fmt.Errorf("read piece hash: %w", err)
	}
	return h, nil
}

// Read reads a whole Info and checks it. maxSize is as for NewReader.
func Read(r io.Reader, maxSize int64) (*Info, error) {
	d, err := NewReader(r, maxSize)
	if err != nil {
		return nil, err
	}
	in := &Info{Size: d.size}
	for d.left > 0 {
		h, err := d.Next()
		if err != nil {
			return nil, err
		}
		in.Layer = append(in.Layer, h)
	}
	if in.Root, err = d.Root(); err != nil {
		return nil, err
	}
	return in, in.Check()
}
