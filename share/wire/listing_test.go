package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func write(t testing.TB, es ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	l := NewListWriter(&b)
	for _, e := range es {
		if err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte) (es []Entry, err error) {
	for e, err := range Entries(bytes.NewReader(b)) {
		if err != nil {
			return es, err
		}
		es = append(es, e)
	}
	return es, nil
}

var sample = []Entry{
	{Name: "a", Size: 1 << 40, MtimeMS: 1767225600000},
	{Name: "b <&\">'", Dir: true, Write: true},
	{Name: strings.Repeat("<", MaxName), Size: 1},
	{Name: "früh.txt", MtimeMS: -1},
}

func TestListingSurvivesTheWire(t *testing.T) {
	for n := range len(sample) + 1 {
		b := write(t, sample[:n]...)
		es, err := read(b)
		if err != nil || len(es) != n || n > 0 && !reflect.DeepEqual(es, sample[:n]) {
			t.Errorf("%d entries: %v, %v", n, es, err)
		}
		var plain struct{ Entries []Entry }
		if err := json.Unmarshal(b, &plain); err != nil || len(plain.Entries) != n {
			t.Errorf("%d entries are not plain JSON: %v", n, err)
		}
	}
}

func TestCutOffListingIsAnError(t *testing.T) {
	b := write(t, sample...)
	for n := range b {
		if n == len(b)-1 { // only the last line feed is missing
			continue
		}
		if _, err := read(b[:n]); !errors.Is(err, ErrListing) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestListingLimits(t *testing.T) {
	line := func(pad int) []byte {
		return []byte(listHead + "\n" + `{"name":"a"}` + strings.Repeat(" ", pad-len(`{"name":"a"}`)-1) + "\n" + listTail + "\n")
	}
	many := func(n int) []byte {
		return []byte(listHead + "\n" + strings.Repeat("{\"name\":\"a\"},\n", n) + listTail + "\n")
	}
	for _, c := range []struct {
		name string
		in   []byte
		ok   bool
	}{
		{"line below the limit", line(MaxLine - 1), true},
		{"line at the limit", line(MaxLine), true},
		{"line above the limit", line(MaxLine + 1), false},
		{"endless line", []byte(listHead + "\n" + strings.Repeat("x", 10*MaxLine)), false},
		{"entries at the limit", many(MaxEntries), true},
		{"entries above the limit", many(MaxEntries + 1), false},
		{"another document", []byte("{\"files\":[\n]}\n"), false},
		{"name that climbs", []byte(listHead + "\n{\"name\":\"../x\"}\n]}\n"), false},
		{"hidden name", []byte(listHead + "\n{\"name\":\".ssh\"}\n]}\n"), false},
		{"no name", []byte(listHead + "\n{}\n]}\n"), false},
		{"negative size", []byte(listHead + "\n{\"name\":\"a\",\"size\":-1}\n]}\n"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			for _, e := range Entries(bytes.NewReader(c.in)) {
				err = e
			}
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrListing) {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzEntries(f *testing.F) {
	f.Add(write(f, sample...))
	f.Add([]byte(listHead + "\n[[[[[[\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := read(b)
		if err != nil {
			return
		}
		if again, err := read(write(t, es...)); err != nil || !reflect.DeepEqual(again, es) {
			t.Fatalf("%v became %v, %v", es, again, err)
		}
	})
}
