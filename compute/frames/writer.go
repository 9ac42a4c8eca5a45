package frames

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// MaxPayload is the largest payload of one frame, in bytes.
const MaxPayload = 64 << 10

const headerSize = 5

type kind byte

const (
	kindStdout kind = 'o'
	kindStderr kind = 'e'
	kindFile   kind = 'f'
	kindData   kind = 'd'
	kindNotice kind = 'n'
	kindEnd    kind = 'z'
)

// fileHeader announces an output file.
type fileHeader struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Writer writes frames. It is not safe for concurrent use.
type Writer struct {
	w   io.Writer
	buf [headerSize + MaxPayload]byte
}

// NewWriter returns a writer of frames to w; each frame is one Write.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

func (w *Writer) frame(k kind, p []byte) error {
	w.buf[0] = byte(k)
	binary.BigEndian.PutUint32(w.buf[1:], uint32(len(p)))
	n := copy(w.buf[headerSize:], p)
	_, err := w.w.Write(w.buf[:headerSize+n])
	return err
}

// split writes p in as many frames as it needs.
func (w *Writer) split(k kind, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), MaxPayload)
		if err := w.frame(k, p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (w *Writer) json(k kind, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(p) > MaxPayload {
		return fmt.Errorf("encode frame: %d bytes, at most %d", len(p), MaxPayload)
	}
	return w.frame(k, p)
}

// Stdout sends bytes of the task's standard output.
func (w *Writer) Stdout(p []byte) error { return w.split(kindStdout, p) }

// Stderr sends bytes of the task's standard error.
func (w *Writer) Stderr(p []byte) error { return w.split(kindStderr, p) }

// File sends an output file of exactly size bytes.
func (w *Writer) File(name string, size int64, r io.Reader) error {
	if err := w.json(kindFile, fileHeader{Name: name, Size: size}); err != nil {
		return err
	}
	for size > 0 {
		n := min(size, MaxPayload)
		if _, err := io.ReadFull(r, w.buf[headerSize:headerSize+n]); err != nil {
			return fmt.Errorf("read output %q: %w", name, err)
		}
		if err := w.frame(kindData, w.buf[headerSize:headerSize+n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// Notice sends v as JSON beside the results.
func (w *Writer) Notice(v any) error { return w.json(kindNotice, v) }

// End sends v as JSON and closes the sequence.
func (w *Writer) End(v any) error { return w.json(kindEnd, v) }
