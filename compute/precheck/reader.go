package precheck

import "unicode/utf8"

// reader walks over part of a module. end is exclusive; offsets are those of
// the whole module so that errors can be looked up with a hex viewer.
type reader struct {
	b   []byte
	pos int
	end int
}

func (r *reader) left() int { return r.end - r.pos }

func (r *reader) byte() (byte, error) {
	if r.pos >= r.end {
		return 0, malformed(r.pos, "unexpected end")
	}
	c := r.b[r.pos]
	r.pos++
	return c, nil
}

func (r *reader) skip(n uint64) error {
	if n > uint64(r.left()) {
		return malformed(r.pos, "%d bytes needed, %d left", n, r.left())
	}
	r.pos += int(n)
	return nil
}

// uleb reads an unsigned LEB128 number of at most bits bits: no more bytes
// than that many bits need, and no set bit beyond them (core spec 5.2.2).
func (r *reader) uleb(bits uint) (uint64, error) {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		c, err := r.byte()
		if err != nil {
			return 0, err
		}
		if rest := bits - shift; rest < 7 && c>>rest != 0 {
			return 0, malformed(r.pos-1, "number wider than %d bits", bits)
		}
		v |= uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return v, nil
		}
	}
}

func (r *reader) u32() (uint64, error) { return r.uleb(32) }

// sleb passes over a signed LEB128 number of at most bits bits; bits beyond
// must repeat the sign.
func (r *reader) sleb(bits uint) error {
	for shift := uint(0); ; shift += 7 {
		c, err := r.byte()
		if err != nil {
			return err
		}
		if rest := bits - shift; rest < 7 {
			if c&0x80 != 0 {
				return malformed(r.pos-1, "number longer than %d bits", bits)
			}
			sign := c & 0x7f >> (rest - 1)
			if sign != 0 && sign != 0x7f>>(rest-1) {
				return malformed(r.pos-1, "number wider than %d bits", bits)
			}
		}
		if c&0x80 == 0 {
			return nil
		}
	}
}

// count reads the length of a vector and refuses more elements than the
// limit, or than could follow with one byte each.
func (r *reader) count(what string, limit int) (int, error) {
	n, err := r.u32()
	if err != nil {
		return 0, err
	}
	if err := exceeds(what, n, limit); err != nil {
		return 0, err
	}
	if n > uint64(r.left()) {
		return 0, malformed(r.pos, "%d %s announced, %d bytes left", n, what, r.left())
	}
	return int(n), nil
}

// name reads a UTF-8 name and returns the bytes in place.
func (r *reader) name(limit int) ([]byte, error) {
	n, err := r.count("NameBytes", limit)
	if err != nil {
		return nil, err
	}
	s := r.b[r.pos : r.pos+n]
	r.pos += n
	if !utf8.Valid(s) {
		return nil, malformed(r.pos-n, "name is not UTF-8")
	}
	return s, nil
}
