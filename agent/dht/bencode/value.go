package bencode

// Raw returns the value as it stood in the input, nil of no value.
func (v Value) Raw() []byte { return v.raw }

// Exists says that v is a value.
func (v Value) Exists() bool { return len(v.raw) > 0 }

// Bytes returns the content of a byte string.
func (v Value) Bytes() ([]byte, bool) {
	if len(v.raw) == 0 || v.raw[0] < '0' || v.raw[0] > '9' {
		return nil, false
	}
	p := parser{b: v.raw}
	s, err := p.text()
	return s, err == nil
}

// Int returns an integer.
func (v Value) Int() (int64, bool) {
	if len(v.raw) < 3 || v.raw[0] != 'i' {
		return 0, false
	}
	return parseInt(v.raw[1 : len(v.raw)-1])
}

// IsDict says that v is a dictionary.
func (v Value) IsDict() bool { return len(v.raw) > 0 && v.raw[0] == 'd' }

// IsList says that v is a list.
func (v Value) IsList() bool { return len(v.raw) > 0 && v.raw[0] == 'l' }

// Get returns the value of a key, no value if v has none or is no dictionary.
func (v Value) Get(key string) Value {
	var found Value
	v.pairs(func(k []byte, value Value) bool {
		if string(k) != key {
			return true
		}
		found = value
		return false
	})
	return found
}

// Each calls f for the elements of a list until it returns false.
func (v Value) Each(f func(Value) bool) {
	if !v.IsList() {
		return
	}
	p := parser{b: v.raw, at: 1}
	for v.raw[p.at] != 'e' {
		if !f(p.next()) {
			return
		}
	}
}

// pairs calls f for the keys of a dictionary, as they came, until it returns
// false.
func (v Value) pairs(f func(key []byte, value Value) bool) {
	if !v.IsDict() {
		return
	}
	p := parser{b: v.raw, at: 1}
	for v.raw[p.at] != 'e' {
		key, err := p.text()
		if err != nil || !f(key, p.next()) {
			return
		}
	}
}

// next steps over a value of an input that was found good.
func (p *parser) next() Value {
	start, depth := p.at, 0
	for {
		switch c := p.b[p.at]; c {
		case 'l', 'd':
			depth++
			p.at++
		case 'e':
			depth--
			p.at++
		case 'i':
			for p.b[p.at] != 'e' {
				p.at++
			}
			p.at++
		default:
			// The input was checked: text moves on.
			_, _ = p.text()
		}
		if depth == 0 {
			return Value{p.b[start:p.at:p.at]}
		}
	}
}

// has says whether the pairs in b, which were found good, have a key.
func has(b, key []byte) bool {
	p := parser{b: b}
	for p.at < len(b) {
		k, err := p.text()
		if err != nil {
			return false
		}
		if string(k) == string(key) {
			return true
		}
		p.next()
	}
	return false
}
