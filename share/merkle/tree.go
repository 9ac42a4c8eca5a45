package merkle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
)

const (
	// LeafSize is the number of bytes under one leaf (BEP 52).
	LeafSize = 16 << 10
	// MinPieceSize is the least number of bytes under one piece hash.
	MinPieceSize = 64 << 10
	// MaxPieces is the largest number of entries in a piece layer: 512 KiB of
	// hashes, in memory at both ends of a transfer.
	MaxPieces = 1 << 14
	// MaxSize is the length in bytes of the largest file handled, 1 PiB.
	MaxSize = 1 << 50
)

// Hash is a SHA-256 value: a leaf, a node, a piece hash or a root.
type Hash [sha256.Size]byte

// String returns the hash as 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ErrHash says that a text is not 64 hexadecimal digits.
var ErrHash = errors.New("a hash is 64 hexadecimal digits")

// ParseHash reads what Hash.String printed; upper case is accepted.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("read hash of %d characters: %w", len(s), ErrHash)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("read hash: %w", ErrHash)
	}
	return h, nil
}

// PieceSize returns the number of bytes under one piece hash for a file of
// size bytes: the least power of two ≥ MinPieceSize that makes at most
// MaxPieces pieces. 64 KiB up to 1 GiB, 1 MiB up to 16 GiB, 64 MiB at 1 TiB.
func PieceSize(size int64) int64 {
	piece := int64(MinPieceSize)
	for size > piece*MaxPieces {
		piece *= 2
	}
	return piece
}

// Pieces returns the number of pieces of a file of size bytes.
func Pieces(size int64) int {
	piece := PieceSize(size)
	return int((size + piece - 1) / piece)
}

// zeros[k] is the node over 2^k padding leaves. 64 levels outgrow MaxSize.
var zeros = zeroNodes()

func zeroNodes() [64]Hash {
	var z [64]Hash
	for k := 1; k < len(z); k++ {
		z[k] = node(z[k-1], z[k-1])
	}
	return z
}

func node(left, right Hash) Hash {
	var both [2 * sha256.Size]byte
	copy(both[:sha256.Size], left[:])
	copy(both[sha256.Size:], right[:])
	return sha256.Sum256(both[:])
}

// levels returns the height of the smallest tree with at least n leaves.
func levels(n int64) int {
	if n <= 1 {
		return 0
	}
	return bits.Len64(uint64(n - 1))
}

// stack is a Merkle tree under construction, as a binary counter: nodes[k] is
// the finished left subtree of height k where bit k of count is set.
type stack struct {
	nodes [64]Hash
	count int64
}

func (s *stack) push(h Hash) {
	k := 0
	for c := s.count; c&1 == 1; c >>= 1 {
		h = node(s.nodes[k], h)
		k++
	}
	s.nodes[k] = h
	s.count++
}

// sum closes the tree at the given height. Missing nodes are taken from
// zeros, whose level 0 corresponds to the pushed nodes' level base.
func (s *stack) sum(height, base int) Hash {
	if s.count == 1<<height {
		return s.nodes[height]
	}
	h := zeros[base]
	for k := range height {
		if s.count>>k&1 == 1 {
			h = node(s.nodes[k], h)
		} else {
			h = node(h, zeros[base+k])
		}
	}
	return h
}
