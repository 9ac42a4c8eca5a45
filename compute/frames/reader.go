package frames

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Limits are what a reader accepts from one stream.
type Limits struct {
	Stdout    int64 // bytes of standard output
	Stderr    int64 // bytes of standard error
	FileBytes int64 // bytes of all output files together
	Files     int   // output files
	Notices   int   // notice frames
}

// ErrTooMuch is wrapped by errors about a stream beyond its [Limits].
var ErrTooMuch = errors.New("more output than allowed")

// ErrMalformed is wrapped by errors about bytes that are no frames.
var ErrMalformed = errors.New("malformed result stream")

// Sink takes what a stream brings. The first error ends the reading.
type Sink interface {
	// Stdout takes bytes of standard output, Stderr of standard error;
	// p is valid only during the call.
	Stdout(p []byte) error
	Stderr(p []byte) error
	// File takes an output file; name has passed [CheckName] and differs
	// from all before. What it leaves unread of r is passed over.
	File(name string, size int64, r io.Reader) error
	// Notice takes a JSON notice.
	Notice(p []byte) error
}

// reader is the state of one stream.
type reader struct {
	r     io.Reader
	lim   Limits
	sink  Sink
	names map[string]bool
	buf   []byte
}

// Read passes a stream to sink and returns the payload of its end frame. A
// stream that breaks off gives [io.ErrUnexpectedEOF]; errors of the sink come
// back wrapped.
func Read(r io.Reader, lim Limits, sink Sink) ([]byte, error) {
	s := &reader{r: r, lim: lim, sink: sink, names: map[string]bool{}, buf: make([]byte, MaxPayload)}
	for {
		k, p, err := s.next()
		if err != nil {
			return nil, err
		}
		if k == kindEnd {
			return p, nil
		}
		if err := s.dispatch(k, p); err != nil {
			return nil, err
		}
	}
}

func (s *reader) next() (kind, []byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(s.r, h[:]); err != nil {
		return 0, nil, truncated(err)
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes", ErrMalformed, n)
	}
	p := s.buf[:n]
	if _, err := io.ReadFull(s.r, p); err != nil {
		return 0, nil, truncated(err)
	}
	return kind(h[0]), p, nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read results: %w", err)
}

func (s *reader) dispatch(k kind, p []byte) error {
	switch k {
	case kindStdout:
		if err := take(&s.lim.Stdout, int64(len(p)), "standard output"); err != nil {
			return err
		}
		return s.sink.Stdout(p)
	case kindStderr:
		if err := take(&s.lim.Stderr, int64(len(p)), "standard error"); err != nil {
			return err
		}
		return s.sink.Stderr(p)
	case kindNotice:
		if s.lim.Notices--; s.lim.Notices < 0 {
			return fmt.Errorf("%w: notices", ErrTooMuch)
		}
		return s.sink.Notice(p)
	case kindFile:
		return s.file(p)
	}
	return fmt.Errorf("%w: frame of kind %q", ErrMalformed, byte(k))
}

func take(left *int64, n int64, what string) error {
	if *left -= n; *left < 0 {
		return fmt.Errorf("%w: %s", ErrTooMuch, what)
	}
	return nil
}

func (s *reader) file(p []byte) error {
	var h fileHeader
	if err := json.Unmarshal(p, &h); err != nil {
		return fmt.Errorf("%w: file header: %w", ErrMalformed, err)
	}
	if err := CheckName(h.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if h.Size < 0 || s.names[h.Name] {
		return fmt.Errorf("%w: file %q of %d bytes, or given twice", ErrMalformed, h.Name, h.Size)
	}
	if s.lim.Files--; s.lim.Files < 0 {
		return fmt.Errorf("%w: output files", ErrTooMuch)
	}
	if err := take(&s.lim.FileBytes, h.Size, "output files"); err != nil {
		return err
	}
	s.names[h.Name] = true
	body := &fileReader{s: s, left: h.Size}
	if err := s.sink.File(h.Name, h.Size, body); err != nil {
		return fmt.Errorf("output %q: %w", h.Name, err)
	}
	_, err := io.Copy(io.Discard, body)
	return err
}

// fileReader reads the data frames of one file.
type fileReader struct {
	s     *reader
	left  int64
	chunk []byte
}

// Read implements io.Reader; it ends after the announced size.
func (f *fileReader) Read(p []byte) (int, error) {
	if len(f.chunk) == 0 {
		if f.left == 0 {
			return 0, io.EOF
		}
		k, data, err := f.s.next()
		if err != nil {
			return 0, err
		}
		if k != kindData || len(data) == 0 || int64(len(data)) > f.left {
			return 0, fmt.Errorf("%w: frame %q of %d bytes within a file", ErrMalformed, byte(k), len(data))
		}
		f.chunk = data
		f.left -= int64(len(data))
	}
	n := copy(p, f.chunk)
	f.chunk = f.chunk[n:]
	return n, nil
}
