package mail

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"porchlight/agent/identity"
)

// MaxText is the length of the longest text, in bytes of UTF-8.
const MaxText = 800

// State says what became of a message that was sent from this device.
type State string

// The states of a message.
const (
	// Waiting: no other device has it.
	Waiting State = "waiting"
	// Stored: a helper holds it for the recipient.
	Stored State = "stored"
	// Delivered: a device of the recipient has it on disk.
	Delivered State = "delivered"
	// Expired: nobody confirmed it within the lifetime.
	Expired State = "expired"
)

// Message is one short text between the owner of this device and a contact.
type Message struct {
	ID      string
	Contact identity.Address
	// Out says that the owner wrote it, on this device or on another of theirs.
	Out  bool
	Text string
	// UnixMS is when it was written by the writer's clock; where that was not
	// set, when it came; 0 if neither is known.
	UnixMS int64
	// State is "" of what came from another device.
	State State
}

// ErrText says that a text cannot be sent.
var ErrText = errors.New("unusable text")

func checkText(text string) error {
	switch {
	case text == "":
		return fmt.Errorf("%w: it is empty", ErrText)
	case len(text) > MaxText:
		return fmt.Errorf("%w: it has %d bytes of at most %d; send it in parts", ErrText, len(text), MaxText)
	case !utf8.ValidString(text):
		return fmt.Errorf("%w: it is not UTF-8", ErrText)
	case strings.ContainsFunc(text, forbidden):
		return fmt.Errorf("%w: it has control characters other than line ends and tabs", ErrText)
	}
	return nil
}

func forbidden(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }

// cleanText makes a stranger's text harmless for terminals. It never refuses:
// a message that is not taken would hold up all behind it.
func cleanText(text string) string {
	return strings.Map(func(r rune) rune {
		if forbidden(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// messageID names a message on all devices that have it.
type messageID [16]byte

func (id messageID) String() string { return hex.EncodeToString(id[:]) }

func parseID(s string) (id messageID, ok bool) {
	if len(s) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err == nil
}

const (
	kindText    = 1
	kindReceipt = 2

	flagCopy = 1

	textHead    = 85
	receiptSize = 33
	maxSeq      = 1 << 48
)

// sizes are the lengths of a sealed body, in bytes: a helper sees which of
// these a message has, not how long its text is.
var sizes = [...]int{256, 512, 1000}

// ErrBody says that the inside of a sealed message is none of ours.
var ErrBody = errors.New("not the body of a message")

// body is the inside of a sealed message:
//
//	byte  0      kind: 1 text, 2 receipt
//	bytes 1–8    stream, random, of one sender's device to one recipient's
//	bytes 9–16   number in the stream, from 1; of a receipt the last one taken
//	bytes 17–24  floor: the lowest number the sender still has (text only)
//	bytes 25–40  message id (a receipt has it at 17–32)
//	byte  41     1: copy for another device of the sender's owner, else 0
//	bytes 42–74  of a copy the contact it was sent to: key (32), kind (1)
//	bytes 75–82  when it was written, ms since 1970; 0 unknown
//	bytes 83–84  length of the text, then the text
//	rest         zeros up to 256, 512 or 1000 bytes
//
// Numbers are big-endian.
type body struct {
	kind    byte
	stream  uint64
	seq     uint64
	floor   uint64
	id      messageID
	copied  bool
	contact identity.Address
	written int64
	text    string
}

func (b *body) marshal() []byte {
	e := make([]byte, 0, sizes[len(sizes)-1])
	e = append(e, b.kind)
	e = binary.BigEndian.AppendUint64(e, b.stream)
	e = binary.BigEndian.AppendUint64(e, b.seq)
	if b.kind == kindText {
		e = binary.BigEndian.AppendUint64(e, b.floor)
	}
	e = append(e, b.id[:]...)
	if b.kind == kindText {
		flags := byte(0)
		if b.copied {
			flags = flagCopy
		}
		e = append(e, flags)
		e = appendAddress(e, b.contact)
		e = binary.BigEndian.AppendUint64(e, uint64(b.written))
		e = binary.BigEndian.AppendUint16(e, uint16(len(b.text)))
		e = append(e, b.text...)
	}
	for _, size := range sizes {
		if len(e) <= size {
			return append(e, make([]byte, size-len(e))...)
		}
	}
	return e
}

// parseBody reads what marshal wrote and nothing else.
func parseBody(e []byte) (*body, error) {
	if len(e) != sizes[0] && len(e) != sizes[1] && len(e) != sizes[2] {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrBody, len(e))
	}
	d := decoder{b: e}
	b := &body{kind: d.byte(), stream: d.uint64(), seq: d.uint64()}
	switch b.kind {
	case kindText:
		b.floor = d.uint64()
		b.id = d.id()
		flags := d.byte()
		b.copied = flags == flagCopy
		b.contact = d.address()
		b.written = int64(d.uint64())
		n := int(d.uint16())
		if flags > flagCopy || n == 0 || n > MaxText || b.written < 0 {
			return nil, fmt.Errorf("%w: a field is out of range", ErrBody)
		}
		b.text = string(d.bytes(n))
	case kindReceipt:
		b.floor = 1
		b.id = d.id()
	default:
		return nil, fmt.Errorf("%w: unknown kind %d", ErrBody, b.kind)
	}
	if d.bad || b.floor == 0 || b.floor > b.seq || b.seq > maxSeq || b.stream == 0 ||
		b.copied != (b.contact.Kind() != 0) || !b.canonical(len(e), d.b) {
		return nil, fmt.Errorf("%w: it is malformed", ErrBody)
	}
	return b, nil
}

// canonical says whether the least possible size was chosen and the rest is
// zero: what a helper sees must not be a hidden channel.
func (b *body) canonical(size int, rest []byte) bool {
	for _, c := range rest {
		if c != 0 {
			return false
		}
	}
	used := size - len(rest)
	for _, s := range sizes {
		if used <= s {
			return s == size
		}
	}
	return false
}

func appendAddress(e []byte, a identity.Address) []byte {
	return append(append(e, a.Key()...), byte(a.Kind()))
}

// decoder reads fields; after the first that is not there, bad is set and
// all others are zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return make([]byte, n)
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte     { return d.bytes(1)[0] }
func (d *decoder) uint16() uint16 { return binary.BigEndian.Uint16(d.bytes(2)) }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.bytes(4)) }
func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.bytes(8)) }
func (d *decoder) id() messageID  { return messageID(d.bytes(16)) }

// address reads 33 bytes; all zero is nobody.
func (d *decoder) address() identity.Address {
	b := d.bytes(33)
	kind := identity.Kind(b[32])
	a := identity.NewAddress(b[:32], kind)
	if !a.IsZero() && kind != identity.KindDevice && kind != identity.KindOwner {
		d.bad = true
	}
	return a
}
