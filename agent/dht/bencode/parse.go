package bencode

import (
	"bytes"
	"errors"
	"fmt"
	"math"
)

// Limits of what [Parse] takes.
const (
	// MaxDepth counts lists and dictionaries inside each other. KRPC needs
	// three; a value kept for somebody may have a few of its own.
	MaxDepth = 8
	// MaxItems counts the values of one input, keys included. The longest
	// honest message, a list of peers, has some 250.
	MaxItems = 512
	// MaxLength is the largest input in bytes. UDP carries no more.
	MaxLength = 65535
)

// Errors of Parse. What it returns wraps one of them.
var (
	// ErrSyntax says that the input is no bencoding.
	ErrSyntax = errors.New("not bencoded")
	// ErrLimit says that the input exceeds MaxDepth, MaxItems or MaxLength.
	ErrLimit = errors.New("bencoded value too large")
)

// Value is one value inside an input that Parse has found good. It is a view:
// it stays valid as long as nobody writes to the input. The zero Value is no
// value; every method says so of it.
type Value struct {
	raw []byte
}

// Parse checks that b is exactly one value within the limits.
func Parse(b []byte) (Value, error) {
	if len(b) > MaxLength {
		return Value{}, fmt.Errorf("%w: %d bytes", ErrLimit, len(b))
	}
	p := parser{b: b}
	if err := p.value(0); err != nil {
		return Value{}, err
	}
	if p.at != len(b) {
		return Value{}, fmt.Errorf("%w: %d bytes after the end", ErrSyntax, len(b)-p.at)
	}
	return Value{b}, nil
}

type parser struct {
	b     []byte
	at    int
	items int
}

func (p *parser) wrong(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, what, p.at)
}

func (p *parser) value(depth int) error {
	if p.items++; p.items > MaxItems {
		return fmt.Errorf("%w: more than %d values", ErrLimit, MaxItems)
	}
	if p.at >= len(p.b) {
		return p.wrong("end of input")
	}
	switch c := p.b[p.at]; {
	case c >= '0' && c <= '9':
		_, err := p.text()
		return err
	case c == 'i':
		return p.integer()
	case c == 'l', c == 'd':
		if depth >= MaxDepth {
			return fmt.Errorf("%w: more than %d levels", ErrLimit, MaxDepth)
		}
		p.at++
		if c == 'd' {
			return p.dict(depth + 1)
		}
		return p.list(depth + 1)
	}
	return p.wrong("unknown type")
}

func (p *parser) list(depth int) error {
	for p.at < len(p.b) && p.b[p.at] != 'e' {
		if err := p.value(depth); err != nil {
			return err
		}
	}
	return p.end()
}

func (p *parser) dict(depth int) error {
	start := p.at
	var last []byte
	sorted := true
	for p.at < len(p.b) && p.b[p.at] != 'e' {
		here := p.at
		if p.items++; p.items > MaxItems {
			return fmt.Errorf("%w: more than %d values", ErrLimit, MaxItems)
		}
		key, err := p.text()
		if err != nil {
			return err
		}
		if here > start {
			sorted = sorted && bytes.Compare(last, key) < 0
			// In a sorted dictionary a key can't come again; only the
			// others are searched.
			if !sorted && has(p.b[start:here], key) {
				return p.wrong("key twice")
			}
		}
		last = key
		if err := p.value(depth); err != nil {
			return err
		}
	}
	return p.end()
}

func (p *parser) end() error {
	if p.at >= len(p.b) {
		return p.wrong("end of input")
	}
	p.at++
	return nil
}

// text reads "4:spam".
func (p *parser) text() ([]byte, error) {
	n, start := 0, p.at
	for p.at < len(p.b) && p.b[p.at] >= '0' && p.b[p.at] <= '9' {
		n = n*10 + int(p.b[p.at]-'0')
		if n > MaxLength {
			return nil, p.wrong("length beyond the input")
		}
		p.at++
	}
	digits := p.at - start
	switch {
	case digits == 0:
		return nil, p.wrong("no length")
	case digits > 1 && p.b[start] == '0':
		return nil, p.wrong("length with a leading zero")
	case p.at >= len(p.b) || p.b[p.at] != ':':
		return nil, p.wrong("no colon")
	}
	p.at++
	if n > len(p.b)-p.at {
		return nil, p.wrong("length beyond the input")
	}
	s := p.b[p.at : p.at+n : p.at+n]
	p.at += n
	return s, nil
}

// integer checks "i-7e".
func (p *parser) integer() error {
	n := bytes.IndexByte(p.b[p.at:], 'e')
	if n < 0 {
		return p.wrong("integer without end")
	}
	if _, ok := parseInt(p.b[p.at+1 : p.at+n]); !ok {
		return p.wrong("no integer of 64 bits")
	}
	p.at += n + 1
	return nil
}

// parseInt reads digits without the tolerance of strconv for "+1" and "01".
func parseInt(s []byte) (int64, bool) {
	negative := len(s) > 0 && s[0] == '-'
	if negative {
		s = s[1:]
	}
	if len(s) == 0 || len(s) > 19 || s[0] == '0' && (len(s) > 1 || negative) {
		return 0, false
	}
	var u uint64 // 19 digits fit
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	if negative {
		return -int64(u), u <= -math.MinInt64
	}
	return int64(u), u <= math.MaxInt64
}
