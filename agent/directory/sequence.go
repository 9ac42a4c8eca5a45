package directory

import (
	"fmt"
	"log/slog"
	"time"

	"porchlight/agent/record"
)

const (
	sequenceFile = "directory.json"
	// reserve is how many seqs one write to flash covers: with one a minute
	// almost three days, with one an hour half a year.
	reserve = 4096
	// maxUnix is the latest time that is believed, in the year 36812: a clock
	// beyond it is broken, and must not use up the seqs.
	maxUnix = 1 << 40
)

// sequence gives seqs that rise strictly, across restarts, crashes and clocks
// that go back to 1970, without a write for each.
//
// A range is reserved by storing its end, the ceiling, before its first seq is
// used. The next start goes on above the ceiling, whatever was used below. A
// range begins at the clock's seconds where they are known and higher: that
// lifts a device whose state was lost above what it said before.
type sequence struct {
	files  Files
	logger *slog.Logger

	last    int64
	ceiling int64
	timed   bool // the present range began with the clock known
}

// stored is the content of sequenceFile.
type stored struct {
	// SeqCeiling is the highest seq that may have been used.
	SeqCeiling int64 `json:"seq_ceiling"`
}

func newSequence(files Files, logger *slog.Logger) *sequence {
	var s stored
	if err := files.ReadJSON(sequenceFile, &s); err != nil {
		// Not fatal: the clock and what the table holds lift us as well.
		logger.Warn("the directory's counter cannot be read; it begins at the clock", "err", err)
		s = stored{}
	}
	ceiling := min(max(s.SeqCeiling, 0), record.MaxSeq)
	return &sequence{files: files, logger: logger, last: ceiling, ceiling: ceiling}
}

// next returns a seq above all that were ever returned. If the range cannot be
// stored, it goes on with a known clock, which will lift the next start too, and
// tries to store with each seq; without a clock it fails.
func (s *sequence) next(now time.Time, known bool) (int64, error) {
	n := s.last + 1
	if n <= s.ceiling && (s.timed || !known) {
		s.last = n
		return n, nil
	}
	if unix := now.Unix(); known && unix < maxUnix {
		n = max(n, unix)
	}
	if n+reserve > record.MaxSeq {
		return 0, fmt.Errorf("the directory's counter is used up at %d", n)
	}
	if err := s.files.WriteJSON(sequenceFile, stored{SeqCeiling: n + reserve}); err != nil {
		if !known {
			return 0, fmt.Errorf("reserve numbers for the directory: %w", err)
		}
		s.logger.Warn("numbers for the directory cannot be reserved; the clock replaces them", "err", err)
		s.last, s.timed = n, true
		return n, nil
	}
	s.last, s.ceiling, s.timed = n, n+reserve, s.timed || known
	return n, nil
}

// above makes the next seq higher than one that was met elsewhere.
func (s *sequence) above(seq int64) { s.last = max(s.last, seq) }

// late reports whether the clock has become known since the range was begun.
func (s *sequence) late(known bool) bool { return known && !s.timed }
