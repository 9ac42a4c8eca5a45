package fetch

import (
	"context"
	"fmt"
	"io"
	"sync"

	"porchlight/share/merkle"
)

const (
	// maxBad is how often one piece may arrive wrong, maxBadAll how many
	// wrong pieces may arrive in one transfer.
	maxBad    = 3
	maxBadAll = 16
)

type pieceState uint8

const (
	missing pieceState = iota // to be fetched
	local                     // in the partial file, not hashed yet
	busy                      // being fetched
	held                      // hashed, the peer's hash not known yet
	good                      // verified
)

// pieces is what is known of a file's pieces: our hashes, the peer's, and
// what follows from comparing them.
type pieces struct {
	size int64

	mu      sync.Mutex
	changed chan struct{} // closed at each change somebody may wait for
	state   []pieceState
	got     []merkle.Hash
	want    []merkle.Hash // the layer as far as it is known
	fetched []uint8       // how often a piece came over the network and was wrong
	bad     int
	root    *merkle.Hash // set once the layer is complete and checked
	nGood   int
	done    int64 // bytes held or good
	kept    int64 // bytes good that were not fetched in this run
}

// newPieces starts from a partial file of have bytes.
func newPieces(size, have int64) *pieces {
	n := merkle.Pieces(size)
	p := &pieces{
		size: size, changed: make(chan struct{}),
		state: make([]pieceState, n), got: make([]merkle.Hash, n),
		want: make([]merkle.Hash, 0, n), fetched: make([]uint8, n),
	}
	for i := range p.state {
		if p.end(i) <= have {
			p.state[i] = local
		}
	}
	return p
}

func (p *pieces) start(i int) int64 { return int64(i) * merkle.PieceSize(p.size) }
func (p *pieces) end(i int) int64   { return min(p.size, p.start(i+1)) }

// wake tells all who wait to look again. The caller holds mu.
func (p *pieces) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// claim waits for missing pieces and returns a run of at most limit of them,
// from first to before last, which are then the caller's. It returns io.EOF
// when nothing is missing and nothing can become so.
func (p *pieces) claim(ctx context.Context, limit int) (first, last int, err error) {
	for {
		p.mu.Lock()
		first, last := p.run(limit)
		if first < last {
			for i := first; i < last; i++ {
				p.state[i] = busy
			}
			p.mu.Unlock()
			return first, last, nil
		}
		finished, changed := p.finished(), p.changed
		p.mu.Unlock()
		if finished {
			return 0, 0, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		}
	}
}

func (p *pieces) run(limit int) (first, last int) {
	for first < len(p.state) && p.state[first] != missing {
		first++
	}
	last = first
	for last < len(p.state) && p.state[last] == missing && last-first < limit {
		last++
	}
	return first, last
}

func (p *pieces) finished() bool { return p.nGood == len(p.state) && p.root != nil }

// hashed records that piece i is in the partial file and what it hashes to.
func (p *pieces) hashed(i int, h merkle.Hash) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fromDisk := p.state[i] == local
	p.got[i], p.state[i] = h, held
	p.done += p.end(i) - p.start(i)
	if fromDisk {
		p.fetched[i] = fromDiskMark
	}
	return p.compare(i)
}

// fromDiskMark in pieces.fetched says that what is held was found on disk, so
// that its being wrong is nobody's lie.
const fromDiskMark = 255

// expect records the peer's hash of piece i, which come in order, from the
// beginning again after a broken connection.
func (p *pieces) expect(i int, h merkle.Hash) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i < len(p.want) {
		if p.want[i] != h {
			return fmt.Errorf("hash of piece %d is another than before: %w", i, ErrWrongLayer)
		}
		return nil
	}
	p.want = append(p.want, h)
	return p.compare(i)
}

// compare decides on piece i as soon as both hashes are known.
func (p *pieces) compare(i int) error {
	if p.state[i] != held || i >= len(p.want) {
		return nil
	}
	defer p.wake()
	if p.got[i] == p.want[i] {
		p.state[i] = good
		p.nGood++
		if p.fetched[i] == fromDiskMark {
			p.kept += p.end(i) - p.start(i)
		}
		return nil
	}
	p.state[i] = missing
	p.done -= p.end(i) - p.start(i)
	if p.fetched[i] == fromDiskMark {
		p.fetched[i] = 0
		return nil
	}
	p.fetched[i]++
	p.bad++
	if p.fetched[i] >= maxBad || p.bad >= maxBadAll {
		return fmt.Errorf("piece %d (bytes %d to %d) arrived wrong: %w", i, p.start(i), p.end(i), ErrWrongBytes)
	}
	return nil
}

// finish checks the complete layer against its root and that against the one
// expected, if any.
func (p *pieces) finish(root merkle.Hash, expected *merkle.Hash) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if merkle.LayerRoot(p.size, p.want) != root {
		return ErrWrongLayer
	}
	if expected != nil && *expected != root {
		return fmt.Errorf("content is %v: %w", root, ErrWrongContent)
	}
	p.root = &root
	p.wake()
	return nil
}

// counts returns the bytes in place and the bytes verified.
func (p *pieces) counts() (done, verified int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	verified = int64(p.nGood) * merkle.PieceSize(p.size)
	if n := len(p.state); n > 0 && p.state[n-1] == good {
		verified += p.end(n-1) - p.start(n)
	}
	return p.done, verified
}
