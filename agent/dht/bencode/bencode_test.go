package bencode

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
	"testing"
)

func TestParseTakesWhatIsWellFormedOnly(t *testing.T) {
	for in, want := range map[string]error{
		"i0e": nil, "i-1e": nil, "i9223372036854775807e": nil, "i-9223372036854775808e": nil,
		"0:": nil, "4:spam": nil, "le": nil, "de": nil, "l4:spami42ee": nil,
		"d3:bar4:spam3:fooi42ee": nil, "d3:fooi42e3:bar4:spame": nil, "d0:0:e": nil,
		"": ErrSyntax, "i": ErrSyntax, "ie": ErrSyntax, "i-e": ErrSyntax, "i-0e": ErrSyntax,
		"i01e": ErrSyntax, "i+1e": ErrSyntax, "i1": ErrSyntax, "i 1e": ErrSyntax, "i1.0e": ErrSyntax,
		"i9223372036854775808e": ErrSyntax, "i-9223372036854775809e": ErrSyntax,
		"i99999999999999999999e": ErrSyntax,
		"4:spa":                  ErrSyntax, "04:spam": ErrSyntax, "4spam": ErrSyntax, "4": ErrSyntax,
		"-1:a": ErrSyntax, "99999999999999999999:a": ErrSyntax, "4294967297:a": ErrSyntax, "65536:": ErrSyntax,
		"l": ErrSyntax, "li1e": ErrSyntax, "d": ErrSyntax, "d1:a": ErrSyntax, "d1:ae": ErrSyntax,
		"di1ei2ee": ErrSyntax, "d1:ai1e1:ai2ee": ErrSyntax, "d1:bi1e1:ai2e1:bi3ee": ErrSyntax,
		"d1:bi1e1:ai2e1:ai3ee": ErrSyntax,
		"e":                    ErrSyntax, "x": ErrSyntax, "i1ei2e": ErrSyntax, "4:spamx": ErrSyntax, "\x00": ErrSyntax,
	} {
		// The capacity is exact: a read beyond the input would panic.
		b := []byte(in)
		_, err := Parse(b[:len(b):len(b)])
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("Parse(%q): %v, want %v", in, err, want)
		}
	}
}

func TestLimitsHoldBelowAtAndAbove(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("l", n) + strings.Repeat("e", n) }
	many := func(n int) string { return "l" + strings.Repeat("0:", n-1) + "e" }
	keys := func(n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, "3:%03d0:", i)
		}
		return "d" + s.String() + "e"
	}
	long := func(n int) string { return fmt.Sprintf("%d:%s", n-6, strings.Repeat("a", n-6)) }
	for _, c := range []struct {
		name string
		in   string
		ok   bool
	}{
		{"depth below", nested(MaxDepth - 1), true},
		{"depth at", nested(MaxDepth), true},
		{"depth above", nested(MaxDepth + 1), false},
		{"depth far above", nested(30000), false},
		{"depth of dicts above", strings.Repeat("d1:a", MaxDepth+1) + "0:" + strings.Repeat("e", MaxDepth+1), false},
		{"items below", many(MaxItems - 1), true},
		{"items at", many(MaxItems), true},
		{"items above", many(MaxItems + 1), false},
		{"keys at", keys((MaxItems - 1) / 2), true},
		{"keys above", keys(MaxItems/2 + 1), false},
		{"length below", long(MaxLength - 1), true},
		{"length at", long(MaxLength), true},
		{"length above", long(MaxLength + 1), false},
	} {
		_, err := Parse([]byte(c.in))
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrLimit) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestValuesAreViewsOfTheInput(t *testing.T) {
	v, err := Parse([]byte("d1:vd1:zi1e1:a0:e1:t2:aa1:li1e1:xleee"))
	if err == nil {
		t.Fatal("a dict with a key that is no string was taken", v)
	}
	v, err = Parse([]byte("d1:vd1:zi1e1:a0:e1:t2:aa1:lli1e1:xleee"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(v.Get("v").Raw()); got != "d1:zi1e1:a0:e" {
		t.Errorf("v is %q, not the bytes that came", got)
	}
	if s, ok := v.Get("t").Bytes(); !ok || string(s) != "aa" {
		t.Errorf("t is %q, %v", s, ok)
	}
	if i, ok := v.Get("v").Get("z").Int(); !ok || i != 1 {
		t.Errorf("z is %d, %v", i, ok)
	}
	var kinds []string
	v.Get("l").Each(func(e Value) bool { kinds = append(kinds, string(e.Raw())); return len(kinds) < 2 })
	if fmt.Sprint(kinds) != "[i1e 1:x]" {
		t.Error(kinds)
	}
	none := v.Get("absent")
	if _, ok := none.Int(); ok || none.Exists() || none.IsDict() || none.IsList() || none.Get("x").Exists() {
		t.Error("no value answers as a value")
	}
	if _, ok := v.Bytes(); ok {
		t.Error("a dict is a string")
	}
	none.Each(func(Value) bool { t.Error("no value has elements"); return true })
}

// canonical writes a value again from its parts, keys sorted.
func canonical(b []byte, v Value) []byte {
	if i, ok := v.Int(); ok {
		return AppendInt(b, i)
	}
	if s, ok := v.Bytes(); ok {
		return AppendBytes(b, s)
	}
	if v.IsList() {
		b = append(b, 'l')
		v.Each(func(e Value) bool { b = canonical(b, e); return true })
		return append(b, 'e')
	}
	var keys []string
	v.pairs(func(k []byte, _ Value) bool { keys = append(keys, string(k)); return true })
	sort.Strings(keys)
	b = append(b, 'd')
	for _, k := range keys {
		b = canonical(AppendString(b, k), v.Get(k))
	}
	return append(b, 'e')
}

func TestAppendAndParseAreInverse(t *testing.T) {
	for _, i := range []int64{0, 1, -1, 42, math.MaxInt32 + 1, math.MaxInt64, math.MinInt64} {
		v, err := Parse(AppendInt(nil, i))
		if got, ok := v.Int(); err != nil || !ok || got != i {
			t.Errorf("%d came back as %d, %v", i, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
		"d1:vd1:zi1e1:a0:e1:t2:aae", "li-1eleded1:a0:ee", "i-0e", "d1:bi1e1:ai2e1:bi3ee", "99:",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Parse(b[:len(b):len(b)])
		if err != nil {
			return
		}
		if !bytes.Equal(v.Raw(), b) {
			t.Fatal("raw differs from the input")
		}
		once := canonical(nil, v)
		if len(once) != len(b) {
			t.Fatalf("%q was written as %q", b, once)
		}
		again, err := Parse(once)
		if err != nil {
			t.Fatalf("%q does not parse: %v", once, err)
		}
		if twice := canonical(nil, again); !bytes.Equal(once, twice) {
			t.Fatalf("%q and %q", once, twice)
		}
	})
}
