package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

const (
	// MaxLine is the length in bytes of the longest line of a listing: a name
	// of MaxName bytes, each escaped, fits twice.
	MaxLine = 4096
	// MaxEntries is the largest number of entries read from one listing.
	MaxEntries = 1 << 18
)

const (
	listHead = `{"entries":[`
	listTail = `]}`
)

// ErrListing says that bytes are not a complete listing.
var ErrListing = errors.New("not a complete listing")

// Entry is one line of a listing: a file, a folder or, at the top, a share.
type Entry struct {
	Name string `json:"name"`
	// Size is the length in bytes of a file.
	Size int64 `json:"size,omitempty"`
	// MtimeMS is the time of the last change, milliseconds since 1970.
	MtimeMS int64 `json:"mtime_ms,omitempty"`
	Dir     bool  `json:"dir,omitempty"`
	// Write says, of a share, that the caller may put files into it.
	Write bool `json:"write,omitempty"`
}

// ListWriter writes a listing entry by entry.
type ListWriter struct {
	w   *bufio.Writer
	n   int
	err error
}

// NewListWriter begins a listing on w.
func NewListWriter(w io.Writer) *ListWriter {
	l := &ListWriter{w: bufio.NewWriterSize(w, 16<<10)}
	_, l.err = l.w.WriteString(listHead)
	return l
}

// Add writes one entry.
func (l *ListWriter) Add(e Entry) error {
	if l.err != nil {
		return l.err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write entry: %w", err)
	}
	sep := ",\n"
	if l.n == 0 {
		sep = "\n"
	}
	l.n++
	_, l.err = l.w.WriteString(sep)
	if l.err == nil {
		_, l.err = l.w.Write(b)
	}
	return l.err
}

// Close ends the listing; without it readers see a broken one.
func (l *ListWriter) Close() error {
	if l.err == nil {
		_, l.err = l.w.WriteString("\n" + listTail + "\n")
	}
	if l.err == nil {
		l.err = l.w.Flush()
	}
	return l.err
}

// Entries reads a listing as it arrives. It stops at the first error, which
// is ErrListing, possibly wrapped, or the reader's.
func Entries(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		br := bufio.NewReaderSize(r, MaxLine)
		line, err := readLine(br)
		if err == nil && string(line) != listHead {
			err = fmt.Errorf("read first line: %w", ErrListing)
		}
		for n := 0; err == nil; n++ {
			if line, err = readLine(br); err != nil {
				break
			}
			if string(line) == listTail {
				return
			}
			if n == MaxEntries {
				err = fmt.Errorf("more than %d entries: %w", MaxEntries, ErrListing)
				break
			}
			var e Entry
			if e, err = parseEntry(line); err == nil && !yield(e, nil) {
				return
			}
		}
		yield(Entry{}, err)
	}
}

func readLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	switch {
	case err == nil:
		return line[:len(line)-1], nil
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("listing was cut off: %w", ErrListing)
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("line longer than %d bytes: %w", MaxLine, ErrListing)
	}
	return nil, fmt.Errorf("read listing: %w", err)
}

func parseEntry(line []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(bytes.TrimSuffix(line, []byte(",")), &e); err != nil {
		return e, fmt.Errorf("read entry: %w", errors.Join(ErrListing, err))
	}
	if !ValidName(e.Name) || e.Size < 0 {
		return e, fmt.Errorf("read entry %.40q: %w", e.Name, ErrListing)
	}
	return e, nil
}
