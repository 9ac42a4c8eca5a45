package relay

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// writeTimeout bounds how long a peer that does not read can hold us.
const writeTimeout = 5 * time.Second

var errFrame = errors.New("stream carries no TURN message")

// streamConn makes a datagram connection of a TCP connection: one STUN message
// or ChannelData per datagram (RFC 8656 §12.5, RFC 8489 §6.2.2). pion's own
// framing buffers without limit and skips a datagram's padding differently.
type streamConn struct {
	net.Conn
	r *bufio.Reader
}

func newStreamConn(c net.Conn) *streamConn {
	return &streamConn{Conn: c, r: bufio.NewReaderSize(c, 2048)}
}

// ReadFrom reads one message, without ChannelData's padding. A frame that is
// neither kind, or longer than MaxMessage or b, is an error that ends the
// stream: there is no way to find the next one.
func (s *streamConn) ReadFrom(b []byte) (int, net.Addr, error) {
	head, err := s.r.Peek(channelHeader)
	if err != nil {
		return 0, nil, fmt.Errorf("read turn frame: %w", err)
	}
	size, padded := int(binary.BigEndian.Uint16(head[2:])), 0
	switch {
	case isChannelData(head):
		size += channelHeader
		padded = (size + 3) &^ 3
	case head[0]&0xC0 == 0:
		size += stunHeader
		padded = size
	default:
		return 0, nil, errFrame
	}
	if padded > MaxMessage || padded > len(b) {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes", errFrame, padded)
	}
	if _, err := io.ReadFull(s.r, b[:padded]); err != nil {
		return 0, nil, fmt.Errorf("read turn frame: %w", err)
	}
	return size, s.RemoteAddr(), nil
}

// WriteTo writes one message, which must already be padded to four bytes. A
// failed write closes the stream, which may have ended inside a message.
func (s *streamConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	s.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := s.Write(b)
	if err != nil {
		s.Close()
		return n, fmt.Errorf("write turn frame: %w", err)
	}
	return n, nil
}

// Close never waits. TLS would say goodbye first, for up to 5 s to a peer that
// does not read; messages say themselves where they end.
func (s *streamConn) Close() error {
	if c, ok := s.Conn.(*tls.Conn); ok {
		return c.NetConn().Close()
	}
	return s.Conn.Close()
}
