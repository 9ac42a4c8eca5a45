package tcppunch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// maxFrame is the largest frame in bytes that is read here: the answer of a
	// STUN server or a greeting of the peer, both below 200 bytes.
	maxFrame = 512
	// lengthSize is the size of the length before each frame, RFC 4571 §2.
	lengthSize = 2
)

// errFrame says that the other end sends what nobody here has asked for.
var errFrame = errors.New("frame out of place")

// appendFrame appends b, at most 65535 bytes, behind its length.
func appendFrame(to, b []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, uint16(len(b)))
	return append(to, b...)
}

// writeFrames sends frames in one piece.
func writeFrames(w io.Writer, frames ...[]byte) error {
	var out []byte
	for _, b := range frames {
		out = appendFrame(out, b)
	}
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// readFrame reads one frame and not a byte more: what follows belongs to
// whoever gets the connection next.
func readFrame(r io.Reader) ([]byte, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errFrame, n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	return b, nil
}
